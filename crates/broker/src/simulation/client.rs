//! A client of the simulated broker: what it asks for, and what it is told.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use leveret_engine::command::Consume;
use leveret_engine::{Command, Item, Operation, Outbound, Reply, Token};
use leveret_model::{Chunk, FieldTable, ShortString};

use super::life::QUEUES;
use super::truth::Place;
use crate::{Broker, Session};

/// A session, and what it waits for.
pub(super) struct Client {
    session: Session,
    /// The queues it gets from and has no answer of.
    pub(super) gets: VecDeque<usize>,
    /// The queues of its consumers: those not told of yet, and those that are.
    pub(super) asked: VecDeque<usize>,
    pub(super) consumers: Vec<(u64, usize)>,
    pub(super) held: Vec<(u64, Place)>,
}

/// What a client was told.
pub(super) enum Told {
    Came { place: Place, redelivered: bool },
    Confirmed(u64, u64),
    Committed,
    Other,
}

/// A body that says whose it is, all over.
pub(super) fn body(id: u64, size: usize) -> Vec<u8> {
    id.to_be_bytes().into_iter().cycle().take(size).collect()
}

pub(super) fn name(queue: usize) -> ShortString {
    ShortString::from_static(QUEUES[queue])
}

impl Client {
    pub(super) fn new(broker: &Broker) -> Client {
        let session = broker.connect(b"/").expect("a virtual host");
        let client = Client {
            session,
            gets: VecDeque::new(),
            asked: VecDeque::new(),
            consumers: Vec::new(),
            held: Vec::new(),
        };
        client.send(Operation::Open);
        client
    }

    pub(super) fn send(&self, operation: Operation) {
        self.submit(vec![operation], Chunk::default());
    }

    pub(super) fn submit(&self, operations: Vec<Operation>, chunk: Chunk) {
        let commands = operations.into_iter();
        let command = |operation| Command { holder: 1, token: Token(0), operation };
        self.session.submit(commands.map(command).collect(), chunk);
    }

    pub(super) fn consume(&mut self, queue: usize) {
        self.asked.push_back(queue);
        self.send(Operation::Consume(Box::new(Consume {
            queue: name(queue),
            tag: ShortString::default(),
            no_ack: false,
            exclusive: false,
            arguments: FieldTable::default(),
            reply: true,
        })));
    }

    /// Takes what it is told.
    pub(super) fn listen(&mut self) -> Vec<Told> {
        let (mut outbounds, mut told) = (Vec::new(), Vec::new());
        while self
            .session
            .poll_outbound(&mut Context::from_waker(Waker::noop()), &mut outbounds)
            .is_ready()
        {
            for outbound in std::mem::take(&mut outbounds) {
                told.extend(outbound.items.iter().map(|item| self.hear(&outbound, item)));
                self.send(Operation::Taken { bytes: outbound.bytes });
            }
        }
        told
    }

    fn hear(&mut self, outbound: &Outbound, item: &Item) -> Told {
        let (queue, chunk, message, lease, redelivered) = match item {
            Item::Deliver { consumer, chunk, message, lease, redelivered, .. } => {
                let own = self.consumers.iter().find(|(id, _)| id == consumer);
                (own.expect("told of").1, *chunk, *message, *lease, *redelivered)
            }
            Item::Got { chunk, message, lease, redelivered, .. } => {
                let queue = self.gets.pop_front().expect("asked for");
                (queue, *chunk, *message, *lease, *redelivered)
            }
            Item::Confirmed { confirmed, .. } => {
                return Told::Confirmed(confirmed.first, confirmed.last);
            }
            Item::Reply { reply, .. } => return self.hear_reply(reply),
            other => panic!("{other:?}"),
        };
        let found = outbound.chunks[chunk as usize].get(message).body;
        let id = u64::from_be_bytes(found[..8].try_into().expect("eight bytes"));
        assert_eq!(found, body(id, found.len()), "a body of its own");
        self.held.push((lease, (queue, id)));
        Told::Came { place: (queue, id), redelivered }
    }

    fn hear_reply(&mut self, reply: &Reply) -> Told {
        match reply {
            Reply::Consuming { consumer, .. } => {
                let queue = self.asked.pop_front().expect("asked for");
                self.consumers.push((*consumer, queue));
            }
            Reply::GotNothing => drop(self.gets.pop_front().expect("asked for")),
            Reply::Committed => return Told::Committed,
            Reply::Refused { refusal, .. } => panic!("{refusal}"),
            _ => {}
        }
        Told::Other
    }
}
