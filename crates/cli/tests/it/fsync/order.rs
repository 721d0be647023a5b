//! No answer that says "durable" precedes its sync: `strace` watches.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use leveret_amqp_wire::Method;
use leveret_amqp_wire::method::{ExchangeDeclare, QueueBind, TxCommit, TxSelect};

use super::client::{Client, Heard, PERSISTENT, TRANSIENT, durable_queue, message, message_on};
use super::promises::{Asked, broken, given, syncs};
use super::trace::{CALLS, SHOWN_BYTES, parse};
use crate::broker::{Broker, Surroundings};
use crate::hostile::address;
use crate::hostile::peer::{method, short};
use crate::tools::{answer, say, skip};

const CONNECTIONS: usize = 4;
const ROUNDS: usize = 40;
/// How long the trace may take to be complete once the broker has ended.
const TRACE_LIMIT: Duration = Duration::from_secs(10);

#[test]
fn no_answer_that_says_durable_precedes_its_sync() {
    let test = "no_answer_that_says_durable_precedes_its_sync";
    if answer("strace", &["-f", "--seccomp-bpf", "-o", "/dev/null", "true"]).is_none() {
        skip(test, "strace, and a system that lets it trace");
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a directory");
    let trace = folder.path().join("trace");
    let Some(mut broker) = Broker::start_mortal_in(test, traced(&trace)) else { return };
    let place = address(&broker);
    let clients = (0..CONNECTIONS).map(|number| thread::spawn(move || drive(place, number)));
    let clients: Vec<_> = clients.collect();
    let asked: Vec<Asked> =
        clients.into_iter().map(|client| client.join().expect("a client failed")).collect();
    let pid = broker.pid();
    assert!(broker.terminate().success());

    let calls = parse(&complete(&trace, pid));
    let promises = given(&calls, &asked);
    let of = |answer| promises.iter().filter(|promise| promise.answer == answer).count();
    let confirms = of("basic.ack");
    let expected: usize = asked.iter().map(|asked| asked.messages.iter().flatten().count()).sum();
    assert_eq!(confirms, expected);
    assert_eq!(of("queue.declare-ok"), CONNECTIONS * (ROUNDS + 1));
    say(&format!(
        "fsync: {confirms} confirms, {} queues, {} exchanges and {} bindings declared, {} messages \
         in {} commits; {} syncs of the log",
        of("queue.declare-ok"),
        of("exchange.declare-ok"),
        of("queue.bind-ok"),
        of("tx.commit-ok"),
        CONNECTIONS * ROUNDS,
        syncs(&calls),
    ));
    let early = broken(&calls, &promises);
    assert!(early.is_empty(), "{} answers came too early, first {:?}", early.len(), early[0]);

    // The same trace without its syncs: now every promise is broken.
    let mut unsynced = calls;
    unsynced.retain(|call| call.name != "fdatasync");
    assert_eq!(broken(&unsynced, &promises).len(), promises.len());
}

/// A process that `strace` looks at: its child, which it lets us stop as if it were ours.
fn traced(trace: &Path) -> Surroundings {
    let calls = format!("trace={CALLS}");
    let shown = SHOWN_BYTES.to_string();
    let words = ["strace", "-D", "-f", "--seccomp-bpf", "-ttt", "-y", "-xx", "-s", &shown];
    let mut wrapper: Vec<_> = [&words[..], &["-e", &calls, "-o"]].concat();
    let trace = trace.to_str().expect("a path in Unicode");
    wrapper.push(trace);
    let wrapper = wrapper.into_iter().map(Into::into).collect();
    Surroundings { wrapper, ..Surroundings::default() }
}

/// The trace of a process that has ended, to its end.
fn complete(trace: &Path, pid: u32) -> String {
    let deadline = Instant::now() + TRACE_LIMIT;
    loop {
        let text = fs::read_to_string(trace).expect("read the trace");
        let last = text.lines().next_back().unwrap_or_default();
        let ended = last.starts_with(&format!("{pid} ")) && last.ends_with(" +++");
        if ended && text.ends_with('\n') {
            return text;
        }
        assert!(Instant::now() < deadline, "the trace does not end: {last:.200}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// One client's work: what it asked for, all of which has been answered.
fn drive(broker: SocketAddr, number: usize) -> Asked {
    let queue = format!("mark-queue-{number};");
    let mut client = Client::open(broker, 0);
    let mut asked = Asked { queue: queue.clone(), ..Asked::default() };
    asked.answers.push((1, "queue.declare-ok", vec![queue.clone()]));
    client.declare(durable_queue(&queue));
    client.ask(2, TxSelect::default(), |method| matches!(method, Method::TxSelectOk(_)));
    // The first answer has been heard.
    let (mut tags, mut answers) = (BTreeSet::new(), 1);
    for round in 0..ROUNDS {
        let before = asked.messages.len();
        assert!(client.send(&ask(&mut asked, number, round)), "the broker is gone");
        tags.extend((before as u64 + 1)..=asked.messages.len() as u64);
        // Some wait each time, others run ahead.
        while tags.len() > 20 * number {
            hear(&mut client, &mut tags, &mut answers);
        }
    }
    while !tags.is_empty() || answers < asked.answers.len() {
        hear(&mut client, &mut tags, &mut answers);
    }
    asked
}

/// What a client says in a round, all at once.
fn ask(asked: &mut Asked, number: usize, round: usize) -> Vec<u8> {
    let queue = asked.queue.clone();
    let mut out = Vec::new();
    for index in 0..1 + (round * 5 + number * 3) % 12 {
        let mark = format!("mark-message-{number}-{round}-{index};");
        let durable = index % 4 != 3;
        let properties = if durable { PERSISTENT } else { TRANSIENT };
        out.extend(message("", &queue, properties, mark.as_bytes()));
        asked.messages.push(durable.then_some(mark));
    }
    let mut answer = |channel, answer, marks| asked.answers.push((channel, answer, marks));
    let new = format!("mark-queue-{number}-{round};");
    out.extend(method(1, durable_queue(&new)));
    answer(1, "queue.declare-ok", vec![new.clone()]);
    if round.is_multiple_of(4) {
        let (exchange, key) =
            (format!("mark-x-{number}-{round};"), format!("mark-key-{number}-{round};"));
        let declare = ExchangeDeclare {
            exchange: short(&exchange),
            kind: short("direct"),
            durable: true,
            ..ExchangeDeclare::default()
        };
        out.extend(method(1, declare));
        let (queue, source, routing_key) = (short(&new), short(&exchange), short(&key));
        out.extend(method(
            1,
            QueueBind { queue, exchange: source, routing_key, ..QueueBind::default() },
        ));
        answer(1, "exchange.declare-ok", vec![exchange]);
        answer(1, "queue.bind-ok", vec![key]);
    }
    let parts = (0..2).map(|part| format!("mark-part-{number}-{round}-{part};"));
    let parts: Vec<String> = parts.collect();
    for part in &parts {
        out.extend(message_on(2, "", &queue, PERSISTENT, part.as_bytes()));
    }
    out.extend(method(2, TxCommit::default()));
    answer(2, "tx.commit-ok", parts);
    out
}

/// Hears one thing: confirms take their tags away, answers count.
fn hear(client: &mut Client, tags: &mut BTreeSet<u64>, answers: &mut usize) {
    match client.next() {
        Heard::Method(Method::BasicAck(ack)) if ack.multiple => {
            *tags = tags.split_off(&(ack.delivery_tag + 1));
        }
        Heard::Method(Method::BasicAck(ack)) => {
            tags.remove(&ack.delivery_tag);
        }
        Heard::Method(..) => *answers += 1,
        other => panic!("{other:?}"),
    }
}
