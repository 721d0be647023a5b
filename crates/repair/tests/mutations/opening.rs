//! Opening a directory as `leveret serve` does, and taking out what is in its queues.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use leveret_broker::engine::command::Consume;
use leveret_broker::engine::{Command, Item, Operation, Reply, Token};
use leveret_broker::{Broker, DiskOptions, OpenError, Options, Session};
use leveret_model::{Chunk, FieldTable, QueueId, ShortString};

use crate::making::{QUEUES, SEGMENT_BYTES, number};

const PATIENCE: Duration = Duration::from_secs(30);

/// What came out of a queue, and how many messages of it were reported lost.
pub(crate) type Found = BTreeMap<QueueId, (Vec<u64>, u64)>;

/// Stands for the number of a message that says what nobody sent.
pub(crate) const FOREIGN: u64 = u64::MAX;

/// How to take out what is in the queues.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    Get,
    Consume,
}

pub(crate) fn open(directory: &Path, memory_target: usize) -> Result<Broker, OpenError> {
    Broker::open(Options {
        data_dir: directory.to_owned(),
        users: Vec::new(),
        memory_max: 1 << 30,
        memory_target,
        segment_bytes: SEGMENT_BYTES,
        // How full the disk of the machine is must not matter.
        disk: DiskOptions { low: Some(0), critical: Some(0), probe: None },
    })
}

/// Takes out what is in the queues.
///
/// # Errors
/// If too little comes, or too much.
pub(crate) fn drain(broker: &Broker, way: Way) -> Result<Found, String> {
    let mut found = Found::new();
    for (id, name) in (1..).zip(QUEUES) {
        // What `leveret repair` calls a queue whose definition is lost.
        let recovered = format!("leveret.recovered.{id}");
        let names = [name, &recovered].into_iter();
        let Some((name, before)) = names.filter_map(|it| Some((it, ready(broker, it)?))).next()
        else {
            continue;
        };
        let mut client = Client::new(broker);
        let name = ShortString::try_from(name).expect("short");
        match way {
            Way::Get => {
                let get = || Operation::Get { queue: name.clone(), no_ack: true };
                client.send((0..=before).map(|_| get()));
            }
            Way::Consume => client.send([Operation::Consume(Box::new(Consume {
                queue: name.clone(),
                tag: ShortString::default(),
                no_ack: true,
                exclusive: false,
                arguments: FieldTable::new(),
                reply: false,
            }))]),
        }
        let lost = || damaged(broker, name.as_bytes());
        while match way {
            Way::Get => !client.empty,
            Way::Consume => client.bodies.len() as u64 + lost() < before as u64,
        } {
            client.wait(match way {
                Way::Get => PATIENCE,
                // That the last one is lost is told to nobody.
                Way::Consume => Duration::from_millis(1),
            })?;
        }
        let number = |body: &Vec<u8>| number(body).unwrap_or(FOREIGN);
        let numbers: Vec<u64> = client.bodies.iter().map(number).collect();
        if numbers.len() as u64 + lost() != before as u64 {
            return Err(format!("{before} were ready, {numbers:?} came, {} were lost", lost()));
        }
        found.insert(QueueId(id), (numbers, lost()));
    }
    Ok(found)
}

fn ready(broker: &Broker, name: &str) -> Option<usize> {
    let queues = broker.queues();
    queues.iter().find(|queue| queue.name == *name).map(|queue| queue.ready)
}

fn damaged(broker: &Broker, name: &[u8]) -> u64 {
    let queues = broker.queues();
    queues.iter().find(|queue| queue.name == name[..]).map_or(0, |queue| queue.damaged)
}

struct Client {
    session: Session,
    bodies: Vec<Vec<u8>>,
    /// Whether a queue had nothing more.
    empty: bool,
    began: Instant,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Client {
    fn new(broker: &Broker) -> Client {
        let session = broker.connect(b"/").expect("a virtual host");
        let client = Client { session, bodies: Vec::new(), empty: false, began: Instant::now() };
        client.send([Operation::Open]);
        client
    }

    fn send(&self, operations: impl IntoIterator<Item = Operation>) {
        let command = |operation| Command { holder: 1, token: Token(0), operation };
        let commands = operations.into_iter().map(command).collect();
        self.session.submit(commands, Chunk::default());
    }

    /// Waits until something more is told, or for that long.
    fn wait(&mut self, most: Duration) -> Result<(), String> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut told = Vec::new();
        let began = Instant::now();
        while self.session.poll_outbound(&mut Context::from_waker(&waker), &mut told)
            == Poll::Pending
        {
            if self.began.elapsed() >= PATIENCE {
                return Err("what is ready does not come".to_owned());
            }
            let Some(left) = most.checked_sub(began.elapsed()) else { return Ok(()) };
            thread::park_timeout(left);
        }
        for outbound in told {
            self.send([Operation::Taken { bytes: outbound.bytes }]);
            for item in &outbound.items {
                match item {
                    Item::Deliver { chunk, message, .. } | Item::Got { chunk, message, .. } => {
                        let chunk = &outbound.chunks[*chunk as usize];
                        self.bodies.push(chunk.get(*message).body.to_vec());
                    }
                    Item::Reply { reply, .. } => self.empty |= **reply == Reply::GotNothing,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
