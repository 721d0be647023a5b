//! leveret itself.

use crate::keeper::{Keeper, Process, output_of, tail};
use crate::place::{self, Build};
use rustix::process::Signal;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How often another program may take the port before the broker does.
const ATTEMPTS: usize = 3;

/// The `leveret` command's broker. Which one: `LEVERET_TEST_BINARY`, or what cargo builds from
/// the source as it is now, with the profile of the test that asks.
pub struct Leveret {
    // Ends before its directory does.
    process: Option<Process>,
    port: u16,
    keeper: Arc<Keeper>,
}

impl Leveret {
    /// A broker with nothing in it that accepts connections.
    pub fn start() -> Leveret {
        let keeper = Keeper::new("leveret-", &place::beside_the_build());
        let mut broker = Leveret { process: None, port: 0, keeper };
        for _ in 0..ATTEMPTS {
            broker.port = place::free_port();
            if broker.try_start() {
                return broker;
            }
        }
        panic!("the broker does not start:\n{}", broker.log());
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        self.process.take().expect("the broker runs").kill();
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self) {
        self.process.take().expect("the broker runs").terminate(STOP_LIMIT);
    }

    /// Starts it again, with the same data and at the same port.
    pub fn start_again(&mut self) {
        assert!(self.try_start(), "the broker has ended at its start:\n{}", self.log());
    }

    /// The last of what it has said.
    pub fn log(&self) -> String {
        tail(&self.keeper.directory().join("leveret.log"))
    }

    /// Its process, if it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Where all its files are.
    pub fn directory(&self) -> &Path {
        self.keeper.directory()
    }

    /// Returns when it greets clients; false if it has ended instead.
    fn try_start(&mut self) -> bool {
        assert!(self.process.is_none(), "the broker runs already");
        let mut command = self.keeper.command(binary());
        command
            .args(["serve", "--data-dir", "data", "--bind", "127.0.0.1", "--http-port", "0"])
            .args(["--amqp-port", &self.port.to_string()]);
        let process = self.keeper.run(&command, "leveret.log", Signal::KILL);
        let process = self.process.insert(process);
        let deadline = Instant::now() + START_LIMIT;
        while !place::greets(self.port) {
            if process.ended().is_some() {
                self.process = None;
                return false;
            }
            assert!(Instant::now() < deadline, "no leveret yet:\n{}", process.log());
            thread::sleep(place::POLL);
        }
        true
    }
}

/// The binary, built if need be.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        env::var_os("LEVERET_TEST_BINARY").map_or_else(build, |binary| {
            // Brokers run elsewhere.
            std::path::absolute(binary).expect("the path of LEVERET_TEST_BINARY")
        })
    })
}

/// Has cargo build it beside the test that asks, which costs little if it is there already.
/// While tests run nobody else holds the lock on the folder.
fn build() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("crates/peers");
    let build = Build::of_this_process().expect("a test in a target folder that cargo has made");
    let binary = build.folder().join("leveret");
    // There cargo builds the whole workspace for tests, a moment ago and with other features of
    // its dependencies: it would build them all again.
    if env::var_os("CI").is_some() && binary.is_file() {
        return binary;
    }
    let profile = match build.profile.as_str() {
        "debug" => "dev",
        other => other,
    };
    let mut command = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    command
        .current_dir(workspace)
        .args(["build", "--locked", "--package", "leveret-cli", "--bin", "leveret"])
        .args(["--profile", profile, "--target-dir"])
        .arg(&build.target);
    if let Some(platform) = &build.platform {
        command.args(["--target", platform]);
    }
    // What cargo tells a test of the test's own package is not meant for this build: build scripts
    // that look at it would run again, here and at the next build from a shell.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    output_of(&mut command);
    binary
}
