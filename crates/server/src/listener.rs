//! A listening socket, and the one loop that accepts from it.

use crate::net_threads::NetThreads;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// How many connections may wait to be accepted: many clients come back at once after a restart.
/// The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// How long to wait after a failed accept: without it, lack of descriptors would be a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many open files are kept for the broker's own: segments, packs and what it does with them.
const DESCRIPTORS_KEPT: u64 = 256;

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {protocol}: {}", explained(source, address, flag))]
pub struct ListenError {
    address: SocketAddr,
    protocol: &'static str,
    flag: &'static str,
    source: io::Error,
}

fn explained(source: &io::Error, address: &SocketAddr, flag: &str) -> String {
    match source.kind() {
        ErrorKind::AddrInUse => format!(
            "another program (RabbitMQ? another leveret?) already does; stop it, or choose \
             another port with --{flag}"
        ),
        ErrorKind::PermissionDenied => format!(
            "this user may not use port {}; choose one from 1024 on with --{flag}",
            address.port()
        ),
        ErrorKind::AddrNotAvailable => {
            "this machine has no such address; choose one it has with --bind".into()
        }
        _ => source.to_string(),
    }
}

/// An address that is ours and on which nobody is listened to yet.
///
/// So that a port that is taken is known before the broker is opened, and that clients are
/// refused rather than left waiting until it is.
pub(crate) struct Reserved {
    socket: TcpSocket,
    address: SocketAddr,
    protocol: &'static str,
    flag: &'static str,
}

impl Reserved {
    /// Takes `bind`:`port`. Where `bind` is `::` and the machine has no IPv6, `0.0.0.0`.
    ///
    /// # Errors
    /// [`ListenError`], with what to do about it. `flag` is the setting that chose the port.
    pub(crate) fn new(
        bind: IpAddr,
        port: u16,
        protocol: &'static str,
        flag: &'static str,
    ) -> Result<Reserved, ListenError> {
        let mut address = SocketAddr::new(bind, port);
        let mut socket = bound(address);
        if bind == Ipv6Addr::UNSPECIFIED && socket.as_ref().is_err_and(no_ipv6) {
            address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
            socket = bound(address);
        }
        match socket {
            Ok(socket) => Ok(Reserved { socket, address, protocol, flag }),
            Err(source) => Err(ListenError { address, protocol, flag, source }),
        }
    }

    /// Begins to listen.
    ///
    /// # Errors
    /// [`ListenError`] if another program took the port at the same time.
    pub(crate) fn listen(self) -> Result<TcpListener, ListenError> {
        let Reserved { socket, address, protocol, flag } = self;
        socket.listen(BACKLOG).map_err(|source| ListenError { address, protocol, flag, source })
    }
}

fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restart need not wait until the connections before it have timed out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn no_ipv6(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

/// Accepts for ever. Whatever goes wrong is logged and tried again: a server that is short of
/// descriptors must still be there when it has some.
pub(crate) async fn accept(listener: &TcpListener, threads: &mut NetThreads) {
    let mut failing = false;
    let end = descriptors_for_connections(getrlimit(Resource::Nofile).current);
    loop {
        let accepted = listener.accept().await;
        let accepted = accepted.and_then(|(stream, peer)| prepare(stream, peer, end));
        match accepted {
            Ok((stream, peer)) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("connections are accepted again");
                }
                threads.give(stream, peer);
            }
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Once, not ten times a second for as long as it lasts.
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "cannot accept connections; trying until it works");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The descriptor from which on none is for a connection. The system gives the lowest that is free,
/// so that those from there on stay with the broker, however many clients there are.
fn descriptors_for_connections(limit: Option<u64>) -> u64 {
    limit.map_or(u64::MAX, |limit| limit - DESCRIPTORS_KEPT.min(limit / 2))
}

/// Makes a connection ready that came with a descriptor below `end`; every other is closed.
fn prepare(
    stream: TcpStream,
    peer: SocketAddr,
    end: u64,
) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    if u64::try_from(stream.as_raw_fd()).is_ok_and(|descriptor| descriptor >= end) {
        return Err(io::Error::other("the limit of open files leaves no room for more"));
    }
    // Gone already, perhaps: the first read will tell.
    let _ = stream.set_nodelay(true);
    // An IPv4 client of an IPv6 socket is ::ffff:a.b.c.d, which no rule for loopback knows.
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    Ok((stream.into_std()?, peer))
}

/// Allows this process as many open files as the system lets it: each connection is one.
pub(crate) fn raise_open_files_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, current = limit.current, "cannot raise the limit of open files");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY_PORT: u16 = 0;

    fn listen(bind: IpAddr, port: u16) -> Result<TcpListener, ListenError> {
        Reserved::new(bind, port, "AMQP", "amqp-port")?.listen()
    }

    fn loopback() -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    #[tokio::test]
    async fn a_taken_port_is_explained() {
        let first = listen(loopback(), ANY_PORT).unwrap();
        let port = first.local_addr().unwrap().port();
        let error = listen(loopback(), port).expect_err("taken").to_string();
        assert!(error.starts_with(&format!("cannot listen on 127.0.0.1:{port} for AMQP: ")));
        assert!(error.contains("--amqp-port"), "{error}");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_explained() {
        let foreign = "192.0.2.1".parse().unwrap();
        let error = listen(foreign, ANY_PORT).expect_err("foreign");
        assert!(error.to_string().contains("--bind"), "{error}");
    }

    #[tokio::test]
    async fn a_client_is_seen_under_its_ipv4_address() {
        let (seen, peers) = std::sync::mpsc::channel();
        let serve = move |_: TcpStream, peer: SocketAddr| {
            let _ = seen.send(peer);
            async {}
        };
        let mut threads = NetThreads::start(1, &serve).unwrap();
        let any = Ipv6Addr::UNSPECIFIED.into();
        let listener = listen(any, ANY_PORT).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = async {
            let client = TcpStream::connect((loopback(), port)).await.unwrap();
            client.readable().await.unwrap();
            client.local_addr().unwrap()
        };
        let client = tokio::select! {
            client = client => client,
            () = accept(&listener, &mut threads) => unreachable!("it accepts for ever"),
        };
        assert_eq!(peers.recv().unwrap(), client);
    }

    #[test]
    fn the_limit_of_open_files_is_raised_to_what_is_allowed() {
        raise_open_files_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }

    #[test]
    fn some_open_files_are_kept_for_the_broker() {
        assert_eq!(descriptors_for_connections(None), u64::MAX);
        assert_eq!(descriptors_for_connections(Some(1_024)), 1_024 - DESCRIPTORS_KEPT);
        assert_eq!(descriptors_for_connections(Some(100)), 50);
    }
}
