//! Brokers that end, with warning or without, and start again. Two programs use each: one
//! publishes again what nobody knows of, the other leaves that to its bus.

use super::rounds;
use crate::chance::Chance;
use crate::flow::{Flow, Manner};
use leveret::Bus;
use leveret_peers::{Leveret, RabbitCluster, RabbitMq};
use tokio::task::block_in_place;

const MESSAGES: u64 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_leveret_is_killed() {
    let kills = 10 * rounds();
    let mut leveret = block_in_place(Leveret::start);
    let flows = Flows::start(&leveret.url(), "killed", MESSAGES / 10, kills).await;
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
    let flows = Flows::start(&rabbit.url(), "restarted", MESSAGES / 4, restarts + 1).await;
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
    let flows = Flows::start(&url, "led", MESSAGES / 10, 2 * rounds() + 1).await;
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

/// A publisher and a consumer of each manner, which go on part by part.
struct Flows {
    pair: [Flow; 2],
    part: u64,
}

impl Flows {
    async fn start(url: &str, queue: &str, part: u64, parts: u64) -> Flows {
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
