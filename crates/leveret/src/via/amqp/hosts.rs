//! Brokers on the network, over TCP or TLS.

use std::fmt;
use std::io;
use std::net::SocketAddr;
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::time::Duration;

use leveret_client::Login;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::link::{Connector, Stream};
use crate::transport::BoxFuture;

/// How long it may take to find out the addresses of a name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one address may take to be connected to, the login not counted: a name may have others.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// One broker, or the nodes of a cluster, of which any will do.
pub(crate) struct Hosts {
    hosts: Vec<Host>,
    /// The first one to be tried: chance spreads clients over a cluster's nodes.
    start: usize,
    login: Login,
    #[cfg(feature = "tls")]
    tls: Option<tokio_rustls::TlsConnector>,
}

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// A name or an address, without brackets.
    pub(crate) name: String,
    pub(crate) port: u16,
}

impl Hosts {
    pub(crate) fn new(hosts: Vec<Host>, start: usize, login: Login) -> Self {
        Hosts {
            hosts,
            start,
            login,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn with_tls(mut self, config: Arc<tokio_rustls::rustls::ClientConfig>) -> Self {
        self.tls = Some(config.into());
        self
    }

    fn host(&self, attempt: usize) -> &Host {
        &self.hosts[(self.start + attempt) % self.hosts.len()]
    }

    /// Connects to the first of these addresses of a host that answers.
    async fn reach(
        &self,
        host: &Host,
        addresses: impl Iterator<Item = SocketAddr>,
    ) -> io::Result<Box<dyn Stream>> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
        for address in addresses {
            last = match timeout(ADDRESS_TIMEOUT, self.dial(host, address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => error,
                Err(_) => late(&address, ADDRESS_TIMEOUT),
            };
        }
        Err(last)
    }

    #[cfg_attr(not(feature = "tls"), expect(unused_variables, reason = "only TLS needs a name"))]
    async fn dial(&self, host: &Host, address: SocketAddr) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let name = tokio_rustls::rustls::pki_types::ServerName::try_from(host.name.clone())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            return Ok(Box::new(tls.connect(name, stream).await?) as Box<dyn Stream>);
        }
        Ok(Box::new(stream) as Box<dyn Stream>)
    }
}

fn late(what: &dyn fmt::Display, limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} took longer than {limit:?}"))
}

impl Connector for Hosts {
    fn address(&self, attempt: usize) -> String {
        self.host(attempt).to_string()
    }

    fn connect(&self, attempt: usize) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        let host = self.host(attempt);
        Box::pin(async move {
            let looked_up = lookup_host((host.name.as_str(), host.port));
            match timeout(LOOKUP_TIMEOUT, looked_up).await {
                Ok(addresses) => self.reach(host, addresses?).await,
                Err(_) => Err(late(&format_args!("looking up {host}"), LOOKUP_TIMEOUT)),
            }
        })
    }

    fn login(&self) -> &Login {
        &self.login
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosts").field("hosts", &self.hosts).field("login", &self.login).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_leaves_time_for_the_next_one() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        // Nobody takes connections here, and there is no room for more of them.
        let full = TcpSocket::new_v4().unwrap();
        full.bind(any).unwrap();
        let full = full.listen(1).unwrap();
        let silent = full.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(Duration::from_secs(1), TcpStream::connect(silent)).await {
            waiting.push(stream.unwrap());
        }
        let good = TcpListener::bind(any).await.unwrap();
        let addresses = [silent, good.local_addr().unwrap()];
        let host = Host { name: "localhost".to_owned(), port: 5672 };
        let hosts = Hosts::new(vec![host.clone()], 0, Login::default());
        // That is how long a bus tries at first.
        let reached = timeout(Duration::from_secs(10), hosts.reach(&host, addresses.into_iter()));
        assert!(reached.await.expect("an answer").is_ok());
        let error = hosts.reach(&host, [silent].into_iter()).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        let error = hosts.reach(&host, std::iter::empty()).await.map(drop).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
    }
}
