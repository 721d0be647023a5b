//! Dead letters: messages that end in a queue without being handled, and go on from there.
//!
//! What is written into their headers is RabbitMQ's (mc_amqpl, mc:record_death), and so is what
//! ends a circle (mc:is_cycle_v2).

use std::collections::VecDeque;
use std::sync::Arc;

use leveret_model::limits::DELETED_LETTERS_BYTES_MAX;
use leveret_model::message::Past;
use leveret_model::{
    Chunk, FieldTable, FieldValue, Message, Properties, QueueId, ShortString, Time,
};

use crate::engine::Engine;
use crate::publish::{Demands, Publication};
use crate::queue::Entry;
use crate::routing::Address;
use crate::settings::DeadLetter;
use crate::special::{more_keys, time_to_live};
use crate::step::{Content, Step};

/// How many bytes of dead letters are written into one chunk: what one that stays long keeps in
/// memory.
const CHUNK_BYTES: usize = 64 * 1024;
/// What writing a dead letter costs besides its content, in bytes of a step's work.
const LETTER_BYTES: usize = 1024;

/// Why a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Rejected,
    Expired,
    MaxLength,
    DeliveryLimit,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::Expired => "expired",
            Reason::MaxLength => "maxlen",
            Reason::DeliveryLimit => "delivery_limit",
        }
    }
}

/// A message that has ended and is not where it goes yet. For the log it is in its queue still.
#[derive(Debug)]
pub(crate) struct Dying {
    pub(crate) queue: QueueId,
    letter: Arc<DeadLetter>,
    pub(crate) entry: Entry,
    reason: Reason,
}

/// A dead letter, ready to be routed.
struct Letter {
    dying: Dying,
    keys: Vec<Vec<u8>>,
    /// Newest first.
    deaths: Vec<FieldValue>,
}

impl Engine {
    /// Ends a message that its queue has given up: it becomes a dead letter, where the queue has
    /// an exchange for those.
    pub(crate) fn die(&mut self, id: QueueId, entry: Entry, reason: Reason, step: &mut Step<'_>) {
        match self.queues.get(&id).and_then(|queue| queue.settings.dead_letter.clone()) {
            Some(letter) => self.dying.push_back(Dying { queue: id, letter, entry, reason }),
            None => self.end(id, entry, step),
        }
    }

    /// Ends a message for good.
    fn end(&mut self, id: QueueId, entry: Entry, step: &mut Step<'_>) {
        match self.queues.get_mut(&id) {
            Some(queue) => step.settled(queue, entry, &mut self.chunks),
            // The queue was deleted, and the log knows.
            None => self.chunks.release(entry.chunk, &mut step.effects.released),
        }
    }

    /// Sends dead letters on their way, as many as the step may.
    pub(crate) fn bury(&mut self, step: &mut Step<'_>) {
        if !self.dying.is_empty() {
            let waiting = std::mem::take(&mut self.dying);
            self.dying = self.send_letters(waiting, false, step);
        }
    }

    /// Sends these dead letters on their way, whatever that takes. Those that they cause wait
    /// behind the others that there are.
    pub(crate) fn bury_now(&mut self, letters: VecDeque<Dying>, step: &mut Step<'_>) {
        let others = std::mem::take(&mut self.dying);
        self.send_letters(letters, true, step);
        let caused = std::mem::replace(&mut self.dying, others);
        self.dying.extend(caused);
    }

    /// Sends the dead letters of a durable queue on their way that is about to be deleted: the log
    /// forgets them with it.
    pub(crate) fn bury_all_of(&mut self, id: QueueId, step: &mut Step<'_>) {
        let mut bytes = 0;
        let mut goes = |dying: &Dying| {
            bytes += if dying.queue == id { dying.entry.bytes as usize } else { 0 };
            dying.queue == id && bytes <= DELETED_LETTERS_BYTES_MAX
        };
        if self.dying.iter().any(|dying| dying.queue == id) {
            let all = std::mem::take(&mut self.dying);
            let (own, others) = all.into_iter().partition(&mut goes);
            self.dying = others;
            self.bury_now(own, step);
        }
    }

    /// Sends letters on their way, in their order: all, or as many as the step may. Says which are
    /// left.
    fn send_letters(
        &mut self,
        mut waiting: VecDeque<Dying>,
        all: bool,
        step: &mut Step<'_>,
    ) -> VecDeque<Dying> {
        while !waiting.is_empty() {
            let mut chunk = Chunk::default();
            let mut letters = VecDeque::new();
            while chunk.content_len() < CHUNK_BYTES
                && let Some(dying) = waiting.front()
                && (all || step.may_work(dying.entry.bytes as usize + LETTER_BYTES))
                && let Some(dying) = waiting.pop_front()
            {
                letters.push_back(self.write_letter(dying, &mut chunk, step.now));
            }
            if letters.is_empty() {
                // The step has done its share.
                break;
            }
            let content = self.hold(chunk);
            for (index, letter) in (0..).zip(letters) {
                self.send(&letter, &content, index, step);
                self.end(letter.dying.queue, letter.dying.entry, step);
            }
            self.chunks.release(content.slot, &mut step.effects.released);
            if !all {
                // What these cause goes first: were it last, as many could wait at a time as there
                // are ways through all exchanges.
                for dying in self.dying.drain(..).rev() {
                    waiting.push_front(dying);
                }
            }
        }
        waiting
    }

    /// Writes the message anew, with its history.
    fn write_letter(&self, dying: Dying, chunk: &mut Chunk, now: Time) -> Letter {
        let Dying { entry, ref letter, reason, .. } = dying;
        let old = Arc::clone(self.chunks.get(entry.chunk));
        let message = old.get(entry.message);
        let mut properties = Properties::decode(message.properties).unwrap_or_default();
        let mut headers = properties.headers.take().unwrap_or_default();
        let mut keys = vec![message.routing_key().to_vec()];
        let past = old.past(entry.message);
        if past != Past::Rekeyed {
            keys.extend(more_keys(&headers, "CC").unwrap_or_default());
        }
        let mut deaths = match headers.remove("x-death") {
            // What a client says of a message's death counts for nothing.
            Some(FieldValue::Array(deaths)) if past != Past::None => deaths,
            _ => Vec::new(),
        };
        let first = deaths.is_empty();
        let death = Death {
            queue: &letter.queue,
            reason: reason.name(),
            exchange: message.exchange(),
            keys: &keys,
            expiration: time_to_live(&properties),
            now,
        };
        properties.expiration = None;
        death.record(&mut deaths);
        if first {
            death.summarise("first", &mut headers);
        }
        death.summarise("last", &mut headers);
        headers.insert(ShortString::from_static("x-death"), deaths.clone());
        properties.headers = Some(headers);
        let mut past = if past == Past::Rekeyed { past } else { Past::Died };
        if let Some(key) = &letter.routing_key {
            keys = vec![key.as_bytes().to_vec()];
            past = Past::Rekeyed;
        }
        let mut raw = Vec::new();
        properties.encode(&mut raw);
        let mut envelope = Vec::new();
        for part in [letter.exchange.as_bytes(), &keys[0]] {
            // A short string, as it was before.
            envelope.push(part.len() as u8);
            envelope.extend_from_slice(part);
        }
        let message = Message { envelope: &envelope, properties: &raw, ..message };
        if let Ok(index) = chunk.push(message) {
            chunk.set_past(index, past);
        }
        Letter { dying, keys, deaths }
    }

    /// Routes a dead letter. Where nothing takes it, it is gone.
    fn send(&mut self, letter: &Letter, content: &Content, index: u32, step: &mut Step<'_>) {
        let keys: Vec<&[u8]> = letter.keys.iter().map(Vec::as_slice).collect();
        let DeadLetter { vhost, exchange, at_least_once, .. } = &*letter.dying.letter;
        let address = Address {
            vhost: *vhost,
            exchange: exchange.as_bytes(),
            keys: &keys,
            properties: content.chunk.get(index).properties,
        };
        let mut queues = Vec::new();
        // An exchange that does not exist takes nothing.
        let _ = self.route(address, &mut queues);
        if letter.dying.reason != Reason::Rejected {
            queues.retain(|id| {
                self.queues.get(id).is_some_and(|queue| !goes_round(&letter.deaths, &queue.name))
            });
        }
        let publication = Publication {
            content: content.clone(),
            messages: index..index + 1,
            holder: None,
            mandatory: false,
            demands: Demands {
                priority: priority(address.properties),
                place: *at_least_once,
                ttl: None,
            },
        };
        self.enqueue(&publication, &queues, step);
    }
}

fn priority(properties: &[u8]) -> u8 {
    let scan = leveret_model::properties::scan(properties);
    scan.ok().and_then(|scan| scan.priority).unwrap_or_default()
}

/// Whether a message was in this queue before, and nobody has rejected it since: nothing would
/// ever end its way.
fn goes_round(deaths: &[FieldValue], queue: &ShortString) -> bool {
    for death in deaths.iter().filter_map(FieldValue::as_table) {
        if is(death, "reason", b"rejected") {
            return false;
        }
        if is(death, "queue", queue.as_bytes()) {
            return true;
        }
    }
    false
}

/// Whether a text of a death is this one.
fn is(death: &FieldTable, field: &str, text: &[u8]) -> bool {
    death.get(field).and_then(FieldValue::as_long_string) == Some(text)
}

/// One end of a message.
struct Death<'a> {
    queue: &'a ShortString,
    reason: &'static str,
    exchange: &'a [u8],
    keys: &'a [Vec<u8>],
    /// The time to live it came with, in milliseconds.
    expiration: Option<u64>,
    now: Time,
}

impl Death<'_> {
    /// Adds it to the others, the newest first. The same queue and reason are one entry.
    fn record(&self, deaths: &mut Vec<FieldValue>) {
        let same = |death: &FieldValue| {
            death.as_table().is_some_and(|death| {
                is(death, "queue", self.queue.as_bytes())
                    && is(death, "reason", self.reason.as_bytes())
            })
        };
        let known = deaths.iter().position(same).map(|index| deaths.remove(index));
        let death = match known {
            Some(FieldValue::Table(mut death)) => {
                let count = death.get("count").and_then(FieldValue::as_integer).unwrap_or(0);
                death.insert(ShortString::from_static("count"), count.saturating_add(1));
                death
            }
            _ => self.entry(),
        };
        deaths.insert(0, FieldValue::Table(death));
    }

    fn entry(&self) -> FieldTable {
        let mut entry = FieldTable::new();
        let mut set = |name: &'static str, value: FieldValue| {
            entry.insert(ShortString::from_static(name), value);
        };
        if let Some(expiration) = self.expiration {
            set("original-expiration", expiration.to_string().into());
        }
        set("count", FieldValue::I64(1));
        set("reason", self.reason.into());
        set("queue", long(self.queue.as_bytes()));
        set("time", FieldValue::Timestamp(self.now.0 / 1_000));
        set("exchange", long(self.exchange));
        set("routing-keys", FieldValue::Array(self.keys.iter().map(|key| long(key)).collect()));
        entry
    }

    /// Sets the headers that tell of the first or the last death alone.
    fn summarise(&self, which: &str, headers: &mut FieldTable) {
        let mut set = |what: &str, value: FieldValue| {
            if let Ok(name) = ShortString::try_from(format!("x-{which}-death-{what}")) {
                headers.insert(name, value);
            }
        };
        set("exchange", long(self.exchange));
        set("queue", long(self.queue.as_bytes()));
        set("reason", self.reason.into());
    }
}

fn long(bytes: &[u8]) -> FieldValue {
    FieldValue::LongString(bytes.to_vec())
}
