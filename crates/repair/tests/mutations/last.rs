//! Directories whose log ends with a frame that older messages hang on.

use std::sync::Mutex;

use leveret_repair::{Repair, repair};

use crate::attempt::{Numbers, attempt};
use crate::making::{Sound, segments};
use crate::opening::{Way, drain, open};

/// Whether the last frame is the whole log, or names merged packs in place of others.
pub(crate) fn is_such(sound: &Sound) -> bool {
    let before = sound.history.iter().rev().nth(1).map(|(before, _)| *before);
    let whole = matches!(&segments(&sound.files)[..], [(_, first)] if Some(*first) == before);
    whole || sound.merged.is_some()
}

/// Damages the last frame of a directory, which proves nothing but says where older messages are:
/// it is refused, and `leveret repair` saves them all.
///
/// # Errors
/// What is wrong with what came of it.
pub(crate) fn damaged(sound: &Sound, seed: u64) -> Result<(), String> {
    let (newest, first) = segments(&sound.files).pop().expect("a segment");
    let [.., (before, _), (end, _)] = sound.history[..] else { return Err("no frame".into()) };
    let mut numbers = Numbers(seed);
    let at = 4096 + (before.0 - first.0) as usize + numbers.below((end.0 - before.0) as usize);
    let mut files = sound.files.clone();
    files.get_mut(&newest).expect("it is there")[at] ^= 1 << numbers.below(8);
    let tally = Mutex::default();
    attempt(sound, &files, seed, &tally)?;
    if tally.lock().expect("whole").refused == 0 {
        return Err("it is not refused".to_owned());
    }
    let home = Sound::write(&files);
    let to = home.path().join("repaired");
    let what = Repair { data_dir: home.path().to_owned(), to: to.clone() };
    let report = repair(&what).map_err(|error| format!("not repaired: {error}"))?;
    let broker = open(&to, 0).map_err(|error| format!("repaired and refused: {error}"))?;
    let found = drain(&broker, Way::Get)?;
    broker.close();
    for (queue, waiting) in sound.waiting() {
        let saved = found.get(queue).map_or(&[][..], |(numbers, _)| numbers);
        if !waiting.iter().all(|number| saved.contains(number)) {
            return Err(format!("byte {at}: queue {queue}: {saved:?} of {waiting:?}: {report}"));
        }
    }
    Ok(())
}
