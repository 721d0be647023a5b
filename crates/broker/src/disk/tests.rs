use super::*;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::{Broker, Options, Session};
use leveret_model::limits::SEGMENT_BYTES_MIN;

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;
const PATIENCE: Duration = Duration::from_secs(30);

fn auto(total: u64) -> (u64, u64) {
    let marks = Marks::of(&DiskOptions::default(), Some(total));
    (marks.low, marks.critical)
}

fn marks(low: u64, critical: u64) -> Marks {
    Marks { low, critical }
}

#[test]
fn marks_suit_the_disk_where_nobody_set_them() {
    assert_eq!(auto(1 << 50), (DISK_LOW_BYTES_MAX, DISK_LOW_BYTES_MAX / 4));
    assert_eq!(auto(10_000 * MIB), (500 * MIB, 125 * MIB));
    assert_eq!(auto(5 * GIB), (DISK_LOW_BYTES_MIN, DISK_CRITICAL_BYTES_MIN));
    assert_eq!(auto(2 * GIB), (DISK_LOW_BYTES_MIN, DISK_CRITICAL_BYTES_MIN));
    // An empty small one has far more than that.
    assert_eq!(auto(GIB), (128 * MIB, DISK_CRITICAL_BYTES_MIN));
    assert_eq!(auto(256 * MIB), (32 * MIB, 16 * MIB));
    assert_eq!(auto(0), (0, 0));
    let unknown = Marks::of(&DiskOptions::default(), None);
    assert_eq!(unknown, marks(DISK_LOW_BYTES_MIN, DISK_CRITICAL_BYTES_MIN));
}

#[test]
fn marks_that_are_set_are_taken() {
    let of =
        |low, critical| Marks::of(&DiskOptions { low, critical, probe: None }, Some(100 * GIB));
    assert_eq!(of(Some(7), Some(3)), marks(7, 3));
    assert_eq!(of(Some(0), None), marks(0, 0));
    assert_eq!(of(Some(GIB), None), marks(GIB, 256 * MIB));
    assert_eq!(of(Some(100 * MIB), None), marks(100 * MIB, 50 * MIB));
    assert_eq!(of(None, Some(0)), marks(DISK_LOW_BYTES_MAX, 0));
    assert_eq!(of(Some(10), Some(20)), marks(20, 20), "publishers wait as well");
}

#[test]
fn a_mark_that_was_passed_counts_until_there_is_some_more() {
    let marks = marks(1000, 300);
    let (low, critical) = (10 * DISK_RESUME_PERCENT, 3 * DISK_RESUME_PERCENT);
    let steps = [
        (1000, Level::Enough),
        (999, Level::Low),
        (1000, Level::Low),
        (low - 1, Level::Low),
        (low, Level::Enough),
        (1000, Level::Enough),
        (300, Level::Low),
        (299, Level::Critical),
        (300, Level::Critical),
        (critical - 1, Level::Critical),
        (critical, Level::Low),
        (300, Level::Low),
        (0, Level::Critical),
        (low, Level::Enough),
        (0, Level::Critical),
        (low - 1, Level::Low),
    ];
    let mut level = Level::Enough;
    for (free, expected) in steps {
        level = marks.judge(level, free);
        assert_eq!(level, expected, "{free}");
    }
    // Nothing is less than nothing.
    for before in [Level::Enough, Level::Low, Level::Critical] {
        assert_eq!(Marks { low: 0, critical: 0 }.judge(before, 0), Level::Enough);
    }
    assert_eq!(Marks { low: u64::MAX, critical: 0 }.judge(Level::Low, GIB), Level::Low);
}

#[test]
fn the_nearer_a_mark_the_sooner_one_looks_again() {
    let marks = marks(GIB, 256 * MIB);
    assert_eq!(marks.pause(Level::Enough, u64::MAX), DISK_LOOK_MAX);
    assert_eq!(marks.pause(Level::Enough, GIB), DISK_LOOK_MIN);
    assert_eq!(marks.pause(Level::Enough, 0), DISK_LOOK_MIN);
    let half = marks.pause(Level::Enough, GIB + DISK_FILL_BYTES_PER_SECOND);
    assert_eq!(half, Duration::from_millis(500));
    assert_eq!(marks.pause(Level::Low, 256 * MIB), DISK_LOOK_MIN);
    assert_eq!(marks.pause(Level::Critical, 2 * DISK_FILL_BYTES_PER_SECOND), DISK_LOOK_MAX);
}

/// A disk of 100 GiB of which a test says how much is free.
#[derive(Clone, Default)]
struct Model {
    free: Arc<AtomicU64>,
    broken: Arc<AtomicBool>,
}

impl Model {
    fn probe(&self) -> Probe {
        let model = self.clone();
        Probe::new(move || match model.broken.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::PermissionDenied.into()),
            false => Ok(Space { free: model.free.load(Ordering::SeqCst), total: 100 * GIB }),
        })
    }

    fn has(&self, free: u64) {
        self.free.store(free, Ordering::SeqCst);
    }
}

fn open(directory: &Path, disk: DiskOptions) -> Broker {
    let options = Options {
        data_dir: directory.to_owned(),
        users: Vec::new(),
        memory_max: 1000,
        memory_target: 1000,
        segment_bytes: SEGMENT_BYTES_MIN,
        disk,
    };
    Broker::open(options).expect("opens")
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn shortage(session: &Session) -> Option<(bool, bool, bool)> {
    session.shortage().map(|it| (it.memory, it.disk, it.disk_critical))
}

#[test]
fn a_broker_stops_publishers_for_as_long_as_the_disk_is_low() {
    let (directory, model) = (tempfile::tempdir().unwrap(), Model::default());
    model.has(999);
    let (low, critical) = (Some(1000), Some(300));
    let broker = open(directory.path(), DiskOptions { low, critical, probe: Some(model.probe()) });
    let session = broker.connect(b"/").unwrap();
    // From the start, without anybody having looked again.
    assert_eq!(shortage(&session), Some((false, true, false)));
    let disk = Disk { free: Some(999), low: 1000, critical: 300, publishers_wait: true };
    assert_eq!(broker.disk(), disk);
    assert!(!broker.memory().publishers_wait);
    model.has(0);
    until("critical", || shortage(&session) == Some((false, true, true)));
    // Messages take too much as well: both must be over.
    session.set_unfinished(1001);
    assert_eq!(shortage(&session), Some((true, true, true)));
    model.has(5000);
    until("memory is left", || broker.disk().free == Some(5000) && !broker.disk().publishers_wait);
    let other = broker.connect(b"/").unwrap();
    assert_eq!(shortage(&other), Some((true, false, false)));
    session.set_unfinished(0);
    assert_eq!((shortage(&session), shortage(&other)), (None, None));
    broker.close();
}

#[test]
fn a_disk_that_does_not_tell_stops_nobody() {
    let (directory, model) = (tempfile::tempdir().unwrap(), Model::default());
    model.broken.store(true, Ordering::SeqCst);
    let disk = DiskOptions { low: Some(1000), critical: None, probe: Some(model.probe()) };
    let broker = open(directory.path(), disk);
    let session = broker.connect(b"/").unwrap();
    assert_eq!((broker.disk().free, shortage(&session)), (None, None));
    model.broken.store(false, Ordering::SeqCst);
    until("it tells again", || shortage(&session) == Some((false, true, true)));
    // What is not known is as it was.
    model.broken.store(true, Ordering::SeqCst);
    until("it does not tell", || broker.disk().free.is_none());
    assert_eq!(shortage(&session), Some((false, true, true)));
}

#[test]
fn the_disk_of_the_data_directory_is_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path(), DiskOptions::default());
    let disk = broker.disk();
    assert!(disk.free.is_some_and(|free| free > 0), "{disk:?}");
    assert!(disk.low > disk.critical && disk.critical > 0, "{disk:?}");
    let space = Probe::of(directory.path().to_owned()).look().unwrap();
    assert!(space.free <= space.total && disk.low <= space.total / LOW_PART, "{space:?}");
    assert!(Probe::of(directory.path().join("missing")).look().is_err());
}

#[test]
fn nobody_watches_the_disk_of_a_broker_that_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let asked = Arc::new(());
    let probe = |asked: &Arc<()>| {
        let asked = Arc::clone(asked);
        Probe::new(move || {
            let _ = &asked;
            Ok(Space { free: GIB, total: GIB })
        })
    };
    let disk = DiskOptions { probe: Some(probe(&asked)), ..DiskOptions::default() };
    let broker = open(directory.path(), disk);
    broker.close();
    assert_eq!(Arc::strong_count(&asked), 1, "the thread has ended");
    drop(broker);
    let disk = DiskOptions { probe: Some(probe(&asked)), ..DiskOptions::default() };
    drop(open(directory.path(), disk));
    until("the thread has ended", || Arc::strong_count(&asked) == 1);
}
