//! A broker for one test.

use crate::program;
use crate::tools::say;
use leveret_peers::{free_port, greets};
use rustix::process::{Pid, Signal, kill_process};
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// A broker that lives as long as this value.
pub(crate) struct Broker {
    url: String,
    host: Host,
}

enum Host {
    /// A process of ours.
    Ours(Server),
    /// A broker that others run. Tests share its names, so they take turns.
    Foreign { _turn: MutexGuard<'static, ()> },
}

struct Server {
    port: u16,
    home: TempDir,
    child: Option<Child>,
    surroundings: Surroundings,
}

/// What is around a broker's process, where that is out of the ordinary.
#[derive(Clone, Default)]
pub(crate) struct Surroundings {
    /// A command that runs it, and becomes it.
    pub(crate) wrapper: Vec<OsString>,
    pub(crate) environment: Vec<(&'static str, OsString)>,
}

impl Broker {
    /// A broker with nothing in it that accepts connections.
    pub(crate) fn start() -> Broker {
        if let Ok(url) = env::var("LEVERET_TEST_AMQP_URL") {
            static TURN: Mutex<()> = Mutex::new(());
            let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            return Broker { url, host: Host::Foreign { _turn: turn } };
        }
        Broker::start_in(Surroundings::default())
    }

    /// A broker of ours in surroundings of its own.
    fn start_in(surroundings: Surroundings) -> Broker {
        let server = Server::start(surroundings);
        let url = format!("amqp://guest:guest@127.0.0.1:{}/%2f", server.port);
        Broker { url, host: Host::Ours(server) }
    }

    /// A broker that may be killed; says so and gives none if only a foreign one is at hand.
    pub(crate) fn start_mortal(test: &str) -> Option<Broker> {
        let broker = Broker::start();
        if !broker.is_ours() {
            say(&format!("SKIPPED {test}: it kills the broker, and this one is not ours"));
            return None;
        }
        Some(broker)
    }

    /// The same in surroundings of its own.
    pub(crate) fn start_mortal_in(test: &str, surroundings: Surroundings) -> Option<Broker> {
        if env::var_os("LEVERET_TEST_AMQP_URL").is_some() {
            say(&format!("SKIPPED {test}: the broker is not ours to start"));
            return None;
        }
        Some(Broker::start_in(surroundings))
    }

    /// Where clients find it.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Where it keeps its data, if it is ours.
    pub(crate) fn data_dir(&self) -> PathBuf {
        match &self.host {
            Host::Ours(server) => server.data_dir(),
            Host::Foreign { .. } => panic!("this broker's data is not ours to touch"),
        }
    }

    /// Whether the test may stop and kill it.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self.host, Host::Ours(_))
    }

    /// Ends it without warning.
    pub(crate) fn kill9(&mut self) {
        self.server().kill9();
    }

    /// Asks it to end and gives its exit status.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let server = self.server();
        let mut child = server.child.take().expect("the broker runs");
        kill_process(Pid::from_child(&child), Signal::TERM).expect("signal the broker");
        program::await_exit(&mut child, STOP_LIMIT).unwrap_or_else(|| {
            let log = server.log();
            server.child = Some(child);
            panic!("the broker did not end within {STOP_LIMIT:?} of SIGTERM:\n{log}")
        })
    }

    /// Starts it again, at the same port and in the same directory.
    pub(crate) fn restart(&mut self) {
        if let Err(status) = self.try_restart() {
            panic!("the broker ended with {status} at its restart:\n{}", self.log());
        }
    }

    /// The same; gives its exit status if it ends instead.
    pub(crate) fn try_restart(&mut self) -> Result<(), ExitStatus> {
        let server = self.server();
        server.launch();
        server.await_ready()
    }

    /// What is to be around it from the next start on.
    pub(crate) fn surround(&mut self, surroundings: Surroundings) {
        self.server().surroundings = surroundings;
    }

    /// Starts it again in other surroundings; gives its exit status if it ends instead.
    pub(crate) fn restart_in(&mut self, surroundings: Surroundings) -> Result<(), ExitStatus> {
        self.surround(surroundings);
        self.try_restart()
    }

    /// Waits for it to end by itself: its exit status, or none if it still runs after `limit`.
    pub(crate) fn await_end(&mut self, limit: Duration) -> Option<ExitStatus> {
        let server = self.server();
        let status = program::await_exit(server.child.as_mut().expect("the broker runs"), limit)?;
        server.child = None;
        Some(status)
    }

    /// Its process.
    pub(crate) fn pid(&mut self) -> u32 {
        self.server().child.as_ref().expect("the broker runs").id()
    }

    /// What it has said, at all its starts.
    pub(crate) fn log(&mut self) -> String {
        self.server().log()
    }

    /// Starts it again and kills it after `delay`, in whatever it does by then.
    pub(crate) fn restart_and_kill9(&mut self, delay: Duration) {
        let server = self.server();
        server.launch();
        thread::sleep(delay);
        server.kill9();
    }

    fn server(&mut self) -> &mut Server {
        match &mut self.host {
            Host::Ours(server) => server,
            Host::Foreign { .. } => panic!("this broker is not ours to stop"),
        }
    }
}

impl Server {
    fn start(surroundings: Surroundings) -> Server {
        // A real disk, where the system's temporary directory may be memory.
        let home = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory");
        let mut server = Server { port: 0, home, child: None, surroundings };
        for _ in 0..3 {
            server.port = free_port();
            server.launch();
            match server.await_ready() {
                Ok(()) => return server,
                // Another program may have taken the port in between.
                Err(_) => fs::remove_dir_all(server.data_dir()).unwrap_or_default(),
            }
        }
        panic!("the broker does not start:\n{}", server.log());
    }

    fn data_dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    fn launch(&mut self) {
        assert!(self.child.is_none(), "the broker runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.home.path().join("log"))
            .expect("open the log");
        let binary =
            env::var_os("LEVERET_TEST_BINARY").unwrap_or(env!("CARGO_BIN_EXE_leveret").into());
        let line = [self.surroundings.wrapper.as_slice(), std::slice::from_ref(&binary)].concat();
        let mut command = Command::new(&line[0]);
        command
            .args(&line[1..])
            .arg("serve")
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--bind", "127.0.0.1", "--http-port", "0"])
            .args(["--amqp-port", &self.port.to_string()])
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log);
        // What a person's shell says about brokers is not meant for this one.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("LEVERET_") || text.starts_with("RABBITMQ_") {
                command.env_remove(name);
            }
        }
        command.envs(self.surroundings.environment.iter().map(|(name, value)| (name, value)));
        let child = command.spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("cannot run {binary:?}: {error}")));
    }

    /// Returns when it greets clients, or with its exit status if it ends instead.
    fn await_ready(&mut self) -> Result<(), ExitStatus> {
        let deadline = Instant::now() + START_LIMIT;
        let child = self.child.as_mut().expect("the broker was launched");
        loop {
            if let Some(status) = child.try_wait().expect("watch the broker") {
                self.child = None;
                return Err(status);
            }
            if greets(self.port) {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "the broker is not ready:\n{}", self.log());
            thread::sleep(POLL);
        }
    }

    fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill the broker");
            child.wait().expect("bury the broker");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill9();
        if thread::panicking() {
            eprintln!("--- the broker at port {} said:\n{}", self.port, self.log());
        }
    }
}
