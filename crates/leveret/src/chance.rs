//! A little chance, and names that nobody else has.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    static STATE: Cell<u64> = Cell::new(seed());
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness from the system, the address of a local makes a poor one; it only spreads
    // delays, and names have a counter besides.
    if getrandom::fill(&mut bytes).is_err() {
        return std::ptr::from_ref(&bytes) as u64 | 1;
    }
    u64::from_le_bytes(bytes) | 1
}

/// From 0 to 1. Not for secrets.
pub(crate) fn chance() -> f64 {
    // xorshift64*.
    let next = STATE.with(|state| {
        let mut x = state.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    });
    (next >> 11) as f64 / (1_u64 << 53) as f64
}

/// Makes names that no other process and no other maker of names has.
#[derive(Debug)]
pub(crate) struct Names {
    prefix: String,
    next: AtomicU64,
}

impl Names {
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 12];
        getrandom::fill(&mut bytes)?;
        let prefix = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "-";
        Ok(Names { prefix, next: AtomicU64::new(1) })
    }

    pub(crate) fn next(&self) -> String {
        let mut name = String::with_capacity(self.prefix.len() + 12);
        name.push_str(&self.prefix);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // Writing to a string does not fail.
        let _ = std::fmt::Write::write_fmt(&mut name, format_args!("{number:x}"));
        name
    }
}
