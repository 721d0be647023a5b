//! A write or a sync that fails ends the process, and what was confirmed is there afterwards.

use std::path::Path;
use std::time::Duration;

use super::disk::{Disk, EIO, broker_and_disk};
use super::ledger::{Sent, compare};
use super::load::{declare, drain, publish, publish_in_vain, start};
use crate::broker::{Broker, Surroundings};
use crate::hostile::address;
use crate::tools::say;

/// How long the broker may take to end after something has failed.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Confirmed before anything goes wrong.
const BEFORE: u64 = 30;

/// Waits until the broker has ended by itself, in a way that nobody takes for a good end.
/// Gives the path of what failed.
fn ended(broker: &mut Broker, disk: &Disk) -> String {
    let path = disk.await_failure();
    let Some(status) = broker.await_end(END_LIMIT) else {
        panic!("the broker still runs:\n{}", broker.log())
    };
    assert!(!status.success(), "it ended with {status}");
    path
}

/// The words with which the broker ended: they say what it could not do, and with which file.
fn check_words(broker: &mut Broker, action: &str, file: &str) {
    let log = broker.log();
    let told = |line: &&str| line.contains("ERROR") && line.contains(action);
    let line = log.lines().find(told).unwrap_or_else(|| panic!("no {action:?} in:\n{log}"));
    let words: Vec<&str> = line.split_whitespace().collect();
    let named = |word: &&str| word.starts_with("file=") && word.ends_with(file);
    assert!(words.iter().any(named), "no file in: {line}");
    assert!(line.contains("os error 5"), "no reason in: {line}");
}

/// Starts the broker without the bad disk and compares what is there with what should be.
fn check_restart(test: &str, broker: &mut Broker, sent: &[Sent]) {
    let restarted = broker.restart_in(Surroundings::default());
    assert!(restarted.is_ok(), "it does not start again:\n{}", broker.log());
    let there = compare(sent, &drain(broker)).unwrap_or_else(|fault| panic!("{test}: {fault}"));
    let count: u64 = sent.iter().map(|sent| sent.count).sum();
    let confirmed: usize = sent.iter().map(|sent| sent.confirmed.len()).sum();
    say(&format!("{test}: {count} sent, {confirmed} confirmed, {there} there"));
    // It works.
    assert_eq!(publish(address(broker), 99, BEFORE).confirmed.len() as u64, BEFORE);
}

/// A broker that has confirmed something, on a disk that is still sound.
fn scene(test: &str) -> Option<(Broker, Disk, Vec<Sent>)> {
    let (broker, disk) = broker_and_disk(test)?;
    declare(&broker);
    let sent = publish(address(&broker), 0, BEFORE);
    assert_eq!(sent.confirmed.len() as u64, BEFORE);
    Some((broker, disk, vec![sent]))
}

/// What goes wrong, how the broker says so, and in which file.
struct Case {
    order: String,
    action: &'static str,
    file: &'static str,
}

/// Under load, after some calls have gone well.
fn fail_under_load(test: &str, case: &Case) {
    let Some((mut broker, disk, mut sent)) = scene(test) else { return };
    let publishers = start(&broker, 1);
    disk.order(&case.order);
    ended(&mut broker, &disk);
    sent.extend(publishers.into_iter().map(|one| one.join().expect("a publisher failed")));
    check_words(&mut broker, case.action, case.file);
    check_restart(test, &mut broker, &sent);
}

/// At once, when a broker that has just started begins a segment: nothing may be confirmed.
fn fail_at_once(test: &str, case: &Case) {
    let Some((mut broker, disk, mut sent)) = scene(test) else { return };
    assert!(broker.terminate().success());
    disk.order(&case.order);
    broker.restart_in(disk.surroundings()).expect("it starts again");
    let vain = publish_in_vain(address(&broker), 1, 5);
    assert!(vain.confirmed.is_empty(), "confirmed without the disk: {:?}", vain.confirmed);
    sent.push(vain);
    ended(&mut broker, &disk);
    check_words(&mut broker, case.action, case.file);
    check_restart(test, &mut broker, &sent);
}

const SYNC: &str = "cannot sync log segment";
const WRITE: &str = "cannot write log segment";
const BEGIN: &str = "cannot begin a log segment";

#[test]
fn a_failed_sync_ends_the_broker() {
    let order = format!("fdatasync *.wal fail {EIO} 20");
    let case = Case { order, action: SYNC, file: ".wal" };
    fail_under_load("a_failed_sync_ends_the_broker", &case);
}

/// The worst a disk can do: what was not synced is gone.
#[test]
fn a_failed_sync_that_loses_what_was_written_loses_nothing_confirmed() {
    let order = format!("fdatasync *.wal lose {EIO} 20");
    let case = Case { order, action: SYNC, file: ".wal" };
    fail_under_load("a_failed_sync_that_loses_what_was_written_loses_nothing_confirmed", &case);
}

#[test]
fn a_failed_write_ends_the_broker() {
    let order = format!("pwrite *.wal fail {EIO} 20");
    let case = Case { order, action: WRITE, file: ".wal" };
    fail_under_load("a_failed_write_ends_the_broker", &case);
}

/// Recovery has synced the directory once; the new segment needs it again.
#[test]
fn a_failed_sync_of_the_directory_ends_the_broker() {
    let order = format!("fsync */wal fail {EIO} 1");
    let case = Case { order, action: "cannot sync log directory", file: "/wal" };
    fail_at_once("a_failed_sync_of_the_directory_ends_the_broker", &case);
}

#[test]
fn a_failed_sync_of_a_new_segment_ends_the_broker() {
    let order = format!("fdatasync *.free fail {EIO} 0");
    let case = Case { order, action: BEGIN, file: "/wal" };
    fail_at_once("a_failed_sync_of_a_new_segment_ends_the_broker", &case);
}

/// After a failed sync the kernel shows data that the disk may lack. A restart must not take it
/// for durable, nor answer anybody before it is.
#[test]
fn a_restart_syncs_its_tail_before_it_answers() {
    let test = "a_restart_syncs_its_tail_before_it_answers";
    let Some((mut broker, disk, mut sent)) = scene(test) else { return };
    disk.order(&format!("fdatasync *.wal fail {EIO} 0"));
    let unsynced = publish(address(&broker), 1, 1);
    assert!(unsynced.confirmed.is_empty());
    sent.push(unsynced);
    let segment = ended(&mut broker, &disk);
    let segment = Path::new(&segment).file_name().and_then(|name| name.to_str()).expect("a name");

    // As long as its tail cannot be made durable it does not start, and nobody hears from it.
    disk.forget();
    let status = broker.restart_in(disk.surroundings()).expect_err("it must not start");
    assert!(!status.success());
    let log = broker.log();
    let last = log.lines().next_back().unwrap_or_default();
    assert!(last.contains("make durable") && last.contains(segment), "{last}");
    assert!(disk.journal().iter().all(|event| event.call != "send"), "it answered");

    disk.forget();
    disk.recover();
    broker.restart_in(disk.surroundings()).expect("it starts");
    let journal = disk.journal();
    let position = |call: &str, path: &str| {
        let found = journal.iter().position(|event| event.is(call, path));
        found.unwrap_or_else(|| panic!("no {call} of {path}: {journal:?}"))
    };
    let answered = journal.iter().position(|event| event.call == "send").expect("an answer");
    let order = [position("pwrite", segment), position("fdatasync", segment), answered];
    assert!(order.is_sorted(), "not in this order: {order:?}");
    assert!(position("fsync", "/wal") < answered, "the directory was not synced");
    assert_eq!(compare(&sent, &drain(&broker)), Ok(BEFORE as usize + 1));
}
