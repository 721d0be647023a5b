//! One producer: a connection that publishes the same messages again and again.

use super::Args;
use super::histogram::Histogram;
use super::process::now;
use super::shared::{LOOK, Shared};
use super::ticker::Ticker;
use super::window::Window;
use crate::client::{BUSY_BYTES, CHANNEL, Client, ClientError, refuse_close};
use leveret_amqp_wire::frame;
use leveret_amqp_wire::method::*;
use leveret_amqp_wire::publish::{write_envelope, write_publish};
use leveret_amqp_wire::{Method, write_content};
use leveret_model::properties::PERSISTENT;
use leveret_model::{Properties, ShortString};
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::Interest;

/// The shortest time between ticks: more often than this, waking costs more than it tells.
const TICK_NANOS_MIN: u64 = 50_000;
/// How long the broker may take to read what was begun when it is over.
const LAST_WRITE_LIMIT: Duration = Duration::from_secs(20);

/// What one producer does.
pub(crate) struct Order {
    pub(crate) exchange: ShortString,
    /// Messages have them in turn.
    pub(crate) routing_keys: Vec<ShortString>,
    /// How many messages; `u64::MAX` for no limit.
    pub(crate) count: u64,
    /// Messages a second; 0 for no limit.
    pub(crate) rate: f64,
}

struct Producer {
    client: Client,
    shared: Arc<Shared>,
    /// The encoded publishes, one for each routing key and each as often as fits a write; only
    /// the times in the bodies change.
    batch: Vec<u8>,
    /// Where each begins, and the last one ends.
    starts: Vec<usize>,
    /// How far before its end the time belongs.
    time_before: Option<usize>,
    /// Which one is next.
    next: usize,
    batch_bytes: usize,
    /// The part of `batch` that is not written yet.
    unsent: Range<usize>,
    sent: u64,
    count: u64,
    /// Present with confirms.
    window: Option<Window>,
    pace: Option<Pace>,
    latencies: Histogram,
}

/// A schedule of a fixed number of messages a second.
struct Pace {
    start: u64,
    gap: f64,
    ticker: Ticker,
}

/// Publishes until it is over. Returns the latencies of the confirms.
pub(crate) async fn produce(
    args: Arc<Args>,
    order: Order,
    shared: Arc<Shared>,
) -> Result<Histogram, ClientError> {
    let mut producer = Producer::open(&args, &order, shared).await?;
    producer.shared.wait_for_go().await;
    if order.rate > 0.0 {
        let (start, gap) = (now(), 1e9 / order.rate);
        let ticker = Ticker::new(start, (gap as u64).max(TICK_NANOS_MIN))?;
        producer.pace = Some(Pace { start, gap, ticker });
    }
    producer.work().await?;
    // Nothing may be left in the sockets that could land in the queue of the next run.
    let Producer { mut client, batch, unsent, shared, latencies, .. } = producer;
    let _ = tokio::time::timeout(LAST_WRITE_LIMIT, client.send(&batch[unsent])).await;
    let _ = client.close().await;
    shared.producers_done.fetch_add(1, Relaxed);
    Ok(latencies)
}

impl Producer {
    async fn open(args: &Args, order: &Order, shared: Arc<Shared>) -> Result<Self, ClientError> {
        let mut client = Client::open(&args.uri, BUSY_BYTES).await?;
        let confirms = args.confirm > 0;
        if confirms {
            client.call(ConfirmSelect::default(), ConfirmSelectOk::ID).await?;
        }
        let (mut batch, mut starts, mut after_time) = (Vec::new(), vec![0], 0);
        while batch.is_empty() || batch.len() + batch.len() / starts.len() <= args.batch_bytes {
            for routing_key in &order.routing_keys {
                let start = batch.len();
                let body_at = encode(args, order, routing_key, client.frame_max, &mut batch);
                after_time = batch.len() - start - body_at;
                starts.push(batch.len());
            }
        }
        Ok(Producer {
            client,
            shared,
            batch,
            starts,
            time_before: (args.size >= size_of::<u64>()).then_some(after_time),
            next: 0,
            batch_bytes: args.batch_bytes,
            unsent: 0..0,
            sent: 0,
            count: order.count,
            window: confirms.then(|| Window::new(args.confirm)),
            pace: None,
            latencies: Histogram::new(),
        })
    }

    async fn work(&mut self) -> Result<(), ClientError> {
        while !self.shared.is_over() {
            if self.unsent.is_empty() && !self.refill() {
                break;
            }
            if !self.unsent.is_empty() {
                self.write()?;
            }
            if self.client.fill()? {
                self.hear()?;
            } else {
                self.wait().await;
            }
        }
        Ok(())
    }

    /// Makes the next write ready, as far as window, schedule and count allow. Whether there is
    /// anything left to do.
    fn refill(&mut self) -> bool {
        let (all, start) = (self.starts.len() - 1, self.starts[self.next]);
        let fitting =
            self.starts[self.next + 1..].partition_point(|it| it - start <= self.batch_bytes);
        let mut more = (fitting.max(1) as u64).min(self.count - self.sent);
        if let Some(window) = &self.window {
            more = more.min(window.room());
        }
        let time = now();
        if let Some(pace) = &self.pace {
            let due = ((time - pace.start) as f64 / pace.gap) as u64 + 1;
            more = more.min(due.saturating_sub(self.sent));
        }
        for i in 0..more {
            let at = match &self.pace {
                // The clock starts when the message was due, so that being late shows.
                Some(pace) => pace.start + ((self.sent + i) as f64 * pace.gap) as u64,
                None => time,
            };
            if let Some(time_before) = self.time_before {
                let place = self.starts[self.next + i as usize + 1] - time_before;
                self.batch[place..place + size_of::<u64>()].copy_from_slice(&at.to_be_bytes());
            }
            if let Some(window) = &mut self.window {
                window.send(at);
            }
        }
        self.sent += more;
        self.shared.published.fetch_add(more, Relaxed);
        let next = self.next + more as usize;
        self.unsent = start..self.starts[next];
        self.next = next % all;
        let settled = self.window.as_ref().is_none_or(Window::is_empty);
        more > 0 || self.sent < self.count || !settled
    }

    fn write(&mut self) -> Result<(), ClientError> {
        match self.client.stream.try_write(&self.batch[self.unsent.clone()]) {
            Ok(count) => self.unsent.start += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Counts the confirms among what was read.
    fn hear(&mut self) -> Result<(), ClientError> {
        let (time, measuring) = (now(), self.shared.is_measuring());
        while let Some(frame) = self.client.input.next_frame(self.client.frame_max)? {
            if frame.kind != frame::METHOD {
                continue;
            }
            let method = Method::decode(frame.payload)?;
            let (tag, multiple, counter) = match &method {
                Method::BasicAck(m) => (m.delivery_tag, m.multiple, &self.shared.confirmed),
                Method::BasicNack(m) => (m.delivery_tag, m.multiple, &self.shared.nacked),
                other => {
                    refuse_close(other)?;
                    continue;
                }
            };
            let Some(window) = &mut self.window else { continue };
            let settled = window.settle(tag, multiple, |at| {
                if measuring {
                    self.latencies.record(time.saturating_sub(at));
                }
            });
            counter.fetch_add(settled, Relaxed);
        }
        Ok(())
    }

    /// Waits until there is something to do, or it is time to look whether it is over.
    async fn wait(&self) {
        let stream = &self.client.stream;
        let room = self.window.as_ref().is_none_or(|window| window.room() > 0);
        let may_send = self.unsent.is_empty() && self.sent < self.count && room;
        match &self.pace {
            None if may_send => tokio::task::yield_now().await,
            Some(pace) if may_send => {
                tokio::select! {
                    () = pace.ticker.tick() => {}
                    _ = stream.readable() => {}
                }
            }
            _ => {
                let interest = match self.unsent.is_empty() {
                    true => Interest::READABLE,
                    false => Interest::READABLE | Interest::WRITABLE,
                };
                let _ = tokio::time::timeout(LOOK, stream.ready(interest)).await;
            }
        }
    }
}

/// Adds one whole publish. Returns where in it its body begins.
fn encode(
    args: &Args,
    order: &Order,
    routing_key: &ShortString,
    frame_max: u32,
    batch: &mut Vec<u8>,
) -> usize {
    let mut envelope = Vec::new();
    write_envelope(&mut envelope, &order.exchange, routing_key);
    let mut properties = Vec::new();
    let delivery_mode = args.persistent.then_some(PERSISTENT);
    Properties { delivery_mode, ..Properties::default() }.encode(&mut properties);
    let start = batch.len();
    write_publish(batch, CHANNEL, &envelope, false);
    let header_at = batch.len();
    write_content(batch, CHANNEL, &properties, &[], frame_max);
    let body_at = batch.len() + frame::FRAME_HEAD - start;
    batch.truncate(header_at);
    write_content(batch, CHANNEL, &properties, &vec![b'x'; args.size], frame_max);
    body_at
}
