//! Moves transient messages out of memory when there are too many of them.
//!
//! The packer's thread does this when it has nothing to take off the log that would help. What it
//! writes need not last, so it waits for no disk; where it cannot be written the messages stay.

use std::sync::Arc;
use std::time::{Duration, Instant};

use leveret_engine::Spill;
use leveret_model::PackId;
use leveret_storage::{PackError, Packs};

use crate::broker::Shared;
use crate::core::Core;

/// How much goes into one pack, in bytes: the engine waits while that is looked for.
const SPILL_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Less than that is not worth a pack, in bytes.
const SPILL_BYTES_MIN: u64 = 256 * 1024;
/// How long it leaves messages where they are after it could not write any.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// The packer's own.
#[derive(Default)]
pub(crate) struct Spiller {
    /// When it failed last, if it has not succeeded since.
    failed: Option<Instant>,
    /// Whether messages took too much memory when it looked last.
    pub(crate) needed: bool,
}

impl Spiller {
    /// Writes a pack of transient messages if that is needed and possible.
    pub(crate) fn spill_next(&mut self, broker: &Arc<Shared>, packs: &Packs) -> bool {
        let (needed, spill) = broker.combiner.with(Core::next_to_spill);
        self.needed = needed;
        let Some(spill) = spill else { return false };
        if self.failed.is_some_and(|at| at.elapsed() < PAUSE_AFTER_ERROR) {
            return false;
        }
        match write(broker, packs, &spill) {
            Ok(()) => self.failed = None,
            Err(error) => {
                if self.failed.replace(Instant::now()).is_none() {
                    tracing::error!(%error, "cannot write transient messages: they stay in memory");
                }
                return false;
            }
        }
        true
    }
}

pub(crate) fn write(broker: &Arc<Shared>, packs: &Packs, spill: &Spill) -> Result<(), PackError> {
    let pack = packs.spill(spill.messages())?;
    if !broker.combiner.with(|core| core.spilled(pack, spill)) {
        packs.remove(&[pack]);
    }
    Ok(())
}

impl Core {
    /// Whether messages take too much memory, and transient ones that may leave it.
    fn next_to_spill(&mut self) -> (bool, Option<Spill>) {
        self.crowded = self.engine.memory() > self.memory_target;
        self.spilling = false;
        if !self.crowded || !self.budget.disk_has_room() || self.log().is_none() {
            return (self.crowded, None);
        }
        let spill = self.engine.survey_transient(SPILL_BYTES_MAX);
        self.spilling = spill.bytes >= SPILL_BYTES_MIN;
        (true, Some(spill).filter(|_| self.spilling))
    }

    /// Messages are in a pack; `false` if none of them waits any more.
    fn spilled(&mut self, pack: PackId, spill: &Spill) -> bool {
        let mut used = false;
        self.turn(&mut Vec::new(), |engine, _, _, effects| {
            used = engine.spilled(pack, spill, effects);
        });
        used
    }
}
