//! Which answers promise that something is on the disk, and which of them came too early.

use std::collections::{BTreeMap, HashMap, VecDeque};

use leveret_amqp_wire::{Method, frame};
use leveret_model::limits::FRAME_MAX_BYTES;

use super::trace::Call;

/// Everything that must be found in the log looks like `mark-…;`.
const MARK: &[u8] = b"mark-";

/// What one connection has asked for. Its marks are its own.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    /// The queue it declares first; by this its socket is known.
    pub(super) queue: String,
    /// For each message on channel 1 its mark, if it must be in the log before it is confirmed.
    pub(super) messages: Vec<Option<String>>,
    /// What is answered in order: channel, name of the answer, what must be in the log.
    pub(super) answers: Vec<(u16, &'static str, Vec<String>)>,
}

/// An answer that promises that something is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) answer: &'static str,
    /// The line in which the call began that sent the end of it.
    pub(super) given: usize,
    pub(super) mark: String,
}

/// Why a promise was broken, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// It was on the disk, but in a file whose name was not.
    Unnamed,
    /// It was not on the disk, or nobody could know.
    Unsynced,
    /// The log did not hold it.
    Unwritten,
}

/// The answers that count: others promise nothing.
fn answer(method: &Method) -> Option<&'static str> {
    Some(match method {
        Method::QueueDeclareOk(_) => "queue.declare-ok",
        Method::ExchangeDeclareOk(_) => "exchange.declare-ok",
        Method::QueueBindOk(_) => "queue.bind-ok",
        Method::TxCommitOk(_) => "tx.commit-ok",
        _ => return None,
    })
}

/// What was said on a socket: each method with the line in which the call began that ended it.
fn said(calls: &[Call], socket: &str) -> Vec<(usize, u16, Method)> {
    let (mut heard, mut buffer) = (Vec::new(), Vec::new());
    let sends = calls.iter().filter(|call| call.object == socket && call.result > 0);
    for call in sends {
        assert!(!call.cut, "an answer is too long for the trace");
        let sent = usize::try_from(call.result).expect("a length");
        buffer.extend_from_slice(&call.data[..sent]);
        while let Some((frame, used)) =
            frame::parse(&buffer, FRAME_MAX_BYTES).expect("a proper frame")
        {
            if frame.kind == frame::METHOD {
                let method = Method::decode(frame.payload).expect("a method");
                heard.push((call.begin, frame.channel, method));
            }
            buffer.drain(..used);
        }
    }
    heard
}

/// Which promises a trace holds, given what was asked for. Everything must have been answered.
pub(super) fn given(calls: &[Call], asked: &[Asked]) -> Vec<Promise> {
    let mut sockets: Vec<&str> = calls.iter().map(|call| call.object.as_str()).collect();
    sockets.retain(|object| object.starts_with("socket:"));
    sockets.sort_unstable();
    sockets.dedup();
    let mut open: BTreeMap<&str, &Asked> =
        asked.iter().map(|asked| (asked.queue.as_str(), asked)).collect();
    let mut promises = Vec::new();
    for socket in sockets {
        let said = said(calls, socket);
        let first = said.iter().find_map(|(_, _, method)| match method {
            Method::QueueDeclareOk(ok) => Some(String::from_utf8_lossy(ok.queue.as_bytes())),
            _ => None,
        });
        // Others have only looked whether the broker is there.
        if let Some(asked) = first.and_then(|queue| open.remove(&*queue)) {
            promises.extend(given_to(asked, &said));
        }
    }
    assert!(open.is_empty(), "the trace lacks {:?}", open.keys());
    promises
}

fn given_to(asked: &Asked, said: &[(usize, u16, Method)]) -> Vec<Promise> {
    let mut promises = Vec::new();
    let mut unconfirmed: BTreeMap<u64, &Option<String>> = (1..).zip(&asked.messages).collect();
    let mut unanswered: HashMap<u16, VecDeque<_>> = HashMap::new();
    for (channel, answer, marks) in &asked.answers {
        unanswered.entry(*channel).or_default().push_back((*answer, marks));
    }
    for (given, channel, method) in said {
        let mut promise = |answer, mark: &String| {
            promises.push(Promise { answer, given: *given, mark: mark.clone() });
        };
        if let Method::BasicAck(ack) = method {
            let first = if ack.multiple { 0 } else { ack.delivery_tag };
            let confirmed: Vec<u64> =
                unconfirmed.range(first..=ack.delivery_tag).map(|(tag, _)| *tag).collect();
            assert!(!confirmed.is_empty(), "a confirm of nothing: {ack:?}");
            let marks = confirmed.iter().filter_map(|tag| unconfirmed.remove(tag)?.as_ref());
            marks.for_each(|mark| promise("basic.ack", mark));
        } else if let Some(answer) = answer(method) {
            let next = unanswered.get_mut(channel).and_then(VecDeque::pop_front);
            let (expected, marks) = next.expect("something that was asked for");
            assert_eq!(answer, expected);
            marks.iter().for_each(|mark| promise(answer, mark));
        }
    }
    assert!(unconfirmed.is_empty(), "the trace lacks confirms: {unconfirmed:?}");
    assert!(unanswered.values().all(VecDeque::is_empty), "the trace lacks answers");
    promises
}

/// Whether a call makes a file or a directory durable.
fn is_sync(call: &Call) -> bool {
    (call.name == "fdatasync" || call.name == "fsync") && call.result == 0
}

/// How many syncs of the log a trace holds.
pub(super) fn syncs(calls: &[Call]) -> usize {
    calls.iter().filter(|call| is_sync(call) && call.object.ends_with(".wal")).count()
}

/// The promises that were given too early.
pub(super) fn broken(calls: &[Call], promises: &[Promise]) -> Vec<(Fault, Promise)> {
    let mut writes: HashMap<String, Vec<&Call>> = HashMap::new();
    for call in calls {
        let whole = usize::try_from(call.result).is_ok_and(|written| written == call.data.len());
        if call.name == "pwrite64" && call.object.ends_with(".wal") {
            assert!(whole && !call.cut, "a write is too long for the trace, or failed");
            for mark in marks(&call.data) {
                writes.entry(mark).or_default().push(call);
            }
        }
    }
    let judged = promises.iter().filter_map(|promise| {
        let writes = writes.get(&promise.mark).map_or(&[][..], Vec::as_slice);
        // What is written twice is durable as soon as it is so once.
        let fault = writes.iter().map(|write| fault(calls, write, promise.given)).min();
        Some((fault.unwrap_or(Some(Fault::Unwritten))?, promise.clone()))
    });
    judged.collect()
}

/// What is wrong with an answer given then that promises that this write is durable.
fn fault(calls: &[Call], write: &Call, given: usize) -> Option<Fault> {
    if write.end >= given {
        return Some(Fault::Unwritten);
    }
    // It must begin when what it is for has been done, and be over when it is told.
    let synced = |object: &str, after: usize| {
        calls.iter().any(|call| {
            is_sync(call) && call.object == object && call.begin > after && call.end < given
        })
    };
    if !synced(&write.object, write.end) {
        return Some(Fault::Unsynced);
    }
    let (directory, _) = write.object.rsplit_once('/').expect("an absolute path");
    let named = calls.iter().any(|call| {
        let rename = call.name.starts_with("rename") && call.result == 0;
        rename && call.object == write.object && synced(directory, call.end)
    });
    (!named).then_some(Fault::Unnamed)
}

/// The marks in a piece of the log.
fn marks(data: &[u8]) -> Vec<String> {
    let starts = data.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    let mark = |at: usize| {
        let len = data[at..].iter().position(|byte| *byte == b';')?;
        Some(String::from_utf8_lossy(&data[at..=at + len]).into_owned())
    };
    starts.filter_map(|(at, _)| mark(at)).collect()
}
