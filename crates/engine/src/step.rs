//! The step under way: whose batch it is, and where its effects go.

use std::mem;
use std::sync::Arc;

use leveret_model::{Chunk, Lsn, Position, QueueId, SessionId, Time};

use crate::chunks::Chunks;
use crate::effect::Effects;
use crate::queue::{Entry, Queue};

/// Messages that are being published.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) chunk: Arc<Chunk>,
    /// Its slot in [`Chunks`].
    pub(crate) slot: u32,
}

/// The step under way.
pub(crate) struct Step<'a> {
    pub(crate) session: SessionId,
    pub(crate) now: Time,
    /// The batch's messages.
    pub(crate) content: Content,
    /// Where the step's records will be in the log.
    pub(crate) address: Lsn,
    pub(crate) effects: &'a mut Effects,
    /// Positions of one queue that are settled and not in the log yet.
    settled: Run,
    /// Of what nobody waits for, how much is still to be done in this step, in bytes.
    work: usize,
}

/// Neighbouring positions of one queue, settled one after the other: one record in the log.
#[derive(Debug, Default)]
struct Run {
    queue: QueueId,
    first: Position,
    count: u64,
}

impl<'a> Step<'a> {
    pub(crate) fn new(
        session: SessionId,
        content: Content,
        now: Time,
        address: Lsn,
        effects: &'a mut Effects,
        work: usize,
    ) -> Self {
        Step { session, now, content, address, effects, settled: Run::default(), work }
    }

    /// Takes so many bytes from what the step may do of what nobody waits for; `false` when that
    /// is done. The last piece may be too large, so that every step gets on.
    pub(crate) fn may_work(&mut self, bytes: usize) -> bool {
        let may = self.work > 0;
        self.work = self.work.saturating_sub(bytes);
        may
    }

    /// A message is given to a client: on a lease, or for good.
    pub(crate) fn given(
        &mut self,
        queue: &mut Queue,
        entry: Entry,
        no_ack: bool,
        chunks: &mut Chunks,
    ) {
        if no_ack {
            self.settled(queue, entry, chunks);
        } else {
            queue.leased += 1;
        }
    }

    /// Ends a message: its queue is done with it, and the log will know.
    pub(crate) fn settled(&mut self, queue: &mut Queue, entry: Entry, chunks: &mut Chunks) {
        if chunks.is_packed(&entry) {
            let body_bytes = chunks.body_len(&entry);
            let pack = queue.settle_packed(&entry, body_bytes);
            pack.into_iter().for_each(|pack| chunks.packs.lose(pack, 1));
        }
        if entry.durable {
            self.settled_run(queue.id, entry.position, 1);
        }
        chunks.release(entry.chunk, &mut self.effects.released);
    }

    /// The log will know that neighbouring positions of a queue are settled.
    pub(crate) fn settled_run(&mut self, queue: QueueId, first: Position, count: u64) {
        let run = &mut self.settled;
        if run.queue == queue && first.0 == run.first.0 + run.count && run.count > 0 {
            run.count += count;
        } else {
            self.flush_settled();
            self.settled = Run { queue, first, count };
        }
    }

    /// Writes the run of settled positions, if there is one.
    pub(crate) fn flush_settled(&mut self) {
        let run = mem::take(&mut self.settled);
        if run.count > 0 {
            leveret_record::write_settle(&mut self.effects.log, run.queue, run.first, run.count);
            self.effects.records += 1;
        }
    }
}
