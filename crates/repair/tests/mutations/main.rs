//! Damaged data directories: what leveret makes of each is either a refusal that names the file,
//! or exactly what had been confirmed, but for what nothing can tell from a write that was cut off.
//!
//! `LEVERET_MUTATIONS` sets how many there are. What a failure prints as its seed is tried alone
//! with `LEVERET_MUTATION_SEED`; with both, that is where they begin.

mod attempt;
mod last;
mod making;
mod mutation;
mod opening;
mod verdict;

use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use attempt::{Numbers, Tally, attempt, sound};
use making::{Draw, Sound};
use verdict::judge;

const MUTATIONS: u64 = 300;
const THREADS: u64 = 3;
/// How long one may take, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(100);
/// How much address space may be taken for what a damaged file claims, in KiB.
const CLAIMED_KIB_MAX: u64 = 2 << 20;

/// What the threads share.
#[derive(Default)]
struct All {
    sound: Vec<Sound>,
    next: AtomicU64,
    tally: Mutex<Tally>,
    /// What is being tried.
    busy: Mutex<BTreeMap<u64, String>>,
}

#[test]
fn sound_directories_are_what_the_judge_thinks_they_are() {
    let (mut packs, mut waiting, mut segments) = (0, 0, 0);
    for sound in sound() {
        let verdict = judge(&sound, &sound.files);
        assert!(verdict.untouched && verdict.lost.is_empty(), "{verdict:?}");
        let tally = Mutex::default();
        attempt(&sound, &sound.files, 1, &tally).expect("sound");
        packs += sound.packs.len();
        waiting += sound.waiting().values().map(Vec::len).sum::<usize>();
        segments += making::segments(&sound.files).len();
    }
    // Or there is little to damage.
    assert!(packs >= 20 && waiting >= 1000 && segments >= 20, "{packs} {waiting} {segments}");
}

#[test]
fn a_last_frame_that_older_messages_hang_on_is_missed() {
    let all = sound();
    let such: Vec<_> = all.iter().filter(|sound| last::is_such(sound)).collect();
    assert_eq!(such.len(), 4);
    for sound in such {
        for seed in 0..20 {
            last::damaged(sound, seed).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    }
}

#[test]
fn a_damaged_directory_is_refused_or_keeps_what_was_confirmed() {
    let number = |name| std::env::var(name).ok().map(|value: String| value.parse().expect(name));
    let seeds = match number("LEVERET_MUTATION_SEED") {
        Some(seed) => seed..seed + number("LEVERET_MUTATIONS").unwrap_or(1),
        None => 0..number("LEVERET_MUTATIONS").unwrap_or(MUTATIONS),
    };
    let all = Arc::new(All { sound: sound(), next: AtomicU64::new(seeds.start), ..All::default() });
    let before = address_space();
    let shown = Arc::clone(&all);
    panic::set_hook(Box::new(move |panic| say(&format!("{panic}, during {:?}", shown.busy))));
    let (done, finished) = mpsc::channel();
    for _ in 0..THREADS {
        let (all, done, end) = (Arc::clone(&all), done.clone(), seeds.end);
        thread::spawn(move || {
            loop {
                let seed = all.next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    return;
                }
                let result = panic::catch_unwind(AssertUnwindSafe(|| once(&all, seed)));
                let result = result.unwrap_or_else(|_| Err(format!("seed {seed} panicked")));
                if done.send(result).is_err() {
                    return;
                }
            }
        });
    }
    drop(done);
    let mut failures = Vec::new();
    for _ in seeds.clone() {
        match finished.recv_timeout(PATIENCE) {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => failures.push(failure),
            Err(_) => panic!("no end of {:?}", all.busy),
        }
    }
    let _ = panic::take_hook();
    say(&format!("{} directories: {:?}", seeds.end - seeds.start, all.tally));
    assert!(failures.is_empty(), "{}:\n{}", failures.len(), failures.join("\n"));
    let grown = address_space().saturating_sub(before);
    assert!(grown < CLAIMED_KIB_MAX, "{grown} KiB more address space was taken");
}

/// The most address space that this process ever had, in KiB; 0 where that is not known.
fn address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    peak.and_then(|peak| peak.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}

/// Not where a failed test's output goes: after an abort nobody would see it.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Damages a directory as the seed says, mostly in one place.
fn once(all: &All, seed: u64) -> Result<(), String> {
    let mut numbers = Numbers(seed);
    let draw: &mut Draw<'_> = &mut |bound| numbers.below(bound);
    let which = draw(all.sound.len());
    let sound = &all.sound[which];
    let mut files = sound.files.clone();
    let mut done = format!("directory {which}");
    for _ in 0..[1, 1, 1, 1, 2, 3][draw(6)] {
        done.push_str(&format!("; {}", mutation::mutate(&mut files, draw)));
    }
    all.busy.lock().expect("whole").insert(seed, done);
    let result = attempt(sound, &files, seed, &all.tally);
    let done = all.busy.lock().expect("whole").remove(&seed);
    result.map_err(|error| format!("seed {seed}, {}: {error}", done.unwrap_or_default()))
}
