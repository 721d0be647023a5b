//! Messages put off for any time, by queues that every broker of the protocol has.
//!
//! There is a level for each bit of a delay, counted in steps of 16 ms: a headers exchange, and a
//! queue whose messages expire after the level's time and go on to the next lower level's exchange.
//! A message carries its delay's bits as headers; where its bit is not set it passes the queue by.
//! The last exchange leads where the message wants to go, with the routing key it had. So messages
//! of all delays share a few queues, none ever waits behind another that is due later, and each
//! takes as many hops as its delay has bits: delays of the toolkit's own making have few.
//!
//! The queues are quorum queues that dead-letter at least once, or a broker's crash in the middle
//! of a hop would lose the message. RabbitMQ keeps a message of such a queue that it cannot route,
//! or that a full queue refuses, tries again every three minutes, and takes on nothing else when it
//! has 32 of them. What all share must therefore be rid of each message at once:
//!
//! - The last hop of each target is from a gate, a queue of the target's own: those who wait for a
//!   full queue wait there, and hold up nobody else.
//! - What finds no way, as a queue or a gate was deleted, goes to [`UNDELIVERED`].
//! - Whether an exchange finds anybody for an event cannot be known before it. So each event goes
//!   to [`EVENTS`] as well, which takes all and keeps the last of them.

use std::time::Duration;

use leveret_client::method::*;
use leveret_client::model::{FieldTable, FieldValue, ShortString};

use super::declare::{Step, name};
use crate::error::TopologyError;
use crate::letter::Headers;
use crate::topology::{Delay, DelayTarget};

/// The lowest level: 2^4 ms.
const LOWEST: u32 = 4;
/// The highest level: 2^35 ms, 397 days; with all below it, 795 days.
const HIGHEST: u32 = 35;
/// What the exchange and the queue of a level are called, with its number behind.
const LEVEL: &str = "leveret.delay.";
/// The exchange behind the lowest level: to the gates.
const OUT: &str = "leveret.delay.out";
/// The exchange behind the gates: to the targets.
const LAST: &str = "leveret.delay.last";
/// The exchange for what finds no way, and the queue where it stays.
const UNDELIVERED: &str = "leveret.undelivered";
/// How often somebody may look at a message there: a quorum queue counts.
const LOOKS_MAX: i64 = 1_000_000;
/// The queue with a copy of the last events that were put off.
const EVENTS: &str = "leveret.delayed-events";
/// How many of them it has, and of how many bytes.
const EVENTS_MAX: i64 = 1_000;
const EVENTS_BYTES_MAX: i64 = 64 * 1024 * 1024;
/// How long it has them.
const EVENTS_TTL: Duration = Duration::from_secs(24 * 3_600);
/// The header that says where a message goes.
const TO: &str = "leveret-delay-to";

/// The finest difference between two delays.
pub(crate) const STEP: Duration = Duration::from_millis(1 << LOWEST);
/// The longest delay.
pub(crate) const LONGEST: Duration = Duration::from_millis((1 << (HIGHEST + 1)) - (1 << LOWEST));

/// A delay in steps, rounded up, and its highest level.
fn steps(delay: Duration) -> (u64, u32) {
    let milliseconds = u64::try_from(delay.min(LONGEST).as_millis()).unwrap_or(u64::MAX);
    let rounded = milliseconds.max(1).div_ceil(1 << LOWEST) << LOWEST;
    (rounded, rounded.ilog2())
}

fn level(level: u32) -> String {
    format!("{LEVEL}{level}")
}

/// Whether messages that are put off wait in the queue of that name.
#[cfg(feature = "embedded")]
pub(crate) fn is_level(queue: &str) -> bool {
    queue.starts_with(LEVEL)
}

fn bit(level: u32) -> ShortString {
    ShortString::try_from(format!("leveret-delay-{level}")).unwrap_or_default()
}

fn to(target: &DelayTarget) -> String {
    match target {
        DelayTarget::Exchange(exchange) => format!("exchange {exchange}"),
        DelayTarget::Queue(queue) => format!("queue {queue}"),
    }
}

/// The queue that messages for a target wait in when it is full.
fn gate(target: &DelayTarget) -> String {
    match target {
        DelayTarget::Exchange(exchange) => format!("{LEVEL}exchange.{exchange}"),
        DelayTarget::Queue(queue) => format!("{LEVEL}queue.{queue}"),
    }
}

/// The exchange that a message so delayed is published to, and the headers it carries.
pub(crate) fn address(delay: Duration, target: &DelayTarget) -> (String, FieldTable) {
    let (steps, highest) = steps(delay);
    let mut headers = FieldTable::new();
    for level in LOWEST..=highest {
        headers.insert(bit(level), steps >> level & 1 == 1);
    }
    headers.insert(ShortString::from_static(TO), to(target));
    (level(highest), headers)
}

/// Takes away what [`address`] added.
pub(crate) fn clear(headers: &mut Headers) {
    if headers.remove(TO).is_some() {
        headers.retain(|name, _| !name.starts_with("leveret-delay-"));
    }
}

/// What must be there for delays up to that of each target.
pub(crate) fn declarations(delays: &[Delay]) -> Result<Vec<Step>, TopologyError> {
    let Some(highest) = delays.iter().map(|delay| steps(delay.longest).1).max() else {
        return Ok(Vec::new());
    };
    let mut declared = ways_out()?;
    for number in LOWEST..=highest {
        let (name, lower) = (level(number), level(number - 1));
        let lower = if number == LOWEST { OUT } else { &lower };
        declared.push(exchange(&name, "headers", None)?);
        declared.push(hop(&name, 1 << number, lower)?);
        declared.push(Step::bind_queue(&name, &name, "", when(number, true))?);
        declared.push(Step::bind_exchange(&name, lower, when(number, false))?);
    }
    for Delay { target, .. } in delays {
        let only = || {
            let mut arguments = FieldTable::new();
            arguments.insert(ShortString::from_static("x-match"), "all");
            arguments.insert(ShortString::from_static(TO), to(target));
            arguments
        };
        // The target first: there is no gate to what is not there.
        match target {
            DelayTarget::Exchange(exchange) => {
                declared.push(Step::bind_exchange(LAST, exchange, only())?);
                declared.push(Step::bind_queue(LAST, EVENTS, "", only())?);
            }
            DelayTarget::Queue(queue) => {
                declared.push(Step::bind_queue(LAST, queue, "", only())?);
            }
        }
        let gate = gate(target);
        declared.push(hop(&gate, 1, LAST)?);
        declared.push(Step::bind_queue(OUT, &gate, "", only())?);
    }
    Ok(declared)
}

/// What is behind the levels.
fn ways_out() -> Result<Vec<Step>, TopologyError> {
    let events = [
        ("x-max-length", EVENTS_MAX),
        ("x-max-length-bytes", EVENTS_BYTES_MAX),
        ("x-message-ttl", EVENTS_TTL.as_millis() as i64),
    ];
    Ok(vec![
        exchange(UNDELIVERED, "fanout", None)?,
        queue(UNDELIVERED, table([("x-delivery-limit", LOOKS_MAX)]))?,
        Step::bind_queue(UNDELIVERED, UNDELIVERED, "", FieldTable::new())?,
        queue(EVENTS, table(events))?,
        exchange(OUT, "headers", Some(UNDELIVERED))?,
        exchange(LAST, "headers", Some(UNDELIVERED))?,
    ])
}

fn when(level: u32, set: bool) -> FieldTable {
    let mut arguments = FieldTable::new();
    arguments.insert(ShortString::from_static("x-match"), "all");
    arguments.insert(bit(level), set);
    arguments
}

fn exchange(
    text: &str,
    kind: &'static str,
    alternate: Option<&str>,
) -> Result<Step, TopologyError> {
    let declare = ExchangeDeclare {
        exchange: name("exchange", text)?,
        kind: ShortString::from_static(kind),
        durable: true,
        arguments: table(alternate.map(|alternate| ("alternate-exchange", alternate))),
        ..Default::default()
    };
    Ok(Step::new(format!("exchange {text:?}"), declare))
}

/// A queue whose messages go on to that exchange after so many milliseconds.
fn hop(text: &str, milliseconds: i64, next: &str) -> Result<Step, TopologyError> {
    let mut arguments = table([
        ("x-dead-letter-exchange", next),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-overflow", "reject-publish"),
    ]);
    arguments.insert(ShortString::from_static("x-message-ttl"), milliseconds);
    queue(text, arguments)
}

fn queue(text: &str, mut arguments: FieldTable) -> Result<Step, TopologyError> {
    arguments.insert(ShortString::from_static("x-queue-type"), "quorum");
    let declare = QueueDeclare {
        queue: name("queue", text)?,
        durable: true,
        arguments,
        ..Default::default()
    };
    Ok(Step::new(format!("queue {text:?}"), declare))
}

fn table<V: Into<FieldValue>>(entries: impl IntoIterator<Item = (&'static str, V)>) -> FieldTable {
    let mut table = FieldTable::new();
    for (key, value) in entries {
        table.insert(ShortString::from_static(key), value);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_rounded_up_to_a_step_and_is_the_sum_of_its_levels() {
        for (delay, rounded) in
            [(0, 16), (1, 16), (16, 16), (17, 32), (1_000, 1_008), (1_024, 1_024)]
        {
            let target = DelayTarget::Queue("q".to_owned());
            let delay = Duration::from_millis(delay);
            let (exchange, headers) = address(delay, &target);
            let mut sum = 0;
            for level in LOWEST..=HIGHEST {
                if headers.get(bit(level).as_bytes()).and_then(|it| it.as_bool()) == Some(true) {
                    sum += 1_u64 << level;
                }
            }
            assert_eq!(sum, rounded);
            assert_eq!(exchange, format!("leveret.delay.{}", rounded.ilog2()));
        }
        assert_eq!(steps(Duration::MAX).1, HIGHEST);
        assert_eq!(steps(LONGEST).0, LONGEST.as_millis() as u64);
    }
}
