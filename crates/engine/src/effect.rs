//! What the engine wants done.

use std::sync::Arc;

use leveret_model::{Chunk, Lsn, PackId, SessionId, ShortString};

use crate::command::Token;
use crate::packing::Load;
use crate::refusal::Refusal;

/// What an outbound may keep in memory whatever it tells, in bytes.
const COMPACT_BYTES: usize = 8 * 1024;

/// The effects of one step. Reused from step to step; the runtime takes out what it carries out.
#[derive(Debug, Default)]
pub struct Effects {
    /// Records to append to the log, in one piece, at the address that the step was given.
    pub log: Vec<u8>,
    /// How many records these are.
    pub records: u32,
    /// How many chunks of live messages these records hold: the segment they go to is needed
    /// until each of them has been named in `released`.
    pub pinned: u32,
    /// Addresses, as given to earlier steps or this one, whose chunk has no live message left.
    pub released: Vec<Lsn>,
    /// Messages to fetch from packs, for the engine to go on.
    pub loads: Vec<Load>,
    /// Packs that are of no use any more once the step's records are durable.
    pub emptied: Vec<PackId>,
    /// What to tell whom, one entry a session.
    pub outbound: Vec<Outbound>,
    /// The batch published to a queue whose consumers are far behind: its session had better pause.
    pub congested: bool,
    /// Confirms that may only be sent when this step's records are durable.
    pub confirms: Vec<DurableConfirm>,
}

/// Messages published by a holder that are safe once the step's records are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurableConfirm {
    /// Whose.
    pub session: SessionId,
    /// Which of its holders.
    pub holder: u16,
    /// What is confirmed.
    pub confirmed: Confirmed,
}

/// Neighbouring messages of one publisher that are safe, or that need not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// Which publisher, as named by [`Reply::ConfirmsSelected`]: a holder's number may have been
    /// given to another one since.
    pub publisher: u64,
    /// The first message, counted from 1 since the publisher selected confirms.
    pub first: u64,
    /// The last one.
    pub last: u64,
}

/// What one session is told, in order.
#[derive(Debug)]
pub struct Outbound {
    /// Whom it is for.
    pub session: SessionId,
    /// The chunks that items refer to by index.
    pub chunks: Vec<Arc<Chunk>>,
    /// What there is to tell.
    pub items: Vec<Item>,
    /// How much of the session's output credit it takes; to be given back with `Taken`.
    pub bytes: usize,
    /// Whether it speaks of a change that must be durable before it is told.
    pub after_log: bool,
    /// Where the log is told that messages of it are delivered: by what a step wrote that began at
    /// this address. That should be durable first, so that a restart knows that they may have been
    /// seen; but consumers need not stop when the log does.
    pub promise: Option<Lsn>,
}

/// One thing to tell a session.
#[derive(Debug)]
pub enum Item {
    /// A message for a consumer.
    Deliver {
        /// The consumer's holder.
        holder: u16,
        /// Whether it may have been delivered before.
        redelivered: bool,
        /// The consumer, as named by [`Reply::Consuming`].
        consumer: u64,
        /// How often it was given back before; 0 unless its queue counts that.
        attempts: u16,
        /// Index into [`Outbound::chunks`].
        chunk: u32,
        /// Index into the chunk.
        message: u32,
        /// The lease's number.
        lease: u64,
    },
    /// The answer to a `Get`.
    Got {
        /// Who asked.
        holder: u16,
        /// Whether it may have been delivered before.
        redelivered: bool,
        /// How often it was given back before; 0 unless its queue counts that.
        attempts: u16,
        /// Index into [`Outbound::chunks`].
        chunk: u32,
        /// Index into the chunk.
        message: u32,
        /// The lease's number.
        lease: u64,
        /// How many messages are left in the queue.
        left: u32,
    },
    /// A mandatory message that no queue took.
    Returned {
        /// Who published it.
        holder: u16,
        /// Index into [`Outbound::chunks`].
        chunk: u32,
        /// Index into the chunk.
        message: u32,
    },
    /// Messages that are safe, or that need not be.
    Confirmed {
        /// Who published them.
        holder: u16,
        /// Which they are.
        confirmed: Confirmed,
    },
    /// Messages that a queue they were for has refused, because it is full.
    Rejected {
        /// Who published them.
        holder: u16,
        /// Which they are.
        confirmed: Confirmed,
    },
    /// The answer to a command.
    Reply {
        /// Who asked.
        holder: u16,
        /// The answer.
        reply: Box<Reply>,
    },
}

/// Answers, and news that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To `Open`.
    Opened,
    /// To `Close`.
    Closed,
    /// To `Disconnect`.
    Disconnected,
    /// To `SelectConfirms`; comes before the first confirm.
    ConfirmsSelected {
        /// The publisher, unique in the engine.
        publisher: u64,
        /// Whether the client wants to be told.
        reply: bool,
    },
    /// To `SelectTransactions`.
    TransactionsSelected,
    /// To `Commit`; comes after what the commit told.
    Committed,
    /// To `Rollback`.
    RolledBack,
    /// To `Prefetch`.
    PrefetchSet,
    /// To `Recover`.
    Recovered,
    /// To `DeclareExchange`.
    ExchangeDeclared,
    /// To `DeleteExchange`.
    ExchangeDeleted,
    /// To `DeclareQueue`.
    QueueDeclared {
        /// Its name, given or made.
        name: ShortString,
        /// Messages ready.
        messages: u32,
        /// Consumers.
        consumers: u32,
    },
    /// To `DeleteQueue`, with the messages it had ready.
    QueueDeleted(u32),
    /// To `PurgeQueue`, with the number of messages dropped.
    QueuePurged(u32),
    /// To `Bind` of a queue.
    Bound,
    /// To `Unbind` of a queue.
    Unbound,
    /// To `Bind` of an exchange.
    ExchangeBound,
    /// To `Unbind` of an exchange.
    ExchangeUnbound,
    /// To `Consume`; comes before the first delivery.
    Consuming {
        /// The consumer, unique in the engine.
        consumer: u64,
        /// Its tag, given or made.
        tag: ShortString,
        /// Whether the client wants to be told.
        reply: bool,
    },
    /// To `Cancel`; no delivery comes after it.
    Cancelled {
        /// The consumer's tag.
        tag: ShortString,
        /// The consumer; `None` if there was none of that tag.
        consumer: Option<u64>,
        /// Whether the client wants to be told.
        reply: bool,
    },
    /// To `Get`, when the queue has nothing ready.
    GotNothing,
    /// News: the consumer's queue is gone, and so the consumer.
    ConsumerLost {
        /// The consumer's tag.
        tag: ShortString,
        /// The consumer.
        consumer: u64,
    },
    /// The command with this token was refused, and its holder is closed.
    Refused {
        /// The command's.
        token: Token,
        /// Why.
        refusal: Refusal,
    },
}

impl Confirmed {
    /// Whether `next` follows without a gap; then it is made part of this one.
    pub(crate) fn extend(&mut self, next: Confirmed) -> bool {
        let follows = self.publisher == next.publisher && self.last + 1 == next.first;
        if follows {
            self.last = next.last;
        }
        follows
    }
}

impl Outbound {
    /// Items that speak of no message's content.
    #[must_use]
    pub fn of(session: SessionId, items: Vec<Item>) -> Self {
        let chunks = Vec::new();
        Outbound { session, chunks, items, bytes: 0, after_log: false, promise: None }
    }

    /// Copies the messages it speaks of into a chunk of their own, if it would keep much more in
    /// memory than that: who is told may take a long time to listen.
    pub fn compact(&mut self) {
        let kept: usize = self.chunks.iter().map(|chunk| chunk.memory()).sum();
        if kept <= 4 * self.bytes + COMPACT_BYTES {
            return;
        }
        let mut own = Chunk::default();
        let mut last = None;
        for item in &mut self.items {
            let (Item::Deliver { chunk, message, .. }
            | Item::Got { chunk, message, .. }
            | Item::Returned { chunk, message, .. }) = item
            else {
                continue;
            };
            let from = (*chunk, *message);
            if last != Some(from) {
                last = Some(from);
                // It is part of what fits into chunks.
                let _ = own.push(self.chunks[from.0 as usize].get(from.1));
            }
            (*chunk, *message) = (0, own.len() as u32 - 1);
        }
        own.shrink();
        self.chunks = vec![Arc::new(own)];
    }
}
