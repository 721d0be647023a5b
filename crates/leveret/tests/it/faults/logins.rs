//! Connections that cannot be made, and why.

use leveret::{Bus, ConnectError, Cx, Error, Queue, Text, Topology};
use leveret_peers::{Leveret, RabbitMq};
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;
use tokio::task::block_in_place;
use tokio::time::Instant;

/// Why there is no bus, which must be said at once.
async fn refusal(url: &str) -> ConnectError {
    let start = Instant::now();
    let result = Bus::connect(url).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    match result {
        Err(Error::Connect(error)) => error,
        other => panic!("{other:?}"),
    }
}

async fn refuses_logins(url: &str) {
    let wrong = refusal(&url.replace("guest:guest", "guest:secret")).await;
    assert!(matches!(wrong, ConnectError::Refused { .. }), "{wrong:?}");
    assert!(!wrong.to_string().contains("secret"), "{wrong}");
    let (server, _) = url.rsplit_once('/').expect("a path");
    let nowhere = refusal(&format!("{server}/nowhere")).await;
    assert!(matches!(nowhere, ConnectError::Refused { .. }), "{nowhere:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_is_refused_is_an_error_at_once() {
    let leveret = block_in_place(Leveret::start);
    refuses_logins(&leveret.url()).await;
    let Some(rabbit) = block_in_place(RabbitMq::shared) else { return };
    refuses_logins(&rabbit.url()).await;
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_waited_for_no_longer_than_was_said() {
    // Nobody accepts, and nobody listens.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    for address in [silent.local_addr().unwrap(), gone] {
        let within = Duration::from_millis(500);
        let start = Instant::now();
        let builder = Bus::builder(&format!("amqp://{address}"));
        let result = builder.connect_timeout(within).connect().await;
        let Err(Error::Connect(ConnectError::Unreachable { address: told, .. })) = &result else {
            panic!("{result:?}")
        };
        assert_eq!(*told, address.to_string());
        let taken = start.elapsed();
        assert!(taken >= within && taken < Duration::from_secs(5), "{taken:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bus_starts_when_its_broker_does() {
    let mut leveret = block_in_place(Leveret::start);
    let url = leveret.url();
    block_in_place(|| leveret.stop());
    let connecting = tokio::spawn(async move { Bus::connect(&url).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    block_in_place(|| leveret.start_again());
    let bus = connecting.await.unwrap().unwrap();
    assert!(bus.health().is_ok(), "{:?}", bus.health());
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_must_be_vouched_for() {
    let Some(rabbit) = block_in_place(RabbitMq::start_with_tls) else { return };
    let url = rabbit.tls_url();
    let trusting = format!("{url}?cacertfile={}", rabbit.ca_file().display());
    let bus = Bus::connect(&trusting).await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    bus.ensure(Topology::new().queue(Queue::new("tls"))).await.unwrap();
    bus.consume("tls", move |text: Text, _: Cx| {
        let told = tell.send(text.0);
        async move { Ok(told?) }
    })
    .start()
    .await
    .unwrap();
    let large = "x".repeat(1_000_000);
    bus.send("tls", &Text(large.clone())).await.unwrap();
    assert_eq!(told.recv().await, Some(large));
    bus.close().await;

    // Nobody who is trusted by default vouches for it.
    let builder = Bus::builder(&url).connect_timeout(Duration::from_secs(1));
    let result = builder.connect().await;
    let Err(Error::Connect(ConnectError::Unreachable { text, .. })) = &result else {
        panic!("{result:?}")
    };
    assert!(text.contains("certificate"), "{text}");
}
