//! The broker within the process: the same one, behind pipes instead of sockets.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use leveret_broker::{Broker, DiskOptions, Options, User};
use leveret_client::Login;
use leveret_client::model::Time;
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::amqp::Amqp;
use super::amqp::link::{Connector, Stream};
use crate::chance::Names;
use crate::clock::Clock;
use crate::error::ConnectError;
use crate::topology::QueueKind;
use crate::transport::{BoxFuture, Transport};

/// How much a pipe holds, in bytes.
const PIPE_BYTES: usize = 256 * 1024;
/// The only user there is.
const USER: &str = "embedded";
/// How much messages may take in memory before who publishes waits, in bytes.
const MEMORY_BYTES: usize = 512 * 1024 * 1024;
/// How much they should take: what is beyond that leaves memory for the disk, in bytes.
const MEMORY_TARGET_BYTES: usize = 64 * 1024 * 1024;
/// How large the files of the log are, in bytes.
const SEGMENT_BYTES: u64 = 32 * 1024 * 1024;

/// The broker, with its data in that directory.
pub(crate) async fn open(
    data_dir: PathBuf,
    within: Duration,
) -> Result<Arc<dyn Transport>, ConnectError> {
    let (user, login) = user()?;
    let options = Options {
        data_dir,
        users: vec![user],
        memory_max: MEMORY_BYTES,
        memory_target: MEMORY_TARGET_BYTES,
        segment_bytes: SEGMENT_BYTES,
        disk: DiskOptions::default(),
    };
    // It reads what the directory holds.
    let opening = tokio::task::spawn_blocking(move || Broker::open(options));
    let broker = match opening.await {
        Ok(opened) => opened.map_err(|error| ConnectError::Embedded(error.to_string()))?,
        Err(error) => return Err(ConnectError::Embedded(error.to_string())),
    };
    Ok(start("the embedded broker", broker, login, within))
}

/// The broker without a disk, by the runtime's clock.
pub(crate) fn in_memory(within: Duration) -> Result<Arc<dyn Transport>, ConnectError> {
    let (user, login) = user()?;
    let clock = Clock::of_runtime();
    let now = move || Time(clock.milliseconds());
    let (broker, ticker) = Broker::in_memory(vec![user], MEMORY_BYTES, now)
        .map_err(|error| ConnectError::Embedded(error.to_string()))?;
    tokio::spawn(ticker.run(move |Time(at)| sleep_until(clock.instant(at))));
    Ok(start("the broker in memory", broker, login, within))
}

fn start(name: &'static str, broker: Broker, login: Login, within: Duration) -> Arc<dyn Transport> {
    let (stop, stopped) = watch::channel(false);
    let connector = Pipes { broker: broker.clone(), login, stopped };
    let amqp = Amqp::start(name, Arc::new(connector), QueueKind::Classic, within);
    Arc::new(amqp.over(broker.clone(), Kept { broker, _stop: stop }))
}

/// A user with a password that nobody knows.
fn user() -> Result<(User, Login), ConnectError> {
    let password = Names::new().map_err(|error| ConnectError::Embedded(error.to_string()))?.next();
    let login = Login {
        user: USER.to_owned(),
        password: password.clone(),
        // A pipe cannot be cut.
        heartbeat: Duration::ZERO,
        ..Login::default()
    };
    Ok((User { name: USER.to_owned(), password, loopback_only: true }, login))
}

/// What lives as long as the bus.
struct Kept {
    broker: Broker,
    /// Dropped, it ends the connections.
    _stop: watch::Sender<bool>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.broker.close();
    }
}

/// Makes pipes to the broker.
struct Pipes {
    broker: Broker,
    login: Login,
    stopped: watch::Receiver<bool>,
}

impl Connector for Pipes {
    fn address(&self, _attempt: usize) -> String {
        "this process".to_owned()
    }

    fn connect(&self, _attempt: usize) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let (broker, stopped) = (self.broker.clone(), self.stopped.clone());
        tokio::spawn(leveret_amqp::serve(theirs, peer, broker, stopped));
        Box::pin(async { Ok(Box::new(ours) as Box<dyn Stream>) })
    }

    fn login(&self) -> &Login {
        &self.login
    }
}

impl fmt::Debug for Pipes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipes").finish_non_exhaustive()
    }
}
