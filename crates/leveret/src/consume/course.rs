//! What every message of a consumer goes through, whoever handles it: what it is told, and what
//! follows when it fails.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use super::Policy;
use super::attempt::Outcome;
use super::intake::until;
use super::shared::{ConsumerShared, Phase};
use crate::backoff::Backoff;
use crate::bus::Bus;
use crate::cx::Cx;
use crate::dead_letters::{dead_name, dead_queue};
use crate::failure::{Failure, Remedy};
use crate::history;
use crate::letter::Letter;
use crate::retry::{Decision, Retry};
use crate::topology::{DelayTarget, Topology};
use crate::transport::{BoxFuture, Inbound, Target};

/// How the message that follows a failure is tried again to be sent.
const RESEND: Backoff = Backoff::new(Duration::from_millis(100), 2.0, Duration::from_secs(10));

/// A consumer's bus, policy and state.
pub(crate) struct Course {
    pub(crate) bus: Bus,
    pub(crate) retry: Retry,
    pub(crate) policy: Policy,
    pub(crate) shared: Arc<ConsumerShared>,
    queue: String,
}

impl Course {
    pub(crate) fn new(bus: Bus, retry: Retry, policy: Policy, shared: Arc<ConsumerShared>) -> Self {
        let queue = shared.queue.clone();
        Course { bus, retry, policy, shared, queue }
    }

    pub(crate) fn queue(&self) -> &str {
        &self.queue
    }

    /// What a handler is told.
    pub(crate) fn cx(self: &Arc<Self>, inbound: Arc<Inbound>) -> Cx {
        Cx { course: Arc::clone(self), inbound }
    }

    /// Sends what follows a failure: the message again, later, or a dead letter. Only when that is
    /// confirmed the message itself is done with.
    pub(crate) fn fail<'a>(
        &'a self,
        inbound: &'a Inbound,
        failure: Failure,
    ) -> BoxFuture<'a, Outcome> {
        // Boxed: what is rare must not make every message's future large.
        Box::pin(self.follow(inbound, failure))
    }

    async fn follow(&self, inbound: &Inbound, failure: Failure) -> Outcome {
        self.shared.failed(failure.to_string());
        let now = self.bus.inner.clock.milliseconds();
        let attempts = history::attempts(&inbound.letter.headers).saturating_add(1);
        let first = history::first_failure(&inbound.letter.headers).unwrap_or(now);
        let since = Duration::from_millis(now.saturating_sub(first));
        let mut letter = Box::new(inbound.letter.clone());
        history::note(&mut letter, inbound, &self.queue, now, &failure);
        if letter.id.is_empty() {
            letter.id = self.bus.inner.names.next();
        }
        let decision = self.retry.decide(attempts, since, failure.remedy);
        let longest = self.bus.capabilities().delay_max.unwrap_or(Duration::ZERO);
        let (queue, delay) = match decision {
            Decision::Again(delay) => (self.queue.clone(), Some(delay.min(longest))),
            Decision::Dead(reason) => {
                history::bury(&mut letter, now, reason);
                (dead_name(&self.queue), None)
            }
        };
        match decision {
            Decision::Again(delay) => {
                self.shared.retried.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(
                    queue = self.queue, id = letter.id, attempts, ?delay, %failure,
                    "a message failed; it comes again"
                );
            }
            Decision::Dead(reason) => {
                self.shared.dead.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    queue = self.queue, id = letter.id, attempts, reason, %failure,
                    "a message is a dead letter"
                );
            }
        }
        tokio::select! {
            biased;
            () = self.resend(queue, delay, letter) => match failure.remedy {
                Remedy::None => Outcome::Rejected,
                _ => Outcome::Failed,
            },
            () = until(self.shared.phase(), Phase::Aborting) => Outcome::Released,
        }
    }

    async fn resend(&self, queue: String, delay: Option<Duration>, mut letter: Box<Letter>) {
        // It has waited long enough to know that it must not expire on the way.
        letter.expires = None;
        // Somebody may have deleted what was there when the consumer started.
        let way = match delay {
            Some(delay) => Topology::new().delay(DelayTarget::Queue(queue.clone()), delay),
            None => Topology::new().queue(dead_queue(&self.queue)),
        };
        let mut failures = 0;
        let mut stuck = None;
        loop {
            let target = Target::Queue(queue.clone());
            let sent = self.bus.inner.send_on(target, delay, &mut letter).await;
            let Err(error) = sent else { return };
            failures += 1;
            stuck.get_or_insert_with(|| self.shared.stuck()).because(&error);
            tracing::error!(queue, failures, %error, "a failed message waits to be sent on");
            if let Err(error) = self.bus.inner.transport.ensure(way.clone()).await {
                tracing::error!(queue, %error, "its way cannot be made again");
            }
            sleep(RESEND.delay(failures)).await;
        }
    }
}
