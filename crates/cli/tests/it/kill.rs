//! SIGKILL under load, again and again: what was confirmed is there, in order and intact, and
//! nothing is there that was never sent. A transaction has happened or has not, and what became a
//! dead letter is there or where it died, never in both places or in none.
//!
//! `LEVERET_KILL_ROUNDS` sets the number of rounds, `LEVERET_KILL_SEED` repeats the choices of a
//! run (though not the instants at which the machine does things).

mod body;
mod checks;
mod fault;
mod history;
mod inspection;
mod ledger;
#[cfg(target_os = "linux")]
mod lives;
mod load;
mod mover;
mod moves;
mod plan;
#[cfg(target_os = "linux")]
mod points;

use crate::amqp::connect;
use crate::broker::{Broker, Surroundings};
use crate::tools::say;
use body::Random;
use ledger::Ledger;
use std::env;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};
use tokio::runtime::Runtime;

const ROUNDS: u64 = 100;
/// With fewer rounds chance may leave something out.
const BROAD_ROUNDS: u64 = 10;

/// The record of all that happened, shared by all who make it happen.
#[derive(Clone)]
struct Record(Arc<Mutex<Ledger>>);

impl Record {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[test]
fn kill9_loses_nothing_that_was_confirmed() {
    let test = "kill9_loses_nothing_that_was_confirmed";
    let Some(mut broker) = Broker::start_mortal(test) else { return };
    let rounds = number("LEVERET_KILL_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("LEVERET_KILL_SEED").unwrap_or_else(seed_of_now);
    let mut random = Random::new(seed);
    let record = Record(Arc::new(Mutex::new(Ledger::new(seed))));
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(declare(broker.url()));

    let mut made = 0;
    while made < rounds && record.lock().faults().is_empty() {
        let load = runtime.block_on(load::start(broker.url(), &record, &mut random));
        // Chance picks the moment; there is no condition to wait for.
        thread::sleep(Duration::from_millis(10 + random.below(700)));
        broker.kill9();
        runtime.block_on(load::finish(load));
        broker.surround(surroundings(&mut random));
        if random.below(4) == 0 {
            // Recovery may be cut short as well.
            broker.restart_and_kill9(Duration::from_millis(random.below(40)));
        }
        broker.restart();
        runtime.block_on(inspection::inspect(broker.url(), &record));
        made += 1;
    }
    if record.lock().faults().is_empty() {
        // A polite end keeps no less.
        let status = broker.terminate();
        assert!(status.success(), "the broker ended with {status}");
        broker.restart();
        runtime.block_on(inspection::inspect(broker.url(), &record));
    }

    let ledger = record.lock();
    say(&format!("kill -9: {made} rounds, {}, seed {seed}", ledger.summary()));
    assert!(made > 0 && ledger.confirmed() > 0, "no message was confirmed");
    assert!(made < BROAD_ROUNDS || ledger.is_broad(), "something was left out");
    let faults = ledger.faults();
    let some = faults.iter().take(20).map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(faults.is_empty(), "round {made}, seed {seed}, {}:\n{some}", ledger.summary());
}

/// Half of the time everything that lasts is moved into packs, out of memory and back.
fn surroundings(random: &mut Random) -> Surroundings {
    let environment = if random.below(2) == 0 { tight() } else { Vec::new() };
    Surroundings { environment, ..Surroundings::default() }
}

/// With these all that lasts goes through packs.
pub(crate) fn tight() -> Vec<(&'static str, OsString)> {
    vec![("LEVERET_SEGMENT_SIZE", "1MiB".into()), ("LEVERET_MEMORY_TARGET", "0".into())]
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not {text:?}")))
}

fn seed_of_now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a sane clock");
    u64::from(now.subsec_nanos()) ^ now.as_secs()
}

async fn declare(url: &str) {
    let connection = connect(url).await;
    let channel = connection.create_channel().await.expect("a channel");
    plan::declare(&channel).await;
    connection.close(200, "bye".into()).await.expect("close");
}
