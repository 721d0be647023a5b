//! What tests ask of a bus to `memory:`: what was published, what failed, and whether all is
//! handled. See the guide, `docs/guide/testing.md`.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::bus::Bus;
use crate::error::{Error, Result};
use crate::message::{Message, Payload};

/// So many published messages are remembered, the latest.
const REMEMBERED_MAX: usize = 100_000;

/// What was published, in order: names and what they are the names of.
#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<VecDeque<(Cow<'static, str>, Payload)>>);

impl Recorder {
    pub(crate) fn record(&self, name: Cow<'static, str>, payload: Payload) {
        let mut published = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if published.len() == REMEMBERED_MAX {
            published.pop_front();
        }
        published.push_back((name, payload));
    }
}

/// For tests, on a bus to `memory:` alone.
impl Bus {
    /// All messages of that type that were published or sent through this bus, in order, questions
    /// and answers included, whether anybody got them or not; the latest 100,000 are remembered.
    /// Of a type without a name those of all such types, which must be readable as this one.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless the bus is to `memory:`; [`Error::Codec`] if one cannot be
    /// read as this type.
    pub fn published<M: Message>(&self) -> Result<Vec<M>> {
        let recorder = self.inner.recorder.as_ref().ok_or_else(|| self.no_test("published()"))?;
        let published = recorder.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = published.iter().filter(|(name, _)| name == M::NAME);
        same.map(|(_, payload)| read(payload, "a published message")).collect()
    }

    /// The dead letters of a queue's consumers, the oldest first; they stay where they are.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless the bus is to `memory:`; [`Error::Codec`] if one cannot be
    /// read as this type; [`Error::Store`] if a large body cannot be fetched.
    pub async fn dead<M: Message>(&self, queue: &str) -> Result<Vec<M>> {
        if self.inner.recorder.is_none() {
            return Err(self.no_test("dead()"));
        }
        let mut messages = Vec::new();
        for dead in self.dead_letters(queue).list(usize::MAX).await? {
            messages.push(read(&self.payload(&dead.letter).await?, "a dead letter")?);
        }
        Ok(messages)
    }

    fn no_test(&self, what: &str) -> Error {
        let hint = "connect to memory: in tests that ask for it";
        self.capabilities().unsupported(format!("answer {what}"), hint)
    }
}

fn read<M: Message>(payload: &Payload, what: &str) -> Result<M> {
    M::decode(payload).map_err(|source| Error::Codec { what: what.to_owned(), source })
}

#[cfg(feature = "embedded")]
mod settling {
    use std::time::Duration;

    use leveret_broker::Broker;
    use tokio::time::{Instant, sleep};

    use crate::bus::Bus;
    use crate::error::{Error, Result};
    use crate::via::amqp::delay;

    /// How often one looks at first, and how long it may take until one notices in the end, as a
    /// share of the time that passed.
    const LOOK: Duration = Duration::from_millis(5);
    const LATE: f64 = 0.01;
    /// When nothing has changed for so long, a consumer is stuck.
    const STUCK: Duration = Duration::from_secs(600);

    impl Bus {
        /// Waits until everything is handled: no message waits in a queue that is consumed, none
        /// is in the hands of a consumer, none is unconfirmed, and none is put off, be it for a
        /// later attempt or because it was published so. What handlers publish counts too. Where
        /// tokio's time is paused, it passes at once.
        ///
        /// # Errors
        /// [`Error::Unsupported`] unless the bus is to `memory:`; [`Error::Invalid`] if a consumer
        /// has not got on for ten minutes.
        pub async fn settle_all(&self) -> Result<()> {
            let recorded = self.inner.recorder.is_some();
            let broker = self.native::<Broker>().filter(|_| recorded);
            let broker = broker.ok_or_else(|| self.no_test("settle_all()"))?;
            let start = Instant::now();
            let (mut before, mut since) = (Vec::new(), start);
            loop {
                let unsettled = unsettled(broker);
                if unsettled.is_empty() && self.health().unconfirmed == 0 {
                    return Ok(());
                }
                let put_off = unsettled.iter().any(|(queue, ..)| delay::is_level(queue));
                if put_off || unsettled != before {
                    (before, since) = (unsettled, Instant::now());
                } else if since.elapsed() > STUCK {
                    let text = format!("a consumer is stuck: (queue, waiting, out): {before:?}");
                    return Err(Error::Invalid(text));
                }
                sleep(start.elapsed().mul_f64(LATE).max(LOOK)).await;
            }
        }
    }

    /// Queues with something that should still be handled, how much waits there and how much
    /// consumers have.
    fn unsettled(broker: &Broker) -> Vec<(String, usize, usize)> {
        let named = broker.queues().into_iter().map(|queue| {
            let name = String::from_utf8_lossy(queue.name.as_bytes()).into_owned();
            (name, queue)
        });
        named
            .filter(|(name, queue)| queue.consumers > 0 || delay::is_level(name))
            .map(|(name, queue)| (name, queue.ready, queue.unacknowledged))
            .filter(|(_, waiting, out)| waiting + out > 0)
            .collect()
    }
}
