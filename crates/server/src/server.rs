//! The life of a server process: open, listen, wait for a signal, drain, close.

use crate::listener::{self, ListenError, Reserved};
use crate::logging;
use crate::net_threads::NetThreads;
use crate::setting::Config;
use leveret_broker::{Broker, OpenError, Options, User};
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// How long connections may take to finish once the server is told to stop.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// The user whose password the world knows, and who may therefore not come from elsewhere.
const LOOPBACK_ONLY_USER: &str = "guest";

/// Why the server did not start, or did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The broker cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A port cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The operating system gives no thread, event queue or signal handler.
    #[error("the system refuses what a server needs: {0}")]
    System(#[from] io::Error),
    /// A second signal came before everything was closed.
    #[error("ended at once by a second signal; everything that was confirmed is safe")]
    Interrupted,
}

/// Runs a server until SIGTERM or SIGINT, then lets connections finish and closes the broker.
///
/// # Errors
/// [`ServerError`], in words for the person who started it.
pub fn run(config: Config) -> Result<(), ServerError> {
    logging::start(&config.log);
    listener::raise_open_files_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(serve(config));
    // What still runs was given its time.
    runtime.shutdown_background();
    result
}

async fn serve(config: Config) -> Result<(), ServerError> {
    let amqp = config
        .amqp_port
        .map(|port| Reserved::new(config.bind, port, "AMQP", "amqp-port"))
        .transpose()?;
    let broker = Broker::open(Options {
        data_dir: config.data_dir.clone(),
        users: vec![User {
            loopback_only: config.default_user == LOOPBACK_ONLY_USER,
            name: config.default_user.clone(),
            password: config.default_pass.reveal().to_owned(),
        }],
    })?;
    let mut signals = Signals::new()?;
    let (stop, shutdown) = watch::channel(false);
    let serve = {
        let broker = broker.clone();
        move |stream: TcpStream, peer: SocketAddr| {
            leveret_amqp::serve(stream, peer, broker.clone(), shutdown.clone())
        }
    };
    let mut threads = NetThreads::start(config.threads, &serve)?;
    let amqp = amqp.map(Reserved::listen).transpose()?;
    greet(&config, amqp.as_ref());

    let name = tokio::select! {
        name = signals.next() => name,
        () = accept(amqp.as_ref(), &mut threads) => unreachable!("it accepts for ever"),
    };
    drop(amqp);
    tracing::info!("{name}: no new connections; waiting for those there are to finish");
    stop.send_replace(true);
    let close = async {
        let open = threads.finish(DRAIN_LIMIT).await;
        if open > 0 {
            tracing::warn!(open, "connections did not finish in time and are cut off");
        }
        close(broker).await
    };
    tokio::select! {
        closed = close => closed?,
        _ = signals.next() => return Err(ServerError::Interrupted),
    }
    tracing::info!("closed");
    Ok(())
}

/// Closes the broker on a thread of its own, so that a second signal is heard meanwhile.
async fn close(broker: Broker) -> Result<(), ServerError> {
    let closed = tokio::task::spawn_blocking(move || broker.close()).await;
    closed.map_err(|e| ServerError::System(io::Error::other(e)))
}

async fn accept(listener: Option<&TcpListener>, threads: &mut NetThreads) {
    match listener {
        Some(listener) => listener::accept(listener, threads).await,
        None => pending().await,
    }
}

/// Tells the person at the terminal where to connect. On standard output, and even if nothing is
/// logged: it is what they wait for.
fn greet(config: &Config, amqp: Option<&TcpListener>) {
    println!("leveret {} is ready; its data is in {}", env!("CARGO_PKG_VERSION"), shown(config));
    if let Some(address) = amqp.and_then(|listener| listener.local_addr().ok()) {
        println!("  AMQP 0-9-1  {}", url(address));
    }
    if config.default_user == LOOPBACK_ONLY_USER {
        println!("  user {LOOPBACK_ONLY_USER} may connect from this machine only");
    }
}

fn shown(config: &Config) -> String {
    let path = &config.data_dir;
    std::path::absolute(path).as_ref().unwrap_or(path).display().to_string()
}

/// What a client on this machine connects to; never with a password.
fn url(address: SocketAddr) -> String {
    let port = address.port();
    if address.ip().is_unspecified() {
        format!("amqp://localhost:{port} (and every other address of this machine)")
    } else {
        format!("amqp://{address}")
    }
}

/// The signals that end a server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one; its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
