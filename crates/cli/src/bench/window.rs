//! When each unconfirmed message was sent.

/// Send times by delivery tag, in a ring.
pub(crate) struct Window {
    /// How many may be open.
    limit: u64,
    /// 0 where the message is settled.
    sent: Vec<u64>,
    lowest: u64,
    next: u64,
    open: u64,
}

impl Window {
    /// A window for `limit` open messages.
    pub(crate) fn new(limit: u64) -> Self {
        // Twice as many, since a late one keeps its place while others behind it come and go.
        let slots = (limit * 2).next_power_of_two().max(2);
        Window { limit, sent: vec![0; slots as usize], lowest: 1, next: 1, open: 0 }
    }

    /// How many more may be sent.
    pub(crate) fn room(&self) -> u64 {
        (self.limit - self.open).min(self.sent.len() as u64 - (self.next - self.lowest))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// Notes that the next message was sent, at a time that is not 0.
    pub(crate) fn send(&mut self, at: u64) {
        let slot = self.slot(self.next);
        self.sent[slot] = at;
        self.next += 1;
        self.open += 1;
    }

    /// Settles `tag`, with `multiple` all below it too, and hands the send time of each to
    /// `each`. Returns how many were settled.
    pub(crate) fn settle(&mut self, tag: u64, multiple: bool, mut each: impl FnMut(u64)) -> u64 {
        let before = self.open;
        // A multiple of 0 means all there are; what was never sent cannot be settled.
        let last = if tag == 0 { self.next - 1 } else { tag.min(self.next - 1) };
        let first = if multiple { self.lowest } else { last.max(self.lowest) };
        for tag in first..=last {
            let slot = self.slot(tag);
            let at = std::mem::take(&mut self.sent[slot]);
            if at != 0 {
                self.open -= 1;
                each(at);
            }
        }
        while self.lowest < self.next && self.sent[self.slot(self.lowest)] == 0 {
            self.lowest += 1;
        }
        before - self.open
    }

    fn slot(&self, tag: u64) -> usize {
        tag as usize & (self.sent.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::Window;

    #[test]
    fn settles_in_any_order_and_each_once() {
        let mut window = Window::new(4);
        (1..=4).for_each(|at| window.send(at * 10));
        let mut settled = Vec::new();
        assert_eq!(window.room(), 0);
        assert_eq!(window.settle(2, false, |at| settled.push(at)), 1);
        assert_eq!(window.settle(2, false, |at| settled.push(at)), 0);
        assert_eq!(window.settle(3, true, |at| settled.push(at)), 2);
        assert_eq!((settled, window.room(), window.lowest), (vec![20, 10, 30], 3, 4));
        assert_eq!(window.settle(0, true, |_| {}), 1);
        assert!(window.is_empty());
        assert_eq!(window.settle(99, true, |_| {}), 0);
    }
}
