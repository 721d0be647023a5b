//! Every transport does what all must do.

use crate::shared_rabbitmq;
use crate::wrapped::{Asked, wrapped};
use leveret::{Bus, conformance};
use leveret_peers::Leveret;
use std::sync::Mutex;
use tempfile::TempDir;
use tokio::task::block_in_place;

/// How many tests run at a time where time is real.
const AT_A_TIME: usize = 8;

/// Those that `LEVERET_CONFORMANCE` names a part of; all where nothing is said.
fn tests() -> Vec<conformance::Test> {
    let part = std::env::var("LEVERET_CONFORMANCE").unwrap_or_default();
    conformance::TESTS.iter().filter(|test| test.name.contains(&part)).copied().collect()
}

#[track_caller]
fn assert_none(failures: &[(&str, String)]) {
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test(start_paused = true)]
async fn memory() {
    assert_none(&conformance::run(&tests(), 1, || Bus::builder("memory:")).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_in_real_time() {
    assert_none(&conformance::run(&tests(), AT_A_TIME, || Bus::builder("memory:")).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded() {
    // Each bus has a broker of its own, with a directory that lasts as long as the test.
    let directories: &'static Mutex<Vec<TempDir>> = Box::leak(Box::default());
    let make = || {
        let directory = tempfile::tempdir().expect("a directory");
        let builder = Bus::builder(&format!("embedded:{}", directory.path().display()));
        directories.lock().unwrap().push(directory);
        builder
    };
    let failures = conformance::run(&tests(), AT_A_TIME, make).await;
    directories.lock().unwrap().clear();
    assert_none(&failures);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leveret_server() {
    let leveret = block_in_place(Leveret::start);
    let url = leveret.url();
    assert_none(&conformance::run(&tests(), AT_A_TIME, move || Bus::builder(&url)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq() {
    let Some((rabbit, vhost)) = shared_rabbitmq() else { return };
    let url = rabbit.url_of(&vhost);
    assert_none(&conformance::run(&tests(), AT_A_TIME, move || Bus::builder(&url)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorum_queues_of_rabbitmq() {
    let Some((rabbit, vhost)) = shared_rabbitmq() else { return };
    let url = rabbit.url_of(&vhost) + "?queues=quorum";
    assert_none(&conformance::run(&tests(), AT_A_TIME, move || Bus::builder(&url)).await);
}

/// A transport of a program's own, around another one.
#[tokio::test(start_paused = true)]
async fn a_transport_that_can_do_all() {
    let asked = Asked::default();
    let make = wrapped(&asked, |_| {});
    assert_none(&conformance::run(&tests(), 1, make).await);
    assert_eq!(asked.what(), [""; 0]);
}

/// What a transport cannot do is not asked of it.
#[tokio::test(start_paused = true)]
async fn a_transport_that_can_do_little() {
    let asked = Asked::default();
    let make = wrapped(&asked, |can| {
        can.delay_max = None;
        can.priorities = 0;
        can.headers = false;
        can.unroutable = false;
        can.single_active_consumer = false;
        can.messages_max = false;
    });
    assert_none(&conformance::run(&tests(), 1, move || make().unverified()).await);
    assert_eq!(asked.what(), [""; 0]);
}
