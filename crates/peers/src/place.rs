//! Where servers live: directories and ports; and what to say when one cannot.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::id;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// How often whoever waits looks.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// A server is missing: fine on a person's machine, a failure where tests are the whole purpose.
pub(crate) fn skip(server: &str, package: &str) {
    let text = format!("{server} is not installed (apt-get install {package})");
    assert!(env::var_os("CI").is_none(), "{text}");
    // Past the test runner, which keeps what passing tests print to itself. Nobody to talk to is
    // no failure.
    let _ = writeln!(io::stderr(), "SKIPPED: {text}");
}

/// What cargo has built for whom: where this process's binary comes from.
pub(crate) struct Build {
    /// The folder of all builds, often `target`.
    pub(crate) target: PathBuf,
    /// The platform's folder within, if cargo was told to build for one.
    pub(crate) platform: Option<String>,
    /// The profile's folder within, `debug` or `release`, say.
    pub(crate) profile: String,
}

impl Build {
    /// None if cargo did not build this process's binary where it builds things.
    pub(crate) fn of_this_process() -> Option<Build> {
        let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
        let binary = env::current_exe().ok()?;
        let profile = binary.ancestors().nth(2)?;
        let above = profile.parent()?;
        let (target, platform) = match above.parent() {
            _ if is_target(above) => (above, None),
            Some(target) if is_target(target) => (target, name(above)),
            _ => return None,
        };
        Some(Build { target: target.to_owned(), platform, profile: name(profile)? })
    }

    /// The folder of this build's binaries.
    pub(crate) fn folder(&self) -> PathBuf {
        self.target.join(self.platform.as_deref().unwrap_or("")).join(&self.profile)
    }
}

fn is_target(folder: &Path) -> bool {
    folder.join("CACHEDIR.TAG").is_file()
}

/// Where the directories of servers are: on a real disk beside the build if possible, where the
/// system's temporary directory may be memory.
pub(crate) fn beside_the_build() -> PathBuf {
    let beside = Build::of_this_process().map(|build| build.target.join("tmp"));
    beside.filter(|beside| fs::create_dir_all(beside).is_ok()).unwrap_or_else(env::temp_dir)
}

/// A port that nobody listens on, below those that systems give to outgoing connections: such
/// a connection could take it while the server is down.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run tests at the same time begin at different places.
    let start = id().wrapping_mul(61) % 20_000;
    for _ in 0..1_000 {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(10_000 + (start + step) % 20_000).expect("below 30 000");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// The first byte that a server answers to these.
pub(crate) fn first_answer(port: u16, request: &[u8]) -> Option<u8> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    socket.write_all(request).ok()?;
    let mut answer = [0];
    socket.read_exact(&mut answer).ok()?;
    Some(answer[0])
}

/// Whether an AMQP server answers there; that a port is open says little.
pub fn greets(port: u16) -> bool {
    // A method frame: connection.start.
    first_answer(port, b"AMQP\x00\x00\x09\x01") == Some(1)
}
