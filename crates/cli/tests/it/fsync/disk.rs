//! A disk that fails on command: `disk.c` around a broker.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::broker::{Broker, Surroundings};
use crate::tools::{answer, prepared, skip};

/// What an operation answers if the disk is broken, or full.
pub(super) const EIO: i32 = 5;
pub(super) const ENOSPC: i32 = 28;
const SOURCE: &str = include_str!("disk.c");
const FLAGS: [&str; 5] = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror"];
/// How long something may take to happen.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Disk {
    library: PathBuf,
    folder: TempDir,
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) call: String,
    /// Its error, 0 for none; nothing if it has only begun.
    pub(super) errno: Option<i32>,
    pub(super) path: String,
}

impl Event {
    /// Whether it is a call that went well, on a file with such a path.
    pub(super) fn is(&self, call: &str, path: &str) -> bool {
        self.call == call && self.errno == Some(0) && self.path.ends_with(path)
    }
}

/// A broker on such a disk, which is sound so far. None where there is nothing to make it with.
pub(super) fn broker_and_disk(test: &str) -> Option<(Broker, Disk)> {
    let disk = Disk::new(test)?;
    let broker = Broker::start_mortal_in(test, disk.surroundings())?;
    let heard = disk.journal().iter().any(|event| event.call == "send");
    assert!(heard, "the broker's calls do not pass through disk.c: is it linked statically?");
    Some((broker, disk))
}

impl Disk {
    /// A sound one. None where there is nothing to make it with.
    pub(crate) fn new(test: &str) -> Option<Disk> {
        if answer("cc", &["--version"]).is_none() {
            skip(test, "a C compiler, cc");
            return None;
        }
        let place = prepared("disk", &format!("{FLAGS:?}\n{SOURCE}"), |place| {
            fs::write(place.join("disk.c"), SOURCE).expect("write the source");
            let mut cc = Command::new("cc");
            cc.args(FLAGS).args(["-o", "disk.so", "disk.c"]).current_dir(place);
            assert!(cc.status().expect("run cc").success(), "disk.c does not compile");
        });
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory");
        Some(Disk { library: place.join("disk.so"), folder })
    }

    /// What a broker on this disk has around it.
    pub(super) fn surroundings(&self) -> Surroundings {
        let mut environment = self.environment();
        environment.push(("DISK_JOURNAL", self.file("journal").into()));
        Surroundings { environment, ..Surroundings::default() }
    }

    /// The least that puts a broker on this disk: without a journal, which grows fast.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("DISK_ORDERS", self.file("orders").into()),
        ]
    }

    /// Says what is to go wrong from now on; `disk.c` has the words.
    pub(crate) fn order(&self, orders: &str) {
        // At once, so that nobody reads half an order.
        fs::write(self.file("new"), orders).expect("write orders");
        fs::rename(self.file("new"), self.file("orders")).expect("give orders");
    }

    /// Makes it sound again.
    pub(crate) fn recover(&self) {
        fs::remove_file(self.file("orders")).expect("take orders back");
    }

    pub(super) fn journal(&self) -> Vec<Event> {
        let text = fs::read_to_string(self.file("journal")).expect("read the journal");
        let event = |line: &str| {
            let mut words = line.splitn(3, ' ').map(str::to_owned);
            let mut word = || words.next().expect("three words");
            let (call, errno) = (word(), word().parse().ok());
            Event { call, errno, path: word() }
        };
        text.lines().map(event).collect()
    }

    /// Begins the journal anew, while no broker runs.
    pub(super) fn forget(&self) {
        fs::remove_file(self.file("journal")).expect("remove the journal");
    }

    /// Returns when a call stalls.
    pub(super) fn await_stall(&self) {
        self.wait_for("stalls", |event| event.call != "send" && event.errno.is_none());
    }

    /// Returns the path of the first call that an order made fail, when there is one.
    pub(super) fn await_failure(&self) -> String {
        self.wait_for("fails", |event| event.errno == Some(EIO)).path
    }

    fn wait_for(&self, what: &str, true_of: fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(event) = self.journal().into_iter().find(true_of) {
                return event;
            }
            assert!(Instant::now() < deadline, "nothing {what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
