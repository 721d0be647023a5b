//! A leveret server for one test: the real binary.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long it may take to start.
const START: Duration = Duration::from_secs(60);

/// A server that lives as long as this value.
pub(crate) struct Server {
    port: u16,
    home: TempDir,
    child: Option<Child>,
}

impl Server {
    /// One with nothing in it.
    pub(crate) fn start() -> Server {
        let home = tempfile::tempdir().expect("make a directory");
        let mut server = Server { port: free_port(), home, child: None };
        server.restart();
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port)
    }

    /// Starts it again where it was.
    pub(crate) fn restart(&mut self) {
        let mut command = Command::new(binary());
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(self.home.path().join("data"))
            .args(["--bind", "127.0.0.1", "--http-port", "0", "--log", "warn"])
            .args(["--amqp-port", &self.port.to_string()])
            .stdin(Stdio::null());
        // What a person's shell says about brokers is not meant for this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LEVERET_") {
                command.env_remove(name);
            }
        }
        self.child = Some(command.spawn().expect("run the server"));
        let deadline = Instant::now() + START;
        while !self.greets() {
            assert!(Instant::now() < deadline, "the server does not start");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether an AMQP server answers there.
    fn greets(&self) -> bool {
        let Ok(mut socket) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) else {
            return false;
        };
        let mut kind = [0];
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("set a time limit");
        socket.write_all(b"AMQP\x00\x00\x09\x01").is_ok()
            && socket.read_exact(&mut kind).is_ok()
            && kind == [1]
    }

    /// Ends it without warning.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill the server");
            child.wait().expect("bury the server");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The server's binary: `LEVERET_TEST_BINARY`, or the one beside the tests.
fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("LEVERET_TEST_BINARY") {
        return named.into();
    }
    let test = std::env::current_exe().expect("a path");
    let folder = test.ancestors().nth(2).expect("target/debug/deps");
    let binary = folder.join(format!("leveret{}", std::env::consts::EXE_SUFFIX));
    assert!(binary.exists(), "there is no server; cargo build -p leveret-cli makes one");
    binary
}

/// A port that nobody listens on, below those that systems give to outgoing connections.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run tests at the same time begin at different places.
    let start = std::process::id().wrapping_mul(61) % 20_000;
    loop {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(10_000 + (start + step) % 20_000).expect("below 30 000");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
