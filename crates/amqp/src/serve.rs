//! One connection's sockets, timers and buffers.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use leveret_amqp_wire::frame;
use leveret_broker::Broker;
use leveret_broker::engine::Outbound;
use leveret_model::limits::{
    CONGESTION_PAUSE, FRAME_MAX_BYTES, HANDSHAKE_TIMEOUT, READ_BYTES_MAX, SESSION_OUTPUT_BYTES_MAX,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

use crate::connection::{Connection, Phase};
use crate::fault::{CONNECTION_FORCED, Fault};

/// How long a client may take to agree to a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a refused client is left in silence.
const REFUSED_SILENCE: Duration = Duration::from_secs(1);
/// Of a connection's output credit, what is returned to the engine at a time, in bytes.
const CREDIT_STEP_BYTES: usize = SESSION_OUTPUT_BYTES_MAX / 4;
/// Room for what was left of the last read, at most one frame, and the next read.
const INPUT_BYTES: usize = FRAME_MAX_BYTES as usize + 8 + READ_BYTES_MAX;
/// How many reads and writes a connection may do before others of its thread have their turn.
const ROUNDS_MAX: usize = 4;
/// An output buffer that one write leaves behind is not kept if it is larger than this, in bytes.
const KEPT_OUTPUT_BYTES: usize = 2 * SESSION_OUTPUT_BYTES_MAX;

thread_local! {
    /// Shared by all connections of a thread, so that an idle one needs no buffers of its own.
    static BUFFERS: RefCell<Buffers> = RefCell::new(Buffers {
        input: vec![0; INPUT_BYTES].into_boxed_slice(),
        output: Vec::new(),
        outbound: Vec::new(),
    });
}

struct Buffers {
    input: Box<[u8]>,
    output: Vec<u8>,
    outbound: Vec<Outbound>,
}

/// Serves one client until it leaves, fails, or `shutdown` becomes true.
pub async fn serve<S>(
    stream: S,
    peer: SocketAddr,
    broker: Broker,
    mut shutdown: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut driver = Driver {
        stream,
        connection: Connection::new(broker, peer),
        unread: Vec::new(),
        kept: false,
        unwritten: Vec::new(),
        written: 0,
        taken: 0,
        timer: Box::pin(sleep(HANDSHAKE_TIMEOUT)),
        pause: None,
        phase: Phase::Header,
        received: false,
        sent: false,
        silent: 0,
        bulk: false,
    };
    // Without the guard, which would bind this future to one thread.
    let stopped = async { drop(shutdown.wait_for(|stop| *stop).await) };
    let result = tokio::select! {
        result = poll_fn(|cx| driver.poll(cx)) => result,
        () = stopped => {
            driver.force_close();
            poll_fn(|cx| driver.poll(cx)).await
        }
    };
    if let Err(error) = result {
        tracing::info!(%peer, %error, "connection lost");
    }
}

struct Driver<S> {
    stream: S,
    connection: Connection,
    /// The start of a frame whose rest has not come, or what was not taken for want of room.
    unread: Vec<u8>,
    /// Whether `unread` is to be taken again without more.
    kept: bool,
    /// What the socket has not taken, from `written` on.
    unwritten: Vec<u8>,
    written: usize,
    /// Output credit to return, in bytes.
    taken: usize,
    timer: Pin<Box<Sleep>>,
    /// Until when nothing is read, so that consumers can catch up.
    pause: Option<Pin<Box<Sleep>>>,
    /// The phase that `timer` was set for.
    phase: Phase,
    /// Whether the client was heard of since the timer was set.
    received: bool,
    /// Whether the client was told anything since then.
    sent: bool,
    /// Heartbeat windows in a row in which the client was not heard of.
    silent: u8,
    /// Whether the last read was a large one: then it is the turn of other connections.
    bulk: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Runs until there is nothing to do; ready when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        BUFFERS.with_borrow_mut(|buffers| {
            for _ in 0..ROUNDS_MAX {
                let wrote = self.poll_output(cx, buffers)?;
                if self.connection.phase == Phase::Closed && self.unwritten.is_empty() {
                    return Pin::new(&mut self.stream).poll_shutdown(cx).map(|_| Ok(()));
                }
                let read = self.poll_input(cx, buffers)?;
                let timed = self.poll_timer(cx)?;
                if wrote.is_pending() && read.is_pending() && timed.is_pending() {
                    return Poll::Pending;
                }
                if std::mem::take(&mut self.bulk) {
                    break;
                }
            }
            // It is the turn of other connections.
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// Encodes what there is to tell and writes it. Pending when there is nothing more to tell, or
    /// the socket takes no more.
    fn poll_output(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        let Some(session) = &self.connection.session else { return Poll::Pending };
        buffers.outbound.clear();
        ready!(session.poll_outbound(cx, &mut buffers.outbound));
        let mut output = std::mem::take(&mut buffers.output);
        output.reserve(buffers.outbound.iter().map(|outbound| outbound.bytes).sum());
        for outbound in buffers.outbound.drain(..) {
            self.taken += outbound.bytes;
            self.connection.tell(&outbound, &mut output);
        }
        self.connection.write_confirms(&mut output);
        let written = self.write(cx, output, buffers);
        if self.taken >= CREDIT_STEP_BYTES && self.unwritten.is_empty() {
            self.connection.taken(std::mem::take(&mut self.taken));
        }
        written?;
        Poll::Ready(Ok(()))
    }

    /// Writes `output` as far as the socket takes it, keeps the rest, and gives the buffer back.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        mut output: Vec<u8>,
        buffers: &mut Buffers,
    ) -> io::Result<()> {
        if !self.unwritten.is_empty() {
            self.unwritten.extend_from_slice(&output);
        } else {
            let mut written = 0;
            while written < output.len() {
                match Pin::new(&mut self.stream).poll_write(cx, &output[written..]) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(n)) => written += n,
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => {
                        self.keep(&mut output, written);
                        break;
                    }
                }
            }
            self.sent |= written > 0;
        }
        output.clear();
        if output.capacity() <= KEPT_OUTPUT_BYTES {
            buffers.output = output;
        }
        Ok(())
    }

    /// Keeps what the socket has not taken of `output`: a copy, if that is the smaller part of the
    /// memory it takes.
    fn keep(&mut self, output: &mut Vec<u8>, written: usize) {
        if (output.len() - written) * 2 < output.capacity() {
            self.unwritten.extend_from_slice(&output[written..]);
        } else {
            std::mem::swap(&mut self.unwritten, output);
            self.written = written;
        }
    }

    /// Writes what the socket did not take before.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.unwritten.len() {
            let rest = &self.unwritten[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written += n,
            }
            self.sent = true;
        }
        if self.written > 0 {
            self.unwritten = Vec::new();
            self.written = 0;
            if self.taken >= CREDIT_STEP_BYTES {
                self.connection.taken(std::mem::take(&mut self.taken));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, and has it carried out. Pending when nothing has come, or nothing is wanted.
    fn poll_input(&mut self, cx: &mut Context<'_>, buffers: &mut Buffers) -> Poll<io::Result<()>> {
        if self.connection.phase == Phase::Closed {
            return Poll::Pending;
        }
        let session = self.connection.session.as_ref();
        let waiting = self.unwritten.len() - self.written
            + session.map_or(0, leveret_broker::Session::outbound_bytes);
        if !self.unwritten.is_empty() && waiting > SESSION_OUTPUT_BYTES_MAX {
            // A client that does not take its answers gets no more of them. That it takes some is
            // as good a sign of life as its heartbeats, which are not read now.
            self.received |= self.sent;
            return Poll::Pending;
        }
        if self.connection.blocked {
            // Silence means nothing while nothing is read; that it takes nothing still does.
            self.received |= self.unwritten.is_empty() || self.sent;
            if let Some(session) = session {
                ready!(session.poll_plenty(cx));
            }
            self.connection.unblock(&mut self.unwritten);
            return Poll::Ready(Ok(()));
        }
        if let Some(session) = session {
            if session.poll_room(cx).is_pending() {
                self.received = true;
                return Poll::Pending;
            }
            if session.take_congestion() {
                self.pause = Some(Box::pin(sleep(CONGESTION_PAUSE)));
            }
        }
        if let Some(pause) = &mut self.pause {
            self.received = true;
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let start = self.unread.len();
        buffers.input[..start].copy_from_slice(&self.unread);
        let end = buffers.input.len().min(start + READ_BYTES_MAX);
        let kept = std::mem::take(&mut self.kept);
        let mut space = ReadBuf::new(&mut buffers.input[start..end]);
        if !kept {
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space))?;
        }
        let read = space.filled().len();
        if read == 0 && !kept {
            let expected =
                matches!(self.connection.phase, Phase::Leaving | Phase::Closing | Phase::Refused);
            self.give_up();
            let gone = io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the client went away without closing the connection",
            );
            return Poll::Ready(if expected { Ok(()) } else { Err(gone) });
        }
        self.received = true;
        self.bulk = read >= READ_BYTES_MAX / 2;
        let input = &buffers.input[..start + read];
        let mut output = std::mem::take(&mut buffers.output);
        let used = self.connection.receive(input, &mut output);
        self.kept = self.connection.blocked;
        self.unread.clear();
        self.unread.extend_from_slice(&input[used..]);
        if self.unread.is_empty() && self.unread.capacity() > 0 {
            self.unread = Vec::new();
        }
        self.write(cx, output, buffers)?;
        Poll::Ready(Ok(()))
    }

    /// Heartbeats, and the limits on how long a phase may take.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.phase != self.connection.phase {
            self.phase = self.connection.phase;
            self.silent = 0;
            let limit = match self.phase {
                Phase::Header | Phase::StartOk | Phase::TuneOk | Phase::Open => None,
                Phase::Running => Some(self.heartbeat_window()),
                Phase::Refused => Some(REFUSED_SILENCE),
                Phase::Leaving | Phase::Closing | Phase::Closed => Some(CLOSE_TIMEOUT),
            };
            if let Some(limit) = limit {
                self.timer.as_mut().reset(Instant::now() + limit);
            }
        }
        ready!(self.timer.as_mut().poll(cx));
        match self.phase {
            Phase::Running => self.heartbeat()?,
            Phase::Header | Phase::StartOk | Phase::TuneOk | Phase::Open => {
                self.give_up();
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client took too long to begin",
                )));
            }
            _ => self.give_up(),
        }
        Poll::Ready(Ok(()))
    }

    fn give_up(&mut self) {
        self.connection.phase = Phase::Closed;
        self.unwritten.clear();
        self.written = 0;
    }

    /// Half of the interval; a very long time without heartbeats.
    fn heartbeat_window(&self) -> Duration {
        match self.connection.tuning.heartbeat {
            0 => Duration::from_secs(86_400),
            seconds => Duration::from_millis(u64::from(seconds) * 500),
        }
    }

    /// Every half interval: says that we are here if nothing else has, and gives up a client that
    /// was not heard of for two intervals.
    fn heartbeat(&mut self) -> io::Result<()> {
        let next = Instant::now() + self.heartbeat_window();
        self.timer.as_mut().reset(next);
        if self.connection.tuning.heartbeat == 0 {
            return Ok(());
        }
        self.silent = if std::mem::take(&mut self.received) { 0 } else { self.silent + 1 };
        if self.silent > 4 {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "no heartbeat from the client for {} seconds",
                    2 * self.connection.tuning.heartbeat
                ),
            ));
        }
        if !std::mem::take(&mut self.sent) {
            frame::heartbeat(&mut self.unwritten);
        }
        Ok(())
    }

    /// The server stops: tells the client so.
    fn force_close(&mut self) {
        if self.connection.phase == Phase::Running {
            let fault = Fault::new(
                CONNECTION_FORCED,
                "broker forced connection closure with reason 'shutdown'",
            );
            self.connection.fail(&fault, &mut self.unwritten);
        } else {
            self.connection.phase = Phase::Closed;
        }
    }
}
