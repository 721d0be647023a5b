//! Producers and consumers that work until the broker dies.

use super::Record;
use super::body::{Id, Random, body};
use super::ledger::{FANOUT, PRODUCERS, QUEUES};
use crate::amqp::{connect, consume, persistent, soon};
use lapin::options::{
    BasicAckOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::{Channel, Confirmation, Connection, Consumer, PublisherConfirm};
use std::collections::VecDeque;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

/// How many messages of a producer may be under way without a confirm.
const WINDOW: usize = 64;
/// How many deliveries a consumer may hold.
const PREFETCH: u16 = 300;
/// The queues that have a consumer; the others only fill.
const CONSUMED: [usize; 3] = [0, 1, 3];

/// All who work.
#[derive(Default)]
pub(super) struct Load {
    producers: JoinSet<()>,
    consumers: JoinSet<()>,
}

/// Starts them all; returns when they are connected.
pub(super) async fn start(url: &str, record: &Record, random: &mut Random) -> Load {
    let mut load = Load::default();
    for queue in CONSUMED {
        let connection = connect(url).await;
        let channel = connection.create_channel().await.expect("a channel");
        let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
        soon("basic.qos", qos).await.expect("a limit");
        let consumer = consume(&channel, QUEUES[queue]).await;
        let worker = Worker { queue, record: record.clone(), random: Random::new(random.next()) };
        load.consumers.spawn(worker.work(connection, consumer));
    }
    for producer in 0..PRODUCERS.len() {
        let connection = connect(url).await;
        let channel = connection.create_channel().await.expect("a channel");
        let confirms = channel.confirm_select(ConfirmSelectOptions::default());
        soon("confirm.select", confirms).await.expect("confirms");
        load.producers.spawn(produce(connection, channel, producer, record.clone()));
    }
    load
}

/// Returns when all have stopped; the broker is dead.
pub(super) async fn finish(mut load: Load) {
    // Producers still read the confirms that came before its end.
    soon("the end of the producers", load.producers.join_all()).await;
    // lapin 4.12.3 may wait for ever in an acknowledgement while the connection goes down.
    // Nothing is lost by stopping there: it is written down before it is sent.
    load.consumers.shutdown().await;
}

async fn produce(connection: Connection, channel: Channel, producer: usize, record: Record) {
    let queues = PRODUCERS[producer];
    let (exchange, key) = if queues.len() > 1 { (FANOUT, "") } else { ("", QUEUES[queues[0]]) };
    let seed = record.lock().seed();
    let mut open = VecDeque::new();
    loop {
        // Written down before it is sent: what is never written down was never sent.
        let id = record.lock().attempt(producer);
        let body = body(id, seed);
        let (options, properties) = (BasicPublishOptions::default(), persistent());
        let sent = channel.basic_publish(exchange.into(), key.into(), options, &body, properties);
        let Ok(confirm) = sent.await else { break };
        open.push_back((id, confirm));
        if open.len() >= WINDOW {
            let (id, confirm) = open.pop_front().expect("it is not empty");
            if !confirmed(&record, id, confirm).await {
                break;
            }
        }
    }
    // Some confirms came before the end and wait to be read.
    for (id, confirm) in open {
        confirmed(&record, id, confirm).await;
    }
    drop(connection);
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
    record: Record,
    random: Random,
}

impl Worker {
    async fn work(mut self, connection: Connection, mut consumer: Consumer) {
        while let Some(Ok(delivery)) = consumer.next().await {
            let known = self.record.lock().receive(self.queue, &delivery.data);
            let Some(id) = known else { continue };
            let sent = match self.random.below(20) {
                // Held until the end.
                0 | 1 => Ok(true),
                2 => {
                    let requeue = BasicNackOptions { requeue: true, ..Default::default() };
                    delivery.nack(requeue).await
                }
                _ => {
                    self.record.lock().settle(self.queue, id);
                    delivery.ack(BasicAckOptions::default()).await
                }
            };
            if sent.is_err() {
                break;
            }
        }
        drop(connection);
    }
}
