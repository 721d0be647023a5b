//! Clients in Python.

use crate::broker::Broker;
use crate::program::Program;
use crate::tools::{self, tests_dir};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MISSING: &str = "python3, 3.11 or later, with its venv module";
/// What the script of each client checks.
const CHECKS: [&str; 8] = [
    "check_content",
    "check_order_and_requeue",
    "check_mandatory",
    "check_get",
    "check_rpc",
    "check_lost_connection",
    "check_restart",
    "check_kill",
];
/// What its second script does.
const EXTENSIONS: [&str; 12] = [
    "check_direct_reply_to",
    "check_dead_letter",
    "check_retry",
    "check_ttl",
    "check_queue_expiry",
    "check_max_length",
    "check_priority",
    "check_exchange_binding",
    "check_headers_exchange",
    "check_alternate_exchange",
    "check_transaction",
    "check_cancel_notify",
];
const CELERY: [&str; 8] = [
    "check_task",
    "check_retry",
    "check_eta",
    "check_expires",
    "check_mingle_and_gossip",
    "check_inspect",
    "check_revoke",
    "check_kill",
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

/// What a script may ask for by a line of its output.
#[derive(Clone, Copy)]
pub(crate) enum Cue {
    /// A broker that is stopped in peace and started again.
    Restart,
    /// The same with SIGKILL.
    Kill,
}

impl Cue {
    fn line(self) -> &'static str {
        match self {
            Cue::Restart => "CUE restart",
            Cue::Kill => "CUE kill",
        }
    }

    /// Answers, and then does it: the script is to meet a broker that is away.
    fn grant(self, broker: &mut Broker, program: &mut Program) {
        if !broker.is_ours() {
            program.say("kept");
            return;
        }
        program.say("coming");
        match self {
            Cue::Restart => {
                let status = broker.terminate();
                assert!(status.success(), "the broker ended with {status}");
            }
            Cue::Kill => broker.kill9(),
        }
        broker.restart();
    }
}

/// Runs a script that checks a client, gives it its cues, and expects it to have made all
/// `checks`.
pub(crate) fn run_checks(mut broker: Broker, script: Command, cues: &[Cue], checks: &[&str]) {
    let mut program = Program::start(script);
    for cue in cues {
        program.wait_for(cue.line());
        cue.grant(&mut broker, &mut program);
    }
    let mut lines = program.finish();
    lines.retain(|line| cues.iter().all(|cue| line != cue.line()));
    let expected: Vec<String> = checks.iter().map(|check| format!("ok {check}")).collect();
    assert_eq!(lines, expected);
}

fn check(name: &str, cues: &[Cue], checks: &[&str]) {
    let Some(interpreter) = interpreter(name) else { return };
    let broker = Broker::start();
    let path = tests_dir("python").join(format!("check_{name}.py"));
    let script = script(&interpreter, &broker, &path);
    run_checks(broker, script, cues, checks);
}

#[test]
fn pika() {
    check("pika", &[Cue::Restart, Cue::Kill], &CHECKS);
}

#[test]
fn pika_extensions() {
    check("pika_extensions", &[], &EXTENSIONS);
}

#[test]
fn aiormq() {
    let mut checks = CHECKS.to_vec();
    checks.insert(2, "check_mixed_confirms");
    check("aiormq", &[Cue::Restart, Cue::Kill], &checks);
}

#[test]
fn aiormq_extensions() {
    check("aiormq_extensions", &[], &EXTENSIONS);
}

#[test]
fn kombu() {
    check("kombu", &[Cue::Restart, Cue::Kill], &CHECKS);
}

#[test]
fn kombu_extensions() {
    check("kombu_extensions", &[], &EXTENSIONS);
}

#[test]
fn celery() {
    check("celery", &[Cue::Kill], &CELERY);
}
