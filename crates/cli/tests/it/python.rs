//! Clients in Python.

use crate::broker::Broker;
use crate::program::Program;
use crate::tools::{self, tests_dir};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MISSING: &str = "python3, 3.11 or later, with its venv module";
/// What the script of each client does.
const CHECKS: [&str; 7] = [
    "check_content",
    "check_order_and_requeue",
    "check_mandatory",
    "check_get",
    "check_rpc",
    "check_lost_connection",
    "check_restart",
];
const INSTALL_LIMIT: Duration = Duration::from_secs(300);

/// The interpreter of a virtual environment with our clients, or none where Python is missing.
pub(crate) fn interpreter(test: &str) -> Option<PathBuf> {
    let probe = "import sys, venv, ensurepip; assert sys.version_info >= (3, 11); \
                 print(sys.base_prefix, sys.version)";
    let Some(version) = tools::answer("python3", &["-c", probe]) else {
        tools::skip(test, MISSING);
        return None;
    };
    let list = tests_dir("python").join("requirements.txt");
    let recipe = fs::read_to_string(&list).expect("read the requirements") + &version;
    let place = tools::prepared("python", &recipe, |place| install(place, &list));
    Some(place.join("bin/python"))
}

fn install(place: &Path, requirements: &Path) {
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(place);
    Program::start(venv).finish_within(INSTALL_LIMIT);
    let mut pip = Command::new(place.join("bin/python"));
    pip.args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-deps"])
        .arg("--requirement")
        .arg(requirements);
    Program::start(pip).finish_within(INSTALL_LIMIT);
}

/// A script, ready to be run against `broker`.
pub(crate) fn script(interpreter: &Path, broker: &Broker, script: &Path) -> Command {
    let mut command = Command::new(interpreter);
    command
        .arg(script)
        .env("AMQP_URL", broker.url())
        .env("PYTHONUNBUFFERED", "1")
        // Nothing of ours in the source tree.
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// How a script's wish for a restart of the broker is granted.
#[derive(Clone, Copy)]
pub(crate) enum Restart {
    Polite,
    Kill9,
}

/// Runs a script that checks a client and expects it to have made all `checks`.
pub(crate) fn run_checks(mut broker: Broker, script: Command, restart: Restart, checks: &[&str]) {
    let mut program = Program::start(script);
    program.wait_for("CUE restart");
    if broker.is_ours() {
        match restart {
            Restart::Polite => {
                let status = broker.terminate();
                assert!(status.success(), "the broker ended with {status}");
            }
            Restart::Kill9 => broker.kill9(),
        }
        broker.restart();
        program.say("restarted");
    } else {
        program.say("kept");
    }
    let mut lines = program.finish();
    lines.retain(|line| line != "CUE restart");
    let expected: Vec<String> = checks.iter().map(|check| format!("ok {check}")).collect();
    assert_eq!(lines, expected);
}

fn check(client: &str, restart: Restart) {
    let Some(interpreter) = interpreter(client) else { return };
    let broker = Broker::start();
    let path = tests_dir("python").join(format!("check_{client}.py"));
    let script = script(&interpreter, &broker, &path);
    let mut checks = CHECKS.to_vec();
    if client == "aiormq" {
        checks.insert(2, "check_mixed_confirms");
    }
    run_checks(broker, script, restart, &checks);
}

#[test]
fn pika() {
    check("pika", Restart::Kill9);
}

#[test]
fn aiormq() {
    check("aiormq", Restart::Polite);
}

#[test]
fn kombu() {
    check("kombu", Restart::Polite);
}
