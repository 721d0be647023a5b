//! Where the examples run, and how they are run.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use leveret_peers::{Leveret, RabbitMq};
use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the programs find their broker, and what else they are told.
pub(crate) struct Place {
    pub(crate) bus: String,
    /// Embedded: only one process at a time.
    pub(crate) alone: bool,
    pub(crate) variables: Vec<(&'static str, String)>,
}

/// An example that runs.
pub(crate) struct Program {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

/// One of the programs that cargo has built; `leveret` is there once a server was started.
pub(crate) fn binary(name: &str) -> PathBuf {
    let named = (name == "leveret").then(|| std::env::var_os("LEVERET_TEST_BINARY")).flatten();
    let beside = || Path::new(env!("CARGO_BIN_EXE_send")).with_file_name(name);
    named.map_or_else(beside, PathBuf::from)
}

/// Runs a scenario on every broker.
pub(crate) fn everywhere(scenario: impl Fn(&mut Place)) {
    let place = |bus, alone| Place { bus, alone, variables: Vec::new() };
    let directory = tempfile::tempdir().expect("make a directory");
    scenario(&mut place(format!("embedded:{}", directory.path().display()), true));
    let leveret = Leveret::start();
    scenario(&mut place(leveret.url(), false));
    if let Some(rabbit) = RabbitMq::shared() {
        scenario(&mut place(rabbit.url_of(&rabbit.vhost()), false));
    }
}

impl Place {
    pub(crate) fn set(&mut self, variable: &'static str, value: impl Into<String>) {
        self.variables.push((variable, value.into()));
    }

    pub(crate) fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary(name));
        command.args(arguments).env("BUS", &self.bus);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn start(&self, name: &str, arguments: &[&str]) -> Program {
        Program::start(&mut self.command(name, arguments))
    }

    /// Runs it to its end, which must be a good one.
    pub(crate) fn run(&self, name: &str, arguments: &[&str]) -> Vec<String> {
        self.start(name, arguments).end()
    }
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Program {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start it");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The test may have ended.
                let _ = sender.send(line);
            }
        });
        Program { child, lines, seen: Vec::new() }
    }

    /// Waits for a line that contains this.
    pub(crate) fn wait_for(&mut self, text: &str) -> &mut Self {
        self.find(text);
        self
    }

    /// The first line that contains this.
    pub(crate) fn find(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(line) = self.seen.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = PATIENCE.saturating_sub(start.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("no {text:?} in {:#?}", self.seen),
            }
        }
    }

    /// Waits for its end, which must be a good one: all that it said.
    pub(crate) fn end(mut self) -> Vec<String> {
        let status = self.wait();
        assert!(status.success(), "{status}: {:#?}", self.seen);
        std::mem::take(&mut self.seen)
    }

    /// Tells it to end, and waits for that: all that it said. It may not have begun to listen to
    /// such words.
    pub(crate) fn stop(mut self) -> Vec<String> {
        let start = Instant::now();
        // Nor hears a program what it is told just when it begins to listen.
        let status = loop {
            kill_process(Pid::from_child(&self.child), Signal::TERM).expect("tell it");
            if let Some(status) = self.ends_within(Duration::from_secs(1)) {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end: {:#?}", self.seen);
        };
        let killed = status.signal() == Some(Signal::TERM.as_raw());
        assert!(status.success() || killed, "{status}: {:#?}", self.seen);
        std::mem::take(&mut self.seen)
    }

    /// Ends it without warning.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill it");
        self.child.wait().expect("it ends");
    }

    fn wait(&mut self) -> ExitStatus {
        let ended = self.ends_within(PATIENCE);
        ended.unwrap_or_else(|| panic!("it does not end: {:#?}", self.seen))
    }

    fn ends_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("look at it") {
                self.seen.extend(self.lines.iter());
                return Some(status);
            }
            if start.elapsed() >= limit {
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
