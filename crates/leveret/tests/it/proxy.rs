//! A network that loses connections at any byte, is silent for a while, and is slow.

use crate::chance::Chance;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What happens to connections.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Troubles {
    /// So many connections are cut, each after some bytes.
    pub(crate) cuts: u32,
    /// So many fall silent after some bytes, and stay open.
    pub(crate) silences: u32,
    /// So often what was read waits for up to a tenth of a second.
    pub(crate) delays: u32,
}

/// A proxy before a broker on this machine.
pub(crate) struct Proxy {
    port: u16,
    left: Arc<Left>,
    silent: watch::Sender<bool>,
    // Ends with this.
    _tasks: JoinSet<()>,
}

/// What is still to happen.
struct Left {
    troubles: Mutex<Troubles>,
    chance: Mutex<Chance>,
}

/// What happens next in one direction of a connection.
#[derive(Clone, Copy)]
enum Next {
    Cut,
    Silence,
    Delay,
    Nothing,
}

impl Proxy {
    /// A proxy that just forwards, at first.
    pub(crate) async fn start(broker: u16) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let chance = Mutex::new(Chance::new());
        let left = Arc::new(Left { troubles: Mutex::default(), chance });
        let silent = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, broker, Arc::clone(&left), silent.subscribe()));
        Proxy { port, left, silent, _tasks: tasks }
    }

    /// Where clients find the broker behind it. A silent connection is given up in two seconds.
    pub(crate) fn url(&self, vhost: &str) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/{vhost}?heartbeat=1", self.port)
    }

    /// From now on this happens.
    pub(crate) fn begin(&self, troubles: Troubles) {
        *self.left.troubles.lock().expect("no panic") = troubles;
    }

    /// Whether no connection will be lost any more.
    pub(crate) fn is_calm(&self) -> bool {
        let troubles = self.left.troubles.lock().expect("no panic");
        troubles.cuts == 0 && troubles.silences == 0
    }

    /// From now on nothing is forwarded, on no connection.
    pub(crate) fn be_silent(&self) {
        self.silent.send_replace(true);
    }
}

impl Left {
    fn draw(&self, from: u64, to: u64) -> u64 {
        self.chance.lock().expect("no panic").within(from..to)
    }

    fn next(&self) -> Next {
        let mut troubles = self.troubles.lock().expect("no panic");
        let (count, next) = match self.draw(0, 10) {
            0..4 => (&mut troubles.cuts, Next::Cut),
            4 => (&mut troubles.silences, Next::Silence),
            _ => (&mut troubles.delays, Next::Delay),
        };
        if *count == 0 {
            return Next::Nothing;
        }
        *count -= 1;
        next
    }
}

async fn accept(
    listener: TcpListener,
    broker: u16,
    left: Arc<Left>,
    silent: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.expect("a connection");
        let broker = SocketAddr::from((Ipv4Addr::LOCALHOST, broker));
        let (left, silent) = (Arc::clone(&left), silent.clone());
        connections.spawn(async move {
            // Without the broker the client's connection ends.
            let Ok(server) = TcpStream::connect(broker).await else { return };
            let (client_in, client_out) = client.into_split();
            let (server_in, server_out) = server.into_split();
            // When one direction ends, so does the other.
            tokio::select! {
                () = forward(client_in, server_out, &left, silent.clone()) => {}
                () = forward(server_in, client_out, &left, silent) => {}
            }
        });
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    left: &Left,
    silent: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    // Until something happens, in bytes: often in the handshake, or a while later.
    let mut quiet = left.draw(0, 60_000);
    loop {
        let most = usize::try_from(left.draw(1, 16 * 1024)).expect("it is small");
        let most = most.min(usize::try_from(quiet.max(1)).unwrap_or(usize::MAX));
        let Ok(count @ 1..) = from.read(&mut buffer[..most]).await else { return };
        if *silent.borrow() {
            return std::future::pending().await;
        }
        quiet = quiet.saturating_sub(count as u64);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
        if quiet > 0 {
            continue;
        }
        match left.next() {
            Next::Cut => return,
            Next::Silence => std::future::pending().await,
            Next::Delay => sleep(Duration::from_millis(left.draw(1, 100))).await,
            Next::Nothing => {}
        }
        quiet = left.draw(0, 60_000);
    }
}
