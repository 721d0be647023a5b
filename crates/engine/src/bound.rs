//! What a queue or an exchange is bound to.

use std::collections::BTreeMap;

use leveret_model::{FieldTable, ShortString};

/// One binding, as its far end knows it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BoundTo {
    /// The exchange that messages come from.
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) arguments: FieldTable,
}

/// The bindings from one exchange to one far end: the arguments of those with each key.
pub(crate) type Keys = BTreeMap<ShortString, Vec<FieldTable>>;

/// The bindings of one far end. Exchange, key and arguments together tell one from another.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    by_source: BTreeMap<ShortString, Keys>,
}

impl Bindings {
    /// Whether it is new.
    pub(crate) fn insert(&mut self, bound: &BoundTo) -> bool {
        let keys = self.by_source.entry(bound.exchange.clone()).or_default();
        let same = keys.entry(bound.routing_key.clone()).or_default();
        if same.contains(&bound.arguments) {
            return false;
        }
        same.push(bound.arguments.clone());
        true
    }

    pub(crate) fn contains(&self, bound: &BoundTo) -> bool {
        let keys = self.by_source.get(&bound.exchange);
        let same = keys.and_then(|keys| keys.get(&bound.routing_key));
        same.is_some_and(|same| same.contains(&bound.arguments))
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, bound: &BoundTo) -> bool {
        let Some(keys) = self.by_source.get_mut(&bound.exchange) else { return false };
        let Some(same) = keys.get_mut(&bound.routing_key) else { return false };
        let Some(index) = same.iter().position(|each| *each == bound.arguments) else {
            return false;
        };
        same.remove(index);
        if same.is_empty() {
            keys.remove(&bound.routing_key);
        }
        if keys.is_empty() {
            self.by_source.remove(&bound.exchange);
        }
        true
    }

    /// Forgets all from one exchange.
    pub(crate) fn remove_source(&mut self, exchange: &ShortString) {
        self.by_source.remove(exchange);
    }

    /// All, by the exchange that they lead from.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&ShortString, &Keys)> {
        self.by_source.iter()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = BoundTo> {
        self.by_source.iter().flat_map(|(exchange, keys)| {
            keys.iter().flat_map(|(routing_key, same)| {
                same.iter().map(|arguments| BoundTo {
                    exchange: exchange.clone(),
                    routing_key: routing_key.clone(),
                    arguments: arguments.clone(),
                })
            })
        })
    }
}
