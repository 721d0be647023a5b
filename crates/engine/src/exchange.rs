//! Exchanges: from a message's key or headers to what is bound.

use std::collections::BTreeMap;

use leveret_model::{FieldTable, QueueId, ShortString};

use crate::bound::{Bindings, Keys};
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

    /// Undoes all bindings of one target, and says how many they are. In one pass, where a router
    /// does not find them by their keys: a target may be bound very often.
    pub(crate) fn unbind_all(&mut self, keys: &Keys, target: Target) -> usize {
        let count = keys.values().map(Vec::len).sum();
        match self {
            Router::Direct(by_key) => {
                for (key, same) in keys {
                    if let Some(targets) = by_key.get_mut(key) {
                        remove_some(targets, same.len(), |each| *each == target);
                        if targets.is_empty() {
                            by_key.remove(key);
                        }
                    }
                }
            }
            Router::Fanout(targets) => remove_some(targets, count, |each| *each == target),
            Router::Topic(topics) => {
                for (key, same) in keys {
                    same.iter().for_each(|_| topics.remove(key.as_bytes(), target));
                }
            }
            Router::Headers(headers) => headers.remove_all(count, target),
        }
        count
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
    remove_some(targets, 1, |each| *each == target);
}

/// Removes what is looked for, so many times, in one pass that ends with the last of them.
pub(crate) fn remove_some<T>(all: &mut Vec<T>, mut count: usize, is: impl Fn(&T) -> bool) {
    let mut index = 0;
    while count > 0 && index < all.len() {
        if is(&all[index]) {
            all.swap_remove(index);
            count -= 1;
        } else {
            index += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn many_are_removed_in_one_pass() {
        for (count, left) in [(0, 1_000), (1, 999), (250, 750), (500, 500), (9_999, 500)] {
            let mut all: Vec<u32> = (0..1_000).collect();
            let looked = Cell::new(0);
            remove_some(&mut all, count, |each| {
                looked.set(looked.get() + 1);
                each % 2 == 1
            });
            assert_eq!(all.len(), left, "{count} of 500");
            assert_eq!(all.iter().filter(|each| *each % 2 == 0).count(), 500);
            // The last one wanted may stand anywhere, but nothing is looked at twice.
            assert!(looked.get() <= 1_000, "{count}: {} looks", looked.get());
        }
        let mut first = vec![7; 1_000];
        remove_some(&mut first, 1, |_| true);
        assert_eq!(first.len(), 999);
    }
}
