//! The life of a server process: open, listen, wait for a signal, drain, close.

use crate::listener::{self, ListenError, Reserved};
use crate::logging;
use crate::net_threads::NetThreads;
use crate::setting::Config;
use leveret_broker::{Broker, DiskOptions, OpenError, Options, User};
use leveret_http::{Api, Identity};
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// How long connections may take to finish once the server is told to stop.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// Threads for HTTP: one, so that whoever looks at the server never slows it down by much.
const HTTP_THREADS: usize = 1;
/// The user whose password the world knows, and who may therefore not come from elsewhere.
const LOOPBACK_ONLY_USER: &str = "guest";
/// That password.
const WELL_KNOWN: &str = "guest";

/// Why the server did not start, or did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The broker cannot be opened.
    #[error("{cause}{}", what_to_do(.cause))]
    Open {
        /// Why.
        #[from]
        cause: OpenError,
    },
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

/// How to get out of it, where that depends on a setting.
fn what_to_do(error: &OpenError) -> &'static str {
    match error {
        OpenError::Locked { .. } => "; stop that one, or choose another directory with --data-dir",
        OpenError::Io { .. } => {
            "; choose a directory that this user may write to with --data-dir, on a disk with room"
        }
        _ => "",
    }
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
    let reserve = |port: Option<u16>, protocol, flag| {
        port.map(|port| Reserved::new(config.bind, port, protocol, flag)).transpose()
    };
    let amqp = reserve(config.amqp_port, "AMQP", "amqp-port")?;
    let http = reserve(config.http_port, "HTTP", "http-port")?;
    let broker = Broker::open(Options {
        data_dir: config.data_dir.clone(),
        users: vec![User {
            loopback_only: config.default_user == LOOPBACK_ONLY_USER,
            name: config.default_user.clone(),
            password: config.default_pass.reveal().to_owned(),
        }],
        memory_max: config.memory_max,
        memory_target: config.memory_target,
        segment_bytes: config.segment_size,
        disk: DiskOptions {
            low: config.disk_free_low,
            critical: config.disk_free_critical,
            probe: None,
        },
    })?;
    if config.default_user != LOOPBACK_ONLY_USER && config.default_pass.reveal() == WELL_KNOWN {
        tracing::warn!(
            user = config.default_user,
            "anyone who can reach this broker knows this user's password; set --default-pass"
        );
    }
    let mut signals = Signals::new()?;
    let (stop, shutdown) = watch::channel(false);
    let serve_amqp = {
        let (broker, shutdown) = (broker.clone(), shutdown.clone());
        move |stream, peer| leveret_amqp::serve(stream, peer, broker.clone(), shutdown.clone())
    };
    let serve_http = {
        let api = Api::new(broker.clone(), identity());
        move |stream, peer| leveret_http::serve(stream, peer, api.clone(), shutdown.clone())
    };
    let mut amqp = Door::open(amqp, config.threads, &serve_amqp)?;
    let mut http = Door::open(http, HTTP_THREADS, &serve_http)?;
    greet(&config, amqp.address(), http.address());

    let name = tokio::select! {
        name = signals.next() => name,
        () = amqp.accept() => unreachable!("it accepts for ever"),
        () = http.accept() => unreachable!("it accepts for ever"),
    };
    let (amqp, http) = (amqp.close(), http.close());
    tracing::info!("{name}: no new connections; telling clients that the broker stops");
    stop.send_replace(true);
    let close = async {
        let open = tokio::join!(amqp.finish(DRAIN_LIMIT), http.finish(DRAIN_LIMIT));
        let open = open.0 + open.1;
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

/// What a protocol's clients come in by.
struct Door {
    /// None where the configuration gives the protocol no port.
    listener: Option<TcpListener>,
    threads: NetThreads,
}

impl Door {
    /// Begins to listen; `serve` is run on so many threads for each connection that is accepted.
    fn open<S, F>(
        reserved: Option<Reserved>,
        threads: usize,
        serve: &S,
    ) -> Result<Door, ServerError>
    where
        S: Fn(TcpStream, SocketAddr) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let threads = if reserved.is_some() { threads } else { 0 };
        let threads = NetThreads::start(threads, serve)?;
        Ok(Door { listener: reserved.map(Reserved::listen).transpose()?, threads })
    }

    fn address(&self) -> Option<SocketAddr> {
        self.listener.as_ref()?.local_addr().ok()
    }

    async fn accept(&mut self) {
        match &self.listener {
            Some(listener) => listener::accept(listener, &mut self.threads).await,
            None => pending().await,
        }
    }

    /// Listens no longer. The threads go on with the connections there are.
    fn close(self) -> NetThreads {
        self.threads
    }
}

/// What the management API calls this server. RabbitMQ's node names have this form.
fn identity() -> Identity {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    let host = host.split('.').next().filter(|host| !host.is_empty()).unwrap_or("localhost");
    Identity {
        node: format!("leveret@{host}"),
        version: env!("CARGO_PKG_VERSION"),
        rabbitmq_version: leveret_amqp::RABBITMQ_VERSION,
    }
}

/// Tells the person at the terminal where to connect. On standard output, and even if nothing is
/// logged: it is what they wait for.
fn greet(config: &Config, amqp: Option<SocketAddr>, http: Option<SocketAddr>) {
    println!("leveret {} is ready; its data is in {}", env!("CARGO_PKG_VERSION"), shown(config));
    if let Some(address) = amqp {
        println!("  AMQP 0-9-1  {}", url("amqp", address));
    }
    if let Some(address) = http {
        println!("  HTTP API    {}", url("http", address));
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
fn url(scheme: &str, address: SocketAddr) -> String {
    let port = address.port();
    if address.ip().is_unspecified() {
        format!("{scheme}://localhost:{port} (and every other address of this machine)")
    } else {
        format!("{scheme}://{address}")
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
