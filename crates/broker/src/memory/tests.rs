use super::*;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Wake;
use std::thread;
use std::time::{Duration, Instant};

const MAX: usize = 1_000;
const MARK: usize = MAX / 100 * MEMORY_RESUME_PERCENT;
const PATIENCE: Duration = Duration::from_secs(30);

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A session that would publish.
struct Publisher {
    id: SessionId,
    woken: Arc<Woken>,
    own: usize,
}

impl Publisher {
    fn new(id: u64) -> Self {
        Publisher { id: SessionId(id), woken: Arc::default(), own: 0 }
    }

    fn full(&self, budget: &Budget) -> bool {
        budget.shortage(self.id, self.own).is_some()
    }

    fn waits(&self, budget: &Budget) -> bool {
        let waker = Waker::from(Arc::clone(&self.woken));
        budget.poll(&mut Context::from_waker(&waker), self.id, self.own).is_pending()
    }

    fn has(&mut self, bytes: usize, budget: &Budget) {
        budget.set_unfinished(self.id, self.own, bytes);
        self.own = bytes;
    }

    fn woken(&self) -> u64 {
        self.woken.0.load(Ordering::SeqCst)
    }
}

/// As after a step.
fn engine_holds(bytes: usize, budget: &Budget) {
    budget.set_engine(bytes);
    budget.review();
}

#[test]
fn who_finds_it_full_waits_until_it_is_at_the_mark() {
    let (budget, publisher) = (Budget::new(MAX), Publisher::new(1));
    engine_holds(MAX, &budget);
    assert!(!publisher.full(&budget), "as much as is allowed");
    assert!(!publisher.waits(&budget));
    engine_holds(MAX + 1, &budget);
    assert!(publisher.full(&budget));
    assert!(publisher.waits(&budget) && budget.memory().publishers_wait);
    engine_holds(MARK + 1, &budget);
    assert!(!publisher.full(&budget));
    assert!(publisher.waits(&budget), "not at the mark yet");
    assert_eq!(publisher.woken(), 0);
    engine_holds(MARK, &budget);
    assert_eq!(publisher.woken(), 1);
    assert!(!publisher.waits(&budget));
    // Above the mark again, and not full since.
    engine_holds(MARK + 1, &budget);
    assert!(!publisher.waits(&budget));
    assert_eq!(publisher.woken(), 1);
    let expected = Memory { used: MARK + 1, max: MAX, publishers_wait: false };
    assert_eq!(budget.memory(), expected);
}

#[test]
fn everybody_who_waits_is_woken_once() {
    let budget = Budget::new(MAX);
    let publishers: Vec<_> = (1..=100).map(Publisher::new).collect();
    engine_holds(2 * MAX, &budget);
    for publisher in publishers.iter().chain(&publishers) {
        assert!(publisher.full(&budget) && publisher.waits(&budget));
    }
    engine_holds(0, &budget);
    assert!(publishers.iter().all(|publisher| publisher.woken() == 1));
    engine_holds(2 * MAX, &budget);
    engine_holds(0, &budget);
    assert!(publishers.iter().all(|publisher| publisher.woken() == 1));
}

#[test]
fn who_ends_is_forgotten() {
    let (budget, publisher) = (Budget::new(MAX), Publisher::new(1));
    engine_holds(2 * MAX, &budget);
    assert!(publisher.full(&budget) && publisher.waits(&budget));
    budget.forget(publisher.id);
    assert_eq!(Arc::strong_count(&publisher.woken), 1);
    engine_holds(0, &budget);
    assert_eq!(publisher.woken(), 0);
}

#[test]
fn content_on_its_way_in_counts() {
    let (budget, whole) = (Budget::new(MAX), Publisher::new(1));
    let mut partial = Publisher::new(2);
    engine_holds(MARK, &budget);
    partial.has(MAX - MARK, &budget);
    assert!(!whole.full(&budget));
    partial.has(MAX - MARK + 1, &budget);
    assert_eq!(budget.memory().used, MAX + 1);
    assert!(whole.full(&budget) && whole.waits(&budget));
    partial.has(1, &budget);
    assert_eq!(whole.woken(), 0);
    partial.has(0, &budget);
    assert_eq!(whole.woken(), 1);
    assert_eq!(budget.memory().used, MARK);
}

#[test]
fn of_those_with_parts_of_bodies_one_at_a_time_goes_on() {
    let budget = Budget::new(MAX);
    let mut partial: Vec<_> = (1..=3).map(Publisher::new).collect();
    for publisher in &mut partial {
        publisher.has(MAX / 2, &budget);
    }
    let idle = Publisher::new(9);
    assert!(idle.full(&budget) && idle.waits(&budget));
    let waiting: Vec<_> = partial.iter().map(|publisher| publisher.waits(&budget)).collect();
    assert_eq!(waiting, [false, true, true], "the first has the turn");
    assert!(!partial[0].full(&budget) && partial[1].full(&budget));
    // More of its body, and the end of it.
    partial[0].has(MAX, &budget);
    assert!(!partial[0].waits(&budget));
    let woken = |partial: &[Publisher]| partial[1].woken() + partial[2].woken();
    assert_eq!(woken(&partial), 0);
    partial[0].has(0, &budget);
    engine_holds(MARK, &budget);
    assert_eq!(woken(&partial), 1, "the turn of one of them");
    assert!(partial[0].waits(&budget));
    let next = 1 + usize::from(partial[2].woken() == 1);
    let last = 3 - next;
    assert!(!partial[next].full(&budget) && partial[last].full(&budget));

    // The turn is of no use while the engine itself has no room.
    engine_holds(MARK + 1, &budget);
    assert!(partial[next].full(&budget) && partial[next].waits(&budget));
    engine_holds(MARK, &budget);
    assert_eq!(partial[next].woken(), 2);
    assert!(!partial[next].waits(&budget));
    // It ends: the turn of the last, and then there is room for all.
    partial[next].has(0, &budget);
    budget.forget(partial[next].id);
    assert_eq!(partial[last].woken(), 1);
    assert_eq!(idle.woken(), 0);
    partial[last].has(0, &budget);
    assert_eq!(idle.woken(), 1);
}

#[test]
fn a_turn_that_is_of_no_use_any_more_goes_to_the_next() {
    let budget = Budget::new(MAX);
    let mut partial: Vec<_> = (1..=3).map(Publisher::new).collect();
    for publisher in &mut partial {
        publisher.has(MAX, &budget);
    }
    assert!(!partial[0].waits(&budget) && partial[1].waits(&budget) && partial[2].waits(&budget));
    // Both give up their bodies while they wait, and the first ends.
    partial[1].has(0, &budget);
    partial[0].has(0, &budget);
    budget.forget(partial[0].id);
    if partial[1].woken() == 1 {
        assert!(partial[1].waits(&budget));
    }
    assert_eq!(partial[2].woken(), 1);
    assert!(!partial[2].full(&budget));
}

#[test]
fn without_any_memory_one_message_at_a_time_goes_on() {
    let (budget, mut publisher) = (Budget::new(0), Publisher::new(1));
    assert!(!publisher.full(&budget));
    publisher.has(1, &budget);
    assert!(publisher.full(&budget) && !publisher.waits(&budget) && !publisher.full(&budget));
    engine_holds(1, &budget);
    publisher.has(0, &budget);
    assert!(publisher.waits(&budget));
    engine_holds(0, &budget);
    assert!(!publisher.waits(&budget));
}

const NONE: Shortage = Shortage { memory: false, disk: false, disk_critical: false };

#[test]
fn who_publishes_waits_for_the_disk() {
    let (budget, publisher) = (Budget::new(MAX), Publisher::new(1));
    let why = || budget.shortage(publisher.id, 0);
    // More than the mark of the memory, which was never full: that must not keep anybody.
    engine_holds(MARK + 1, &budget);
    budget.set_disk(Level::Low);
    assert_eq!(why(), Some(Shortage { disk: true, ..NONE }));
    assert!(publisher.waits(&budget));
    assert!(!budget.memory().publishers_wait, "the memory is not what they wait for");
    budget.set_disk(Level::Critical);
    assert_eq!(why(), Some(Shortage { disk: true, disk_critical: true, ..NONE }));
    engine_holds(0, &budget);
    engine_holds(MARK + 1, &budget);
    budget.set_disk(Level::Low);
    assert!(publisher.waits(&budget));
    assert_eq!(publisher.woken(), 0);
    budget.set_disk(Level::Enough);
    assert_eq!(publisher.woken(), 1);
    assert!(why().is_none() && !publisher.waits(&budget));
    assert_eq!(publisher.woken(), 1);
}

#[test]
fn who_waits_for_both_goes_on_when_both_are_over() {
    let (budget, publisher) = (Budget::new(MAX), Publisher::new(1));
    let why = || budget.shortage(publisher.id, 0);
    for memory_first in [true, false] {
        let before = publisher.woken();
        if memory_first {
            engine_holds(MAX + 1, &budget);
            assert_eq!(why(), Some(Shortage { memory: true, ..NONE }));
            assert!(publisher.waits(&budget));
        }
        budget.set_disk(Level::Low);
        assert!(publisher.full(&budget) && publisher.waits(&budget));
        engine_holds(MAX + 1, &budget);
        assert_eq!(why(), Some(Shortage { memory: true, disk: true, ..NONE }));
        assert!(publisher.waits(&budget) && budget.memory().publishers_wait);
        if memory_first {
            engine_holds(MARK, &budget);
            assert!(!budget.memory().publishers_wait);
            assert_eq!(why(), Some(Shortage { disk: true, ..NONE }));
            assert_eq!(publisher.woken(), before);
            budget.set_disk(Level::Enough);
        } else {
            budget.set_disk(Level::Enough);
            assert_eq!(why(), Some(Shortage { memory: true, ..NONE }));
            engine_holds(MARK + 1, &budget);
            assert_eq!(publisher.woken(), before);
            engine_holds(MARK, &budget);
        }
        assert_eq!(publisher.woken(), before + 1);
        assert!(!publisher.waits(&budget) && why().is_none());
    }
}

#[test]
fn nobody_has_the_turn_while_the_disk_is_low() {
    let budget = Budget::new(MAX);
    let (mut first, mut second) = (Publisher::new(1), Publisher::new(2));
    first.has(MAX, &budget);
    second.has(MAX, &budget);
    assert!(!first.waits(&budget) && second.waits(&budget));
    let before = first.woken();
    budget.set_disk(Level::Low);
    assert!(first.full(&budget) && first.waits(&budget) && second.waits(&budget));
    assert_eq!((first.woken(), second.woken()), (before, 0));
    budget.set_disk(Level::Enough);
    assert_eq!((first.woken(), second.woken()), (before + 1, 0), "it has it still");
    assert!(!first.full(&budget) && !first.waits(&budget));
    // What waits for the disk alone needs no turn.
    budget.set_disk(Level::Low);
    first.has(0, &budget);
    second.has(1, &budget);
    assert!(second.waits(&budget));
    budget.set_disk(Level::Enough);
    assert!(!second.waits(&budget) && !first.waits(&budget));
}

/// Nobody sleeps on when all is at the mark, whenever it looked. One after the other: they spin.
#[test]
fn no_wake_up_is_lost() {
    no_wake_up_is_lost_in(20_000, |it| engine_holds(2 * MAX, it), |it| engine_holds(0, it));
    // The disk alone, and both, of which either is over first.
    let (low, enough) = (Level::Low, Level::Enough);
    no_wake_up_is_lost_in(2_000, |it| it.set_disk(low), |it| it.set_disk(enough));
    let count = AtomicU64::new(0);
    let begin = |budget: &Budget| {
        budget.set_disk(low);
        engine_holds(2 * MAX, budget);
    };
    no_wake_up_is_lost_in(2_000, begin, |budget| {
        if count.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
            budget.set_disk(enough);
        }
        engine_holds(0, budget);
        budget.set_disk(enough);
    });
}

fn no_wake_up_is_lost_in(
    rounds: u64,
    begin: impl Fn(&Budget) + Sync,
    end: impl Fn(&Budget) + Sync,
) {
    let (budget, round) = (Budget::new(MAX), AtomicU64::new(0));
    let publisher = Publisher::new(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            for this in 1..=rounds {
                begin(&budget);
                round.store(this, Ordering::SeqCst);
                if this % 2 == 0 {
                    thread::yield_now();
                }
                end(&budget);
                let deadline = Instant::now() + PATIENCE;
                while round.load(Ordering::SeqCst) == this {
                    assert!(Instant::now() < deadline, "woken in time");
                    std::hint::spin_loop();
                }
            }
        });
        for this in 1..=rounds {
            while round.load(Ordering::SeqCst) != this {
                std::hint::spin_loop();
            }
            let before = publisher.woken();
            let _ = publisher.full(&budget);
            if publisher.waits(&budget) {
                let deadline = Instant::now() + PATIENCE;
                while publisher.woken() == before {
                    assert!(Instant::now() < deadline, "woken in time");
                    std::hint::spin_loop();
                }
            }
            round.store(0, Ordering::SeqCst);
        }
    });
}
