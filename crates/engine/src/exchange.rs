//! Exchanges: from a routing key to queues.

use std::collections::BTreeMap;

use leveret_model::{FieldTable, QueueId, ShortString};

use crate::topic::{Topics, remove_one};

#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) name: ShortString,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) arguments: FieldTable,
    pub(crate) router: Router,
    /// How many bindings it has.
    pub(crate) bindings: usize,
}

/// The rule of an exchange type, and the bindings in the form it needs. A queue stands in it as
/// often as it is bound.
#[derive(Debug)]
pub(crate) enum Router {
    Direct(BTreeMap<ShortString, Vec<QueueId>>),
    Fanout(Vec<QueueId>),
    Topic(Topics),
}

impl Router {
    /// The rule of that name, if there is one.
    pub(crate) fn of_kind(kind: &[u8]) -> Option<Router> {
        match kind {
            b"direct" => Some(Router::Direct(BTreeMap::new())),
            b"fanout" => Some(Router::Fanout(Vec::new())),
            b"topic" => Some(Router::Topic(Topics::default())),
            _ => None,
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Router::Direct(_) => "direct",
            Router::Fanout(_) => "fanout",
            Router::Topic(_) => "topic",
        }
    }

    pub(crate) fn bind(&mut self, key: &ShortString, queue: QueueId) {
        match self {
            Router::Direct(keys) => keys.entry(key.clone()).or_default().push(queue),
            Router::Fanout(queues) => queues.push(queue),
            Router::Topic(topics) => topics.insert(key.as_bytes(), queue),
        }
    }

    pub(crate) fn unbind(&mut self, key: &ShortString, queue: QueueId) {
        match self {
            Router::Direct(keys) => {
                if let Some(queues) = keys.get_mut(key) {
                    remove_one(queues, queue);
                    if queues.is_empty() {
                        keys.remove(key);
                    }
                }
            }
            Router::Fanout(queues) => remove_one(queues, queue),
            Router::Topic(topics) => topics.remove(key.as_bytes(), queue),
        }
    }

    /// Adds the queues that a message with this key goes to, each once.
    pub(crate) fn route(&self, key: &[u8], queues: &mut Vec<QueueId>) {
        match self {
            Router::Direct(keys) => queues.extend(keys.get(key).into_iter().flatten()),
            Router::Fanout(bound) => queues.extend(bound),
            Router::Topic(topics) => topics.matches(key, queues),
        }
        if queues.len() > 1 {
            queues.sort_unstable();
            queues.dedup();
        }
    }
}
