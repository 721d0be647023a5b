//! What the nodes of one RabbitMQ cluster share: files, the port mapper, the cookie.

use crate::keeper::{Keeper, Process};
use crate::place;
use rustix::process::Signal;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Debian's scripts, links into the folder of the version that is installed.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const PACKAGE: &str = "rabbitmq-server";

/// Libraries that only plugins use. Erlang looks for each of a thousand modules in the folder of
/// each library: without these a node starts in a third of the time.
const NOT_NEEDED: &[&str] = &[
    "accept",
    "amqp10_client",
    "amqp_client",
    "base64url",
    "cowboy",
    "cowlib",
    "eetcd",
    "gun",
    "jose",
    "prometheus",
    "quantile_estimator",
];

/// The surroundings of nodes that may know each other.
pub(crate) struct Realm {
    epmd: Process,
    epmd_port: u16,
    cookie: String,
    keeper: Arc<Keeper>,
}

impl Realm {
    /// None, and said so, if RabbitMQ is not installed.
    pub(crate) fn new() -> Option<Arc<Realm>> {
        let Ok(script) = fs::canonicalize(SCRIPTS) else {
            place::skip("RabbitMQ", PACKAGE);
            return None;
        };
        let installed = script.ancestors().nth(2).expect("a folder above the scripts");
        let keeper = Keeper::new("rabbitmq-", &place::beside_the_build());
        link(installed, &keeper.directory().join("installed"));
        let cookie = format!("{:016x}", RandomState::new().build_hasher().finish());
        let file = keeper.directory().join(".erlang.cookie");
        fs::write(&file, &cookie).expect("write the cookie");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).expect("hide the cookie");
        // The first node would start one that outlives it.
        let epmd_port = place::free_port();
        let mut command = keeper.command("epmd");
        command.env("ERL_EPMD_PORT", epmd_port.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        let mut epmd = keeper.run(&command, "epmd.log", Signal::KILL);
        let deadline = Instant::now() + Duration::from_secs(10);
        // A request for all names; the answer begins with epmd's own port.
        while place::first_answer(epmd_port, b"\x00\x01n").is_none() {
            let waits = epmd.ended().is_none() && Instant::now() < deadline;
            assert!(waits, "epmd does not start:\n{}", epmd.log());
            thread::sleep(place::POLL);
        }
        Some(Arc::new(Realm { epmd, epmd_port, cookie, keeper }))
    }

    /// Who keeps the processes.
    pub(crate) fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
    }

    /// The port mapper's process.
    pub(crate) fn epmd_id(&self) -> u32 {
        self.epmd.id()
    }

    /// One of RabbitMQ's commands, for the node with this name.
    pub(crate) fn command(&self, script: &str, node: &str) -> Command {
        let scripts = self.scripts();
        let mut command = self.keeper.command(scripts.join(script));
        command
            .env("RABBITMQ_SCRIPTS_DIR", scripts)
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_NODENAME", node)
            .env("RABBITMQ_CTL_DIST_PORT_MIN", "0")
            .env("RABBITMQ_CTL_DIST_PORT_MAX", "0")
            .env("RABBITMQ_CTL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
            .env("ERL_FLAGS", "-start_epmd false")
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command
    }

    /// `erl_call`, a hundred times as fast as `rabbitmqctl eval`.
    pub(crate) fn erl_call(&self, node: &str) -> Command {
        let mut command = self.keeper.command("erl_call");
        command.env("ERL_EPMD_PORT", self.epmd_port.to_string()).args([
            "-r",
            "-sname",
            node,
            "-c",
            &self.cookie,
            "-e",
        ]);
        command
    }

    fn scripts(&self) -> PathBuf {
        self.keeper.directory().join("installed/sbin")
    }
}

/// Links to all of RabbitMQ that a node without plugins needs.
fn link(installed: &Path, here: &Path) {
    let link = |what: &Path, at: &Path| symlink(what, at).expect("make a link");
    fs::create_dir_all(here.join("plugins")).expect("make a directory");
    for part in ["sbin", "escript"] {
        link(&installed.join(part), &here.join(part));
    }
    let libraries = fs::read_dir(installed.join("plugins")).expect("RabbitMQ's libraries");
    for library in libraries.flatten() {
        let name = library.file_name();
        let name = name.to_string_lossy();
        let name_alone = name.split('-').next().unwrap_or_default();
        let is_plugin = name.starts_with("rabbitmq_") && name_alone != "rabbitmq_prelaunch";
        if !is_plugin && !NOT_NEEDED.contains(&name_alone) {
            link(&library.path(), &here.join("plugins").join(&*name));
        }
    }
}
