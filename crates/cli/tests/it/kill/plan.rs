//! The queues, and the way that each producer's messages take through them.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

pub(super) const QUEUES: [&str; 18] = [
    "work-0",
    "work-1",
    "work-2",
    "copy-0",
    "copy-1",
    "copy-2",
    "orders",
    "refused",
    "parts-0",
    "parts-1",
    "letters",
    "short-lived",
    "brief",
    "crowded",
    "tries",
    "pause",
    "dead",
    "dead-copy",
];

/// Where transactions take their work from.
pub(super) const ORDERS: usize = 6;
/// Where transactions put what they refuse, by way of a dead letter.
pub(super) const REFUSED: usize = 7;

/// The exchange that copies.
const FANOUT: &str = "copies";
/// The exchange that copies dead letters.
const DEATHS: &str = "deaths";

/// A place on a way: queues that get a copy each, and why a message dies there and goes on.
type Stage = (&'static [usize], &'static str);

/// The way of a producer's messages. Each is in one stage at any time.
pub(super) struct Flow {
    /// The exchange that its messages are published to, with the name of the first queue as key.
    pub(super) exchange: &'static str,
    pub(super) stages: &'static [Stage],
    /// Whether the first stage follows the last.
    pub(super) circle: bool,
}

impl Flow {
    const fn to(stages: &'static [Stage]) -> Flow {
        Flow { exchange: "", stages, circle: false }
    }

    /// Where a message is after so many deaths, if it can have died as often.
    pub(super) fn stage(&self, deaths: u64) -> Option<&'static Stage> {
        let count = self.stages.len() as u64;
        let index = if self.circle { deaths % count } else { deaths };
        self.stages.get(usize::try_from(index).ok()?)
    }

    pub(super) fn contains(&self, queue: usize) -> bool {
        self.stages.iter().any(|(queues, _)| queues.contains(&queue))
    }
}

const PARTS_0: Flow = Flow::to(&[(&[8], "")]);
const PARTS_1: Flow = Flow::to(&[(&[9], "")]);
const COPIES: Flow = Flow { exchange: FANOUT, stages: &[(&[3, 4, 5], "")], circle: false };

/// By producer.
pub(super) static FLOWS: [Flow; 18] = [
    Flow::to(&[(&[0], "")]),
    Flow::to(&[(&[0], "")]),
    Flow::to(&[(&[1], "")]),
    Flow::to(&[(&[2], "")]),
    COPIES,
    COPIES,
    Flow::to(&[(&[ORDERS], "rejected"), (&[REFUSED], "")]),
    Flow::to(&[(&[10], "rejected"), (&[16], "")]),
    Flow::to(&[(&[11], "expired"), (&[16, 17], "")]),
    Flow::to(&[(&[12], "expired"), (&[13], "maxlen"), (&[16], "")]),
    Flow::to(&[(&[13], "maxlen"), (&[16], "")]),
    Flow { exchange: "", stages: &[(&[14], "rejected"), (&[15], "expired")], circle: true },
    // What transactions make.
    PARTS_0,
    PARTS_1,
    PARTS_0,
    PARTS_1,
    PARTS_0,
    PARTS_1,
];

/// The producers that publish for themselves. The others speak for those who run transactions,
/// one after the other, a producer for each queue of each.
pub(super) const PRODUCERS: usize = 12;
/// The one whose messages get an expiration of their own.
pub(super) const BRIEF: usize = 9;
/// How many run transactions.
pub(super) const MOVERS: usize = 3;

/// The producers that a mover speaks for.
pub(super) fn outputs(mover: usize) -> [usize; 2] {
    [PRODUCERS + 2 * mover, PRODUCERS + 2 * mover + 1]
}

/// What a queue is declared with.
fn arguments(queue: &str) -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let (exchange, key, limit) = match queue {
        "orders" => ("", "refused", None),
        "letters" => ("", "dead", None),
        "short-lived" => (DEATHS, "", Some(("x-message-ttl", 100))),
        "brief" => ("", "crowded", None),
        "crowded" => ("", "dead", Some(("x-max-length", 50))),
        "tries" => ("", "pause", None),
        "pause" => ("", "tries", Some(("x-message-ttl", 20))),
        _ => return FieldTable::default(),
    };
    let mut arguments = FieldTable::default();
    arguments.insert("x-dead-letter-exchange".into(), text(exchange));
    if !key.is_empty() {
        arguments.insert("x-dead-letter-routing-key".into(), text(key));
    }
    if let Some((name, limit)) = limit {
        arguments.insert(name.into(), AMQPValue::LongInt(limit));
    }
    arguments
}

/// Declares all there is, once.
pub(super) async fn declare(channel: &Channel) {
    for exchange in [FANOUT, DEATHS] {
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let (kind, arguments) = (ExchangeKind::Fanout, FieldTable::default());
        let declared = channel.exchange_declare(exchange.into(), kind, durable, arguments);
        declared.await.expect("an exchange");
    }
    for name in QUEUES {
        let durable = QueueDeclareOptions::durable();
        let declared = channel.queue_declare(name.into(), durable, arguments(name));
        declared.await.expect("a queue");
    }
    let copies = [(FANOUT, COPIES.stages[0].0), (DEATHS, FLOWS[8].stages[1].0)];
    for (exchange, queues) in copies {
        for &queue in queues {
            let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
            let name = QUEUES[queue].into();
            let bound = channel.queue_bind(name, exchange.into(), "".into(), options, arguments);
            bound.await.expect("a binding");
        }
    }
}
