//! Messages on their way to a broker, kept until it has confirmed them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leveret_client::method::ConfirmSelect;
use leveret_client::model::Properties;
use leveret_client::{Channel, Connection, Error, Event, Events, Returned, Scope};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::link::{Link, Status};
use super::pending::Pending;
use crate::error::PublishError;
use crate::transport::{Done, Outgoing};

/// How often one looks for messages that took too long.
const SWEEP: Duration = Duration::from_millis(100);
/// So many refusals are not believed when a connection was made again: the queues of a cluster
/// that has lost a node refuse everything until they have elected a leader, and RabbitMQ 3.10 even
/// longer on channels that have seen that. All is sent again on another channel then, after ever
/// longer pauses, three seconds in all.
const DOUBTS: u32 = 5;
/// A connection that is older than this has no such queues: refusals are believed.
const DOUBTFUL: Duration = Duration::from_secs(10);
/// How long to wait before a channel that the broker closed is opened again.
const PAUSE: Duration = Duration::from_millis(50);

/// Publishes on one channel at a time, in order, and again on the next one what was not confirmed.
pub(crate) struct Publisher {
    state: Mutex<State>,
    /// How long a message may take to be confirmed.
    within: Duration,
    /// Told when nothing is unconfirmed any more.
    idle: Notify,
    /// Told when something is, or when nothing more will come.
    busy: Notify,
}

#[derive(Default)]
struct State {
    /// Not confirmed yet, in order.
    pending: VecDeque<Pending>,
    /// The number of the first of them on the channel.
    first: u64,
    /// How many of them, from the first on, were sent on the channel.
    sent: usize,
    channel: Option<Channel>,
    /// How many refusals are not believed, and until when.
    doubts: u32,
    doubtful_until: Option<Instant>,
    closed: bool,
}

impl Publisher {
    /// A publisher over that link. Its task ends with the link.
    pub(crate) fn start(link: &Link, within: Duration) -> Arc<Publisher> {
        let state = Mutex::default();
        let (idle, busy) = (Notify::new(), Notify::new());
        let publisher = Arc::new(Publisher { state, within, idle, busy });
        tokio::spawn(Arc::clone(&publisher).run(link.status()));
        tokio::spawn(Arc::clone(&publisher).sweep(link.status()));
        publisher
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message now, or when there is a channel.
    pub(crate) fn send(&self, outgoing: Outgoing) {
        match Pending::new(outgoing) {
            Err((done, error)) => done.tell(Err(error)),
            Ok(pending) => {
                let mut state = self.lock();
                if state.closed {
                    drop(state);
                    pending.tell(Err(PublishError::Closed));
                    return;
                }
                state.pending.push_back(pending);
                state.push();
                if state.pending.len() == 1 {
                    self.busy.notify_one();
                }
            }
        }
    }

    /// How many messages are not confirmed.
    pub(crate) fn unconfirmed(&self) -> usize {
        self.lock().pending.len()
    }

    /// Waits until everything is confirmed, or given up.
    pub(crate) async fn flush(&self) {
        loop {
            let idle = self.idle.notified();
            if self.lock().pending.is_empty() {
                return;
            }
            idle.await;
        }
    }

    /// Opens a channel on each connection of the link, until that is closed.
    async fn run(self: Arc<Self>, mut link: watch::Receiver<Status>) {
        let mut events = Vec::new();
        let mut known = 0;
        loop {
            let status = link.wait_for(|it| it.is_closed() || it.connection().is_some()).await;
            // Without the link's task nothing goes on either.
            let connection = status.ok().and_then(|status| status.connection());
            let Some((connection, epoch)) = connection else { break };
            if epoch != std::mem::replace(&mut known, epoch) {
                self.lock().connected(epoch > 1);
            }
            match self.serve(&connection, &mut events).await {
                Error::Closed { text, .. } if connection.error().is_none() => {
                    self.blame(&text);
                    sleep(PAUSE).await;
                }
                error if connection.error().is_none() => {
                    tracing::warn!(%error, "the publishing channel has ended");
                    let doubted = DOUBTS.saturating_sub(self.lock().doubts);
                    sleep(PAUSE * (1 << doubted)).await;
                }
                _ => {
                    let gone = |it: &Status| it.connects != epoch || it.connection().is_none();
                    if link.wait_for(gone).await.is_err() {
                        break;
                    }
                }
            }
        }
        self.close();
    }

    /// Publishes on a channel of this connection until that ends.
    async fn serve(&self, connection: &Connection, events: &mut Vec<Event>) -> Error {
        let (channel, mut incoming) = match connection.channel().await {
            Ok(open) => open,
            Err(error) => return error,
        };
        if let Err(error) = channel.call(ConfirmSelect::default()).await {
            return error;
        }
        self.lock().begin(channel);
        let error = self.follow(&mut incoming, events).await;
        self.lock().channel = None;
        error
    }

    /// Takes confirms and returns until the channel ends.
    async fn follow(&self, incoming: &mut Events, events: &mut Vec<Event>) -> Error {
        let mut told = Vec::new();
        loop {
            incoming.next(events).await;
            let mut ended = None;
            let mut doubtful = false;
            let mut state = self.lock();
            for event in events.drain(..) {
                match event {
                    Event::Confirm { taken: false, .. } if state.is_doubtful() => doubtful = true,
                    Event::Confirm { tag, multiple, taken } => {
                        state.confirm(tag, multiple, taken, &mut told);
                    }
                    Event::Return(returned) => state.give_back(&returned),
                    Event::Closed(error) => ended = Some(error),
                    Event::Deliver(_) | Event::Cancelled => {}
                }
            }
            if doubtful {
                state.doubts -= 1;
                ended.get_or_insert(Error::Ended(Scope::Channel));
            }
            if ended.is_none() {
                // Those that had to wait for one that was suspect.
                state.push();
            }
            let idle = state.pending.is_empty();
            drop(state);
            told.drain(..).for_each(|(done, result): (Done, _)| done.tell(result));
            if idle {
                self.idle.notify_waiters();
            }
            if let Some(error) = ended {
                return error;
            }
        }
    }

    /// The broker closed the channel, because of one of the messages that were sent on it. If there
    /// was only one, it is that; otherwise they are sent one by one until it is found, or none of
    /// them is left.
    fn blame(&self, text: &str) {
        let mut state = self.lock();
        state.channel = None;
        let count = state.sent;
        let mut sent = state.pending.iter_mut().take(count).filter(|it| it.done.is_some());
        let (one, more) = (sent.next(), sent.next().is_some());
        match one {
            Some(culprit) if !more => {
                let (done, target) = (culprit.done.take(), culprit.target());
                state.pending.iter_mut().for_each(|message| message.suspect = false);
                drop(state);
                if let Some(done) = done {
                    done.tell(Err(PublishError::Refused { target, text: text.to_owned() }));
                }
            }
            _ => state.pending.iter_mut().take(count).for_each(|message| message.suspect = true),
        }
    }

    /// Gives up what took too long. While nothing is unconfirmed nobody wakes up for that.
    async fn sweep(self: Arc<Self>, link: watch::Receiver<Status>) {
        loop {
            sleep(SWEEP).await;
            let trouble = || link.borrow().trouble();
            let (told, idle) = {
                let mut state = self.lock();
                if state.closed {
                    return;
                }
                state.push();
                (state.overdue(self.within, trouble), state.pending.is_empty())
            };
            told.into_iter().for_each(|(done, error)| done.tell(Err(error)));
            if idle {
                self.idle.notify_waiters();
                self.busy.notified().await;
            }
        }
    }

    /// Tells everyone that nothing more will come.
    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.channel = None;
        let pending = std::mem::take(&mut state.pending);
        drop(state);
        for message in pending {
            let within = message.since.elapsed();
            let unknown = message.ever_sent;
            message.tell(Err(match unknown {
                true => PublishError::Unknown { within },
                false => PublishError::Closed,
            }));
        }
        self.idle.notify_waiters();
        self.busy.notify_one();
    }
}

impl State {
    /// There is a connection; `again` if it is not the first one.
    fn connected(&mut self, again: bool) {
        self.doubts = if again { DOUBTS } else { 0 };
        self.doubtful_until = Some(Instant::now() + DOUBTFUL);
    }

    /// Whether a refusal may have passed in a moment.
    fn is_doubtful(&self) -> bool {
        self.doubts > 0 && self.doubtful_until.is_some_and(|until| Instant::now() < until)
    }

    /// Everything that is not confirmed goes on this channel.
    fn begin(&mut self, channel: Channel) {
        self.pending.retain(|message| message.done.is_some());
        // There may be somebody now who gets what nobody got.
        self.pending.iter_mut().for_each(|message| message.returned = None);
        (self.first, self.sent) = (1, 0);
        self.channel = Some(channel);
        self.push();
    }

    /// Sends what was not sent on this channel yet.
    fn push(&mut self) {
        let Some(channel) = &self.channel else { return };
        if channel.is_blocked() {
            // What is not sent is known not to have been taken. A sweep goes on.
            return;
        }
        // They are in order, so those behind a suspect wait for it.
        let careful = self.pending.front().is_some_and(|message| message.suspect);
        let most = if careful { 1 } else { usize::MAX };
        while self.sent < self.pending.len().min(most) {
            let message = &mut self.pending[self.sent];
            match message.publish(channel) {
                Ok(_) => {
                    message.ever_sent = true;
                    self.sent += 1;
                }
                Err(Error::TooLong(text)) => {
                    if let Some(message) = self.pending.remove(self.sent) {
                        message.tell(Err(PublishError::Invalid(text)));
                    }
                }
                // The channel's end is on its way to us.
                Err(_) => return,
            }
        }
    }

    fn confirm(
        &mut self,
        tag: u64,
        multiple: bool,
        taken: bool,
        told: &mut Vec<(Done, Result<(), PublishError>)>,
    ) {
        let Some(index) = tag.checked_sub(self.first) else { return };
        // It fits: it is an index.
        let last = (index as usize).min(self.sent.saturating_sub(1));
        let start = if multiple { 0 } else { last };
        for message in self.pending.iter_mut().take(last + 1).skip(start) {
            if let Some(done) = message.done.take() {
                told.push((done, message.result(taken)));
            }
        }
        while self.sent > 0 && self.pending.front().is_some_and(|it| it.done.is_none()) {
            self.pending.pop_front();
            self.first += 1;
            self.sent -= 1;
        }
    }

    /// Notes that a message went nowhere. Its confirm follows. The id alone does not tell which
    /// one it was: a message that failed goes on as a dead letter under the same id, maybe before
    /// its own confirm has come.
    fn give_back(&mut self, returned: &Returned) {
        let message_id = |properties: &[u8]| {
            Properties::decode(properties).ok().and_then(|properties| properties.message_id)
        };
        let id = message_id(returned.properties());
        let sent = self.pending.iter_mut().take(self.sent);
        let unknown = sent.filter(|it| it.done.is_some() && it.returned.is_none());
        let names = (returned.exchange(), returned.routing_key());
        let mut same =
            unknown.filter(|it| it.names() == names && message_id(it.properties()) == id);
        if let Some(message) = same.next() {
            message.returned = Some(returned.text.clone());
        }
    }

    /// Takes out what took longer than `within`, the oldest first.
    fn overdue(
        &mut self,
        within: Duration,
        trouble: impl Fn() -> String,
    ) -> Vec<(Done, PublishError)> {
        let mut told = Vec::new();
        for message in &mut self.pending {
            if message.since.elapsed() < within {
                break;
            }
            if let Some(done) = message.done.take() {
                let unknown = PublishError::Unknown { within };
                let error = match message.ever_sent {
                    true => unknown,
                    false => PublishError::NotSent { within, text: trouble() },
                };
                told.push((done, error));
            }
        }
        // Those that were sent keep their numbers' places.
        let sent = self.sent;
        let mut index = 0;
        self.pending.retain(|message| {
            index += 1;
            index <= sent || message.done.is_some()
        });
        if self.channel.is_none() {
            self.pending.retain(|message| message.done.is_some());
            self.sent = 0;
        }
        told
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("unconfirmed", &self.unconfirmed()).finish()
    }
}
