//! The toolkit as programs use it, on every transport there is.

// By this lints know that it is tests, helpers included.
#[cfg(test)]
mod agents;
#[cfg(test)]
mod basics;
#[cfg(test)]
mod batches;
#[cfg(test)]
mod chance;
#[cfg(test)]
mod claim_check;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod database;
#[cfg(test)]
mod dead_letters;
#[cfg(test)]
mod dedup_file;
#[cfg(test)]
mod describe;
#[cfg(test)]
mod elsewhere;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod flow;
#[cfg(test)]
mod inbox;
#[cfg(test)]
mod outbox;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod rpc;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod wrapped;

use std::time::Duration;

use leveret::Bus;
use leveret_peers::{Leveret, RabbitMq};
use tokio::task::block_in_place;

/// How long anything may take that a test waits for, in real time or in that of `memory:`.
const LIMIT: Duration = Duration::from_secs(60);

/// A broker for one test, and what must live as long.
pub(crate) enum Place {
    Memory,
    Embedded(tempfile::TempDir),
    Server(Leveret),
}

impl Place {
    pub(crate) fn embedded() -> Place {
        Place::Embedded(tempfile::tempdir().expect("make a directory"))
    }

    pub(crate) fn server() -> Place {
        Place::Server(Leveret::start())
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Place::Memory => "memory:".to_owned(),
            Place::Embedded(home) => format!("embedded:{}", home.path().join("data").display()),
            Place::Server(server) => server.url(),
        }
    }

    pub(crate) async fn bus(&self) -> Bus {
        Bus::connect(&self.url()).await.expect("connect")
    }
}

/// Makes four tests of each async function of a [`Bus`]: in memory, where time passes at once,
/// embedded, with a server, and with RabbitMQ.
macro_rules! on_every_transport {
    ($($(#[$meta:meta])* $name:ident),* $(,)?) => {
        mod memory {
            $(
                $(#[$meta])*
                #[tokio::test(start_paused = true)]
                async fn $name() {
                    let place = crate::Place::Memory;
                    crate::within(super::$name(place.bus().await)).await;
                }
            )*
        }
        mod embedded {
            $(
                $(#[$meta])*
                #[tokio::test]
                async fn $name() {
                    let place = crate::Place::embedded();
                    crate::within(super::$name(place.bus().await)).await;
                }
            )*
        }
        mod server {
            $(
                $(#[$meta])*
                #[tokio::test]
                async fn $name() {
                    let place = crate::Place::server();
                    crate::within(super::$name(place.bus().await)).await;
                }
            )*
        }
        mod rabbitmq {
            $(
                $(#[$meta])*
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let Some((rabbit, vhost)) = crate::shared_rabbitmq() else { return };
                    let bus = crate::Bus::connect(&rabbit.url_of(&vhost)).await.expect("connect");
                    crate::within(super::$name(bus)).await;
                }
            )*
        }
    };
}
pub(crate) use on_every_transport;

/// Fails if it takes too long.
pub(crate) async fn within<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, test).await.expect("it takes too long")
}

/// Waits until something is so.
pub(crate) async fn until(mut so: impl AsyncFnMut() -> bool) {
    while !so().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A bus to the broker that `BUS` names, or to one in memory.
pub(crate) async fn bus() -> Bus {
    let url = std::env::var("BUS").unwrap_or_else(|_| "memory:".to_owned());
    Bus::connect(&url).await.expect("a broker")
}

/// The RabbitMQ that tests share, if it is installed, and a virtual host of the caller's own.
fn shared_rabbitmq() -> Option<(&'static RabbitMq, String)> {
    block_in_place(|| RabbitMq::shared().map(|rabbit| (rabbit, rabbit.vhost())))
}
