//! Damaged data directories: each is refused, or what was confirmed comes out of its queues. Bytes
//! say how one is damaged; the tests of `crates/repair` do the same with random numbers.
#![no_main]

#[path = "../../crates/repair/tests/mutations/attempt.rs"]
mod attempt;
#[path = "../../crates/repair/tests/mutations/making.rs"]
mod making;
#[path = "../../crates/repair/tests/mutations/mutation.rs"]
mod mutation;
#[path = "../../crates/repair/tests/mutations/opening.rs"]
mod opening;
#[path = "../../crates/repair/tests/mutations/verdict.rs"]
mod verdict;

use std::sync::{Mutex, OnceLock};

use attempt::attempt;
use libfuzzer_sys::fuzz_target;
use making::Sound;
use mutation::mutate;

static SOUND: OnceLock<Vec<Sound>> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let sound = SOUND.get_or_init(attempt::sound);
    let mut bytes = data.iter().copied();
    let mut draw = |bound: usize| {
        // As many bytes as it takes to reach the bound.
        let mut number = 0;
        let mut reach = 1;
        while reach < bound {
            number = number << 8 | usize::from(bytes.next().unwrap_or(0));
            reach <<= 8;
        }
        number % bound.max(1)
    };
    let sound = &sound[draw(sound.len())];
    let mut files = sound.files.clone();
    let mut done = Vec::new();
    for _ in 0..=draw(3) {
        done.push(mutate(&mut files, &mut draw));
    }
    if let Err(error) = attempt(sound, &files, draw(24) as u64, &Mutex::default()) {
        panic!("{}: {error}", done.join("; "));
    }
});
