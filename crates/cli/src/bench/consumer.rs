//! One consumer: a connection that counts deliveries, and acks them.

use super::Args;
use super::histogram::Histogram;
use super::process::now;
use super::shared::{LOOK, Shared};
use crate::client::{BUSY_BYTES, CHANNEL, Client, ClientError, refuse_close};
use leveret_amqp_wire::frame::{self, Frame};
use leveret_amqp_wire::method::*;
use leveret_amqp_wire::publish::write_ack;
use leveret_amqp_wire::{ContentHeader, Method};
use leveret_model::ShortString;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Class and method id, then the consumer tag, stand before a delivery tag.
const CONSUMER_TAG_AT: usize = 4;

/// Consumes from a queue until it is over or `count` is reached. Returns end-to-end latencies.
pub(crate) async fn consume(
    args: Arc<Args>,
    queue: ShortString,
    count: u64,
    shared: Arc<Shared>,
) -> Result<Histogram, ClientError> {
    let mut client = Client::open(&args.uri, BUSY_BYTES).await?;
    if !args.auto_ack && args.prefetch > 0 {
        let qos = BasicQos { prefetch_count: args.prefetch, ..Default::default() };
        client.call(qos, BasicQosOk::ID).await?;
    }
    shared.wait_for_go().await;
    let arguments = args.consumer_args.0.clone();
    let consume = BasicConsume { queue, no_ack: args.auto_ack, arguments, ..Default::default() };
    client.call(consume, BasicConsumeOk::ID).await?;
    let ack_every = match args.prefetch {
        0 => args.ack_every,
        prefetch => args.ack_every.min(prefetch.into()),
    };

    let mut deliveries = Deliveries::default();
    let (mut acked, mut total) = (0, 0);
    let mut ack = Vec::new();
    loop {
        let (time, measuring) = (now(), shared.is_measuring());
        while let Some(frame) = client.input.next_frame(client.frame_max)? {
            deliveries.take(&frame, measuring.then_some(time))?;
        }
        let whole = std::mem::take(&mut deliveries.whole);
        if whole > 0 {
            total += whole;
            shared.consumed.fetch_add(whole, Relaxed);
        }
        // The last may not be whole yet; to ack it early is harmless here.
        let tag = deliveries.tag;
        if !args.auto_ack && tag > acked && (tag - acked >= ack_every || total >= count) {
            ack.clear();
            write_ack(&mut ack, CHANNEL, tag, true);
            client.send(&ack).await?;
            acked = tag;
        }
        if total >= count || shared.is_over() {
            break;
        }
        if client.fill()? {
            tokio::task::yield_now().await;
        } else {
            let _ = tokio::time::timeout(LOOK, client.stream.readable()).await;
        }
    }
    let _ = client.close().await;
    shared.consumers_done.fetch_add(1, Relaxed);
    Ok(deliveries.latencies)
}

/// What the frames of deliveries add up to.
struct Deliveries {
    /// Of the latest delivery.
    tag: u64,
    /// Messages that ended since this was last set to 0.
    whole: u64,
    /// Bytes that the body being read still lacks.
    lacks: u64,
    /// Whether the next body frame is the first of its message.
    first: bool,
    latencies: Histogram,
}

impl Default for Deliveries {
    fn default() -> Self {
        Deliveries { tag: 0, whole: 0, lacks: 0, first: false, latencies: Histogram::new() }
    }
}

impl Deliveries {
    /// Takes a frame; its message's latency is recorded where `time` says when it came.
    #[inline]
    fn take(&mut self, frame: &Frame<'_>, time: Option<u64>) -> Result<(), ClientError> {
        match frame.kind {
            frame::BODY => {
                if self.first
                    && let (Some(time), Some(sent)) = (time, frame.payload.first_chunk())
                {
                    self.latencies.record(time.saturating_sub(u64::from_be_bytes(*sent)));
                }
                self.first = false;
                self.lacks = self.lacks.saturating_sub(frame.payload.len() as u64);
                self.whole += u64::from(self.lacks == 0);
            }
            frame::HEADER => {
                self.lacks = ContentHeader::parse(frame.payload)?.body_size;
                self.first = true;
                self.whole += u64::from(self.lacks == 0);
            }
            frame::METHOD => match delivery_tag(frame.payload) {
                Some(tag) => self.tag = tag,
                None => refuse_close(&Method::decode(frame.payload)?)?,
            },
            _ => {}
        }
        Ok(())
    }
}

/// The delivery tag of a `basic.deliver`, without a look at the rest.
#[inline]
fn delivery_tag(payload: &[u8]) -> Option<u64> {
    let &[0, 60, 0, 60, consumer_tag_len, ..] = payload else { return None };
    let at = CONSUMER_TAG_AT + 1 + usize::from(consumer_tag_len);
    payload.get(at..)?.first_chunk().map(|tag| u64::from_be_bytes(*tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_amqp_wire::write_content;

    #[test]
    fn deliveries_are_counted_when_they_are_whole() {
        let mut bytes = Vec::new();
        for (tag, len) in [(1, 0), (2, 16), (3, 10_000)] {
            let consumer_tag = ShortString::from_static("tag");
            let deliver = BasicDeliver { consumer_tag, delivery_tag: tag, ..Default::default() };
            Method::from(deliver).frame(CHANNEL, &mut bytes);
            write_content(&mut bytes, CHANNEL, &[0, 0], &vec![0; len], 4096);
        }
        let mut deliveries = Deliveries::default();
        let mut seen = Vec::new();
        let mut rest = bytes.as_slice();
        while let Some((frame, len)) = frame::parse(rest, 4096).unwrap() {
            deliveries.take(&frame, Some(5)).unwrap();
            seen.push((deliveries.tag, deliveries.whole));
            rest = &rest[len..];
        }
        assert_eq!(seen[..5], [(1, 0), (1, 1), (2, 1), (2, 1), (2, 2)]);
        assert_eq!(seen[5..], [(3, 2), (3, 2), (3, 2), (3, 2), (3, 3)]);
        assert_eq!(deliveries.latencies.max(), 5);
    }

    #[test]
    fn a_close_ends_it() {
        let mut bytes = Vec::new();
        Method::from(ChannelClose::default()).encode(&mut bytes);
        let frame = Frame { kind: frame::METHOD, channel: CHANNEL, payload: &bytes };
        assert!(Deliveries::default().take(&frame, None).is_err());
    }
}
