//! Tests that do not end as they should.

use crate::traces::{assert_gone, processes};
use leveret_peers::{Leveret, Postgres, RabbitMq};
use std::env;
use std::io::{BufRead, BufReader};
use std::panic::catch_unwind;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

#[test]
fn a_test_that_panics_leaves_nothing() {
    let seen = Mutex::new(None);
    let result = catch_unwind(|| {
        let leveret = Leveret::start();
        *seen.lock().unwrap() = Some((leveret.directory().to_owned(), leveret.id().unwrap()));
        panic!("on purpose");
    });
    assert!(result.is_err());
    let (directory, id) = seen.into_inner().unwrap().expect("a broker");
    assert_gone(&directory, &[id]);
}

/// What it prints before each directory.
const HERE: &str = "a directory: ";

/// No test but the body of a process that `a_killed_process_leaves_nothing` kills.
#[test]
#[ignore = "another test runs it"]
fn servers_until_killed() {
    let leveret = Leveret::start();
    let postgres = Postgres::start();
    let shared = RabbitMq::shared();
    println!("\n{HERE}{}", leveret.directory().display());
    for directory in [
        postgres.as_ref().map(|server| server.directory().to_owned()),
        shared.map(RabbitMq::directory),
    ] {
        println!("{HERE}{}", directory.unwrap_or_default().display());
    }
    thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_killed_process_leaves_nothing() {
    let mut child = Command::new(env::current_exe().expect("this binary"))
        .args(["ending::servers_until_killed", "--exact", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("run this binary");
    let output = BufReader::new(child.stdout.take().expect("its output is piped"));
    let lines = output.lines().map_while(Result::ok);
    let directories: Vec<_> =
        lines.filter_map(|line| line.strip_prefix(HERE).map(ToOwned::to_owned)).take(3).collect();
    let of_all: Vec<_> = directories
        .iter()
        .map(Path::new)
        // What is not installed has no directory.
        .filter(|directory| !directory.as_os_str().is_empty())
        .map(|directory| (directory, processes(directory)))
        .collect();
    child.kill().expect("kill a process");
    child.wait().expect("bury a process");
    assert_eq!(directories.len(), 3);
    for (directory, ids) in of_all {
        assert!(ids.len() >= 2, "a server and a keeper: {ids:?}");
        assert_gone(directory, &ids);
    }
}
