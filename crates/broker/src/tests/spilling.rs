//! Transient messages that leave memory for the disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Client, PATIENCE, consume, open, options};
use crate::{Broker, DiskOptions, Options, Probe, Space};

fn open_with(directory: &Path, change: impl FnOnce(&mut Options)) -> Broker {
    let mut options = options(directory);
    change(&mut options);
    Broker::open(options).expect("opens")
}

/// The files of packs.
fn pack_files(directory: &Path) -> usize {
    std::fs::read_dir(directory.join("pack")).unwrap().count()
}

/// Looks until something is so.
fn eventually(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn transient_messages_leave_memory_and_come_back_in_order() {
    const MESSAGES: u32 = 8 * 1024;
    let directory = tempfile::tempdir().unwrap();
    let broker = open_with(directory.path(), |options| options.memory_target = 1024 * 1024);
    let mut client = Client::new(&broker);
    client.declare("q", true);
    for first in (0..MESSAGES).step_by(64) {
        let body = |number: u32| [&number.to_be_bytes()[..], &[0; 1020]].concat();
        client.publish("q", &(first..first + 64).map(body).collect::<Vec<_>>(), false);
    }
    eventually("memory is given up", || broker.memory().used < 1280 * 1024);
    assert_eq!(broker.queues()[0].ready, MESSAGES as usize);
    assert!(pack_files(directory.path()) > 0);
    let mut seen = Vec::new();
    consume(&mut client, "q");
    loop {
        seen.extend(
            client
                .bodies()
                .iter()
                .map(|body| u32::from_be_bytes(body[..4].try_into().expect("a number"))),
        );
        if seen.len() >= MESSAGES as usize {
            break;
        }
        client.wait();
    }
    assert_eq!(seen, (0..MESSAGES).collect::<Vec<_>>());
    eventually("packs are removed", || pack_files(directory.path()) == 0);
    assert_eq!(broker.memory().used, 0);
    broker.close();
}

#[test]
fn what_was_spilled_is_gone_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open_with(directory.path(), |options| options.memory_target = 0);
    let mut client = Client::new(&broker);
    client.declare("q", true);
    client.publish("q", &vec![vec![0; 1024]; 1024], false);
    client.publish("q", &[b"kept".to_vec()], true);
    eventually("memory is given up", || broker.memory().used < 64 * 1024);
    let files = pack_files(directory.path());
    broker.close();
    drop((client, broker));
    assert!(files > 0 && pack_files(directory.path()) > 0, "nobody tidies up at the end");
    let broker = open(directory.path());
    assert_eq!((broker.queues()[0].ready, pack_files(directory.path())), (1, 0));
    broker.close();
}

#[test]
fn what_cannot_be_spilled_stays_and_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open_with(directory.path(), |options| options.memory_target = 0);
    let mut client = Client::new(&broker);
    client.declare("q", false);
    let (packs, away) = (directory.path().join("pack"), directory.path().join("away"));
    std::fs::rename(&packs, &away).unwrap();
    client.publish("q", &vec![vec![0; 1024]; 1024], false);
    thread::sleep(Duration::from_millis(100));
    assert!(broker.memory().used > 1024 * 1024);
    std::fs::rename(&away, &packs).unwrap();
    eventually("memory is given up", || broker.memory().used == 0);
    assert_eq!(broker.queues()[0].ready, 1024);
    broker.close();
}

#[test]
fn nothing_is_spilled_to_a_disk_that_is_nearly_full() {
    let free = Arc::new(AtomicUsize::new(0));
    let probe = {
        let free = Arc::clone(&free);
        let space = move || Space { free: free.load(Ordering::SeqCst) as u64, total: 1 << 40 };
        Probe::new(move || Ok(space()))
    };
    let directory = tempfile::tempdir().unwrap();
    let broker = open_with(directory.path(), |options| {
        options.memory_target = 0;
        options.disk = DiskOptions { low: Some(100), critical: Some(10), probe: Some(probe) };
    });
    let mut client = Client::new(&broker);
    client.declare("q", false);
    client.publish("q", &vec![vec![0; 1024]; 1024], false);
    thread::sleep(Duration::from_millis(100));
    assert!(broker.memory().used > 1024 * 1024);
    free.store(1 << 30, Ordering::SeqCst);
    eventually("memory is given up", || broker.memory().used == 0);
    broker.close();
}
