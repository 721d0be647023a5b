//! A virtual host: the names of its exchanges and queues.
//!
//! Names that clients choose are kept in trees, here and in the routers: no choice of names makes
//! them slow, as it could a hash table without a secret.

use std::collections::BTreeMap;

use leveret_model::{FieldTable, QueueId, ShortString};

use crate::bound::Bindings;
use crate::exchange::{Exchange, ExchangeId, Router};

#[derive(Debug)]
pub(crate) struct VHost {
    pub(crate) name: ShortString,
    pub(crate) exchanges: BTreeMap<ShortString, ExchangeId>,
    pub(crate) queues: BTreeMap<ShortString, QueueId>,
}

/// The exchanges that every virtual host has. The default exchange is not among them: it is the
/// table of queue names.
const PREDECLARED: [(&str, &str); 6] = [
    ("amq.direct", "direct"),
    ("amq.fanout", "fanout"),
    ("amq.headers", "headers"),
    ("amq.match", "headers"),
    ("amq.rabbitmq.trace", "topic"),
    ("amq.topic", "topic"),
];

impl VHost {
    pub(crate) fn new(name: ShortString) -> Self {
        VHost { name, exchanges: BTreeMap::new(), queues: BTreeMap::new() }
    }
}

/// The exchanges of a new virtual host.
pub(crate) fn predeclared(vhost: usize) -> impl Iterator<Item = Exchange> {
    PREDECLARED.into_iter().map(move |(name, kind)| Exchange {
        vhost,
        name: ShortString::from_static(name),
        durable: true,
        auto_delete: false,
        internal: name == "amq.rabbitmq.trace",
        arguments: FieldTable::default(),
        router: Router::of_kind(kind.as_bytes()).expect("a type of the table above"),
        outgoing: 0,
        bound_to: Bindings::default(),
        alternate: None,
    })
}
