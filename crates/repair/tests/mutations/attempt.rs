//! What is tried with each directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use leveret_broker::OpenError;
use leveret_repair::{Inspect, Repair, inspect, repair};

use crate::making::{End, Files, Sound};
use crate::opening::{FOREIGN, Way, drain, open};
use crate::verdict::{Refusal, Verdict, check, judge};

/// Numbers that depend on nothing but a seed.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }
}

/// Directories to damage.
pub(crate) fn sound() -> Vec<Sound> {
    let ends = [End::Closed, End::Killed, End::Torn, End::Begun, End::Merged];
    let ends = ends.into_iter().chain(ends);
    let make = |(seed, end)| {
        let mut numbers = Numbers(seed);
        Sound::make(&mut |bound| numbers.below(bound), end)
    };
    (100..).zip(ends).map(make).collect()
}

/// How often each thing happened.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) refused: u64,
    pub(crate) opened: u64,
    /// Of those opened: without what was at the end of the log.
    pub(crate) shorter: u64,
    /// And without messages of packs.
    pub(crate) lossy: u64,
}

/// Looks at a directory, repairs it and opens it. The seed says how.
///
/// # Errors
/// What is wrong with what came of it.
pub(crate) fn attempt(
    sound: &Sound,
    files: &Files,
    seed: u64,
    tally: &Mutex<Tally>,
) -> Result<(), String> {
    let verdict = judge(sound, files);
    let home = Sound::write(files);
    shown(&verdict, home.path())?;
    // The new directory's log has large files.
    if seed % 4 == 1 {
        repaired(sound, &verdict, home.path())?;
    }
    let memory_target = if seed.is_multiple_of(2) { 0 } else { 1 << 29 };
    let broker = match open(home.path(), memory_target) {
        Err(error) => {
            tally.lock().expect("whole").refused += 1;
            return refused(&verdict, home.path(), &error);
        }
        Ok(_) if verdict.refusal == Refusal::Must => return Err("it is not refused".to_owned()),
        Ok(broker) => broker,
    };
    let way = if seed.is_multiple_of(3) { Way::Consume } else { Way::Get };
    let found = drain(&broker, way)?;
    broker.close();
    check(&verdict, &found)?;
    let mut tally = tally.lock().expect("whole");
    tally.opened += 1;
    tally.shorter += u64::from(verdict.must != *sound.waiting());
    tally.lossy += u64::from(found.values().any(|(_, lost)| *lost > 0));
    drop(tally);
    if seed.is_multiple_of(4) {
        drop(broker);
        let again = open(home.path(), memory_target).map_err(|error| error.to_string())?;
        let left: usize = again.queues().iter().map(|queue| queue.ready).sum();
        again.close();
        if left > 0 {
            return Err(format!("{left} messages are back after they were taken"));
        }
    }
    Ok(())
}

/// Whether a refusal is just, and says where to look.
fn refused(verdict: &Verdict, home: &Path, error: &OpenError) -> Result<(), String> {
    if verdict.refusal == Refusal::Never {
        return Err(format!("refused without a reason: {error}"));
    }
    match error {
        OpenError::Damaged { file, .. }
        | OpenError::UnknownVersion { file, .. }
        | OpenError::Foreign { file, .. }
        | OpenError::Lost { wal: file, .. }
            if file.starts_with(home) =>
        {
            Ok(())
        }
        error => Err(format!("refused without a place: {error:?}")),
    }
}

/// Whether `leveret inspect` copes with a directory.
fn shown(verdict: &Verdict, home: &Path) -> Result<(), String> {
    let what = Inspect { data_dir: home.to_owned(), records: true, ..Inspect::default() };
    let what = Inspect { frames: true, bodies: true, ..what };
    let is_sound = inspect(&what, &mut std::io::sink()).map_err(|error| error.to_string())?;
    if is_sound && verdict.refusal == Refusal::Must {
        return Err("inspect finds nothing wrong".to_owned());
    }
    if !is_sound && verdict.untouched {
        return Err("inspect finds something wrong".to_owned());
    }
    Ok(())
}

/// Whether what `leveret repair` makes of a directory can be opened, and holds nothing that was
/// not published.
fn repaired(sound: &Sound, verdict: &Verdict, home: &Path) -> Result<(), String> {
    let to = home.join("repaired");
    let what = Repair { data_dir: home.to_owned(), to: to.clone() };
    let report = repair(&what).map_err(|error| format!("not repaired: {error}"))?;
    let broker = open(&to, 0).map_err(|error| format!("repaired and refused: {error}"))?;
    let found = drain(&broker, Way::Get)?;
    broker.close();
    for (queue, (numbers, damaged)) in &found {
        let mut published = sound.published.get(queue).into_iter().flatten();
        // Where an index is lost so are the checksums; the report says that.
        let unchecked = |number: u64| number == FOREIGN && !report.unchecked.is_empty();
        let known = |number: &u64| unchecked(*number) || published.any(|(next, _)| next == number);
        let ours = numbers.iter().all(known);
        if !ours || *damaged > 0 {
            return Err(format!("repaired: queue {queue} has {numbers:?}, without {damaged}"));
        }
    }
    let numbers: BTreeMap<_, _> = found.into_iter().map(|(id, (found, _))| (id, found)).collect();
    if verdict.untouched && (!report.is_whole() || numbers != *sound.waiting()) {
        return Err(format!("repaired, though sound: {report}"));
    }
    Ok(())
}
