//! From a URL to a transport.

use std::sync::Arc;
use std::time::Duration;

use crate::chance::chance;
use crate::error::ConnectError;
use crate::transport::Transport;
use crate::url::{self, Address};
use crate::via::amqp::Amqp;
use crate::via::amqp::hosts::Hosts;

/// Opens what the URL names.
pub(crate) async fn open(url: &str, within: Duration) -> Result<Arc<dyn Transport>, ConnectError> {
    match url::parse(url)? {
        Address::Amqp(amqp) => over_network(*amqp, within),
        #[cfg(feature = "embedded")]
        Address::Embedded(path) => crate::via::embedded::open(path, within).await,
        #[cfg(feature = "embedded")]
        Address::Memory => crate::via::embedded::in_memory(within),
        #[cfg(not(feature = "embedded"))]
        Address::Embedded(path) => Err(without_embedded(&format!("embedded:{}", path.display()))),
        #[cfg(not(feature = "embedded"))]
        Address::Memory => Err(without_embedded("memory:")),
    }
}

#[cfg(not(feature = "embedded"))]
fn without_embedded(url: &str) -> ConnectError {
    ConnectError::Url(format!("{url} needs the feature embedded, which this program lacks"))
}

fn over_network(amqp: url::Amqp, within: Duration) -> Result<Arc<dyn Transport>, ConnectError> {
    let url::Amqp { hosts, login, tls, authorities, queues } = amqp;
    // It is less than the number of hosts.
    let start = (chance() * hosts.len() as f64) as usize;
    let hosts = Hosts::new(hosts, start, login);
    let hosts = if tls { secure(hosts, authorities.as_deref())? } else { hosts };
    Ok(Arc::new(Amqp::start("AMQP", Arc::new(hosts), queues, within)))
}

#[cfg(feature = "tls")]
fn secure(hosts: Hosts, authorities: Option<&str>) -> Result<Hosts, ConnectError> {
    use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

    let mut roots = RootCertStore::empty();
    match authorities {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            let unusable = |error: &dyn std::fmt::Display| {
                ConnectError::Url(format!("cacertfile {file:?} cannot be used: {error}"))
            };
            for certificate in
                CertificateDer::pem_file_iter(file).map_err(|error| unusable(&error))?
            {
                let certificate = certificate.map_err(|error| unusable(&error))?;
                roots.add(certificate).map_err(|error| unusable(&error))?;
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConnectError::Url(format!("TLS: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(hosts.with_tls(Arc::new(config)))
}

#[cfg(not(feature = "tls"))]
fn secure(_: Hosts, _: Option<&str>) -> Result<Hosts, ConnectError> {
    Err(ConnectError::Url("this program was built without the feature tls".into()))
}
