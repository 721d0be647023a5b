//! Those who move work from a queue to others, in transactions.

use super::Record;
use super::body::{Id, Random, body};
use super::plan::{FLOWS, ORDERS, QUEUES};
use crate::amqp::persistent;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicPublishOptions, BasicRejectOptions};
use lapin::{Channel, Connection, Consumer, Result};
use std::mem;
use tokio_stream::StreamExt;

pub(super) struct Mover {
    pub(super) number: usize,
    pub(super) record: Record,
    pub(super) random: Random,
}

/// An order that a mover holds.
struct Order {
    id: Id,
    tag: u64,
}

impl Mover {
    pub(super) async fn work(
        mut self,
        connection: Connection,
        channel: Channel,
        mut consumer: Consumer,
    ) {
        let mut orders = Vec::new();
        let mut wanted = 1;
        while let Some(Ok(delivery)) = consumer.next().await {
            orders.extend(self.order(&delivery));
            if orders.len() < wanted {
                continue;
            }
            let roll_back = self.random.below(10) == 0;
            let Ok(()) = self.transact(&channel, &orders, roll_back).await else { break };
            if roll_back {
                // They are ours still, and can be settled anew.
                wanted = orders.len() + 1;
            } else {
                drop(mem::take(&mut orders));
                wanted = 1 + self.random.below(8) as usize;
            }
        }
        drop(connection);
    }

    fn order(&self, delivery: &Delivery) -> Option<Order> {
        let headers = delivery.properties.headers().as_ref();
        let found = self.record.lock().receive(ORDERS, &delivery.data, headers)?;
        Some(Order { id: found.id, tag: delivery.delivery_tag })
    }

    /// Settles the orders and publishes what comes of them.
    async fn transact(
        &mut self,
        channel: &Channel,
        orders: &[Order],
        roll_back: bool,
    ) -> Result<()> {
        let taken: Vec<(Id, bool)> =
            orders.iter().map(|order| (order.id, self.random.below(8) == 0)).collect();
        let count = 1 + self.random.below(6) as usize;
        let (number, published) = self.record.lock().begin(self.number, &taken, count);
        let seed = self.record.lock().seed();
        let (before, after) = published.split_at(self.random.below(1 + 2 * count as u64) as usize);
        publish(channel, before, seed).await?;
        for (Order { tag, .. }, (_, refused)) in orders.iter().zip(taken) {
            if refused {
                channel.basic_reject(*tag, BasicRejectOptions { requeue: false }).await?;
            } else {
                channel.basic_ack(*tag, BasicAckOptions::default()).await?;
            }
        }
        publish(channel, after, seed).await?;
        if roll_back {
            self.record.lock().roll_back(number);
            return channel.tx_rollback().await;
        }
        channel.tx_commit().await?;
        self.record.lock().committed(number);
        Ok(())
    }
}

async fn publish(channel: &Channel, messages: &[Id], seed: u64) -> Result<()> {
    for id in messages {
        let key = QUEUES[FLOWS[id.producer].stages[0].0[0]];
        let (options, body) = (BasicPublishOptions::default(), body(*id, seed));
        channel.basic_publish("".into(), key.into(), options, &body, persistent()).await?;
    }
    Ok(())
}
