//! Many messages on their way through a bus while something is done to the broker, and what
//! became of each.

use futures_util::FutureExt;
use leveret::{Bus, BusBuilder, Consumer, Cx, Dedup, Message, PublishError, Ticket};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How long nothing may go on.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many messages a publisher has under way.
const UNDER_WAY: usize = 300;
/// A publisher pauses for a moment after so many, or all would be over before anything happens.
const BURST: u64 = 5;

#[derive(serde::Serialize, serde::Deserialize, Message, Debug)]
#[message(name = "flow")]
struct Numbered {
    number: u64,
    padding: String,
}

/// What a publisher does about messages of which nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It waits no longer than a moment, and publishes them again under the same id.
    Again,
    /// Nothing: it waits, and leaves it to the bus to send them again. Nothing may be unknown.
    Wait,
    /// It publishes again what nobody gets, too: the only queue may be away for a while.
    Unroutable,
}

/// A publisher and a consumer.
pub(crate) struct Flow {
    pub(crate) bus: Bus,
    pub(crate) queue: String,
    messages: u64,
    /// How many messages may still be published for now.
    open: Arc<Semaphore>,
    opened: AtomicU64,
    publishing: JoinHandle<u64>,
    consumer: Consumer,
    /// How often each message was handled.
    handled: Arc<Mutex<BTreeMap<u64, u32>>>,
}

impl Flow {
    /// Begins to consume, and to publish up to so many messages, when [`Flow::open`] lets them.
    pub(crate) async fn start(bus: BusBuilder, queue: &str, manner: Manner, messages: u64) -> Flow {
        let bus = match manner {
            Manner::Again | Manner::Unroutable => bus.confirm_timeout(Duration::from_secs(1)),
            Manner::Wait => bus.confirm_timeout(PATIENCE),
        };
        let bus = bus.connect().await.expect("a broker");
        let handled: Arc<Mutex<BTreeMap<u64, u32>>> = Arc::default();
        let seen = Arc::clone(&handled);
        let consumer = bus
            .consume(queue, move |message: Numbered, _: Cx| {
                *seen.lock().expect("no panic").entry(message.number).or_default() += 1;
                async { Ok(()) }
            })
            .subjects([queue.to_owned()])
            .concurrency(4)
            .dedup(Dedup::in_memory(10_000_000, Duration::from_secs(3600)))
            .start()
            .await
            .expect("a consumer");
        let open = Arc::new(Semaphore::new(0));
        let publisher =
            Publisher { bus: bus.clone(), queue: queue.to_owned(), manner, open: open.clone() };
        let publishing = tokio::spawn(publisher.publish(messages));
        let opened = AtomicU64::new(0);
        let queue = queue.to_owned();
        Flow { bus, queue, messages, open, opened, publishing, consumer, handled }
    }

    /// Lets so many more messages be published.
    pub(crate) fn open(&self, messages: u64) {
        self.opened.fetch_add(messages, Ordering::Relaxed);
        self.open.add_permits(messages as usize);
    }

    /// How many messages were let through.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed).min(self.messages)
    }

    /// How many messages were handled.
    pub(crate) fn handled(&self) -> u64 {
        self.handled.lock().expect("no panic").len() as u64
    }

    /// Waits until so many were handled.
    pub(crate) async fn until_handled(&self, messages: u64) {
        let mut best = (self.handled(), Instant::now());
        while self.handled() < messages {
            sleep(Duration::from_millis(1)).await;
            if self.handled() > best.0 {
                best = (self.handled(), Instant::now());
            }
            assert!(best.1.elapsed() < PATIENCE, "nothing goes on: {self:?}");
        }
    }

    /// Waits until the bus says that something is the matter.
    pub(crate) async fn until_down(&self) {
        self.until("is still well", |bus| !bus.health().is_ok()).await;
    }

    /// Waits until the bus says that all is well.
    pub(crate) async fn until_up(&self) {
        self.until("is not well again", |bus| bus.health().is_ok()).await;
    }

    async fn until(&self, otherwise: &str, holds: impl Fn(&Bus) -> bool) {
        let start = Instant::now();
        while !holds(&self.bus) {
            assert!(start.elapsed() < PATIENCE, "the bus {otherwise}: {self:?}");
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Lets the rest through, and fails unless each message was confirmed, and handled once.
    pub(crate) async fn finish(mut self) {
        self.open(self.messages);
        let wait = async { (&mut self.publishing).await.expect("a publisher") };
        // Nobody publishes for longer than it takes to be handled and some more.
        let again = match tokio::time::timeout(2 * PATIENCE, wait.boxed()).await {
            Ok(again) => again,
            Err(_) => panic!("not everything was confirmed: {self:?}"),
        };
        self.until_handled(self.messages).await;
        self.until_up().await;
        // What came twice, and is still on its way, has a moment to be handled twice.
        sleep(Duration::from_millis(200)).await;
        let twice: Vec<(u64, u32)> =
            self.handled.lock().expect("no panic").clone().into_iter().collect();
        let twice: Vec<_> = twice.into_iter().filter(|(_, times)| *times > 1).collect();
        assert_eq!(twice, [], "handled twice");
        assert_eq!(self.bus.dead_letters(&self.queue).count().await.expect("a number"), 0);
        println!("{}: {again} published again; {:?}", self.queue, self.bus.health());
        self.consumer.stop(PATIENCE).await;
        self.bus.close().await;
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("handled", &self.handled())
            .field("of", &self.messages)
            .field("missing", &self.missing())
            .field("health", &self.bus.health())
            .finish_non_exhaustive()
    }
}

impl Flow {
    /// The first few numbers below the highest one that were not handled.
    fn missing(&self) -> Vec<u64> {
        let handled = self.handled.lock().expect("no panic");
        let last = handled.last_key_value().map_or(0, |(last, _)| *last);
        (0..last).filter(|number| !handled.contains_key(number)).take(10).collect()
    }
}

struct Publisher {
    bus: Bus,
    queue: String,
    manner: Manner,
    open: Arc<Semaphore>,
}

impl Publisher {
    /// Publishes, and returns how often something was published again.
    async fn publish(self, messages: u64) -> u64 {
        let mut under_way = VecDeque::new();
        let mut again = 0;
        for number in 0..messages {
            if number % BURST == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            self.open.acquire().await.expect("an open semaphore").forget();
            if under_way.len() >= UNDER_WAY
                && let Some((number, ticket)) = under_way.pop_front()
            {
                again += self.settle(number, ticket).await;
            }
            under_way.push_back((number, self.send(number).await));
        }
        for (number, ticket) in under_way {
            again += self.settle(number, ticket).await;
        }
        again
    }

    async fn send(&self, number: u64) -> Ticket {
        let padding = "x".repeat((number % 97 * 7) as usize);
        let message = Numbered { number, padding };
        let publish = self.bus.publish(&message).subject(self.queue.clone());
        publish.id(format!("{}-{number}", self.queue)).pipelined().await.expect("a ticket")
    }

    /// Waits until it is confirmed, however often it must be published for that.
    async fn settle(&self, number: u64, mut ticket: Ticket) -> u64 {
        let mut again = 0;
        loop {
            match (ticket.await, self.manner) {
                (Ok(_), _) => return again,
                (
                    Err(PublishError::Unknown { .. } | PublishError::NotSent { .. }),
                    Manner::Again | Manner::Unroutable,
                ) => {}
                (
                    Err(PublishError::Unroutable { .. } | PublishError::Refused { .. }),
                    Manner::Unroutable,
                ) => sleep(Duration::from_millis(100)).await,
                (Err(error), _) => panic!("message {number}: {error:?}"),
            }
            again += 1;
            ticket = self.send(number).await;
        }
    }
}
