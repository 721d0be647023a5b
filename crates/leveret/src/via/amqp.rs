//! Brokers that speak AMQP 0-9-1: leveret, RabbitMQ, and the broker within the process.
//!
//! Two connections, since a broker that takes no messages for now stops reading from those that
//! publish, and acknowledgements should not have to wait for that.

mod declare;
pub(crate) mod delay;
pub(crate) mod hosts;
pub(crate) mod link;
mod pending;
mod properties;
mod publisher;
mod settler;
mod subscription;
#[cfg(test)]
#[cfg(feature = "embedded")]
mod tests;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use leveret_client::method::{Method, QueueDeclare};
use leveret_client::model::ShortString;
use leveret_client::{Connection, Error};
use tokio::time::timeout;

use self::declare::Declared;
use self::link::{Connector, Link};
use self::publisher::Publisher;
use self::subscription::AmqpInlet;
use crate::error::{ConnectError, SubscribeError, TopologyError};
use crate::health::ConnectionHealth;
use crate::topology::{QueueKind, Topology};
use crate::transport::{
    BoxFuture, Capabilities, Inlet, Outgoing, QueueStatus, Subscription, Transport,
};

/// How long a bus that is closed waits for confirms.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// A broker that speaks AMQP.
#[derive(Debug)]
pub(crate) struct Amqp {
    name: &'static str,
    publishing: Link,
    consuming: Link,
    publisher: Arc<Publisher>,
    declared: Arc<Declared>,
    /// How long a broker may take to answer.
    within: Duration,
    /// What is below.
    native: Option<Box<dyn Any + Send + Sync>>,
    /// Whatever must live as long as this.
    _kept: Option<Box<dyn Any + Send + Sync>>,
}

impl Amqp {
    /// Begins to connect.
    pub(crate) fn start(
        name: &'static str,
        connector: Arc<dyn Connector>,
        kind: QueueKind,
        within: Duration,
    ) -> Amqp {
        let declared = Arc::new(Declared::new(kind, within));
        let publishing = Link::start("publishing", Arc::clone(&connector), Arc::clone(&declared));
        let consuming = Link::start("consuming", connector, Arc::clone(&declared));
        let publisher = Publisher::start(&publishing, within);
        Amqp { name, publishing, consuming, publisher, declared, within, native: None, _kept: None }
    }

    /// With what [`Transport::native`] gives, and something to be kept for as long as this lives.
    #[cfg(feature = "embedded")]
    pub(crate) fn over(
        mut self,
        native: impl Any + Send + Sync,
        kept: impl Any + Send + Sync,
    ) -> Self {
        self.native = Some(Box::new(native));
        self._kept = Some(Box::new(kept));
        self
    }

    /// Declares, on whatever connection lasts long enough.
    async fn declare_now(&self, topology: &Topology) -> Result<(), TopologyError> {
        loop {
            let connection = self.consuming.connection(self.within).await?;
            match self.declared.declare_now(&connection, topology).await {
                // It was lost meanwhile; there will be another one.
                Err(TopologyError::Connect(_)) if connection.error().is_some() => {
                    self.consuming.lost(&connection).await;
                }
                done => return done,
            }
        }
    }

    fn unreachable(&self, text: String) -> ConnectError {
        let address = self.consuming.status().borrow().address.clone();
        ConnectError::Unreachable { address, within: self.within, text }
    }

    fn unanswered(&self, what: &str) -> ConnectError {
        self.unreachable(format!("{what} was not answered in time"))
    }
}

/// What is in a queue; `None` if there is none of that name.
async fn look(connection: &Connection, name: &str) -> Result<Option<QueueStatus>, Error> {
    let Ok(queue) = ShortString::try_from(name) else { return Ok(None) };
    let (channel, _events) = connection.channel().await?;
    let declare = QueueDeclare { queue, passive: true, ..Default::default() };
    match channel.call(declare).await.map(|answer| answer.method) {
        Ok(Method::QueueDeclareOk(ok)) => Ok(Some(QueueStatus {
            messages: ok.message_count.into(),
            consumers: ok.consumer_count.into(),
        })),
        Err(error) if error.code() != Some(404) => Err(error),
        _ => Ok(None),
    }
}

impl Transport for Amqp {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: self.name,
            delay_max: Some(delay::LONGEST),
            delay_step: delay::STEP,
            queues: self.declared.kind(),
            priorities: u8::MAX,
            // Brokers refuse quorum queues with priorities.
            quorum_priorities: 0,
            unroutable: true,
            headers: true,
            single_active_consumer: true,
            messages_max: true,
            body_bytes_max: leveret_client::model::limits::MESSAGE_BYTES_MAX,
        }
    }

    fn connected(&self, within: Duration) -> BoxFuture<'_, Result<(), ConnectError>> {
        Box::pin(async move {
            self.publishing.connection(within).await?;
            self.consuming.connection(within).await.map(drop)
        })
    }

    fn ensure(&self, topology: Topology) -> BoxFuture<'_, Result<(), TopologyError>> {
        Box::pin(async move {
            self.declare_now(&topology).await?;
            self.declared.remember(&topology);
            Ok(())
        })
    }

    fn declare(&self, topology: Topology) -> BoxFuture<'_, Result<(), TopologyError>> {
        Box::pin(async move { self.declare_now(&topology).await })
    }

    fn send(&self, outgoing: Outgoing) {
        self.publisher.send(outgoing);
    }

    fn subscribe(
        &self,
        subscription: Subscription,
    ) -> BoxFuture<'_, Result<Box<dyn Inlet>, SubscribeError>> {
        let declared = Arc::clone(&self.declared);
        Box::pin(async move {
            let opening = AmqpInlet::open(subscription, self.consuming.status(), declared);
            let inlet = timeout(self.within, opening)
                .await
                .map_err(|_| SubscribeError::Connect(self.unanswered("a consumer")))??;
            Ok(Box::new(inlet) as Box<dyn Inlet>)
        })
    }

    fn queue<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<QueueStatus>, ConnectError>> {
        Box::pin(async move {
            let connection = self.consuming.connection(self.within).await?;
            match timeout(self.within, look(&connection, name)).await {
                Ok(looked) => looked.map_err(|error| self.unreachable(error.to_string())),
                Err(_) => Err(self.unanswered("a question")),
            }
        })
    }

    fn unconfirmed(&self) -> usize {
        self.publisher.unconfirmed()
    }

    fn health(&self) -> Vec<ConnectionHealth> {
        vec![self.publishing.health(), self.consuming.health()]
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // What is not confirmed by then is told that nobody knows.
            let _ = timeout(FLUSH_TIMEOUT, self.publisher.flush()).await;
            self.publishing.close().await;
            self.consuming.close().await;
        })
    }

    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.native.as_deref()
    }
}
