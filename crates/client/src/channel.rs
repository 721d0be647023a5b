//! A channel: calls, publishing, settling, and what comes on it.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use leveret_amqp_wire::method::*;
use leveret_amqp_wire::publish::{write_ack, write_publish};
use leveret_amqp_wire::write_content;
use tokio::sync::oneshot;

use crate::connection::Handle;
use crate::error::{Error, Scope};
use crate::incoming::{Answer, Delivery, Returned};

/// What a message's header frame holds besides the properties, in bytes: the frame's own head and
/// end, the class, the weight and the body's size (AMQP 0-9-1, 4.2.6).
const HEADER_FRAME_BYTES: usize = 8 + 12;

/// A channel. Clones are the same one; it is closed when its [`Events`] are dropped.
#[derive(Clone)]
pub struct Channel {
    shared: Arc<Handle>,
    inbox: Arc<Inbox>,
    number: u16,
}

/// What comes on a channel without having been called for.
#[derive(Debug, Clone)]
pub enum Event {
    /// A message for the channel's consumer.
    Deliver(Delivery),
    /// A message that was published here went nowhere. Its confirm follows.
    Return(Returned),
    /// Published messages are confirmed or refused.
    Confirm {
        /// The message of this number, counted from 1 since `confirm.select`.
        tag: u64,
        /// And all before it.
        multiple: bool,
        /// Whether the broker has taken them.
        taken: bool,
    },
    /// The broker ended the consumer, maybe because its queue is gone.
    Cancelled,
    /// The channel is closed. Nothing comes after it.
    Closed(Error),
}

/// A method that was sent; await its answer. Dropping it does not take it back.
#[derive(Debug)]
#[must_use = "whether it was done is not known unless it is awaited"]
pub struct Call {
    receiver: oneshot::Receiver<Result<Answer, Error>>,
    /// Why it was not sent.
    failed: Option<Error>,
}

impl Future for Call {
    type Output = Result<Answer, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        let answer = Pin::new(&mut self.receiver).poll(cx);
        answer.map(|answer| answer.unwrap_or(Err(Error::Ended(Scope::Connection))))
    }
}

/// The events of a channel.
pub struct Events {
    channel: Channel,
}

/// Where a connection's task leaves what came on a channel.
#[derive(Default)]
pub(crate) struct Inbox {
    state: Mutex<InboxState>,
    /// The channel has ended.
    ended: AtomicBool,
}

#[derive(Default)]
struct InboxState {
    events: Vec<Event>,
    /// What the messages among them take.
    bytes: usize,
    waker: Option<Waker>,
}

/// What a connection knows of a channel.
pub(crate) struct Entry {
    pub(crate) inbox: Arc<Inbox>,
    /// Whoever waits for an answer, in the order of the questions.
    pub(crate) calls: VecDeque<oneshot::Sender<Result<Answer, Error>>>,
    /// How many messages were published since `confirm.select`.
    published: u64,
    /// It was closed from here, and only the broker's agreement is still to come.
    pub(crate) closing: bool,
}

impl Entry {
    pub(crate) fn new() -> Self {
        let inbox = Arc::default();
        Entry { inbox, calls: VecDeque::new(), published: 0, closing: false }
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, event: Event, bytes: usize) {
        let mut state = self.lock();
        state.events.push(event);
        state.bytes += bytes;
    }

    /// Says that nothing more will come.
    pub(crate) fn end(&self, error: Error) {
        self.ended.store(true, Ordering::Release);
        self.push(Event::Closed(error), 0);
        self.wake();
    }

    /// Wakes who waits for events. To be called after a read, not after each event.
    pub(crate) fn wake(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Channel {
    pub(crate) fn new(shared: Arc<Handle>, inbox: Arc<Inbox>, number: u16) -> (Channel, Events) {
        let channel = Channel { shared, inbox, number };
        (channel.clone(), Events { channel })
    }

    /// Whether nobody knows yet that the channel or its connection has ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.inbox.ended.load(Ordering::Acquire)
    }

    /// Sends a method at once, which must be one that the broker answers; await its answer. Several
    /// may be on their way: they are answered in order.
    ///
    /// # Errors
    /// [`Error`] if the channel or the connection ends instead; a refusal ends the channel.
    pub fn call(&self, method: impl Into<Method>) -> Call {
        let method = method.into();
        let (sender, receiver) = oneshot::channel();
        let sent = self.with(|entry, output| {
            entry.calls.push_back(sender);
            match method {
                Method::ConfirmSelect(_) => entry.published = 0,
                Method::ChannelClose(_) => entry.closing = true,
                _ => {}
            }
            method.frame(self.number, output);
        });
        Call { receiver, failed: sent.err() }
    }

    /// Sends a method that is not answered.
    ///
    /// # Errors
    /// [`Error`] if the channel has ended.
    pub fn send(&self, method: impl Into<Method>) -> Result<(), Error> {
        self.with(|_, output| method.into().frame(self.number, output))
    }

    /// Sends a message. `envelope` is the exchange and the routing key as short strings, as
    /// `leveret_amqp_wire::publish::write_envelope` makes it. Returns its number, which its
    /// confirm will name. Wait for [`Channel::poll_room`] before.
    ///
    /// # Errors
    /// [`Error::TooLong`] if the properties do not fit into a frame, and nothing is sent: a broker
    /// would end the connection. [`Error`] if the channel has ended.
    pub fn publish(
        &self,
        envelope: &[u8],
        mandatory: bool,
        properties: &[u8],
        body: &[u8],
    ) -> Result<u64, Error> {
        let frame_max = self.shared.tuning.frame_max;
        let (size, most) = (properties.len(), frame_max as usize - HEADER_FRAME_BYTES);
        if size > most {
            return Err(Error::TooLong(format!(
                "headers and other properties take {size} bytes; {most} have room"
            )));
        }
        self.with(|entry, output| {
            write_publish(output, self.number, envelope, mandatory);
            write_content(output, self.number, properties, body, frame_max);
            entry.published += 1;
            entry.published
        })
    }

    /// Acknowledges the delivery of that tag, and with `multiple` all before it.
    ///
    /// # Errors
    /// [`Error`] if the channel has ended.
    pub fn ack(&self, tag: u64, multiple: bool) -> Result<(), Error> {
        self.with(|_, output| write_ack(output, self.number, tag, multiple))
    }

    /// Ready when so little waits to be written that more may be published.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.poll_room(cx)
    }

    /// Waits for [`Channel::poll_room`].
    pub async fn room(&self) {
        poll_fn(|cx| self.poll_room(cx)).await;
    }

    /// Whether the broker takes no messages for now; see [`crate::Connection::blocked`].
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.shared.is_blocked()
    }

    /// Closes the channel, and waits for the broker's agreement.
    ///
    /// # Errors
    /// [`Error`] if the channel ended in another way.
    pub async fn close(&self) -> Result<(), Error> {
        self.call(goodbye()).await.map(drop)
    }

    fn with<T>(&self, send: impl FnOnce(&mut Entry, &mut Vec<u8>) -> T) -> Result<T, Error> {
        self.shared.with_channel(self.number, &self.inbox, send)
    }
}

fn goodbye() -> ChannelClose {
    ChannelClose { reply_code: 200, ..Default::default() }
}

impl Events {
    /// Moves all that came to the end of `into`; pending if that is nothing.
    pub fn poll(&mut self, cx: &mut Context<'_>, into: &mut Vec<Event>) -> Poll<()> {
        let mut state = self.channel.inbox.lock();
        if state.events.is_empty() {
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        if into.is_empty() {
            mem::swap(into, &mut state.events);
        } else {
            into.append(&mut state.events);
        }
        let bytes = mem::take(&mut state.bytes);
        drop(state);
        self.channel.shared.taken(bytes);
        Poll::Ready(())
    }

    /// Waits for [`Events::poll`].
    pub async fn next(&mut self, into: &mut Vec<Event>) {
        poll_fn(|cx| self.poll(cx, into)).await;
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // A channel that has ended already needs no goodbye.
        let _ = self.channel.with(|entry, output| {
            if !mem::replace(&mut entry.closing, true) {
                Method::from(goodbye()).frame(self.channel.number, output);
            }
        });
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({})", self.number)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Events({})", self.channel.number)
    }
}
