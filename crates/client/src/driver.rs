//! The task that owns a connection's stream: all the reading and writing there is.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use leveret_amqp_wire::Input;
use leveret_amqp_wire::frame::{self, Frame};
use leveret_amqp_wire::method::*;
use rustc_hash::FxHashMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::channel::{Event, Inbox};
use crate::connection::Shared;
use crate::error::{Error, Scope};
use crate::incoming::{Answer, Assembly, Incoming};
use crate::input::poll_fill;

/// Largest frame that is taken, in bytes. The headers of a message are one frame whatever was
/// agreed on.
const FRAME_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// An output buffer larger than this is not kept when it has been written, in bytes.
const KEPT_OUTPUT_BYTES: usize = 2 * 1024 * 1024;
/// How many reads and writes there may be before other tasks have their turn.
const ROUNDS_MAX: usize = 8;
/// How long the last bytes may take to be written, and the stream to shut down, when a connection
/// has ended.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often one looks at the clock where there are no heartbeats.
const NO_HEARTBEAT: Duration = Duration::from_secs(86_400);

pub(crate) struct Driver<S> {
    stream: S,
    input: Input,
    /// Whether the handshake may have left something in `input`.
    unread: bool,
    shared: Arc<Shared>,
    /// What is being written, from `written` on.
    output: Vec<u8>,
    written: usize,
    /// Whether the stream may keep something to itself that was written: TLS does.
    unflushed: bool,
    /// What is being put together on each channel.
    assemblies: FxHashMap<u16, Assembly>,
    /// Channels that something came on in this read.
    woken: Vec<Arc<Inbox>>,
    timer: Pin<Box<Sleep>>,
    /// Whether the broker was heard of, and told something, since the timer was set.
    received: bool,
    sent: bool,
    /// Half heartbeat intervals in a row in which the broker was not heard of.
    silent: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(crate) fn new(stream: S, input: Input, shared: Arc<Shared>) -> Self {
        let timer = Box::pin(sleep(window(&shared)));
        Driver {
            stream,
            input,
            unread: true,
            shared,
            output: Vec::new(),
            written: 0,
            unflushed: false,
            assemblies: FxHashMap::default(),
            woken: Vec::new(),
            timer,
            received: false,
            sent: false,
            silent: 0,
        }
    }

    pub(crate) async fn run(mut self) {
        let error = poll_fn(|cx| self.poll(cx)).await;
        self.shared.end(&error);
        // The other side should learn of it; if it cannot, it has ended already, or never will.
        let _ = timeout(SHUTDOWN_TIMEOUT, poll_fn(|cx| self.poll_shutdown(cx))).await;
    }

    /// Runs until there is nothing to do; ready with the error that ends the connection.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        for _ in 0..ROUNDS_MAX {
            match self.round(cx) {
                Ok(Poll::Ready(())) => {}
                Ok(Poll::Pending) => return Poll::Pending,
                Err(error) => {
                    // What came before the end still counts.
                    self.wake();
                    return Poll::Ready(error);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes, reads and looks at the clock once; pending if none of them can be done.
    fn round(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        let wrote = self.poll_write(cx)?;
        let read = self.poll_read(cx)?;
        let timed = self.poll_timer(cx)?;
        let idle = wrote.is_pending() && read.is_pending() && timed.is_pending();
        Ok(if idle { Poll::Pending } else { Poll::Ready(()) })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        let stuck = self.poll_output(cx)?.is_pending();
        let mut state = self.shared.lock();
        if !stuck
            && let Some((output, cramped)) = state.take_output(std::mem::take(&mut self.output))
        {
            drop(state);
            self.output = output;
            cramped.into_iter().for_each(Waker::wake);
            return Ok(Poll::Ready(()));
        }
        // Only handles end a connection from elsewhere, and wake this task.
        if let Some(error) = self.shared.error() {
            return Err(error);
        }
        state.driver = Some(cx.waker().clone());
        drop(state);
        if !stuck && let Poll::Ready(flushed) = self.poll_flush(cx) {
            flushed?;
        }
        Ok(Poll::Pending)
    }

    /// Writes what is in `output`; pending if the stream does not take it all.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.output.len() {
            let rest = &self.output[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
            (self.sent, self.unflushed) = (true, true);
        }
        self.written = 0;
        self.output.clear();
        if self.output.capacity() > KEPT_OUTPUT_BYTES {
            self.output = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Gets the last bytes out, and ends the stream.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_output(cx))?;
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        if self.shared.is_full() {
            // Silence means nothing while nothing is read.
            self.received = true;
            return Ok(Poll::Pending);
        }
        if !std::mem::take(&mut self.unread) {
            match poll_fill(&mut self.input, &mut self.stream, cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(read) => read?,
            }
            self.received = true;
        }
        let mut input = std::mem::take(&mut self.input);
        let taken = self.take_frames(&mut input);
        self.input = input;
        self.wake();
        taken?;
        Ok(Poll::Ready(()))
    }

    fn wake(&mut self) {
        for inbox in self.woken.drain(..) {
            inbox.wake();
        }
    }

    fn take_frames(&mut self, input: &mut Input) -> Result<(), Error> {
        while let Some(frame) = input.next_frame(FRAME_BYTES_MAX)? {
            match (frame.channel, frame.kind) {
                (_, frame::HEARTBEAT) => {}
                (0, frame::METHOD) => self.connection_method(frame.payload)?,
                (0, kind) => {
                    return Err(Error::Malformed(format!("a frame of type {kind} on channel 0")));
                }
                _ => self.channel_frame(&frame)?,
            }
        }
        Ok(())
    }

    fn connection_method(&mut self, payload: &[u8]) -> Result<(), Error> {
        match Method::decode(payload)? {
            Method::ConnectionClose(close) => {
                // It is written before the stream is shut down.
                Method::from(ConnectionCloseOk {}).frame(0, &mut self.output);
                Err(Error::Closed {
                    scope: Scope::Connection,
                    code: close.reply_code,
                    text: close.reply_text.to_string(),
                })
            }
            Method::ConnectionCloseOk(close_ok) => {
                if let Some(close) = self.shared.lock().close.take() {
                    // Whoever asked may have given up.
                    let _ = close.send(Ok(Answer { method: close_ok.into(), message: None }));
                }
                Err(Error::Ended(Scope::Connection))
            }
            Method::ConnectionBlocked(blocked) => {
                self.shared.set_blocked(Some(blocked.reason.to_string()));
                Ok(())
            }
            Method::ConnectionUnblocked(_) => {
                self.shared.set_blocked(None);
                Ok(())
            }
            other => Err(Error::Malformed(format!("{} out of turn", other.name()))),
        }
    }

    fn channel_frame(&mut self, frame: &Frame<'_>) -> Result<(), Error> {
        let assembly = self.assemblies.entry(frame.channel).or_default();
        let Some(incoming) = assembly.take(frame)? else { return Ok(()) };
        let (event, bytes) = match incoming {
            Incoming::Answer(answer) => return self.method(frame.channel, answer),
            Incoming::Deliver(delivery) => {
                let bytes = delivery.size();
                (Event::Deliver(delivery), bytes)
            }
            Incoming::Return(returned) => {
                let bytes = returned.size();
                (Event::Return(returned), bytes)
            }
            Incoming::Confirm { tag, multiple, taken } => {
                (Event::Confirm { tag, multiple, taken }, 0)
            }
        };
        self.tell(frame.channel, event, bytes);
        Ok(())
    }

    fn tell(&mut self, channel: u16, event: Event, bytes: usize) {
        let state = self.shared.lock();
        // A channel that is being closed is not listened to any more.
        let Some(entry) = state.channels.get(&channel).filter(|entry| !entry.closing) else {
            return;
        };
        if !self.woken.last().is_some_and(|last| Arc::ptr_eq(last, &entry.inbox)) {
            self.woken.push(Arc::clone(&entry.inbox));
        }
        entry.inbox.push(event, bytes);
        drop(state);
        self.shared.arrived(bytes);
    }

    fn method(&mut self, channel: u16, answer: Answer) -> Result<(), Error> {
        match &answer.method {
            Method::ChannelClose(close) => {
                let error = Error::Closed {
                    scope: Scope::Channel,
                    code: close.reply_code,
                    text: close.reply_text.to_string(),
                };
                let mut state = self.shared.lock();
                Method::from(ChannelCloseOk {}).frame(channel, &mut state.output);
                let entry = state.channels.remove(&channel);
                drop(state);
                self.assemblies.remove(&channel);
                if let Some(entry) = entry {
                    entry.end(&error);
                }
            }
            Method::BasicCancel(_) => self.tell(channel, Event::Cancelled, 0),
            Method::ChannelFlow(flow) => {
                // Nobody sends it, but the answer is easy.
                let flow_ok = ChannelFlowOk { active: flow.active };
                let mut state = self.shared.lock();
                Method::from(flow_ok).frame(channel, &mut state.output);
            }
            method => {
                let closed = matches!(method, Method::ChannelCloseOk(_));
                let mut state = self.shared.lock();
                let call =
                    state.channels.get_mut(&channel).and_then(|entry| entry.calls.pop_front());
                let over = if closed { state.channels.remove(&channel) } else { None };
                drop(state);
                if let Some(entry) = over {
                    self.assemblies.remove(&channel);
                    entry.end(&Error::Ended(Scope::Channel));
                }
                match call {
                    // Whoever called may have given up.
                    Some(call) => drop(call.send(Ok(answer))),
                    None if closed => {}
                    None => {
                        let name = answer.method.name();
                        return Err(Error::Malformed(format!("{name} that nobody asked for")));
                    }
                }
            }
        }
        Ok(())
    }

    /// Every half heartbeat interval: says that we are here if nothing else has, and gives up a
    /// broker that was not heard of for two intervals.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Error> {
        if self.timer.as_mut().poll(cx).is_pending() {
            return Ok(Poll::Pending);
        }
        self.timer.as_mut().reset(Instant::now() + window(&self.shared));
        if self.shared.tuning.heartbeat.is_zero() {
            return Ok(Poll::Ready(()));
        }
        self.silent = if std::mem::take(&mut self.received) { 0 } else { self.silent + 1 };
        if self.silent >= 4 {
            return Err(Error::Silent(2 * self.shared.tuning.heartbeat));
        }
        if !std::mem::take(&mut self.sent) {
            frame::heartbeat(&mut self.shared.lock().output);
        }
        Ok(Poll::Ready(()))
    }
}

fn window(shared: &Shared) -> Duration {
    match shared.tuning.heartbeat {
        Duration::ZERO => NO_HEARTBEAT,
        heartbeat => heartbeat / 2,
    }
}
