use super::*;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{self, RecvTimeoutError};

const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for a tick that should not be.
const A_WHILE: Duration = Duration::from_millis(50);

/// A clock whose ticks are told, and have no further deadline.
fn ticking() -> (Arc<Clock>, mpsc::Receiver<Time>) {
    let clock = Arc::<Clock>::default();
    let (told, ticks) = mpsc::channel();
    let ticked = Arc::clone(&clock);
    let tick = move || {
        ticked.ticked(None);
        let _ = told.send(ticked.now());
    };
    clock.start(tick).expect("starts");
    (clock, ticks)
}

fn end(clock: &Clock) {
    clock.worker.close();
    clock.worker.join();
}

#[test]
fn it_goes_with_the_wall_clock_and_never_back() {
    let clock = Clock::default();
    let wall = milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).expect("later"));
    let mut last = clock.now();
    assert!(last.0.abs_diff(wall) < 1_000, "{last} and {wall}");
    for _ in 0..1_000 {
        assert!(clock.now() >= last);
        last = clock.now();
    }
    thread::sleep(Duration::from_millis(5));
    assert!(clock.now() >= last.after(5));
}

#[test]
fn what_it_is_told_does_not_go_back_either() {
    let told = Arc::new(AtomicU64::new(5));
    let now = Arc::clone(&told);
    let clock = Clock::given(move || Time(now.load(Ordering::Relaxed)));
    for (says, shows) in [(5, 5), (4, 5), (7, 7), (0, 7), (8, 8)] {
        told.store(says, Ordering::Relaxed);
        assert_eq!(clock.now(), Time(shows));
    }
}

#[test]
fn it_ticks_when_the_deadline_has_come_and_then_no_more() {
    let (clock, ticks) = ticking();
    assert_eq!(ticks.recv_timeout(A_WHILE), Err(RecvTimeoutError::Timeout));
    let deadline = clock.now().after(20);
    clock.stepped(Some(deadline));
    assert!(ticks.recv_timeout(PATIENCE).expect("a tick") >= deadline);
    assert_eq!(ticks.recv_timeout(A_WHILE), Err(RecvTimeoutError::Timeout));
    end(&clock);
}

#[test]
fn an_earlier_deadline_is_not_slept_through_and_a_later_one_changes_nothing() {
    let (clock, ticks) = ticking();
    clock.stepped(Some(Time::NEVER));
    clock.stepped(Some(clock.now().after(3_600_000)));
    thread::sleep(Duration::from_millis(5));
    clock.stepped(Some(clock.now().after(1)));
    clock.stepped(Some(clock.now().after(7_200_000)));
    clock.stepped(None);
    ticks.recv_timeout(PATIENCE).expect("a tick");
    end(&clock);
}

#[test]
fn a_deadline_in_the_past_is_ticked_at_once_until_nothing_is_left() {
    const LEFT_OVER: usize = 20;
    let clock = Arc::<Clock>::default();
    let (left, ticked) = (Arc::new(AtomicUsize::new(LEFT_OVER)), Arc::clone(&clock));
    let (told, ticks) = mpsc::channel();
    let tick = move || {
        // As whoever has the engine might do before the tick is its turn.
        ticked.stepped(Some(Time(0)));
        let before = left.fetch_sub(1, Ordering::Relaxed);
        ticked.ticked((before > 1).then_some(Time(0)));
        let _ = told.send(before);
    };
    // Before the thread exists, too.
    clock.stepped(Some(Time(0)));
    clock.start(tick).expect("starts");
    for left in (1..=LEFT_OVER).rev() {
        assert_eq!(ticks.recv_timeout(PATIENCE), Ok(left));
    }
    assert_eq!(ticks.recv_timeout(A_WHILE), Err(RecvTimeoutError::Timeout));
    end(&clock);
}

#[test]
fn only_one_tick_is_on_its_way() {
    let clock = Arc::<Clock>::default();
    let (told, ticks) = mpsc::channel();
    // Left in the inbox, for another thread to run.
    clock.start(move || told.send(()).unwrap_or_default()).expect("starts");
    clock.stepped(Some(Time(1)));
    ticks.recv_timeout(PATIENCE).expect("a tick");
    clock.stepped(Some(Time(1)));
    assert_eq!(ticks.recv_timeout(A_WHILE), Err(RecvTimeoutError::Timeout));
    clock.ticked(Some(Time(1)));
    ticks.recv_timeout(PATIENCE).expect("the next");
    end(&clock);
}

#[test]
fn a_closed_one_ticks_no_more_and_its_thread_is_gone() {
    let (clock, ticks) = ticking();
    clock.stepped(Some(clock.now().after(30)));
    end(&clock);
    assert_eq!(ticks.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
    clock.stepped(Some(Time(0)));
    end(&clock);
}

/// No deadline is lost, whenever it comes between the thread's looking and its going to sleep.
#[test]
fn every_deadline_is_ticked() {
    let (clock, ticks) = ticking();
    for _ in 0..20_000 {
        clock.stepped(Some(Time(1)));
        ticks.recv_timeout(PATIENCE).expect("a tick");
    }
    end(&clock);
}
