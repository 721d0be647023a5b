//! What a session asks of the engine.

use leveret_model::{Chunk, FieldTable, SessionId, ShortString};

use crate::packing::Loaded;

/// Commands of one session, with the content of the messages they publish.
#[derive(Debug)]
pub struct Batch {
    /// Who asks.
    pub session: SessionId,
    /// The messages that `Publish` commands refer to by index.
    pub chunk: Chunk,
    /// In the order in which they were asked.
    pub commands: Vec<Command>,
}

/// One thing asked for.
#[derive(Debug)]
pub struct Command {
    /// Which of the session's holders asks.
    pub holder: u16,
    /// Comes back with a refusal; means nothing to the engine.
    pub token: Token,
    /// What is asked.
    pub operation: Operation,
}

/// A front door's own mark on a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Token(pub u32);

/// What a lease ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The message was handled and is gone.
    Accept,
    /// The message goes back to its place in the queue.
    Requeue,
    /// The message was refused for good.
    Discard,
}

/// What can be asked. The frequent ones are small; the others are boxed.
#[derive(Debug)]
pub enum Operation {
    /// Route `count` messages of the batch's chunk, from index `first` on.
    Publish {
        /// Index of the first message.
        first: u32,
        /// How many.
        count: u32,
        /// Whether a message that no queue takes is returned.
        mandatory: bool,
        /// Whether their properties ask for more than to be passed on: an expiration, a priority
        /// above 0, the headers `CC` or `BCC`, or a direct reply.
        special: bool,
    },
    /// End a lease, or with `multiple` all up to it (0: all there are).
    Settle {
        /// The lease's number.
        lease: u64,
        /// Whether all before it end too.
        multiple: bool,
        /// How they end.
        outcome: Outcome,
    },
    /// The session's client has taken this many bytes of output.
    Taken {
        /// As counted by [`Outbound::bytes`](crate::Outbound).
        bytes: usize,
    },
    /// A new holder of leases.
    Open,
    /// The holder ends: its consumers are cancelled, its leases requeued.
    Close,
    /// The session ends, and all its holders and exclusive queues with it.
    Disconnect,
    /// From now on every message published by this holder is confirmed.
    SelectConfirms {
        /// Whether an answer is wanted.
        reply: bool,
    },
    /// From now on what this holder publishes and settles is done when it commits.
    SelectTransactions,
    /// Do what was published and settled since the last time, all of it or nothing.
    Commit,
    /// Forget what was published and settled since the last time.
    Rollback,
    /// Limit the leases that are out at a time; 0 is no limit.
    Prefetch {
        /// The limit.
        count: u16,
        /// For all consumers of the holder together, rather than each one started from now on.
        shared: bool,
    },
    /// Requeue all leases of the holder.
    Recover {
        /// Whether an answer is wanted.
        reply: bool,
    },
    /// See [`DeclareExchange`].
    DeclareExchange(Box<DeclareExchange>),
    /// Delete an exchange and its bindings.
    DeleteExchange {
        /// Its name.
        name: ShortString,
        /// Only if nothing is bound to it.
        if_unused: bool,
        /// Whether an answer is wanted.
        reply: bool,
    },
    /// See [`DeclareQueue`].
    DeclareQueue(Box<DeclareQueue>),
    /// Delete a queue, its messages, bindings and consumers.
    DeleteQueue {
        /// Its name; empty for the one the holder declared last.
        name: ShortString,
        /// Only without consumers.
        if_unused: bool,
        /// Only without messages.
        if_empty: bool,
        /// Whether an answer is wanted.
        reply: bool,
    },
    /// Drop the messages of a queue that are not leased.
    PurgeQueue {
        /// Its name; empty for the one the holder declared last.
        name: ShortString,
        /// Whether an answer is wanted.
        reply: bool,
    },
    /// Bind a queue or an exchange to an exchange.
    Bind(Box<Binding>),
    /// Undo a binding.
    Unbind(Box<Binding>),
    /// See [`Consume`].
    Consume(Box<Consume>),
    /// End a consumer; its leases stay.
    Cancel {
        /// Its tag.
        tag: ShortString,
        /// Whether an answer is wanted.
        reply: bool,
    },
    /// Messages come from a pack. The runtime says so, in a batch of nobody's.
    Loaded(Box<Loaded>),
    /// Take one message.
    Get {
        /// The queue's name; empty for the one the holder declared last.
        queue: ShortString,
        /// Whether it is settled at once.
        no_ack: bool,
    },
}

/// Make an exchange, or check that it is as described.
#[derive(Debug, Clone)]
pub struct DeclareExchange {
    /// Its name.
    pub name: ShortString,
    /// Its type.
    pub kind: ShortString,
    /// Only check that it exists.
    pub passive: bool,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it goes when its last binding goes.
    pub auto_delete: bool,
    /// Whether clients may not publish to it.
    pub internal: bool,
    /// Further arguments.
    pub arguments: FieldTable,
    /// Whether an answer is wanted.
    pub reply: bool,
}

/// Make a queue, or check that it is as described.
#[derive(Debug, Clone)]
pub struct DeclareQueue {
    /// Its name; empty to be given one.
    pub name: ShortString,
    /// Only check that it exists.
    pub passive: bool,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it belongs to this session and goes with it.
    pub exclusive: bool,
    /// Whether it goes when its last consumer goes.
    pub auto_delete: bool,
    /// Further arguments.
    pub arguments: FieldTable,
    /// Whether an answer is wanted.
    pub reply: bool,
}

/// A binding of a queue or an exchange to an exchange.
#[derive(Debug, Clone)]
pub struct Binding {
    /// Where messages go.
    pub destination: Destination,
    /// The exchange they come from.
    pub source: ShortString,
    /// The key, or the pattern of a topic exchange.
    pub routing_key: ShortString,
    /// Further arguments.
    pub arguments: FieldTable,
    /// Whether an answer is wanted.
    pub reply: bool,
}

/// The far end of a binding, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A queue; empty for the one the holder declared last.
    Queue(ShortString),
    /// An exchange.
    Exchange(ShortString),
}

/// Start a consumer.
#[derive(Debug, Clone)]
pub struct Consume {
    /// The queue; empty for the one the holder declared last.
    pub queue: ShortString,
    /// The consumer's name in its holder; empty to be given one.
    pub tag: ShortString,
    /// Whether messages are settled when they are delivered.
    pub no_ack: bool,
    /// Whether no one else may consume from the queue.
    pub exclusive: bool,
    /// Further arguments.
    pub arguments: FieldTable,
    /// Whether an answer is wanted.
    pub reply: bool,
}
