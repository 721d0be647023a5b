//! The whole broker without its threads, over a disk that loses, tears, fails, fills up and stalls:
//! everything that happens follows from a seed.
//!
//! A run is a few lives of a broker. In each, clients do something, and what threads would do
//! beside it is done in any order, until the power goes, the process dies in the middle of some
//! write, or the broker is closed. What the next one finds is held against what clients were told
//! (`truth`).
//!
//! `LEVERET_SIM_SEEDS` says how many runs there are, `LEVERET_SIM_SEED` which one to repeat.

mod client;
mod life;
mod truth;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use leveret_storage::simulated::{Faults, Random, SimulatedDisk, SimulatedStop};

use crate::OpenError;
use life::Life;
use truth::Truth;

/// How many runs there are by default.
const SEEDS: u64 = 2_000;
const LIVES: u64 = 4;

/// How often what must happen for the test to mean something did happen, in all runs.
#[derive(Debug, Default)]
struct Sights {
    /// Lives that ended in the middle of something, and starts that did.
    stops: AtomicU64,
    stopped_starts: AtomicU64,
    /// Disks that were damaged, and damaged ones that were refused.
    damages: AtomicU64,
    refusals: AtomicU64,
    packed: AtomicU64,
    merged: AtomicU64,
    /// Segments that were begun before the one before was full.
    begun_early: AtomicU64,
    spilled: AtomicU64,
    /// Answers with messages from packs.
    loads: AtomicU64,
    /// Logs that had to wait for room.
    full: AtomicU64,
    /// Messages that were found after a restart.
    found: AtomicU64,
}

fn count(sight: &AtomicU64, number: usize) {
    sight.fetch_add(number as u64, Ordering::Relaxed);
}

/// What goes on from life to life.
struct World {
    sights: Arc<Sights>,
    disk: SimulatedDisk,
    random: Random,
    truth: Truth,
    now: Arc<AtomicU64>,
}

#[test]
fn what_is_confirmed_outlives_every_end() {
    let number = |name| std::env::var(name).ok().map(|it| it.parse::<u64>().expect("a number"));
    if let Some(seed) = number("LEVERET_SIM_SEED") {
        return run(seed, Arc::default());
    }
    let (seeds, next) = (number("LEVERET_SIM_SEEDS").unwrap_or(SEEDS), AtomicU64::new(0));
    let sights = Arc::<Sights>::default();
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let seed = next.fetch_add(1, Ordering::Relaxed)
                    && seed < seeds
                {
                    if let Err(panic) = catch_unwind(|| run(seed, Arc::clone(&sights))) {
                        eprintln!("LEVERET_SIM_SEED={seed} repeats it");
                        resume_unwind(panic);
                    }
                }
            });
        }
    });
    println!("{seeds} runs: {sights:?}");
    if seeds >= SEEDS {
        let Sights {
            stops,
            stopped_starts,
            damages,
            refusals,
            packed,
            merged,
            begun_early,
            spilled,
            loads,
            full,
            found,
        } = &*sights;
        let lives = [stops, stopped_starts, damages, refusals, full, found];
        let work = [packed, merged, begun_early, spilled, loads];
        for sight in lives.into_iter().chain(work) {
            assert!(sight.load(Ordering::Relaxed) > 0, "something never happened: {sights:?}");
        }
    }
}

fn run(seed: u64, sights: Arc<Sights>) {
    let mut random = Random::new(seed);
    let mut world = World {
        sights,
        disk: SimulatedDisk::new(random.next()),
        truth: Truth::default(),
        now: Arc::new(AtomicU64::new(1_700_000_000_000)),
        random,
    };
    for number in 0..LIVES {
        let Some(mut life) = world.begin() else { return };
        life.verify(&mut world);
        if world.random.chance(0.5) {
            // Nothing of what waits is in memory then.
            life.close();
            world.disk.kill();
            life = world.open().unwrap_or_else(|error| panic!("after a clean stop: {error}"));
        }
        life.set_up(&mut world, number == 0);
        world.disturb();
        let end = world.random.below(8);
        let stopped = stops(|| life.live(&mut world));
        count(&world.sights.stops, usize::from(stopped));
        world.calm();
        if !stopped && end == 0 {
            life.close();
        } else if !stopped && end == 1 {
            life.prove(&mut world);
            drop(life);
            world.damage();
        }
        match end {
            0 | 2 => world.disk.kill(),
            _ => world.disk.crash(),
        }
    }
    if let Some(mut life) = world.begin() {
        life.verify(&mut world);
    }
}

/// Whether the process ends while it does this.
fn stops(act: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(()) => false,
        Err(panic) if panic.is::<SimulatedStop>() => true,
        Err(panic) => resume_unwind(panic),
    }
}

impl World {
    /// The next life; the process may end a few times before it begins. None if it cannot begin,
    /// because the disk is damaged and leveret says so.
    fn begin(&mut self) -> Option<Life> {
        // The clock on the wall may go back while nobody looks.
        let jump = self.random.below(1 << 32);
        match self.random.below(4) {
            0 => self.now.fetch_sub(jump, Ordering::Relaxed),
            _ => self.now.fetch_add(jump, Ordering::Relaxed),
        };
        for _ in 0..self.random.below(3) {
            self.disk.stop_after(Some(1 + self.random.below(12)));
            if self.random.chance(0.3) {
                self.disk.set_faults(Faults {
                    read_error: 0.02,
                    open_error: 0.02,
                    sync_error: 0.02,
                    write_error: 0.02,
                    ..Faults::default()
                });
            }
            let stopped = stops(|| drop(self.open()));
            count(&self.sights.stopped_starts, usize::from(stopped));
            self.calm();
            match stopped && self.random.chance(0.7) {
                true => self.disk.crash(),
                false => self.disk.kill(),
            }
        }
        match self.open() {
            Ok(life) => Some(life),
            Err(OpenError::Damaged { .. } | OpenError::UnknownVersion { .. })
                if self.truth.damaged =>
            {
                count(&self.sights.refusals, 1);
                None
            }
            Err(error) => panic!("it does not open: {error}"),
        }
    }

    fn open(&mut self) -> Result<Life, OpenError> {
        Life::open(&self.disk, &self.now, self.random.next())
    }

    /// Things go wrong from now on, or end soon.
    fn disturb(&mut self) {
        let random = &mut self.random;
        let mut faults = Faults::default();
        if random.chance(0.2) {
            faults.stall = 0.01;
        }
        if random.chance(0.15) {
            faults.read_error = 0.05;
            faults.open_error = 0.02;
        }
        if random.chance(0.1) {
            (faults.write_error, faults.sync_error) = (0.003, 0.003);
        }
        if random.chance(0.1) {
            faults.too_many_open = 0.2;
        }
        self.disk.set_faults(faults);
        if self.random.chance(0.5) {
            self.disk.stop_after(Some(1 + self.random.below(300)));
        }
    }

    /// Nothing goes wrong from now on.
    fn calm(&self) {
        self.disk.set_faults(Faults::default());
        self.disk.stop_after(None);
    }

    /// Flips a few bits of what lies on the disk, or one of what was written last.
    fn damage(&mut self) {
        if self.random.chance(0.5) && self.disk.flip_last_bit(".wal").is_some() {
            self.truth.damaged = true;
            count(&self.sights.damages, 1);
            return;
        }
        for number in 0..1 + self.random.below(3) {
            // Not twice in the log: the second may hit what proves that there was the first.
            let first = if number == 0 { 0 } else { 2 };
            let which = first + self.random.below(4 - first);
            let suffix = ["", ".wal", ".pack", ".idx"][which as usize];
            if self.disk.flip_bit(suffix).is_some() {
                self.truth.damaged = true;
                count(&self.sights.damages, 1);
            }
        }
        self.disk.advance(Duration::from_secs(1));
    }
}
