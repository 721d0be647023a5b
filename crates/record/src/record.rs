//! What can be written to the log.

use leveret_model::message::Past;
use leveret_model::{FieldTable, Lsn, Message, PackId, Position, QueueId, ShortString, Time};

use crate::read::Targets;

/// One durable fact. Messages and names that are read often are borrowed from the log's bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Record<'a> {
    /// A message entered its durable queues, all of them at once.
    Publish {
        /// The message as it was sent.
        message: Message<'a>,
        /// How it came to be there.
        origin: Origin,
        /// Where it went.
        targets: Targets<'a>,
    },
    /// A run of positions of a queue is gone: acknowledged, expired, dropped or purged.
    Settle {
        /// The queue.
        queue: QueueId,
        /// The first position of the run.
        first: Position,
        /// How many positions, at least one.
        count: u64,
    },
    /// An exchange exists, now or still.
    DeclareExchange(ExchangeDefinition),
    /// An exchange and every binding from or to it are gone.
    DeleteExchange {
        /// Its virtual host.
        vhost: ShortString,
        /// Its name.
        name: ShortString,
    },
    /// A queue exists, now or still.
    DeclareQueue(QueueDefinition),
    /// A queue, its messages and its bindings are gone.
    DeleteQueue {
        /// The queue.
        id: QueueId,
    },
    /// A binding exists, now or still.
    Bind(BindingDefinition),
    /// A binding is gone.
    Unbind(BindingDefinition),
    /// A pack holds messages from now on: those of the [`Record::Extent`]s that name it and come
    /// behind this, and no others.
    Pack(PackDefinition),
    /// Messages of one queue that a pack holds, now or still.
    Extent(ExtentDefinition),
    /// Messages of a queue below a position may have been delivered.
    Delivered {
        /// The queue.
        queue: QueueId,
        /// The position.
        below: Position,
    },
}

/// How a message came to be published, where that matters later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin {
    /// When, if it can become too old.
    pub time: Option<Time>,
    /// Whether it was dead-lettered.
    pub past: Past,
}

/// A durable exchange.
#[derive(Debug, Clone, PartialEq)]
pub struct ExchangeDefinition {
    /// Its virtual host.
    pub vhost: ShortString,
    /// Its name.
    pub name: ShortString,
    /// Its type as clients say it: `direct`, `topic`, …
    pub kind: ShortString,
    /// Whether it goes when its last binding goes.
    pub auto_delete: bool,
    /// Whether clients may not publish to it.
    pub internal: bool,
    /// The arguments it was declared with.
    pub arguments: FieldTable,
}

/// A durable queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueDefinition {
    /// What the log calls it.
    pub id: QueueId,
    /// Its virtual host.
    pub vhost: ShortString,
    /// Its name.
    pub name: ShortString,
    /// Whether it goes when its last consumer goes.
    pub auto_delete: bool,
    /// The arguments it was declared with.
    pub arguments: FieldTable,
    /// A position above every one given so far: what keeps positions from being used again after
    /// the part of the log that gave them is recycled.
    pub next: Position,
}

/// A durable binding.
#[derive(Debug, Clone, PartialEq)]
pub struct BindingDefinition {
    /// The virtual host of both ends.
    pub vhost: ShortString,
    /// The exchange messages come from.
    pub source: ShortString,
    /// Where they go.
    pub destination: Destination,
    /// The key they must match, in the source exchange's way of matching.
    pub routing_key: ShortString,
    /// The arguments it was bound with; they are part of its identity.
    pub arguments: FieldTable,
}

/// A pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackDefinition {
    /// What it is called.
    pub id: PackId,
    /// Where the part of the log ended that it was made of; zero if it was made of other packs. A
    /// replay that begins before that finds its messages in the log, and has no need of it.
    pub end: Lsn,
    /// The packs whose place it takes.
    pub replaces: Vec<PackId>,
}

/// Messages of one queue that a pack holds and that are not settled.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtentDefinition {
    /// The pack.
    pub pack: PackId,
    /// The queue.
    pub queue: QueueId,
    /// Their priority in the queue.
    pub priority: u8,
    /// The earliest moment at which one of them is too old.
    pub expires: Option<Time>,
    /// How many bytes their bodies have.
    pub body_bytes: u64,
    /// Their positions: runs in order that do not touch, of at least one position each.
    pub runs: Vec<(Position, u64)>,
}

/// The far end of a binding.
#[derive(Debug, Clone, PartialEq)]
pub enum Destination {
    /// A queue.
    Queue(QueueId),
    /// Another exchange of the same virtual host.
    Exchange(ShortString),
}

/// The first byte of each record; numbers are never given twice.
pub(crate) mod kind {
    pub(crate) const PUBLISH: u8 = 1;
    pub(crate) const SETTLE: u8 = 2;
    pub(crate) const DECLARE_EXCHANGE: u8 = 3;
    pub(crate) const DELETE_EXCHANGE: u8 = 4;
    pub(crate) const DECLARE_QUEUE: u8 = 5;
    pub(crate) const DELETE_QUEUE: u8 = 6;
    pub(crate) const BIND: u8 = 7;
    pub(crate) const UNBIND: u8 = 8;
    pub(crate) const PACK: u8 = 9;
    pub(crate) const EXTENT: u8 = 10;
    pub(crate) const DELIVERED: u8 = 11;
}

/// Bits of the flag bytes in record bodies.
pub(crate) mod flag {
    pub(crate) const PERSISTENT: u8 = 1;
    /// A time follows.
    pub(crate) const TIMED: u8 = 2;
    pub(crate) const DIED: u8 = 4;
    pub(crate) const REKEYED: u8 = 8;
    pub(crate) const AUTO_DELETE: u8 = 1;
    pub(crate) const INTERNAL: u8 = 2;
}

/// The byte that says which kind of destination follows.
pub(crate) mod destination {
    pub(crate) const QUEUE: u8 = 0;
    pub(crate) const EXCHANGE: u8 = 1;
}
