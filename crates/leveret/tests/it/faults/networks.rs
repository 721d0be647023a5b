//! Networks that cut connections, fall silent and are slow.

use super::rounds;
use crate::flow::{Flow, Manner};
use crate::proxy::{Proxy, Troubles};
use leveret::Bus;
use leveret_peers::{Leveret, RabbitMq};
use std::time::Duration;
use tokio::task::block_in_place;
use tokio::time::sleep;

const MESSAGES: u64 = 2_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_on_a_bad_network_to_leveret() {
    let leveret = block_in_place(Leveret::start);
    for round in 0..rounds() {
        tokio::join!(
            bad_network(leveret.port(), "%2f", Manner::Wait, round),
            bad_network(leveret.port(), "%2f", Manner::Again, round),
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_on_a_bad_network_to_rabbitmq() {
    let Some(rabbit) = block_in_place(RabbitMq::shared) else { return };
    for round in 0..rounds() {
        let vhost = block_in_place(|| rabbit.vhost());
        bad_network(rabbit.port(), &vhost, Manner::Wait, round).await;
    }
}

async fn bad_network(broker: u16, vhost: &str, manner: Manner, round: u64) {
    let queue = &format!("cut-{round}-{manner:?}");
    let troubles = Troubles { cuts: 12, silences: 2, delays: 50 };
    let proxy = Proxy::start(broker, troubles).await;
    let flow = Flow::start(Bus::builder(&proxy.url(vhost)), queue, manner, MESSAGES).await;
    // Slowly enough that all of it happens in the middle.
    while !proxy.is_calm() && flow.handled() < MESSAGES {
        flow.open(10);
        sleep(Duration::from_millis(20)).await;
    }
    flow.finish().await;
}
