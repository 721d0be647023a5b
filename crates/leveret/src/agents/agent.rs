//! An agent: what it is like, and when it is started.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::desk::{AgentHandler, Desk, Work};
use super::name::{AgentName, EVERYONE, EXCHANGE};
use super::{Agents, exchange};
use crate::breaker::Breaker;
use crate::consume::{Consumer, ConsumerBuilder, Each, PREFETCH_EACH};
use crate::dead_letters::dead_queue;
use crate::dedup::Dedup;
use crate::error::{Error, Result, TopologyError};
use crate::health::ConsumerHealth;
use crate::retry::Retry;
use crate::topology::{Queue, Topology};

/// How many notes may wait in an inbox, where nothing is said.
const INBOX_NOTES_MAX: u64 = 10_000;

/// An agent that is to be started. Everything but a handler has a default.
#[must_use = "an agent does nothing before start() is awaited"]
pub struct AgentBuilder<H> {
    agents: Agents,
    name: std::result::Result<AgentName, String>,
    handler: H,
    settings: Settings,
}

/// All that the handler's type does not depend on.
struct Settings {
    role: String,
    inbox: Option<u64>,
    concurrency: usize,
    prefetch: Option<u16>,
    standby: bool,
    timeout: Option<Duration>,
    retry: Retry,
    rate: Option<(u32, Duration)>,
    breaker: Option<Breaker>,
    dedup: Option<Dedup>,
}

/// An agent that handles notes, until it is stopped; dropping this does not stop it.
#[derive(Clone)]
pub struct Agent {
    agents: Agents,
    work: Arc<Work>,
    consumer: Consumer,
}

/// An agent that is being started: given up, or if that fails, it is not started any more.
struct Starting<'a> {
    agents: &'a Agents,
    work: &'a Arc<Work>,
    started: bool,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        if !self.started {
            self.agents.rest(self.work);
        }
    }
}

impl AgentBuilder<()> {
    pub(super) fn new(agents: &Agents, name: &str) -> Self {
        let settings = Settings {
            role: String::new(),
            inbox: Some(INBOX_NOTES_MAX),
            concurrency: 1,
            prefetch: None,
            standby: true,
            timeout: None,
            retry: Retry::default(),
            rate: None,
            breaker: Some(Breaker::default()),
            dedup: None,
        };
        AgentBuilder { agents: agents.clone(), name: AgentName::new(name), handler: (), settings }
    }

    /// What handles its notes.
    pub fn on<H: AgentHandler>(self, handler: H) -> AgentBuilder<H> {
        let AgentBuilder { agents, name, settings, .. } = self;
        AgentBuilder { agents, name, handler, settings }
    }

    /// Makes the agent's inbox without starting it, as [`Agents::register`]. What is said of the
    /// inbox counts, if it is new.
    ///
    /// # Errors
    /// As there.
    pub async fn register(self) -> Result<()> {
        let name = self.name.map_err(Error::Invalid)?;
        self.agents.remember(&name, None)?;
        let topology = |queue: Queue| {
            let queue_name = queue.name.clone();
            let topology = Topology::new().exchange(exchange()).queue(dead_queue(&queue_name));
            let topology = topology.queue(queue).bind(EXCHANGE, &queue_name, name.routing_key());
            topology.bind(EXCHANGE, queue_name, EVERYONE)
        };
        let bus = self.agents.bus();
        let queue = self.settings.inbox(Queue::new(name.queue()));
        match bus.ensure(topology(queue)).await {
            // Whoever made it knows better what it is to be like.
            Err(Error::Topology(TopologyError::Differs { .. })) => {
                bus.ensure(topology(Queue::new(name.queue()).existing())).await
            }
            done => done,
        }
    }
}

impl<H> AgentBuilder<H> {
    /// What it does, for people.
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.settings.role = role.into();
        self
    }

    /// So many notes may wait in its inbox; who sends one more is refused
    /// ([`crate::PublishError::Refused`]). 10,000 where nothing is said.
    pub fn inbox(mut self, notes: u64) -> Self {
        self.settings.inbox = Some(notes);
        self
    }

    /// As many notes may wait in its inbox as the broker has room for.
    pub fn unbounded_inbox(mut self) -> Self {
        self.settings.inbox = None;
        self
    }

    /// So many notes are handled at a time, each of another conversation; one where nothing is
    /// said. Those that wait for an answer to an ask do not count.
    pub fn concurrency(mut self, notes: usize) -> Self {
        self.settings.concurrency = notes.max(1);
        self
    }

    /// How many notes are fetched ahead, those in handling and those that wait for an answer
    /// included; 16 for each of [`AgentBuilder::concurrency`] where nothing is said.
    pub fn prefetch(mut self, notes: u16) -> Self {
        self.settings.prefetch = Some(notes.max(1));
        self
    }

    /// When it runs in several processes, all of them handle notes. Without this one does, and the
    /// others wait to take its place: only so a conversation's notes are handled one after the
    /// other. All processes must say the same.
    pub fn shared(mut self) -> Self {
        self.settings.standby = false;
        self
    }

    /// How long the handler may take with a note, its asks included; then it is dropped where it
    /// waits, and the try has failed.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        self
    }

    /// What is done with notes that fail. A question that fails is not tried again: who asked gets
    /// the fault.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.settings.retry = retry;
        self
    }

    /// No more notes than so many in so much time, evenly.
    pub fn rate(mut self, notes: u32, per: Duration) -> Self {
        self.settings.rate = Some((notes, per));
        self
    }

    /// When to pause since too much fails; where nothing is said, see [`Breaker`].
    pub fn breaker(mut self, breaker: impl Into<Option<Breaker>>) -> Self {
        self.settings.breaker = breaker.into();
        self
    }

    /// Handles no note twice: what was handled is remembered by its id.
    pub fn dedup(mut self, dedup: Dedup) -> Self {
        self.settings.dedup = Some(dedup);
        self
    }
}

impl<H: AgentHandler> AgentBuilder<H> {
    /// Makes the agent's inbox, and begins to handle what is there.
    ///
    /// # Errors
    /// [`Error::Invalid`] if nothing can be called that, or it is started here already;
    /// [`Error::Topology`] if its inbox is there already and differs; [`Error::Subscribe`] if the
    /// broker refuses.
    pub async fn start(self) -> Result<Agent> {
        let AgentBuilder { agents, name, handler, settings } = self;
        let name = name.map_err(Error::Invalid)?;
        agents.attend().await?;
        let since = agents.bus().inner.clock.milliseconds();
        let work = Arc::new(Work::new(name.clone(), settings.role.clone(), since));
        agents.remember(&name, Some(Arc::clone(&work)))?;
        let mut starting = Starting { agents: &agents, work: &work, started: false };
        let slots = Arc::new(Semaphore::new(settings.concurrency.min(Semaphore::MAX_PERMITS)));
        let desk = Desk {
            agents: agents.clone(),
            work: Arc::clone(&work),
            handler,
            slots,
            timeout: settings.timeout,
        };
        let consumer = ConsumerBuilder::each(agents.bus(), &name.queue(), desk);
        let consumer = settings
            .consumer(consumer)
            .exchange(exchange())
            .subjects([name.routing_key(), EVERYONE.to_owned()]);
        let consumer = consumer.start().await?;
        starting.started = true;
        drop(starting);
        Ok(Agent { agents, work, consumer })
    }
}

impl Settings {
    /// The inbox as it is to be.
    fn inbox(&self, mut queue: Queue) -> Queue {
        queue.single_active_consumer = self.standby;
        queue.messages_max = self.inbox;
        queue
    }

    fn consumer<H: AgentHandler>(
        self,
        consumer: ConsumerBuilder<Each<super::Note, Desk<H>>>,
    ) -> ConsumerBuilder<Each<super::Note, Desk<H>>> {
        let prefetch = self.prefetch.unwrap_or_else(|| {
            u16::try_from(self.concurrency.saturating_mul(PREFETCH_EACH)).unwrap_or(u16::MAX)
        });
        let consumer = match self.standby {
            true => consumer.ordered_by_key(),
            false => consumer.ordered_here(),
        };
        let mut consumer = consumer
            .key_from(super::note::conversation)
            .queue(|queue| self.inbox(queue))
            .prefetch(prefetch)
            // Whatever was fetched may be waiting for an answer.
            .concurrency(prefetch.into())
            .retry(self.retry)
            .breaker(self.breaker);
        if let Some((notes, per)) = self.rate {
            consumer = consumer.rate(notes, per);
        }
        match self.dedup {
            Some(dedup) => consumer.dedup(dedup),
            None => consumer,
        }
    }
}

impl Agent {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.work.name.name
    }

    /// How its consumer is.
    #[must_use]
    pub fn health(&self) -> ConsumerHealth {
        self.consumer.health()
    }

    /// Lets handlers finish what they do, for as long as `within`; what is not begun goes back to
    /// the inbox. It answers no more roll calls.
    pub async fn stop(&self, within: Duration) {
        self.consumer.stop(within).await;
        self.agents.rest(&self.work);
    }
}

impl Agents {
    /// An agent is not started any more.
    fn rest(&self, work: &Arc<Work>) {
        if let Some(known) = self.known().get_mut(&work.name.slug)
            && known.work.as_ref().is_some_and(|it| Arc::ptr_eq(it, work))
        {
            known.work = None;
        }
    }
}

impl<H> fmt::Debug for AgentBuilder<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Agent").field(&self.work).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::INBOX_NOTES_MAX;
    use crate::{Bus, PublishError};

    #[tokio::test(start_paused = true)]
    async fn an_inbox_has_a_bound_unless_it_is_said_to_have_none() {
        let bus = Bus::connect("memory:").await.unwrap();
        let agents = bus.agents();
        agents.register("Bounded", "").await.unwrap();
        agents.agent("Unbounded").unbounded_inbox().register().await.unwrap();
        for number in 0..INBOX_NOTES_MAX {
            agents.send("Bounded", number).await.unwrap();
            agents.send("Unbounded", number).await.unwrap();
        }
        let refused = agents.send("Bounded", "one more").await;
        assert!(matches!(refused, Err(PublishError::Refused { .. })), "{refused:?}");
        agents.send("Unbounded", "one more").await.unwrap();
        bus.close().await;
    }
}
