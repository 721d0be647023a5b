//! Topic patterns as a trie: words between dots, `*` for one word, `#` for any number.
//!
//! A key is matched by walking the trie with the set of all nodes that its words so far can have
//! reached, so the cost is bounded by words times nodes however many `#` a pattern has.

use std::collections::BTreeMap;

use rustc_hash::FxHashSet;

use crate::exchange::{Target, remove_one};

#[derive(Debug)]
pub(crate) struct Topics {
    /// Node 0 is the root. Freed nodes are in `free`.
    nodes: Vec<Node>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Node {
    words: BTreeMap<Box<[u8]>, u32>,
    star: Option<u32>,
    hash: Option<u32>,
    /// Whether it is reached by `#`: then any word leads back to it.
    is_hash: bool,
    /// Bound by the pattern that ends here, as often as bound.
    targets: Vec<Target>,
}

impl Default for Topics {
    fn default() -> Self {
        Topics { nodes: vec![Node::default()], free: Vec::new() }
    }
}

fn words(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    key.split(|byte| *byte == b'.')
}

impl Topics {
    pub(crate) fn insert(&mut self, pattern: &[u8], target: Target) {
        let mut at = 0;
        for word in words(pattern) {
            at = match self.child(at, word) {
                Some(child) => child,
                None => self.add_child(at, word),
            };
        }
        self.nodes[at as usize].targets.push(target);
    }

    pub(crate) fn remove(&mut self, pattern: &[u8], target: Target) {
        let mut path = vec![(0, &b""[..])];
        let mut at = 0;
        for word in words(pattern) {
            let Some(child) = self.child(at, word) else { return };
            at = child;
            path.push((at, word));
        }
        remove_one(&mut self.nodes[at as usize].targets, target);
        while let [.., (parent, _), (node, word)] = path[..] {
            if !self.nodes[node as usize].is_empty() {
                return;
            }
            self.remove_child(parent, word);
            self.free.push(node);
            path.pop();
        }
    }

    /// Adds the targets whose pattern matches; one may come several times.
    pub(crate) fn matches(&self, key: &[u8], targets: &mut Vec<Target>) {
        let mut reached = Vec::new();
        let mut next = Vec::new();
        let mut seen = FxHashSet::default();
        self.enter(0, &mut seen, &mut reached);
        for word in words(key) {
            seen.clear();
            for at in reached.drain(..) {
                let node = &self.nodes[at as usize];
                if node.is_hash {
                    self.enter(at, &mut seen, &mut next);
                }
                for child in node.words.get(word).into_iter().chain(&node.star) {
                    self.enter(*child, &mut seen, &mut next);
                }
            }
            std::mem::swap(&mut reached, &mut next);
        }
        for at in reached {
            targets.extend(&self.nodes[at as usize].targets);
        }
    }

    /// Everything that is bound, once for each binding.
    pub(crate) fn targets(&self) -> Vec<Target> {
        self.nodes.iter().flat_map(|node| &node.targets).copied().collect()
    }

    /// Adds a node to the set, and its `#` child, which is reached with no word at all.
    fn enter(&self, node: u32, seen: &mut FxHashSet<u32>, set: &mut Vec<u32>) {
        let mut at = Some(node);
        while let Some(node) = at {
            if !seen.insert(node) {
                return;
            }
            set.push(node);
            at = self.nodes[node as usize].hash;
        }
    }

    fn child(&self, at: u32, word: &[u8]) -> Option<u32> {
        let node = &self.nodes[at as usize];
        match word {
            b"*" => node.star,
            b"#" => node.hash,
            word => node.words.get(word).copied(),
        }
    }

    fn add_child(&mut self, at: u32, word: &[u8]) -> u32 {
        let child = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            u32::try_from(self.nodes.len() - 1).expect("fewer nodes than 2^32 fit in memory")
        });
        self.nodes[child as usize].is_hash = word == b"#";
        let node = &mut self.nodes[at as usize];
        match word {
            b"*" => node.star = Some(child),
            b"#" => node.hash = Some(child),
            word => {
                node.words.insert(word.into(), child);
            }
        }
        child
    }

    fn remove_child(&mut self, at: u32, word: &[u8]) {
        let node = &mut self.nodes[at as usize];
        match word {
            b"*" => node.star = None,
            b"#" => node.hash = None,
            word => {
                node.words.remove(word);
            }
        }
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.targets.is_empty()
            && self.words.is_empty()
            && self.star.is_none()
            && self.hash.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_model::QueueId;

    fn target(id: u64) -> Target {
        Target::Queue(QueueId(id))
    }

    /// The definition, as a recursion.
    fn matches(pattern: &[&[u8]], key: &[&[u8]]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            ([b"#", rest @ ..], key) => {
                matches(rest, key) || (!key.is_empty() && matches(pattern, &key[1..]))
            }
            ([b"*", rest @ ..], [_, key @ ..]) => matches(rest, key),
            ([word, rest @ ..], [first, key @ ..]) => word == first && matches(rest, key),
            _ => false,
        }
    }

    #[test]
    fn agrees_with_the_definition() {
        let alphabet = ["a", "b", "", "*", "#"];
        let mut all = vec![String::new()];
        for length in 1..=4_u32 {
            for n in 0..alphabet.len().pow(length) {
                let word = |i| alphabet[n / alphabet.len().pow(i) % alphabet.len()];
                all.push((0..length).map(word).collect::<Vec<_>>().join("."));
            }
        }
        let mut topics = Topics::default();
        for (id, pattern) in (0..).zip(&all) {
            topics.insert(pattern.as_bytes(), target(id));
        }
        for key in all.iter().filter(|key| !key.contains(['*', '#'])) {
            let mut found = Vec::new();
            topics.matches(key.as_bytes(), &mut found);
            found.sort_unstable();
            found.dedup();
            let key: Vec<_> = words(key.as_bytes()).collect();
            let expected: Vec<_> = (0..)
                .zip(&all)
                .filter(|(_, p)| matches(&words(p.as_bytes()).collect::<Vec<_>>(), &key))
                .map(|(id, _)| target(id))
                .collect();
            assert_eq!(found, expected, "key {key:?}");
        }
        for (id, pattern) in (0..).zip(&all) {
            topics.remove(pattern.as_bytes(), target(id));
        }
        assert!(topics.nodes[0].is_empty());
        assert_eq!(topics.free.len(), topics.nodes.len() - 1);
    }

    #[test]
    fn many_hashes_stay_cheap() {
        let mut topics = Topics::default();
        topics.insert(["#"; 100].join(".").as_bytes(), target(1));
        let mut found = Vec::new();
        topics.matches(["a"; 128].join(".").as_bytes(), &mut found);
        assert_eq!(found, [target(1)]);
    }
}
