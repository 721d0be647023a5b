//! Clients that do no harm, and measure how long they wait.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use leveret_amqp_wire::Method;
use leveret_amqp_wire::method::{BasicGet, QueueDeclare};

use super::client::{Client, PERSISTENT, TRANSIENT, messages};
use crate::hostile::peer::{method, short};
use crate::tools::say;

/// How long after a change its consequences begin to be measured.
const SETTLE: Duration = Duration::from_millis(60);
const WINDOW: Duration = Duration::from_millis(150);
/// Windows of each kind in one attempt.
const WINDOWS: usize = 4;
const ATTEMPTS: usize = 3;
/// Most times as long as without the abuse.
const SLOWDOWN_MAX: f64 = 2.0;
/// Nobody is interrupted: who comes may find the broker's thread in the middle of another's read,
/// which is so long when it is as large as it may be.
const ONE_READ: Duration = Duration::from_micros(100);

/// What one round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    /// A message published, confirmed and delivered.
    Transient,
    /// The same with a message that is on the disk before it is confirmed.
    Persistent,
    /// A question to a queue that is empty. Of use also to those who may not publish.
    Question,
}

/// Where the abuse happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abuse {
    Nowhere,
    /// At another broker on the same machine.
    Elsewhere,
    /// At the neighbours' broker.
    Here,
}

pub(super) struct Neighbour {
    stop: Arc<AtomicBool>,
    waits: Arc<Mutex<Vec<Duration>>>,
    thread: JoinHandle<()>,
}

impl Neighbour {
    /// It uses a queue of that name, and rests after each round.
    pub(super) fn move_in(
        broker: SocketAddr,
        name: &str,
        round: Round,
        rest: Duration,
    ) -> Neighbour {
        let mut client = Client::open(broker);
        let durable = round == Round::Persistent;
        let queue = QueueDeclare { queue: short(name), durable, ..QueueDeclare::default() };
        client.ask(queue, |method| matches!(method, Method::QueueDeclareOk(_)));
        if round != Round::Question {
            client.consume(name, true);
            client.confirm();
        }
        let said = match round {
            Round::Transient => messages("", name, TRANSIENT, 16, 1),
            Round::Persistent => messages("", name, PERSISTENT, 16, 1),
            Round::Question => method(1, BasicGet { queue: short(name), ..BasicGet::default() }),
        };
        let (stop, waits) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&waits));
        let live = move || {
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                client.peer.send(&said);
                await_answers(&mut client, round);
                noted.lock().unwrap_or_else(PoisonError::into_inner).push(begun.elapsed());
                thread::sleep(rest);
            }
            client.close();
        };
        Neighbour { stop, waits, thread: thread::spawn(live) }
    }

    fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.waits.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn move_out(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the neighbour noticed something");
    }
}

fn await_answers(client: &mut Client, round: Round) {
    if round == Round::Question {
        client.peer.expect(|method| matches!(method, Method::BasicGetEmpty(_)));
        return;
    }
    let (mut confirmed, mut delivered) = (false, false);
    while !(confirmed && delivered) {
        let both =
            |method: &Method| matches!(method, Method::BasicAck(_) | Method::BasicDeliver(_));
        match client.peer.expect(both) {
            Method::BasicAck(_) => confirmed = true,
            _ => delivered = true,
        }
    }
}

/// Half of them are longer.
pub(super) fn median(mut durations: Vec<Duration>) -> Duration {
    assert!(!durations.is_empty(), "nothing was measured");
    durations.sort_unstable();
    durations[durations.len() / 2]
}

/// Checks that the neighbours wait at most twice as long while there is abuse at their broker as
/// they do while there is the same at another.
///
/// An abuser keeps cores and disks busy, which costs everybody on the machine and tells nothing
/// about the broker; with the abuse elsewhere that is the same. What the neighbours wait beyond
/// it, they wait for the abuser's sake. How long they wait with no abuse at all is printed.
///
/// Medians say what is usual. Windows of each kind come in turn, so that what else the machine
/// does meets all of them. And the best of a few attempts counts: another program may spoil one,
/// but what the broker does wrong it does each time. Of several neighbours the worst off counts.
pub(super) fn check_slowdown(what: &str, neighbours: &[Neighbour], abuse: impl Fn(Abuse)) {
    let mut best = f64::INFINITY;
    for _ in 0..ATTEMPTS {
        let [nowhere, elsewhere, here] = measure(neighbours, &abuse);
        say(&format!(
            "{what}: neighbours wait {here:?}; {elsewhere:?} if elsewhere, else {nowhere:?}"
        ));
        best = best.min(here.as_secs_f64() / (elsewhere.max(nowhere) + ONE_READ).as_secs_f64());
        if best <= SLOWDOWN_MAX {
            return;
        }
    }
    panic!("{what}: neighbours wait {best:.1} times as long");
}

/// The median of the neighbour worst off, with the abuse nowhere, elsewhere and here.
fn measure(neighbours: &[Neighbour], abuse: &impl Fn(Abuse)) -> [Duration; 3] {
    let places = [Abuse::Nowhere, Abuse::Elsewhere, Abuse::Here];
    let mut waits = places.map(|_| vec![Vec::new(); neighbours.len()]);
    for _ in 0..WINDOWS {
        for (place, waits) in places.into_iter().zip(&mut waits) {
            abuse(place);
            thread::sleep(SETTLE);
            neighbours.iter().for_each(|neighbour| drop(neighbour.take()));
            thread::sleep(WINDOW);
            for (neighbour, waits) in neighbours.iter().zip(waits) {
                waits.extend(neighbour.take());
            }
        }
    }
    abuse(Abuse::Nowhere);
    waits.map(|waits| waits.into_iter().map(median).max().expect("a neighbour"))
}
