//! PostgreSQL, a cluster of its own.

use crate::keeper::{Keeper, Process, output_of, tail};
use crate::place;
use rustix::process::{Signal, geteuid};
use std::env;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How often another program may take the port before the server does.
const ATTEMPTS: usize = 3;
/// Where Debian has a folder for each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The user that its package makes, and the server's superuser here.
const USER: &str = "postgres";

/// PostgreSQL, where whoever comes from this machine may do everything.
///
/// It does not wait for the disk: what it has committed survives its end, not the machine's.
pub struct Postgres {
    // Ends before its directory does.
    process: Option<Process>,
    port: u16,
    programs: PathBuf,
    keeper: Arc<Keeper>,
}

impl Postgres {
    /// A server with nothing in it that accepts connections. None, and said so, if PostgreSQL is
    /// not installed.
    pub fn start() -> Option<Postgres> {
        let Some(programs) = programs() else {
            place::skip("PostgreSQL", "postgresql");
            return None;
        };
        // Another user must get there.
        let keeper = Keeper::new("postgres-", &env::temp_dir());
        if geteuid().is_root() {
            let id = output_of(Command::new("id").args(["-u", USER]));
            let id = id.trim().parse().expect("a user's number");
            chown(keeper.directory(), Some(id), None).expect("give a directory away");
        }
        let mut server = Postgres { process: None, port: 0, programs, keeper };
        let mut initdb = server.command("initdb");
        initdb.args(["--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8"]).args([
            "--username",
            USER,
            "--pgdata",
            "data",
        ]);
        output_of(&mut initdb);
        for _ in 0..ATTEMPTS {
            server.port = place::free_port();
            if server.try_start() {
                return Some(server);
            }
        }
        panic!("PostgreSQL does not start:\n{}", server.log());
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/postgres", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it at once, without a checkpoint: the next start recovers from the log.
    pub fn kill(&mut self) {
        self.process.take().expect("the server runs").kill();
    }

    /// Asks it to end, and waits until it has. It does not wait for its clients.
    pub fn stop(&mut self) {
        self.process.take().expect("the server runs").interrupt(STOP_LIMIT);
    }

    /// Starts it again, with the same data and at the same port.
    pub fn start_again(&mut self) {
        assert!(self.try_start(), "PostgreSQL has ended at its start:\n{}", self.log());
    }

    /// What `psql` prints, without headings, for some SQL; panics if that fails.
    pub fn psql(&self, sql: &str) -> String {
        let mut command = self.keeper.command(self.programs.join("psql"));
        command.args(["--no-psqlrc", "--tuples-only", "--no-align", "--quiet"]);
        command.args(["--set", "ON_ERROR_STOP=1", "--command", sql, &self.url()]);
        output_of(&mut command).trim_end().to_owned()
    }

    /// The last of what it has logged.
    pub fn log(&self) -> String {
        tail(&self.keeper.directory().join("postgres.log"))
    }

    /// Its process, if it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Where all its files are.
    pub fn directory(&self) -> &Path {
        self.keeper.directory()
    }

    /// One of its commands. The server's refuse to be run by root.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        if !geteuid().is_root() {
            return self.keeper.command(program);
        }
        let mut command = self.keeper.command("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--init-groups"]).arg(program);
        command
    }

    /// Returns when it accepts connections; false if it has ended instead.
    fn try_start(&mut self) -> bool {
        assert!(self.process.is_none(), "the server runs already");
        let mut command = self.command("postgres");
        command.args(["-D", "data", "-p", &self.port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "shared_buffers=16MB",
            // In its directory, where nothing outlives it.
            "dynamic_shared_memory_type=mmap",
        ] {
            command.args(["-c", setting]);
        }
        // An immediate shutdown. After a kill its children would be there for a while.
        let process = self.keeper.run(&command, "postgres.log", Signal::QUIT);
        let process = self.process.insert(process);
        let deadline = Instant::now() + START_LIMIT;
        while !is_ready(self.port) {
            if process.ended().is_some() {
                self.process = None;
                return false;
            }
            assert!(Instant::now() < deadline, "no PostgreSQL yet:\n{}", process.log());
            thread::sleep(place::POLL);
        }
        true
    }
}

/// The folder of the newest version's programs.
fn programs() -> Option<PathBuf> {
    let version = |entry: fs::DirEntry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let programs = entry.path().join("bin");
        programs.join("initdb").is_file().then_some((version, programs))
    };
    let versions = fs::read_dir(VERSIONS).ok()?.flatten().filter_map(version);
    Some(versions.max()?.1)
}

/// Whether it lets clients in; while it starts it only tells them to wait.
fn is_ready(port: u16) -> bool {
    let mut request = b"\x00\x00\x00\x00\x00\x03\x00\x00user\x00postgres\x00\x00".to_vec();
    request[3] = u8::try_from(request.len()).expect("a short request");
    // The beginning of an answer about authentication; errors begin with E.
    place::first_answer(port, &request) == Some(b'R')
}
