//! Brokers that end, with warning or without, and start again. Two programs use each: one
//! publishes again what nobody knows of, the other leaves that to its bus.

use super::rounds;
use crate::chance::Chance;
use crate::flow::{Flow, Manner};
use leveret::{Bus, Queue, Topology};
use leveret_peers::{Leveret, RabbitCluster, RabbitMq};
use tokio::task::block_in_place;

/// So many at least go through each flow.
const MESSAGES: u64 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_leveret_is_killed() {
    let kills = 10 * rounds();
    let mut leveret = block_in_place(Leveret::start);
    let flows = Flows::start(&leveret.url(), "killed", kills).await;
    for _ in 0..kills {
        flows.reach_the_middle_of_a_part().await;
        block_in_place(|| leveret.kill());
        flows.until_down().await;
        block_in_place(|| leveret.start_again());
        flows.until_up().await;
    }
    flows.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_rabbitmq_restarts() {
    let restarts = 2 * rounds();
    let Some(mut rabbit) = block_in_place(RabbitMq::start) else { return };
    let flows = Flows::start(&rabbit.url(), "restarted", restarts + 1).await;
    for number in 0..restarts {
        flows.reach_the_middle_of_a_part().await;
        block_in_place(|| if number % 2 == 0 { rabbit.kill() } else { rabbit.stop() });
        flows.until_down().await;
        block_in_place(|| rabbit.start_again());
        flows.until_up().await;
    }
    flows.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_a_cluster_loses_the_leader_of_a_queue() {
    let Some(mut cluster) = block_in_place(|| RabbitCluster::start(3)) else { return };
    let url = format!("{}?queues=quorum", cluster.url());
    let flows = Flows::start(&url, "led", 2 * rounds() + 1).await;
    for _ in 0..rounds() {
        block_in_place(|| cluster.wait_until_healthy());
        flows.reach_the_middle_of_a_part().await;
        let leader = block_in_place(|| cluster.leader_of(&flows.pair[0].queue));
        block_in_place(|| cluster.kill(leader));
        // Two nodes are enough.
        flows.go_through_a_part().await;
        block_in_place(|| cluster.start_again(leader));
    }
    flows.finish().await;
}

/// The node of a classic queue ends: consumers on other nodes are cancelled by the broker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_the_broker_cancels_goes_on_when_its_queue_is_back() {
    let Some(mut cluster) = block_in_place(|| RabbitCluster::start(2)) else { return };
    let [home, other] = cluster.urls().try_into().expect("two nodes");
    let founder = Bus::connect(&home).await.unwrap();
    founder.ensure(Topology::new().queue(Queue::new("cancelled"))).await.unwrap();
    founder.close().await;
    // The publisher's and the consumer's connections last: they are to the other node.
    let flow = Flow::start(Bus::builder(&other), "cancelled", Manner::Unroutable, 400).await;
    flow.open(200);
    flow.until_handled(100).await;
    block_in_place(|| cluster.kill(0));
    flow.until_down().await;
    block_in_place(|| cluster.start_again(0));
    flow.until_up().await;
    assert_eq!(flow.bus.health().connections[1].connects, 1);
    flow.finish().await;
}

/// A publisher and a consumer of each manner, which go on part by part.
struct Flows {
    pair: [Flow; 2],
    part: u64,
}

impl Flows {
    async fn start(url: &str, queue: &str, parts: u64) -> Flows {
        let part = MESSAGES.div_ceil(parts);
        let start = async |manner, suffix| {
            let queue = format!("{queue}-{suffix}");
            Flow::start(Bus::builder(url), &queue, manner, part * parts).await
        };
        Flows { pair: [start(Manner::Again, 1).await, start(Manner::Wait, 2).await], part }
    }

    async fn reach_the_middle_of_a_part(&self) {
        let mut chance = Chance::new();
        let handled = self.pair[1].handled();
        self.pair.iter().for_each(|flow| flow.open(self.part));
        self.pair[1].until_handled(handled + chance.within(1..self.part * 3 / 4)).await;
    }

    async fn go_through_a_part(&self) {
        for flow in &self.pair {
            flow.open(self.part);
            flow.until_handled(flow.opened()).await;
        }
    }

    async fn until_down(&self) {
        for flow in &self.pair {
            flow.until_down().await;
        }
    }

    async fn until_up(&self) {
        for flow in &self.pair {
            flow.until_up().await;
        }
    }

    async fn finish(self) {
        for flow in self.pair {
            flow.finish().await;
        }
    }
}
