//! Producers and consumers that work until the broker dies.

use super::Record;
use super::body::{Id, Random, body};
use super::mover::Mover;
use super::plan::{BRIEF, FLOWS, MOVERS, ORDERS, PRODUCERS, QUEUES};
use crate::amqp::{connect, consume, persistent, soon};
use lapin::options::{
    BasicAckOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions, BasicRejectOptions,
    ConfirmSelectOptions,
};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer, PublisherConfirm};
use std::collections::VecDeque;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

/// How many messages of a producer may be under way without a confirm.
const WINDOW: usize = 64;
/// How many deliveries a consumer may hold.
const PREFETCH: u16 = 300;
/// The queues that have a consumer, and how many of 20 messages it rejects and keeps to the end;
/// the others only fill.
const CONSUMED: [(usize, u64, u64); 7] = [
    (0, 0, 2),
    (1, 0, 2),
    (3, 0, 2),
    // Parts.
    (9, 0, 2),
    // Letters and tries.
    (10, 9, 1),
    (14, 12, 1),
    // The dead.
    (16, 0, 10),
];

/// All who work.
#[derive(Default)]
pub(super) struct Load {
    producers: JoinSet<()>,
    consumers: JoinSet<()>,
}

/// Connects them all, and then starts them: there is little to wait for before there is a load.
pub(super) async fn start(url: &str, record: &Record, random: &mut Random) -> Load {
    let mut producers = Vec::new();
    for number in 0..PRODUCERS {
        let (connection, channel) = open(url).await;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        soon("confirm.select", confirms).await.expect("confirms");
        let (record, random) = (record.clone(), Random::new(random.next()));
        producers.push((connection, channel, Producer { number, record, random }));
    }
    let mut movers = Vec::new();
    for number in 0..MOVERS {
        let (connection, channel) = open(url).await;
        soon("tx.select", channel.tx_select()).await.expect("transactions");
        let consumer = limited(&channel, ORDERS).await;
        let (record, random) = (record.clone(), Random::new(random.next()));
        movers.push((connection, channel, consumer, Mover { number, record, random }));
    }
    let mut workers = Vec::new();
    for (queue, rejected, kept) in CONSUMED {
        let (connection, channel) = open(url).await;
        let consumer = limited(&channel, queue).await;
        let (record, random) = (record.clone(), Random::new(random.next()));
        workers.push((connection, consumer, Worker { queue, rejected, kept, record, random }));
    }
    let mut load = Load::default();
    for (connection, channel, producer) in producers {
        load.producers.spawn(producer.work(connection, channel));
    }
    for (connection, channel, consumer, mover) in movers {
        load.consumers.spawn(mover.work(connection, channel, consumer));
    }
    for (connection, consumer, worker) in workers {
        load.consumers.spawn(worker.work(connection, consumer));
    }
    load
}

async fn open(url: &str) -> (Connection, Channel) {
    let connection = connect(url).await;
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

async fn limited(channel: &Channel, queue: usize) -> Consumer {
    let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
    soon("basic.qos", qos).await.expect("a limit");
    consume(channel, QUEUES[queue]).await
}

/// Returns when all have stopped; the broker is dead.
pub(super) async fn finish(mut load: Load) {
    // Producers still read the confirms that came before its end.
    soon("the end of the producers", load.producers.join_all()).await;
    // lapin 4.12.3 may wait for ever in an acknowledgement while the connection goes down.
    // Nothing is lost by stopping there: it is written down before it is sent.
    load.consumers.shutdown().await;
}

struct Producer {
    number: usize,
    record: Record,
    random: Random,
}

impl Producer {
    async fn work(mut self, connection: Connection, channel: Channel) {
        let flow = &FLOWS[self.number];
        let (exchange, key) = (flow.exchange, QUEUES[flow.stages[0].0[0]]);
        let seed = self.record.lock().seed();
        let mut open = VecDeque::new();
        loop {
            // Written down before it is sent: what is never written down was never sent.
            let id = self.record.lock().attempt(self.number);
            let (body, properties) = (body(id, seed), self.properties());
            let (exchange, options) = (exchange.into(), BasicPublishOptions::default());
            let sent = channel.basic_publish(exchange, key.into(), options, &body, properties);
            let Ok(confirm) = sent.await else { break };
            open.push_back((id, confirm));
            if open.len() >= WINDOW {
                let (id, confirm) = open.pop_front().expect("it is not empty");
                if !confirmed(&self.record, id, confirm).await {
                    break;
                }
            }
        }
        // Some confirms came before the end and wait to be read.
        for (id, confirm) in open {
            confirmed(&self.record, id, confirm).await;
        }
        drop(connection);
    }

    fn properties(&mut self) -> BasicProperties {
        if self.number != BRIEF {
            return persistent();
        }
        persistent().with_expiration(self.random.below(300).to_string().into())
    }
}

/// Waits for the confirm and writes it down; false if the connection is gone.
async fn confirmed(record: &Record, id: Id, confirm: PublisherConfirm) -> bool {
    let Ok(answer) = confirm.await else { return false };
    if answer == Confirmation::Ack(None) {
        record.lock().confirm(id);
    }
    true
}

struct Worker {
    queue: usize,
    rejected: u64,
    kept: u64,
    record: Record,
    random: Random,
}

impl Worker {
    async fn work(mut self, connection: Connection, mut consumer: Consumer) {
        while let Some(Ok(delivery)) = consumer.next().await {
            let headers = delivery.properties.headers().as_ref();
            let known = self.record.lock().receive(self.queue, &delivery.data, headers);
            let Some(found) = known else { continue };
            let choice = self.random.below(20);
            let sent = if choice < self.kept {
                // Held until the end.
                Ok(true)
            } else if choice < self.kept + 1 {
                let requeue = BasicNackOptions { requeue: true, ..Default::default() };
                delivery.nack(requeue).await
            } else if choice < self.kept + 1 + self.rejected {
                self.record.lock().reject(found.id);
                delivery.reject(BasicRejectOptions { requeue: false }).await
            } else {
                self.record.lock().settle(self.queue, found.id);
                delivery.ack(BasicAckOptions::default()).await
            };
            if sent.is_err() {
                break;
            }
        }
        drop(connection);
    }
}
