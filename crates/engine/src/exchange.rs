//! Exchanges: from a message's key or headers to what is bound.

use std::collections::BTreeMap;

use leveret_model::{FieldTable, QueueId, ShortString};

use crate::bound::Bindings;
use crate::headers::Headers;
use crate::topic::Topics;

/// An exchange for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ExchangeId(pub(crate) u64);

/// Where a binding leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Queue(QueueId),
    Exchange(ExchangeId),
}

#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) vhost: usize,
    pub(crate) name: ShortString,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) arguments: FieldTable,
    pub(crate) router: Router,
    /// How many bindings lead from it.
    pub(crate) outgoing: usize,
    /// The bindings that lead to it.
    pub(crate) bound_to: Bindings,
    /// The exchange that gets what finds no binding here.
    pub(crate) alternate: Option<ShortString>,
}

/// The rule of an exchange type, and the bindings in the form it needs. A target stands in it as
/// often as it is bound.
#[derive(Debug)]
pub(crate) enum Router {
    Direct(BTreeMap<ShortString, Vec<Target>>),
    Fanout(Vec<Target>),
    Topic(Topics),
    Headers(Headers),
}

impl Router {
    /// The rule of that name, if there is one.
    pub(crate) fn of_kind(kind: &[u8]) -> Option<Router> {
        match kind {
            b"direct" => Some(Router::Direct(BTreeMap::new())),
            b"fanout" => Some(Router::Fanout(Vec::new())),
            b"topic" => Some(Router::Topic(Topics::default())),
            b"headers" => Some(Router::Headers(Headers::default())),
            _ => None,
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Router::Direct(_) => "direct",
            Router::Fanout(_) => "fanout",
            Router::Topic(_) => "topic",
            Router::Headers(_) => "headers",
        }
    }

    pub(crate) fn bind(&mut self, key: &ShortString, arguments: &FieldTable, target: Target) {
        match self {
            Router::Direct(keys) => keys.entry(key.clone()).or_default().push(target),
            Router::Fanout(targets) => targets.push(target),
            Router::Topic(topics) => topics.insert(key.as_bytes(), target),
            Router::Headers(headers) => headers.insert(arguments, target),
        }
    }

    pub(crate) fn unbind(&mut self, key: &ShortString, arguments: &FieldTable, target: Target) {
        match self {
            Router::Direct(keys) => {
                if let Some(targets) = keys.get_mut(key) {
                    remove_one(targets, target);
                    if targets.is_empty() {
                        keys.remove(key);
                    }
                }
            }
            Router::Fanout(targets) => remove_one(targets, target),
            Router::Topic(topics) => topics.remove(key.as_bytes(), target),
            Router::Headers(headers) => headers.remove(arguments, target),
        }
    }

    /// Everything that is bound, once for each binding.
    pub(crate) fn targets(&self) -> Vec<Target> {
        match self {
            Router::Direct(keys) => keys.values().flatten().copied().collect(),
            Router::Fanout(targets) => targets.clone(),
            Router::Topic(topics) => topics.targets(),
            Router::Headers(headers) => headers.targets(),
        }
    }
}

/// Removes one occurrence.
pub(crate) fn remove_one(targets: &mut Vec<Target>, target: Target) {
    if let Some(index) = targets.iter().position(|each| *each == target) {
        targets.swap_remove(index);
    }
}
