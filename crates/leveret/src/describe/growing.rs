//! A list that only grows, and is read without a lock: for what is looked up with every message and
//! learned once.

use std::iter::successors;
use std::sync::OnceLock;

pub(super) struct Growing<T> {
    first: OnceLock<Box<Link<T>>>,
}

struct Link<T> {
    item: T,
    rest: Growing<T>,
}

impl<T> Default for Growing<T> {
    fn default() -> Self {
        Growing { first: OnceLock::new() }
    }
}

impl<T: PartialEq> Growing<T> {
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        successors(self.first.get(), |link| link.rest.first.get()).map(|link| &link.item)
    }

    /// Adds an item to the end, unless it is there.
    pub(super) fn add(&self, item: T) {
        let mut link = Box::new(Link { item, rest: Growing::default() });
        let mut end = self;
        while let Err(back) = end.first.set(link) {
            link = back;
            match end.first.get() {
                Some(other) if other.item != link.item => end = &other.rest,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_threads_add_is_there_once() {
        let list = Growing::default();
        std::thread::scope(|scope| {
            for first in 0..4 {
                let list = &list;
                scope.spawn(move || (0..100).for_each(|n| list.add((first + n) % 100)));
            }
        });
        let mut found: Vec<i32> = list.iter().copied().collect();
        found.sort_unstable();
        assert_eq!(found, (0..100).collect::<Vec<_>>());
    }
}
