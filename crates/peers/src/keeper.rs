//! Processes that do not outlive the test, and the directory they live in.
//!
//! A *keeper* is a shell that knows which processes run and reads from a pipe whose other end
//! only the test process holds. When the pipe closes, because the keeper's value was dropped or
//! because the test process died in whatever way, the keeper ends the processes and removes the
//! directory. Linux's parent death signal would not do: it comes when the *thread* dies that
//! started the process.

use crate::place::POLL;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a process may take to end when it is made to.
const END_LIMIT: Duration = Duration::from_secs(15);
/// So much of a log is shown when a test fails.
const LOG_BYTES_SHOWN: usize = 8_192;

/// The variable that marks every process of a keeper with its directory.
pub(crate) const MARK: &str = "LEVERET_PEER_HOME";

/// Takes lines `keep PID SIGNAL` and `forget PID SIGNAL`. A process is named by its group.
const KEEPER: &str = r#"
kept=
while read -r order pid signal; do
  case $order in
    keep) kept="$kept $signal:$pid" ;;
    forget)
      left=
      for one in $kept; do [ "$one" = "$signal:$pid" ] || left="$left $one"; done
      kept=$left ;;
  esac
done
for one in $kept; do kill -s "${one%%:*}" -- "-${one#*:}"; done
for _ in 1 2 3 4 5 6 7 8 9 10; do
  alive=
  for one in $kept; do kill -s 0 -- "-${one#*:}" && alive=1; done
  [ "$alive" ] || break
  sleep 0.5
done
for one in $kept; do kill -s KILL -- "-${one#*:}"; done
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }
"#;

/// Becomes the command that follows, once the keeper knows of it.
const GATE: &str = r#"read -r _ && exec "$@" </dev/null"#;

/// Keeps processes and a directory from outliving this value and the test process.
pub(crate) struct Keeper {
    directory: PathBuf,
    shell: Child,
    /// Gone only while this value is dropped.
    orders: Mutex<Option<ChildStdin>>,
}

impl Keeper {
    /// A keeper of a new directory below `place`.
    pub(crate) fn new(kind: &str, place: &Path) -> Arc<Keeper> {
        let directory = tempfile::Builder::new().prefix(kind).tempdir_in(place);
        let directory = directory.expect("make a directory").keep();
        let mut shell = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&directory)
            .env(MARK, &directory)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl+C ends the test, and then it is needed most.
            .process_group(0)
            .spawn()
            .expect("run a shell");
        let orders = Mutex::new(shell.stdin.take());
        Arc::new(Keeper { directory, shell, orders })
    }

    /// The directory.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A command to add arguments to. What a person's shell says about servers is not meant for
    /// these.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            let prefixes = ["LEVERET_", "RABBITMQ_", "ERL_", "PG"];
            if prefixes.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command
            .env_remove("NOTIFY_SOCKET")
            .env("HOME", &self.directory)
            .env("LC_ALL", "C.UTF-8")
            .env(MARK, &self.directory)
            .current_dir(&self.directory);
        command
    }

    /// Runs a command for as long as the process's value lives. It writes to the file `log`.
    /// `ending` is the signal that ends it at once.
    pub(crate) fn run(self: &Arc<Keeper>, command: &Command, log: &str, ending: Signal) -> Process {
        let log = self.directory.join(log);
        let output = File::options().create(true).append(true).open(&log).expect("open a log");
        let mut gate = Command::new("sh");
        gate.args(["-c", GATE, "gate"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => gate.env(name, value),
                None => gate.env_remove(name),
            };
        }
        let mut child = gate
            .current_dir(command.get_current_dir().unwrap_or(&self.directory))
            .stdin(Stdio::piped())
            .stdout(output.try_clone().expect("share a log"))
            .stderr(output)
            .process_group(0)
            .spawn()
            .expect("run a shell");
        let mut gate = child.stdin.take().expect("its input is piped");
        let process = Process { child, ending, log, keeper: Arc::clone(self), ended: false };
        process.order("keep");
        // If this fails the process has ended, as its value will tell.
        let _ = gate.write_all(b"\n");
        process
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Closes the pipe.
        drop(self.orders.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.shell.wait();
    }
}

/// A running process and what it started in its group; ended when this value goes.
pub(crate) struct Process {
    child: Child,
    ending: Signal,
    log: PathBuf,
    keeper: Arc<Keeper>,
    ended: bool,
}

impl Process {
    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("watch a process");
        if status.is_some() && !self.ended {
            self.ended = true;
            self.order("forget");
        }
        status
    }

    /// Ends it, and what it has started.
    pub(crate) fn kill(&mut self) {
        self.end(self.ending, END_LIMIT);
    }

    /// Asks it to end; panics if it does not within `limit`.
    pub(crate) fn terminate(&mut self, limit: Duration) {
        assert!(self.end(Signal::TERM, limit), "{} does not end:\n{}", self.name(), self.log());
    }

    /// The same, of one that ends at once when it is interrupted, whoever uses it.
    pub(crate) fn interrupt(&mut self, limit: Duration) {
        assert!(self.end(Signal::INT, limit), "{} does not end:\n{}", self.name(), self.log());
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        tail(&self.log)
    }

    fn name(&self) -> String {
        self.log.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether the signal was enough to end it within `limit`; ends it in any case.
    fn end(&mut self, signal: Signal, limit: Duration) -> bool {
        if self.ended().is_some() {
            return true;
        }
        let group = Pid::from_child(&self.child);
        let _ = kill_process_group(group, signal);
        let deadline = Instant::now() + limit;
        while self.ended().is_none() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        let enough = self.ended;
        if !enough {
            let _ = kill_process_group(group, Signal::KILL);
            let _ = self.child.wait();
            self.ended();
        }
        // What it has started sees that it is alone, and ends too.
        let deadline = Instant::now() + END_LIMIT;
        while test_kill_process_group(group).is_ok() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        enough
    }

    fn order(&self, order: &str) {
        let signal = match self.ending {
            Signal::QUIT => "QUIT",
            _ => "KILL",
        };
        let mut orders = self.keeper.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let orders = orders.as_mut().expect("the keeper lives as long as its processes");
        let told = writeln!(orders, "{order} {} {signal}", self.child.id());
        // A test that kills its keeper has only itself to keep things tidy.
        if told.is_err() && !thread::panicking() {
            panic!("the keeper of {} is gone", self.keeper.directory.display());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- {} said:\n{}", self.name(), self.log());
        }
    }
}

/// The last part of a file.
pub(crate) fn tail(file: &Path) -> String {
    let text = fs::read(file).unwrap_or_default();
    let from = text.len().saturating_sub(LOG_BYTES_SHOWN);
    String::from_utf8_lossy(&text[from..]).into_owned()
}

/// What a command printed; panics unless it ended well.
pub(crate) fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("run {command:?}: {error}"));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    out
}
