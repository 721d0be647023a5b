//! Messages that make the broker close the channel or the connection.

use crate::elsewhere::Elsewhere;
use crate::shared_rabbitmq;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use leveret::{Bus, Cx, Exchange, Failure, PublishError, Queue, Retry, Text, Topology};
use leveret_peers::Leveret;
use std::time::Duration;
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_message_does_not_fail_its_neighbours_on_leveret() {
    let leveret = block_in_place(Leveret::start);
    bad_messages(&leveret.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_message_does_not_fail_its_neighbours_on_rabbitmq() {
    let Some((rabbit, vhost)) = shared_rabbitmq() else { return };
    bad_messages(&rabbit.url_of(&vhost)).await;
}

async fn bad_messages(url: &str) {
    let bus = Bus::connect(url).await.expect("a broker");
    let gone = Exchange::topic("gone");
    let topology = Topology::new().exchange(gone.clone()).queue(Queue::new("neighbours"));
    bus.ensure(topology).await.expect("it is declared");
    let text = Text::from("a message");
    // The bus knows the exchange from now on.
    bus.publish(&text).exchange(gone.clone()).subject("x").optional().await.expect("it is taken");
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
    let waiting = bus.queue("neighbours").await.expect("a queue").expect("a queue").messages;
    assert!(waiting >= 291, "{waiting}");
    assert!(bus.health().is_ok(), "{:?}", bus.health());
    bus.close().await;
}

/// There is no room for its history beside its own headers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_headers_fill_a_frame_can_fail_too() {
    let leveret = block_in_place(Leveret::start);
    let bus = Bus::connect(&leveret.url()).await.expect("a broker");
    let work = bus.consume("work", async |_: Text, _: Cx| {
        Err::<(), _>(Failure::transient("no ".repeat(200)))
    });
    let retry = Retry::fixed(Duration::from_millis(1)).attempts(3);
    let work = work.retry(retry).start().await.expect("a consumer");
    let elsewhere = Elsewhere::connect(&leveret.url()).await;
    let mut headers = FieldTable::default();
    headers.insert("note".into(), AMQPValue::LongString("x".repeat(130_500).into()));
    let properties = BasicProperties::default().with_headers(headers);
    elsewhere.send("work", b"x", properties).await;
    let dead = timeout(Duration::from_secs(20), async {
        loop {
            let dead = bus.dead_letters("work").list(1).await.expect("a list");
            match dead.into_iter().next() {
                Some(dead) => break dead,
                None => sleep(Duration::from_millis(10)).await,
            }
        }
    });
    let dead = dead.await.expect("a dead letter");
    assert_eq!(dead.letter.headers.get("leveret-attempts"), Some("3"));
    work.stop(Duration::from_secs(5)).await;
    bus.close().await;
}

async fn delete_exchange(url: &str, exchange: &str) {
    let elsewhere = Elsewhere::connect(url).await;
    let deleted = elsewhere.channel.exchange_delete(exchange.into(), Default::default());
    deleted.await.expect("it is deleted");
}
