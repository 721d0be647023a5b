//! Brokers on the network, over TCP or TLS.

use std::fmt;
use std::io;
#[cfg(feature = "tls")]
use std::sync::Arc;

use leveret_client::Login;
use tokio::net::TcpStream;

use super::link::{Connector, Stream};
use crate::transport::BoxFuture;

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
}

impl Connector for Hosts {
    fn address(&self, attempt: usize) -> String {
        self.host(attempt).to_string()
    }

    fn connect(&self, attempt: usize) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        let host = self.host(attempt);
        Box::pin(async move {
            let stream = TcpStream::connect((host.name.as_str(), host.port)).await?;
            stream.set_nodelay(true)?;
            #[cfg(feature = "tls")]
            if let Some(tls) = &self.tls {
                let name = tokio_rustls::rustls::pki_types::ServerName::try_from(host.name.clone())
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                return Ok(Box::new(tls.connect(name, stream).await?) as Box<dyn Stream>);
            }
            Ok(Box::new(stream) as Box<dyn Stream>)
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
