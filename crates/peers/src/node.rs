//! One RabbitMQ node: an Erlang machine.

use crate::certificate::Certificate;
use crate::keeper::{self, Process};
use crate::place;
use crate::realm::Realm;
use rustix::process::Signal;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Output;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a node may take to start: it waits for others that it was once in a cluster with.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How long a busy node may refuse callers.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// What every node is told. Neither limit is one that a test reaches by accident.
const CONFIGURATION: &str = "\
vm_memory_high_watermark.absolute = 600MB
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 64000000
log.console = true
log.console.use_colors = off
log.file = false
";

/// A node, running or not.
pub(crate) struct Node {
    // Ends before what it lives in.
    process: Option<Process>,
    name: String,
    port: u16,
    distribution_port: u16,
    tls: Option<Tls>,
    realm: Arc<Realm>,
}

struct Tls {
    port: u16,
    certificate: Certificate,
}

impl Node {
    /// A node with this name that does not run yet; `options` are lines of `rabbitmq.conf`.
    pub(crate) fn new(realm: &Arc<Realm>, name: &str, tls: bool, options: &str) -> Node {
        let home = realm.keeper().directory().join(name);
        fs::create_dir(&home).expect("make a directory");
        let tls = tls.then(|| Tls {
            port: place::free_port(),
            certificate: Certificate::new(&home.join("tls")),
        });
        let port = place::free_port();
        let mut text = format!("listeners.tcp.1 = 127.0.0.1:{port}\n{CONFIGURATION}{options}\n");
        if let Some(Tls { port, certificate }) = &tls {
            text += &format!("listeners.ssl.1 = 127.0.0.1:{port}\n{}", certificate.options());
        }
        fs::write(home.join("rabbitmq.conf"), text).expect("write the configuration");
        fs::write(home.join("enabled_plugins"), "[].").expect("write the list of plugins");
        Node {
            process: None,
            name: format!("{name}@localhost"),
            port,
            distribution_port: place::free_port(),
            tls,
            realm: Arc::clone(realm),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn tls_port(&self) -> Option<u16> {
        self.tls.as_ref().map(|tls| tls.port)
    }

    /// The certificate that vouches for the node's own.
    pub(crate) fn ca_file(&self) -> Option<PathBuf> {
        self.tls.as_ref().map(|tls| tls.certificate.ca_file())
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Every process that only it needs.
    pub(crate) fn ids(&self) -> Vec<u32> {
        let own = self.process.as_ref().map(Process::id);
        own.into_iter().chain([self.realm.epmd_id()]).collect()
    }

    /// The directory of its cluster.
    pub(crate) fn directory(&self) -> PathBuf {
        self.realm.keeper().directory().to_owned()
    }

    fn home(&self) -> PathBuf {
        let name = self.name.split('@').next().unwrap_or_default();
        self.directory().join(name)
    }

    /// Starts it; returns before it is ready.
    pub(crate) fn launch(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let home = self.home();
        let mut command = self.realm.command("rabbitmq-server", &self.name);
        command
            .env("RABBITMQ_MNESIA_BASE", home.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", home.join("log"))
            .env("RABBITMQ_GENERIC_DATA_DIR", "")
            .env("RABBITMQ_CONFIG_FILE", home.join("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", home.join("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("enabled_plugins"))
            .env("RABBITMQ_PID_FILE", home.join("pid"))
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_SCHEDULER_BIND_TYPE", "u")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}",
            )
            // The script becomes the machine instead of waiting for it.
            .env("RUNNING_UNDER_SYSTEMD", "true");
        let log = self.log_name();
        self.process = Some(self.realm.keeper().run(&command, &log, Signal::KILL));
    }

    /// Returns when it greets clients; false if it has ended instead.
    pub(crate) fn await_ready(&mut self) -> bool {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let process = self.process.as_mut().expect("the node was launched");
            if process.ended().is_some() {
                return false;
            }
            let tls = self.tls_port();
            let listens = |port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
            if place::greets(self.port) && tls.is_none_or(listens) {
                // It listens a moment earlier.
                self.eval("rabbit:await_startup()");
                return true;
            }
            assert!(Instant::now() < deadline, "{} does not start:\n{}", self.name, self.log());
            thread::sleep(place::POLL);
        }
    }

    /// Starts it and returns when it greets clients.
    pub(crate) fn start(&mut self) {
        self.launch();
        assert!(self.await_ready(), "{} has ended at its start:\n{}", self.name, self.log());
    }

    /// Ends the Erlang machine without warning.
    pub(crate) fn kill(&mut self) {
        // Or RabbitMQ 3.10 forgets every other durable queue that was declared a moment ago, with
        // what is in it. What cannot answer need not.
        let _ = self.try_eval("mnesia:sync_log()");
        self.process.take().expect("the node runs").kill();
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(&mut self) {
        self.process.take().expect("the node runs").terminate(STOP_LIMIT);
    }

    /// The last of what it has said.
    pub(crate) fn log(&self) -> String {
        keeper::tail(&self.directory().join(self.log_name()))
    }

    fn log_name(&self) -> String {
        format!("{}.log", self.name)
    }

    /// Runs `rabbitmqctl`.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = self.realm.command("rabbitmqctl", &self.name);
        command.args(arguments).output().expect("run rabbitmqctl")
    }

    /// What an Erlang expression comes to on the node. A node that is busy may not let callers in
    /// for a while.
    pub(crate) fn eval(&self, expression: &str) -> String {
        let start = Instant::now();
        loop {
            match self.try_eval(expression) {
                Ok(value) => return value,
                Err(answer) if answer.contains("failed to connect") => {
                    assert!(start.elapsed() < CALL_LIMIT, "{expression}\nis {answer}");
                    thread::sleep(Duration::from_millis(100));
                }
                Err(answer) => panic!("{expression}\nis {answer}"),
            }
        }
    }

    /// The same, or what is said instead.
    fn try_eval(&self, expression: &str) -> Result<String, String> {
        // Two questions to a node at the same moment fail.
        static ASKING: Mutex<()> = Mutex::new(());
        let _asking = ASKING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut input = tempfile::tempfile().expect("make a file");
        writeln!(input, "{expression}.").expect("write a file");
        input.rewind().expect("rewind a file");
        let mut command = self.realm.erl_call(&self.name);
        let output = command.stdin::<File>(input).output().expect("run erl_call");
        let answer = String::from_utf8_lossy(&output.stdout);
        match answer.trim().strip_prefix("{ok,").and_then(|rest| rest.strip_suffix('}')) {
            Some(inner) if output.status.success() => Ok(inner.trim().to_owned()),
            _ => Err(answer.into_owned() + &String::from_utf8_lossy(&output.stderr)),
        }
    }
}
