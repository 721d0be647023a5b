//! Messages that make the broker close the channel or the connection.

use leveret::{Bus, Exchange, PublishError, Queue, Text, Topology};
use leveret_peers::{Leveret, RabbitMq};
use std::time::Duration;
use tokio::task::block_in_place;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_message_does_not_fail_its_neighbours_on_leveret() {
    let leveret = block_in_place(Leveret::start);
    bad_messages(&leveret.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_message_does_not_fail_its_neighbours_on_rabbitmq() {
    let Some(rabbit) = block_in_place(RabbitMq::shared) else { return };
    let url = rabbit.url_of(&block_in_place(|| rabbit.vhost()));
    bad_messages(&url).await;
}

async fn bad_messages(url: &str) {
    let bus = Bus::connect(url).await.unwrap();
    let gone = Exchange::topic("gone");
    let topology = Topology::new().exchange(gone.clone()).queue(Queue::new("neighbours"));
    bus.ensure(topology).await.unwrap();
    let text = Text::from("a message");
    // The bus knows the exchange from now on.
    bus.publish(&text).exchange(gone.clone()).subject("x").optional().await.unwrap();
    delete_exchange(url, "gone").await;
    let mut tickets = Vec::new();
    for number in 0..300 {
        let publish = match number % 100 {
            50 => bus.publish(&text).exchange(gone.clone()).subject("x"),
            70 => bus.send("neighbours", &text).header("CC", "no list"),
            90 => bus.send("neighbours", &text).header("large", "x".repeat(200_000)),
            _ => bus.send("neighbours", &text),
        };
        tickets.push((number, publish.pipelined().await));
    }
    for (number, ticket) in tickets {
        let result = match ticket {
            Ok(ticket) => timeout(Duration::from_secs(20), ticket).await.expect("an answer"),
            Err(error) => Err(error),
        };
        match (number % 100, &result) {
            (50 | 70, Err(PublishError::Refused { .. })) => {}
            (90, Err(PublishError::Invalid(_))) => {}
            (50 | 70 | 90, _) | (_, Err(_)) => panic!("message {number}: {result:?}"),
            (_, Ok(_)) => {}
        }
    }
    // Those that were sent again have come at least once.
    let waiting = bus.queue("neighbours").await.unwrap().unwrap().messages;
    assert!(waiting >= 291, "{waiting}");
    assert!(bus.health().is_ok(), "{:?}", bus.health());
    bus.close().await;
}

/// As somebody else does.
async fn delete_exchange(url: &str, exchange: &str) {
    let options = lapin::ConnectionProperties::default();
    let connection = lapin::Connection::connect(url, options).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.exchange_delete(exchange.into(), Default::default()).await.unwrap();
    connection.close(200, "done".into()).await.unwrap();
}
