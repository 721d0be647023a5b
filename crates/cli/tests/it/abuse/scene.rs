//! A broker with settings of its own, and what can be seen of it from outside.

use std::env;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, id};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use super::client::Client;
use super::home::Home;
use crate::hostile::memory_kib;
use crate::program::Program;
use crate::tools::say;

/// How long the broker may take to start, and to forget what has ended.
const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// A broker that nobody else uses, while no other test measures anything.
pub(super) struct Scene {
    pub(super) amqp: SocketAddr,
    http: SocketAddr,
    // Stopped before its directory goes, and its directory before the next test's turn.
    program: Program,
    pub(super) home: Home,
    _turn: Option<MutexGuard<'static, ()>>,
}

/// What is in a broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) queues: u64,
    pub(super) consumers: u64,
    pub(super) ready: u64,
    pub(super) unacknowledged: u64,
    /// What messages take, in bytes.
    pub(super) memory: u64,
}

impl Scene {
    /// Says so and gives none where a broker cannot be measured.
    pub(super) fn set(test: &str, settings: &[&str]) -> Option<Scene> {
        let turn = Scene::turn(test)?;
        Some(Scene::start(settings, Home::new(), Some(turn)))
    }

    /// The same with a file system of its own, of so many MiB; gives none where that is not
    /// allowed.
    pub(super) fn set_on_disk(test: &str, mib: u64, settings: &[&str]) -> Option<Scene> {
        let turn = Scene::turn(test)?;
        Some(Scene::start(settings, Home::on_disk(test, mib)?, Some(turn)))
    }

    fn turn(test: &str) -> Option<MutexGuard<'static, ()>> {
        if !cfg!(target_os = "linux") {
            say(&format!("SKIPPED {test}: only Linux says how large the broker is"));
            return None;
        }
        if env::var_os("LEVERET_TEST_AMQP_URL").is_some() {
            say(&format!("SKIPPED {test}: it needs a broker of its own"));
            return None;
        }
        static TURN: Mutex<()> = Mutex::new(());
        Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another broker, at the same time.
    pub(super) fn beside(&self, settings: &[&str]) -> Scene {
        Scene::start(settings, Home::new(), None)
    }

    fn start(settings: &[&str], home: Home, turn: Option<MutexGuard<'static, ()>>) -> Scene {
        let [amqp, http] = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let binary =
            env::var_os("LEVERET_TEST_BINARY").unwrap_or(env!("CARGO_BIN_EXE_leveret").into());
        let mut command = Command::new(binary);
        command
            .args(["serve", "--bind", "127.0.0.1", "--log", "warn", "--data-dir"])
            .arg(home.path().join("data"))
            .args(["--amqp-port", &amqp.port().to_string()])
            .args(["--http-port", &http.port().to_string()])
            .args(settings)
            .current_dir(home.path());
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("LEVERET_") || text.starts_with("RABBITMQ_") {
                command.env_remove(name);
            }
        }
        let program = Program::start(command);
        let deadline = Instant::now() + LIMIT;
        while [amqp, http].iter().any(|address| TcpStream::connect(address).is_err()) {
            assert!(Instant::now() < deadline, "the broker does not start");
            thread::sleep(POLL);
        }
        let scene = Scene { amqp, http, program, home, _turn: turn };
        // What a first client and a first request cost is not growth.
        Client::open(amqp).close();
        scene.counts();
        scene
    }

    /// What the broker has logged.
    pub(super) fn log(&self) -> Vec<String> {
        self.program.errors()
    }

    /// The node, as its management API tells of it.
    pub(super) fn node(&self) -> Value {
        self.get("/api/nodes")[0].take()
    }

    /// How large the broker is now, in KiB.
    pub(super) fn size_kib(&self) -> u64 {
        memory_kib(self.amqp, "VmRSS:").expect("how large is the broker?")
    }

    /// How large it has ever been.
    pub(super) fn peak_kib(&self) -> u64 {
        memory_kib(self.amqp, "VmHWM:").expect("how large was the broker?")
    }

    /// What is in it, as its management API says.
    pub(super) fn counts(&self) -> Counts {
        let overview = self.get("/api/overview");
        let (objects, totals) = (&overview["object_totals"], &overview["queue_totals"]);
        let number = |value: &Value| value.as_u64().expect("a number");
        Counts {
            queues: number(&objects["queues"]),
            consumers: number(&objects["consumers"]),
            ready: number(&totals["messages_ready"]),
            unacknowledged: number(&totals["messages_unacknowledged"]),
            memory: number(&self.node()["mem_used"]),
        }
    }

    /// Waits until it holds this and no more: that clients are gone is not noticed at once.
    pub(super) fn await_counts(&self, expected: Counts) {
        self.await_that(&format!("{expected:?}"), |counts| counts == expected);
    }

    pub(super) fn await_that(&self, what: &str, holds: impl Fn(Counts) -> bool) -> Counts {
        let deadline = Instant::now() + LIMIT;
        loop {
            let counts = self.counts();
            if holds(counts) {
                return counts;
            }
            assert!(Instant::now() < deadline, "waited for {what}: {counts:?}");
            thread::sleep(POLL);
        }
    }

    fn get(&self, path: &str) -> Value {
        let mut socket = TcpStream::connect(self.http).expect("connect");
        socket.set_read_timeout(Some(LIMIT)).expect("set a time limit");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: here\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n\
             Connection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).expect("ask");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error} in {body}"))
    }
}

/// Whether this process may have so many sockets; says so if not.
pub(super) fn may_open(test: &str, count: usize) -> bool {
    /// Of the test runner, and of tests that run at the same time.
    const OTHERS: u64 = 500;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Where it is not allowed, it stays as it is.
    let _ = setrlimit(Resource::Nofile, raised);
    let enough =
        getrlimit(Resource::Nofile).current.is_none_or(|most| most > count as u64 + OTHERS);
    if !enough {
        say(&format!("SKIPPED {test}: it needs {count} open files (see ulimit -Hn)"));
    }
    enough
}

/// A port that nobody listens on, beyond those of other tests' brokers and below those that
/// systems give to outgoing connections.
fn free_port() -> u16 {
    const FIRST: u16 = 30_000;
    const COUNT: u32 = 2_700;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = id().wrapping_mul(61) % COUNT;
    for _ in 0..COUNT {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + u16::try_from((start + step) % COUNT).expect("small");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}
