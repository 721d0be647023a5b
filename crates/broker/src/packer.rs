//! Moves what stays long out of the log and out of memory, into packs.
//!
//! A thread of its own takes sealed segments off the log, the oldest first. One that is mostly live
//! becomes a pack in place; of another the few live messages are copied. What is consumed soon is
//! never written twice: the newest sealed segment is left alone as long as memory suffices. Where
//! that does not help memory, transient messages leave it (see `spill`).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use leveret_model::PackId;
use leveret_storage::{Contents, PackError, Packs, Sealed};

use crate::broker::Shared;
use crate::core::Core;
use crate::merger::Merger;
use crate::spill::Spiller;
use crate::worker::Worker;

/// How long it takes another look when it may find something soon.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How often it does before it sleeps until it is woken.
const LOOKS: u32 = 100;
/// How often it looks at packs, which may have to be merged.
const LOOK_AT_PACKS: Duration = Duration::from_secs(10);
/// The same when it has found nothing for long, and messages take too much memory still.
const LOOK_WHILE_CROWDED: Duration = Duration::from_millis(100);
/// How long it leaves a segment alone that it could not pack.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);
/// A segment becomes a pack in place if this share of it is live, in percent.
const LIVE_PERCENT: u64 = 50;

/// The thread that does it, and what wakes it.
#[derive(Default)]
pub(crate) struct Packer {
    pub(crate) worker: Worker,
    woken: AtomicBool,
}

impl Packer {
    pub(crate) fn start(
        &self,
        shared: Weak<Shared>,
        packs: Packs,
        merger: Merger,
    ) -> io::Result<()> {
        self.worker.start("packer", move || run(&shared, &packs, merger))
    }

    /// There may be something to do soon.
    pub(crate) fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.worker.wake();
    }
}

fn run(shared: &Weak<Shared>, packs: &Packs, mut merger: Merger) {
    let (mut looks, mut spiller) = (0, Spiller::default());
    while let Some(broker) = shared.upgrade() {
        if broker.packer.worker.is_closed() {
            break;
        }
        if broker.packer.woken.swap(false, Ordering::AcqRel) {
            looks = 0;
        }
        let pause = match next(&broker, packs, &mut spiller, &mut merger) {
            Ok(true) => {
                looks = 0;
                continue;
            }
            Ok(false) => LOOK_AGAIN,
            Err(error) => {
                tracing::error!(%error, "cannot make a pack of messages; the disk will fill up");
                PAUSE_AFTER_ERROR
            }
        };
        let any = broker.combiner.with(|core| core.engine.packs().next().is_some());
        // Whoever gives the broker up must not wait for this thread's sleep.
        drop(broker);
        if looks < LOOKS || pause == PAUSE_AFTER_ERROR {
            looks += 1;
            thread::park_timeout(pause);
        } else if spiller.needed {
            thread::park_timeout(LOOK_WHILE_CROWDED);
        } else if any {
            // They lose what they hold without anybody saying so.
            thread::park_timeout(LOOK_AT_PACKS);
        } else {
            thread::park();
        }
    }
}

/// Does what is due, the most urgent first.
fn next(
    broker: &Arc<Shared>,
    packs: &Packs,
    spiller: &mut Spiller,
    merger: &mut Merger,
) -> Result<bool, PackError> {
    let steps: [&mut dyn FnMut() -> Result<bool, PackError>; 4] = [
        &mut || pack_next(broker, packs),
        &mut || Ok(spiller.spill_next(broker, packs)),
        &mut || merger.merge_next(broker),
        &mut || Ok(broker.combiner.with(Core::make_room)),
    ];
    first_due(steps)
}

/// Takes steps up to the first that had something to do. One that fails keeps none of the others
/// from what they do; the first error is what comes of it then.
fn first_due<E>(
    steps: impl IntoIterator<Item = impl FnMut() -> Result<bool, E>>,
) -> Result<bool, E> {
    let mut failed = None;
    for mut step in steps {
        match step() {
            Ok(true) => return failed.map_or(Ok(true), Err),
            Ok(false) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(false), Err)
}

/// Packs one segment, if one is due.
pub(crate) fn pack_next(broker: &Arc<Shared>, packs: &Packs) -> Result<bool, PackError> {
    let Some((segment, survey)) = broker.combiner.with(Core::next_to_pack) else {
        return Ok(false);
    };
    let in_place = survey.bytes * 100 >= (segment.end.0 - segment.first.0) * LIVE_PERCENT;
    let pack = match (survey.live.is_empty(), in_place) {
        (true, _) => Ok(None),
        (_, true) => packs.adopt(segment, &survey.live).map(Some),
        (_, false) => packs.rewrite(segment, &survey.live).map(Some),
    };
    broker.combiner.with(|core| {
        let packed = pack.map(|pack| core.packed(segment, pack, in_place));
        if let Some(log) = core.log() {
            log.release(&[segment.first]);
        }
        packed.map(|()| true)
    })
}

impl Core {
    /// The segment to be packed next, if there is one, and what is live of it.
    fn next_to_pack(&mut self) -> Option<(Sealed, leveret_engine::Survey)> {
        let sealed = self.log()?.sealed();
        let oldest = *sealed.first()?;
        let due = sealed.len() > 1 || self.engine.memory() > self.memory_target;
        if !due {
            return None;
        }
        // Or it might be recycled meanwhile, if its last message goes.
        self.log()?.pin(&[oldest.first]);
        Some((oldest, self.engine.survey(&(oldest.first..oldest.end))))
    }

    /// A segment's messages are in a pack, or there are none.
    fn packed(&mut self, segment: Sealed, pack: Option<PackId>, in_place: bool) {
        let part = segment.first..segment.end;
        let mut adopted = false;
        // Without a pack this only has the engine forget the segment.
        let id = pack.unwrap_or_default();
        self.turn(&mut Vec::new(), |engine, _, _, effects| {
            adopted = engine.adopt(id, &part, effects);
        });
        let Some(log) = self.log() else { return };
        let contents = match pack.filter(|_| adopted) {
            None => Contents::Gone,
            Some(pack) if in_place => Contents::Adopted(pack),
            Some(_) => Contents::Copied,
        };
        log.retire(segment, contents);
        if let Some(unused) = pack.filter(|_| !adopted) {
            log.remove_packs(vec![unused]);
        }
    }

    /// Lets segments go that only wait for the next one to begin, if the disk has too little room:
    /// those who would fill this one wait, too.
    pub(crate) fn make_room(&mut self) -> bool {
        let begins =
            !self.budget.disk_has_room() && self.log().is_some_and(|log| log.begin_early());
        if begins {
            self.turn(&mut Vec::new(), |_, _, _, _| {});
        }
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_fails_keeps_none_of_the_others_from_what_they_do() {
        let taken = |results: &[Result<bool, u32>]| {
            let mut count = 0;
            let results = results.iter().copied();
            let steps: Vec<_> = results.map(|result| move || result).collect();
            let counted = steps.into_iter().inspect(|_| count += 1);
            (first_due(counted), count)
        };
        assert_eq!(taken(&[Ok(false), Ok(false)]), (Ok(false), 2));
        assert_eq!(taken(&[Ok(false), Ok(true), Err(1)]), (Ok(true), 2));
        assert_eq!(taken(&[Err(1), Ok(false), Err(2), Ok(false)]), (Err(1), 4));
        assert_eq!(taken(&[Err(1), Ok(true), Ok(true)]), (Err(1), 2));
    }
}
