//! RabbitMQ, one node.

use crate::client::{assert_greets, assert_start, first_bytes, put, take};
use crate::traces::{assert_gone, processes};
use leveret_peers::RabbitMq;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

#[tokio::test]
async fn a_node_keeps_its_messages() {
    let Some(mut rabbit) = RabbitMq::start() else { return };
    assert_greets(rabbit.port());
    put(&rabbit.url(), "classic", "kept", "one").await;
    rabbit.kill();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, rabbit.port())).is_err());
    rabbit.start_again();
    put(&rabbit.url(), "classic", "kept", "two").await;
    rabbit.stop();
    rabbit.start_again();
    for text in [Some("one"), Some("two"), None] {
        assert_eq!(take(&rabbit.url(), "kept").await.as_deref(), text);
    }
    let (directory, ids) = (rabbit.directory(), rabbit.ids());
    assert!(ids.len() == 2 && ids.iter().all(|id| processes(&directory).contains(id)));
    drop(rabbit);
    assert_gone(&directory, &ids);
}

#[tokio::test]
async fn tests_can_share_a_node() {
    let Some(rabbit) = RabbitMq::shared() else { return };
    let vhosts = [rabbit.vhost(), rabbit.vhost()];
    for vhost in &vhosts {
        put(&rabbit.url_of(vhost), "classic", "same", vhost).await;
    }
    for vhost in &vhosts {
        let taken = take(&rabbit.url_of(vhost), "same").await;
        assert_eq!(taken.as_deref(), Some(vhost.as_str()));
    }
    let listed = rabbit.ctl(&["list_vhosts", "--silent"]);
    let listed = String::from_utf8(listed.stdout).expect("text");
    assert!(vhosts.iter().all(|vhost| listed.lines().any(|line| line == vhost)), "{listed}");
    assert_eq!(rabbit.eval("node()"), "rabbit@localhost");
}

#[test]
fn a_node_speaks_tls() {
    let Some(rabbit) = RabbitMq::start_with_tls() else { return };
    assert_greets(rabbit.port());
    assert!(rabbit.tls_url().starts_with("amqps://"));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(rabbit.ca_file()).expect("PEM")).expect("a root");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let config = Arc::new(config);
    for name in ["localhost", "127.0.0.1"] {
        let name = name.try_into().expect("a name");
        let client = ClientConnection::new(Arc::clone(&config), name).expect("a client");
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, rabbit.tls_port()));
        assert_start(first_bytes(&mut StreamOwned::new(client, socket.expect("connect"))));
    }
}
