//! From an exchange to queues, over bindings between exchanges and alternate exchanges.

use leveret_model::properties;
use leveret_model::{FieldTable, QueueId};
use rustc_hash::FxHashSet;

use crate::engine::Engine;
use crate::exchange::{Exchange, ExchangeId, Router, Target};
use crate::headers::{ByName, by_name};

/// What routing looks at.
#[derive(Clone, Copy)]
pub(crate) struct Address<'a> {
    pub(crate) vhost: usize,
    /// Empty for the default exchange.
    pub(crate) exchange: &'a [u8],
    pub(crate) keys: &'a [&'a [u8]],
    /// As in the content header.
    pub(crate) properties: &'a [u8],
}

/// What came of it, besides the queues.
pub(crate) struct Routed {
    /// Whether it depended on more than the address's exchange and keys.
    pub(crate) by_headers: bool,
}

impl Engine {
    /// Adds the queues that a message goes to, each once. `None` if there is no such exchange.
    pub(crate) fn route(&self, address: Address<'_>, queues: &mut Vec<QueueId>) -> Option<Routed> {
        let first = queues.len();
        let mut by_headers = false;
        if address.exchange.is_empty() {
            self.route_by_name(address, queues);
        } else {
            let vhost = &self.vhosts[address.vhost];
            let id = *vhost.exchanges.get(address.exchange)?;
            by_headers = self.walk(id, address, queues);
        }
        if queues.len() > first + 1 {
            queues[first..].sort_unstable();
            queues.dedup();
        }
        Some(Routed { by_headers })
    }

    /// The default exchange: every queue is bound to it by its name.
    fn route_by_name(&self, address: Address<'_>, queues: &mut Vec<QueueId>) {
        let names = &self.vhosts[address.vhost].queues;
        queues.extend(address.keys.iter().filter_map(|key| names.get(*key)));
    }

    /// Visits each exchange that the message reaches, once. Says whether headers were looked at.
    fn walk(&self, first: ExchangeId, address: Address<'_>, queues: &mut Vec<QueueId>) -> bool {
        let mut next = Some(first);
        // Nearly always there is only one exchange, and these stay empty.
        let mut waiting: Vec<ExchangeId> = Vec::new();
        let mut seen: FxHashSet<ExchangeId> = FxHashSet::default();
        let mut targets: Vec<Target> = Vec::new();
        let mut headers: Option<FieldTable> = None;
        while let Some(id) = next {
            let exchange = &self.exchanges[&id];
            if matches!(exchange.router, Router::Headers(_)) && headers.is_none() {
                headers = Some(headers_of(address.properties));
            }
            targets.clear();
            matches(exchange, address.keys, headers.as_ref(), &mut targets);
            if targets.is_empty() {
                self.alternate(exchange, address, &mut targets, queues);
            }
            for target in &targets {
                match *target {
                    Target::Queue(queue) => queues.push(queue),
                    Target::Exchange(other) => {
                        seen.insert(first);
                        if seen.insert(other) {
                            waiting.push(other);
                        }
                    }
                }
            }
            next = waiting.pop();
        }
        headers.is_some()
    }

    /// Where an exchange sends what it has no binding for.
    fn alternate(
        &self,
        exchange: &Exchange,
        address: Address<'_>,
        targets: &mut Vec<Target>,
        queues: &mut Vec<QueueId>,
    ) {
        match &exchange.alternate {
            None => {}
            Some(name) if name.is_empty() => self.route_by_name(address, queues),
            Some(name) => {
                let id = self.vhosts[address.vhost].exchanges.get(name);
                targets.extend(id.map(|id| Target::Exchange(*id)));
            }
        }
    }
}

fn matches(
    exchange: &Exchange,
    keys: &[&[u8]],
    headers: Option<&FieldTable>,
    targets: &mut Vec<Target>,
) {
    match &exchange.router {
        Router::Direct(bound) => {
            targets.extend(keys.iter().filter_map(|key| bound.get(*key)).flatten());
        }
        Router::Fanout(bound) => targets.extend(bound),
        Router::Topic(topics) => {
            for key in keys {
                topics.matches(key, targets);
            }
        }
        Router::Headers(bindings) => {
            let headers = headers.map_or_else(ByName::new, by_name);
            bindings.matches(&headers, targets);
        }
    }
}

/// A message's headers; none where there are none, or none that can be read.
fn headers_of(raw: &[u8]) -> FieldTable {
    let headers = properties::scan(raw).ok().and_then(|scan| scan.headers);
    headers.and_then(|headers| FieldTable::decode_content(headers).ok()).unwrap_or_default()
}
