//! What a person sees when the broker does not start: what happened, to which object, what to do.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use leveret_peers::free_port;

/// A broker that runs until it is dropped, which kills it.
struct Running {
    child: Child,
    port: u16,
}

impl Running {
    fn start(data: &Path) -> Running {
        let port = free_port();
        let child = Command::new(env!("CARGO_BIN_EXE_leveret"))
            .args(["serve", "--bind", "127.0.0.1", "--http-port", "0", "--amqp-port"])
            .arg(port.to_string())
            .arg("--data-dir")
            .arg(data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let running = Running { child, port };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "it does not accept connections");
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    }

    /// Declares durable queues, one after the other.
    fn declare(&self, queues: u32) {
        let uri = format!("amqp://guest:guest@127.0.0.1:{}/", self.port);
        let declared = Command::new(env!("CARGO_BIN_EXE_leveret"))
            .args(["bench", "declare", "--queue-durable", "--hold", "0", "--uri", &uri])
            .args(["--queues", &queues.to_string()])
            .stdout(Stdio::null())
            .status();
        assert!(declared.is_ok_and(|status| status.success()));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the broker to its end, which must come by itself.
fn serve(data: &Path, port: u16, more: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_leveret"))
        .args(["serve", "--bind", "127.0.0.1", "--http-port", "0", "--amqp-port"])
        .arg(port.to_string())
        .arg("--data-dir")
        .arg(data)
        .args(more)
        .output()
        .expect("the binary runs");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

fn expect(answer: &(Option<i32>, String), code: i32, words: &[&str]) {
    assert_eq!(answer.0, Some(code), "{}", answer.1);
    for word in words {
        assert!(answer.1.contains(word), "no {word:?} in: {}", answer.1);
    }
    assert!(!answer.1.contains("panicked"), "{}", answer.1);
}

#[test]
fn a_taken_port_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let answer = serve(directory.path(), port, &[]);
    expect(&answer, 1, &["cannot listen on", &port.to_string(), "--amqp-port"]);
}

#[test]
fn a_directory_in_use_is_named_with_the_process_that_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(directory.path());
    let answer = serve(directory.path(), free_port(), &[]);
    let process = format!("is in use by process {}", running.child.id());
    expect(&answer, 1, &[&directory.path().display().to_string(), &process, "--data-dir"]);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let answer = serve(Path::new("/dev/null/data"), 0, &[]);
    expect(&answer, 1, &["/dev/null/data", "--data-dir"]);
}

#[test]
fn a_wrong_flag_and_a_wrong_value_are_named() {
    let directory = tempfile::tempdir().unwrap();
    expect(&serve(directory.path(), 0, &["--data-dirr", "x"]), 2, &["--data-dirr", "--data-dir"]);
    expect(&serve(directory.path(), 0, &["--threads", "many"]), 1, &["--threads", "many"]);
}

#[test]
fn damage_to_confirmed_data_is_named_by_file_and_place() {
    let directory = tempfile::tempdir().unwrap();
    // Each declaration is in a frame of its own, which says that the one before is durable.
    Running::start(directory.path()).declare(5);
    let wal = std::fs::read_dir(directory.path().join("wal")).unwrap().flatten();
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "wal");
    let file = wal.map(|entry| entry.path()).filter(is_segment).min().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    // Behind the header of the segment, 4 KiB, and that of its first frame.
    bytes[4096 + 60] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let answer = serve(directory.path(), free_port(), &[]);
    expect(&answer, 1, &["damaged", &file.display().to_string(), "byte 4096", "backup"]);
}
