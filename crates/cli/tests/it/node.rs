//! Clients in JavaScript.

use crate::broker::Broker;
use crate::program::Program;
use crate::python::{Cue, run_checks};
use crate::tools::{self, tests_dir};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MISSING: &str = "node, 18 or later, and npm";
const INSTALL_LIMIT: Duration = Duration::from_secs(300);
const LISTS: [&str; 3] = ["package.json", "package-lock.json", ".npmrc"];

/// The directory with our clients, or none where Node or npm is missing.
pub(crate) fn modules(test: &str) -> Option<PathBuf> {
    let probe = "if (+process.versions.node.split('.')[0] < 18) process.exit(1)";
    let tools = [("node", ["-e", probe]), ("npm", ["--version", "--silent"])];
    if tools.iter().any(|(tool, arguments)| tools::answer(tool, arguments).is_none()) {
        tools::skip(test, MISSING);
        return None;
    }
    let lists = tests_dir("node");
    let read = |name| fs::read_to_string(lists.join(name)).expect("read a package list");
    let recipe = LISTS.map(read).concat();
    let place = tools::prepared("node", &recipe, |place| install(place, &lists));
    Some(place.join("node_modules"))
}

fn install(place: &Path, lists: &Path) {
    for name in LISTS {
        fs::copy(lists.join(name), place.join(name)).expect("copy a package list");
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(place);
    Program::start(npm).finish_within(INSTALL_LIMIT);
}

fn check(name: &str, cues: &[Cue], checks: &[&str]) {
    let Some(modules) = modules(name) else { return };
    let broker = Broker::start();
    let mut script = Command::new("node");
    script
        .arg(tests_dir("node").join(format!("check_{name}.js")))
        .env("AMQP_URL", broker.url())
        .env("NODE_PATH", modules);
    run_checks(broker, script, cues, checks);
}

#[test]
fn amqplib() {
    let checks = [
        "checkContent",
        "checkOrderAndRequeue",
        "checkMandatory",
        "checkGet",
        "checkRpc",
        "checkLostConnection",
        "checkRestart",
        "checkKill",
    ];
    check("amqplib", &[Cue::Restart, Cue::Kill], &checks);
}

#[test]
fn amqplib_extensions() {
    let checks = [
        "checkDirectReplyTo",
        "checkDeadLetter",
        "checkRetry",
        "checkTtl",
        "checkQueueExpiry",
        "checkMaxLength",
        "checkPriority",
        "checkExchangeBinding",
        "checkHeadersExchange",
        "checkAlternateExchange",
        "checkCancelNotify",
    ];
    check("amqplib_extensions", &[], &checks);
}
