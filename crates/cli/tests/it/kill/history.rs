//! What a message's headers say of its deaths, and whether that can be.

use super::plan::{Flow, QUEUES};
use lapin::types::{AMQPValue, FieldTable};

/// How often a message has died, by its headers; none if they tell what cannot have been on its
/// way.
pub(super) fn deaths(headers: Option<&FieldTable>, flow: &Flow) -> Option<u64> {
    let Some(told) = headers.and_then(|headers| headers.inner().get("x-death")) else {
        return Some(0);
    };
    let AMQPValue::FieldArray(told) = told else { return None };
    let told: Vec<_> = told.as_slice().iter().map(entry).collect::<Option<_>>()?;
    let deaths: u64 = told.iter().map(|(_, _, count)| count).sum();
    let first = (QUEUES[flow.stages[0].0[0]], flow.stages[0].1);
    let named = |name: &str| headers.and_then(|headers| headers.inner().get(name)).and_then(text);
    let told_first = (named("x-first-death-queue")?, named("x-first-death-reason")?);
    let fits = deaths > 0 && told == expected(deaths, flow) && told_first == first;
    fits.then_some(deaths)
}

/// How many of so many deaths were at the first stage of a way.
pub(super) fn at_first(deaths: u64, flow: &Flow) -> u64 {
    deaths.div_ceil(flow.stages.len() as u64)
}

/// Queue, reason and count of each kind of death, the newest first.
fn expected(deaths: u64, flow: &Flow) -> Vec<(&'static str, &'static str, u64)> {
    let stages = flow.stages.len() as u64;
    let entry = |back: u64| {
        let stage = (deaths - 1 - back) % stages;
        let (queues, reason) = flow.stages[stage as usize];
        (QUEUES[queues[0]], reason, (deaths - stage).div_ceil(stages))
    };
    (0..deaths.min(stages)).map(entry).collect()
}

fn entry(value: &AMQPValue) -> Option<(&str, &str, u64)> {
    let AMQPValue::FieldTable(entry) = value else { return None };
    let AMQPValue::LongLongInt(count) = entry.inner().get("count")? else { return None };
    let named = |name: &str| entry.inner().get(name).and_then(text);
    Some((named("queue")?, named("reason")?, u64::try_from(*count).ok()?))
}

fn text(value: &AMQPValue) -> Option<&str> {
    let AMQPValue::LongString(text) = value else { return None };
    str::from_utf8(text.as_bytes()).ok()
}
