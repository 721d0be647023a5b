//! How the raw client gets to a broker: by a socket, or by a pipe to one within the process.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use leveret_broker::{Broker, DiskOptions, Options, User};
use leveret_client::model::Time;
use leveret_client::{Connection, Login};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

// As the toolkit has them.
const PIPE_BYTES: usize = 256 * 1024;
const MEMORY_BYTES: usize = 512 * 1024 * 1024;
const MEMORY_TARGET_BYTES: usize = 64 * 1024 * 1024;
const SEGMENT_BYTES: u64 = 32 * 1024 * 1024;

pub(crate) enum Door {
    Socket(String),
    Pipe { broker: Broker, stop: watch::Sender<bool> },
}

impl Door {
    /// The door of `amqp://`, `embedded:` or `memory:`.
    pub(crate) fn of(url: &str) -> Result<Door, Box<dyn Error>> {
        let broker = if let Some(path) = url.strip_prefix("embedded:") {
            Broker::open(Options {
                data_dir: path.into(),
                users: vec![guest()],
                memory_max: MEMORY_BYTES,
                memory_target: MEMORY_TARGET_BYTES,
                segment_bytes: SEGMENT_BYTES,
                disk: DiskOptions::default(),
            })?
        } else if url.starts_with("memory:") {
            let start = Instant::now();
            let now = move || Time(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX));
            let (broker, ticker) = Broker::in_memory(vec![guest()], MEMORY_BYTES, now)?;
            let until = move |Time(at)| sleep_until(start + Duration::from_millis(at));
            tokio::spawn(ticker.run(until));
            broker
        } else {
            let address = url.trim_start_matches("amqp://").rsplit('@').next().unwrap_or_default();
            let address = address.split('/').next().unwrap_or_default();
            return Ok(Door::Socket(address.to_owned()));
        };
        Ok(Door::Pipe { broker, stop: watch::Sender::new(false) })
    }

    /// A connection as guest.
    pub(crate) async fn connect(&self) -> Result<Connection, Box<dyn Error>> {
        Ok(match self {
            Door::Socket(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Connection::open(stream, &Login::default()).await?
            }
            Door::Pipe { broker, stop } => {
                let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
                let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
                let serving = leveret_amqp::serve(theirs, peer, broker.clone(), stop.subscribe());
                tokio::spawn(serving);
                Connection::open(ours, &Login::default()).await?
            }
        })
    }
}

fn guest() -> User {
    let Login { user, password, .. } = Login::default();
    User { name: user, password, loopback_only: true }
}
