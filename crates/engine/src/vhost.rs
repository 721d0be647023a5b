//! A virtual host: the names of its exchanges and queues.
//!
//! Names that clients choose are kept in trees, here and in the routers: no choice of names makes
//! them slow, as it could a hash table without a secret.

use std::collections::BTreeMap;

use leveret_model::{FieldTable, QueueId, ShortString};

use crate::exchange::{Exchange, Router};

#[derive(Debug)]
pub(crate) struct VHost {
    pub(crate) name: ShortString,
    pub(crate) exchanges: BTreeMap<ShortString, Exchange>,
    pub(crate) queues: BTreeMap<ShortString, QueueId>,
}

/// The exchanges that every virtual host has. The default exchange is not among them: it is the
/// table of queue names.
const PREDECLARED: [(&str, &str); 3] =
    [("amq.direct", "direct"), ("amq.fanout", "fanout"), ("amq.topic", "topic")];

impl VHost {
    pub(crate) fn new(name: ShortString) -> Self {
        let exchange = |(name, kind): (&'static str, &str)| {
            let name = ShortString::from_static(name);
            let exchange = Exchange {
                name: name.clone(),
                durable: true,
                auto_delete: false,
                internal: false,
                arguments: FieldTable::default(),
                router: Router::of_kind(kind.as_bytes()).expect("a type of the table above"),
                bindings: 0,
            };
            (name, exchange)
        };
        let exchanges = PREDECLARED.into_iter().map(exchange).collect();
        VHost { name, exchanges, queues: BTreeMap::new() }
    }
}
