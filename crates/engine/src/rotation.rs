//! Whose turn it is: consumers by priority, and in turn among those of the same.

use std::collections::VecDeque;

/// Consumers that can take a message, as far as is known.
#[derive(Debug, Default)]
pub(crate) struct Rotation {
    /// By priority, the highest first; none is empty.
    levels: Vec<(i64, VecDeque<u64>)>,
}

impl Rotation {
    /// The next one.
    pub(crate) fn front(&self) -> Option<u64> {
        self.levels.first().and_then(|(_, level)| level.front().copied())
    }

    /// How many share the turn.
    pub(crate) fn sharing(&self) -> usize {
        self.levels.first().map_or(0, |(_, level)| level.len())
    }

    /// Adds one, behind those of its priority.
    pub(crate) fn push(&mut self, priority: i64, consumer: u64) {
        let at = self.levels.partition_point(|(each, _)| *each > priority);
        match self.levels.get_mut(at) {
            Some((same, level)) if *same == priority => level.push_back(consumer),
            _ => self.levels.insert(at, (priority, VecDeque::from([consumer]))),
        }
    }

    /// Takes the next one out.
    pub(crate) fn pop(&mut self) {
        if let Some((_, level)) = self.levels.first_mut() {
            level.pop_front();
            if level.is_empty() {
                self.levels.remove(0);
            }
        }
    }

    /// The next one has had its turn.
    pub(crate) fn rotate(&mut self) {
        if let Some((_, level)) = self.levels.first_mut() {
            level.rotate_left(1);
        }
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        for (_, level) in &mut self.levels {
            level.retain(|each| keep(*each));
        }
        self.levels.retain(|(_, level)| !level.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_priority_first_and_in_turn_among_equals() {
        let mut rotation = Rotation::default();
        for (priority, consumer) in [(0, 1), (5, 2), (-1, 3), (5, 4), (0, 5)] {
            rotation.push(priority, consumer);
        }
        assert_eq!((rotation.front(), rotation.sharing()), (Some(2), 2));
        rotation.rotate();
        assert_eq!(rotation.front(), Some(4));
        rotation.retain(|each| each != 2);
        rotation.pop();
        let mut order = Vec::new();
        while let Some(next) = rotation.front() {
            order.push(next);
            rotation.pop();
        }
        assert_eq!(order, [1, 5, 3]);
        assert!(rotation.levels.is_empty());
    }
}
