//! A consumer on a channel of its own, and on another one whenever that is lost.

use std::sync::Arc;

use leveret_client::method::{BasicCancel, BasicConsume, BasicQos, Method};
use leveret_client::model::{FieldTable, ShortString};
use leveret_client::{Channel, Connection, Delivery, Error, Event, Events};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::declare::{self, Declared, Step};
use super::link::Status;
use super::properties;
use super::settler::AmqpSettler;
use crate::backoff::Backoff;
use crate::error::{ConnectError, SubscribeError};
use crate::health::ConsumerState;
use crate::topology::{Binding, Queue};
use crate::transport::{BoxFuture, Inbound, Inlet, Settler, Source, Subscription, Token};

/// How a queue is tried again that cannot be consumed.
const RESUME: Backoff =
    Backoff::new(std::time::Duration::from_millis(100), 2.0, std::time::Duration::from_secs(10));

/// How long a broker may take to say that it sends no more.
const CANCEL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Where the messages of a subscription come from.
pub(crate) struct AmqpInlet {
    subscription: Subscription,
    link: watch::Receiver<Status>,
    declared: Arc<Declared>,
    settler: Arc<AmqpSettler>,
    state: watch::Sender<ConsumerState>,
    current: Option<Current>,
    /// Attempts to consume that failed one after the other.
    failures: u32,
    events: Vec<Event>,
}

/// A channel that consumes.
struct Current {
    channel: Channel,
    events: Events,
    epoch: u64,
    tag: ShortString,
}

impl AmqpInlet {
    /// Begins to consume.
    pub(crate) async fn open(
        subscription: Subscription,
        link: watch::Receiver<Status>,
        declared: Arc<Declared>,
    ) -> Result<AmqpInlet, SubscribeError> {
        let mut inlet = AmqpInlet {
            subscription,
            link,
            declared,
            settler: Arc::default(),
            state: watch::Sender::new(ConsumerState::Consuming),
            current: None,
            failures: 0,
            events: Vec::new(),
        };
        loop {
            let connection = inlet.connection().await?;
            match inlet.consume(&connection).await {
                Ok(()) => return Ok(inlet),
                // Then there will be another one.
                Err(_) if connection.error().is_some() => inlet.next_connection(&connection).await,
                Err(error) => {
                    let queue = inlet.subscription.source.queue().to_owned();
                    let text = error.to_string();
                    return Err(SubscribeError::Refused { queue, text });
                }
            }
        }
    }

    /// Waits for a connection.
    async fn connection(&mut self) -> Result<Connection, SubscribeError> {
        let up = |it: &Status| it.is_closed() || it.connection().is_some();
        let status = self.link.wait_for(up).await.map(|status| status.connection());
        match status {
            Ok(Some((connection, _))) => Ok(connection),
            _ => Err(ConnectError::Closed.into()),
        }
    }

    /// Waits until the link has noticed that this connection has ended.
    async fn next_connection(&mut self, _lost: &Connection) {
        let gone = |it: &Status| match it.connection() {
            Some((connection, _)) => connection.error().is_none(),
            None => true,
        };
        // Without the link's task it is closed, which is noticed next.
        let _ = self.link.wait_for(gone).await;
    }

    async fn consume(&mut self, connection: &Connection) -> Result<(), Error> {
        let (channel, events) = connection.channel().await?;
        let prefetch_count = self.subscription.prefetch;
        channel.call(BasicQos { prefetch_count, ..Default::default() }).await?;
        let queue = self.subscription.source.queue().to_owned();
        let mut exclusive = false;
        if let Source::Own { queue, bindings } = &self.subscription.source {
            exclusive = true;
            let queues = std::slice::from_ref(queue);
            let made = self.declared.make_dead_letter_queues(connection, queues).await;
            made.map_err(|(_, error)| error)?;
            for step in own_steps(queue, bindings)? {
                step.on(&channel).await?;
            }
        }
        let mut arguments = FieldTable::new();
        if self.subscription.priority != 0 {
            arguments.insert(ShortString::from_static("x-priority"), self.subscription.priority);
        }
        let queue = ShortString::try_from(queue).map_err(|it| Error::TooLong(it.to_string()))?;
        let consume = BasicConsume { queue, exclusive, arguments, ..Default::default() };
        // Messages may come before the answer is looked at: they wait in `events`.
        let answer = channel.call(consume).await?;
        let tag = match answer.method {
            Method::BasicConsumeOk(ok) => ok.consumer_tag,
            _ => ShortString::default(),
        };
        let epoch = self.settler.begin(channel.clone());
        self.current = Some(Current { channel, events, epoch, tag });
        self.failures = 0;
        self.state.send_replace(ConsumerState::Consuming);
        Ok(())
    }

    /// Consumes again, whatever it takes.
    async fn resume(&mut self) -> Result<(), SubscribeError> {
        loop {
            if self.failures > 0 {
                sleep(RESUME.delay(self.failures)).await;
            }
            let connection = self.connection().await?;
            if self.failures > 0 {
                // Maybe somebody deleted the queue.
                let queue = self.subscription.source.queue();
                self.declared.declare_queue_again(&connection, queue).await;
            }
            match self.consume(&connection).await {
                Ok(()) => return Ok(()),
                Err(error) if connection.error().is_some() => {
                    self.wait(&error);
                    self.next_connection(&connection).await;
                }
                Err(error) => {
                    self.failures += 1;
                    let (queue, failures) = (self.subscription.source.queue(), self.failures);
                    tracing::warn!(queue, failures, %error, "cannot be consumed; trying again");
                    self.wait(&error);
                }
            }
        }
    }

    fn wait(&self, error: &Error) {
        self.state.send_replace(ConsumerState::Waiting { reason: error.to_string() });
    }

    /// The channel is of no use any more.
    fn lose(&mut self, error: &Error) {
        self.current = None;
        if !error.ends_connection() {
            self.failures += 1;
        }
        self.wait(error);
        let queue = self.subscription.source.queue();
        tracing::info!(queue, %error, "consuming is interrupted");
    }

    async fn next_events(&mut self, into: &mut Vec<Arc<Inbound>>) -> Result<(), SubscribeError> {
        let before = into.len();
        while into.len() == before {
            if self.current.is_none() {
                self.resume().await?;
            }
            let Some(current) = &mut self.current else { continue };
            current.events.next(&mut self.events).await;
            let epoch = current.epoch;
            let mut lost = None;
            for event in self.events.drain(..) {
                match event {
                    Event::Deliver(delivery) => into.push(inbound(epoch, &delivery)),
                    Event::Cancelled => lost = Some(cancelled()),
                    Event::Closed(error) => lost = Some(error),
                    Event::Confirm { .. } | Event::Return(_) => {}
                }
            }
            if let Some(error) = lost {
                self.lose(&error);
            }
        }
        Ok(())
    }
}

fn own_steps(queue: &Queue, bindings: &[Binding]) -> Result<Vec<Step>, Error> {
    let mut steps = vec![declare::declare_own(queue)];
    steps.extend(bindings.iter().map(declare::bind));
    let steps: Result<Vec<Step>, _> = steps.into_iter().collect();
    steps.map_err(|error| Error::TooLong(error.to_string()))
}

/// The broker ended the consumer but not the channel: the queue is gone, or has another leader.
fn cancelled() -> Error {
    Error::Closed {
        scope: leveret_client::Scope::Channel,
        code: 404,
        text: "the broker ended the consumer; is the queue gone?".to_owned(),
    }
}

fn inbound(epoch: u64, delivery: &Delivery) -> Arc<Inbound> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (letter, deliveries) = properties::decode(delivery);
    Arc::new(Inbound {
        token: Token { epoch, tag: delivery.tag },
        redelivered: delivery.redelivered,
        deliveries,
        exchange: text(delivery.exchange()),
        subject: text(delivery.routing_key()),
        letter,
    })
}

impl Inlet for AmqpInlet {
    fn next<'a>(
        &'a mut self,
        into: &'a mut Vec<Arc<Inbound>>,
    ) -> BoxFuture<'a, Result<(), SubscribeError>> {
        Box::pin(self.next_events(into))
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::clone(&self.settler) as _
    }

    fn state(&self) -> watch::Receiver<ConsumerState> {
        self.state.subscribe()
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Some(Current { channel, tag, .. }) = &self.current {
                let cancel = BasicCancel { consumer_tag: tag.clone(), no_wait: false };
                // A channel that has ended consumes nothing either, and one that is silent will not
                // be heard before it is dropped.
                let _ = timeout(CANCEL_TIMEOUT, channel.call(cancel)).await;
            }
            self.state.send_replace(ConsumerState::Stopped);
        })
    }
}
