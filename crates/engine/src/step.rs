//! The step under way: whose batch it is, and where its effects go.

use std::mem;
use std::sync::Arc;

use leveret_model::{Chunk, Lsn, Position, QueueId, SessionId};

use crate::chunks::Chunks;
use crate::effect::Effects;
use crate::queue::Entry;

/// The step under way: whose batch it is and where its effects go.
pub(crate) struct Step<'a> {
    pub(crate) session: SessionId,
    /// The batch's messages, and their slot in [`Chunks`].
    pub(crate) chunk: Arc<Chunk>,
    pub(crate) slot: u32,
    /// Where the step's records will be in the log.
    pub(crate) address: Lsn,
    pub(crate) effects: &'a mut Effects,
    /// Positions of one queue that are settled and not in the log yet.
    pub(crate) settled: Run,
}

/// Neighbouring positions of one queue, settled one after the other: one record in the log.
#[derive(Debug, Default)]
pub(crate) struct Run {
    queue: QueueId,
    first: Position,
    count: u64,
}

impl Step<'_> {
    /// Ends a message: its queue is done with it, and the log will know.
    pub(crate) fn settled(&mut self, queue: QueueId, entry: Entry, chunks: &mut Chunks) {
        chunks.release(entry.chunk, &mut self.effects.released);
        if !entry.durable {
            return;
        }
        let run = &mut self.settled;
        if run.queue == queue && entry.position.0 == run.first.0 + run.count && run.count > 0 {
            run.count += 1;
        } else {
            self.flush_settled();
            self.settled = Run { queue, first: entry.position, count: 1 };
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
