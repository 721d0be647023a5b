//! The checks find what they are for.

use std::fmt::Write;

use leveret_amqp_wire::method::{BasicAck, QueueDeclareOk};

use super::promises::{Asked, Fault, Promise, broken, given};
use super::trace::{Call, parse};
use crate::hostile::peer::{method, short};

const LOG: &str = "/data/wal/00000000000000000000.wal";
const OTHER: &str = "/data/wal/00000000000000004711.wal";
const FOLDER: &str = "/data/wal";
const SOCKET: &str = "socket:[42]";

/// A trace made by hand, in the words of `strace`.
#[derive(Default)]
struct Trace(String);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// A call without its result.
fn open(name: &str, object: &str, data: Option<&[u8]>) -> String {
    let data = data.map(|data| format!(", \"{}\", {}, 4096", hex(data), data.len()));
    format!("{name}(7<{}>{}", hex(object.as_bytes()), data.unwrap_or_default())
}

impl Trace {
    /// A log whose first segment has its name.
    fn begun() -> Trace {
        let mut trace = Trace::default();
        trace.rename("/data/wal/00000000.free", LOG).sync("fsync", FOLDER);
        trace
    }

    fn line(&mut self, thread: u32, text: &str) -> &mut Trace {
        let _ = writeln!(self.0, "{thread} 1795269352.370104 {text}");
        self
    }

    fn rename(&mut self, old: &str, new: &str) -> &mut Trace {
        let (old, new) = (hex(old.as_bytes()), hex(new.as_bytes()));
        self.line(1, &format!("rename(\"{old}\", \"{new}\") = 0"))
    }

    fn write(&mut self, data: &str) -> &mut Trace {
        let begun = open("pwrite64", LOG, Some(data.as_bytes()));
        self.line(1, &format!("{begun}) = {}", data.len()))
    }

    fn sync(&mut self, name: &str, object: &str) -> &mut Trace {
        self.line(1, &format!("{}) = 0", open(name, object, None)))
    }

    fn answer(&mut self, bytes: &[u8]) -> &mut Trace {
        let begun = open("sendto", SOCKET, Some(bytes));
        self.line(2, &format!("{begun}, MSG_NOSIGNAL, NULL, 0) = {}", bytes.len()))
    }

    fn declared(&mut self) -> &mut Trace {
        let queue = short("mark-q;");
        self.answer(&method(1, QueueDeclareOk { queue, message_count: 0, consumer_count: 0 }))
    }

    fn acknowledged(&mut self, tag: u64) -> &mut Trace {
        self.answer(&method(1, BasicAck { delivery_tag: tag, multiple: false }))
    }

    /// What is wrong with it, if its client declares a queue and publishes so many messages.
    fn faults(&self, messages: usize) -> Vec<(Fault, String)> {
        let calls = parse(&self.0);
        let broken = broken(&calls, &given(&calls, &[asked(messages)]));
        broken.into_iter().map(|(fault, Promise { mark, .. })| (fault, mark)).collect()
    }
}

fn asked(messages: usize) -> Asked {
    let queue = "mark-q;".to_owned();
    let messages = (1..=messages).map(|number| Some(format!("mark-{number};"))).collect();
    let answers = vec![(1, "queue.declare-ok", vec![queue.clone()])];
    Asked { queue, messages, answers }
}

fn found(fault: Fault, mark: &str) -> Vec<(Fault, String)> {
    vec![(fault, mark.to_owned())]
}

/// The queue is declared as it should be.
fn declared() -> Trace {
    let mut trace = Trace::begun();
    trace.write("..mark-q;..").sync("fdatasync", LOG).declared();
    trace
}

#[test]
fn an_answer_in_time_is_none_of_the_faults() {
    let mut trace = declared();
    trace.write("mark-1;mark-2;").sync("fdatasync", LOG).acknowledged(1).acknowledged(2);
    assert_eq!(trace.faults(2), []);
}

#[test]
fn a_confirm_before_its_sync_is_found() {
    let mut trace = declared();
    trace.write("mark-1;").acknowledged(1).sync("fdatasync", LOG);
    assert_eq!(trace.faults(1), found(Fault::Unsynced, "mark-1;"));

    let mut trace = declared();
    trace.acknowledged(1).write("mark-1;").sync("fdatasync", LOG);
    assert_eq!(trace.faults(1), found(Fault::Unwritten, "mark-1;"));

    let mut trace = declared();
    trace.acknowledged(1);
    assert_eq!(trace.faults(1), found(Fault::Unwritten, "mark-1;"));

    let mut trace = Trace::begun();
    trace.write("mark-q;").declared().sync("fdatasync", LOG);
    assert_eq!(trace.faults(0), found(Fault::Unsynced, "mark-q;"));
}

#[test]
fn a_confirm_while_its_sync_runs_is_found() {
    let mut trace = declared();
    let sync = open("fdatasync", LOG, None);
    trace.write("mark-1;").line(1, &format!("{sync} <unfinished ...>")).acknowledged(1);
    trace.line(1, "<... fdatasync resumed>) = 0");
    assert_eq!(trace.faults(1), found(Fault::Unsynced, "mark-1;"));
}

#[test]
fn a_sync_that_began_before_the_write_had_ended_is_found() {
    let mut trace = declared();
    let write = open("pwrite64", LOG, Some(b"mark-1;"));
    trace.line(1, &format!("{write} <unfinished ...>"));
    // By another thread, and over before the answer.
    trace.line(3, &format!("{} <unfinished ...>", open("fdatasync", LOG, None)));
    trace.line(1, "<... pwrite64 resumed>) = 7").line(3, "<... fdatasync resumed>) = 0");
    trace.acknowledged(1);
    assert_eq!(trace.faults(1), found(Fault::Unsynced, "mark-1;"));
    // The same again, with a sync that helps.
    let mut trace = declared();
    trace.line(1, &format!("{write} <unfinished ...>"));
    trace.line(1, "<... pwrite64 resumed>) = 7");
    trace.line(3, &format!("{} <unfinished ...>", open("fdatasync", LOG, None)));
    trace.line(3, "<... fdatasync resumed>) = 0").acknowledged(1);
    assert_eq!(trace.faults(1), []);
}

#[test]
fn a_sync_that_failed_or_was_of_another_file_is_none() {
    let failed = format!("{}) = -1 EIO (Input/output error)", open("fdatasync", LOG, None));
    let mut trace = declared();
    trace.write("mark-1;").line(1, &failed).acknowledged(1);
    assert_eq!(trace.faults(1), found(Fault::Unsynced, "mark-1;"));

    let mut trace = declared();
    trace.write("mark-1;").sync("fdatasync", OTHER).sync("fsync", FOLDER).acknowledged(1);
    assert_eq!(trace.faults(1), found(Fault::Unsynced, "mark-1;"));
}

#[test]
fn a_file_whose_name_is_not_durable_is_found() {
    let mut trace = Trace::default();
    // The folder is synced, but too early.
    trace.sync("fsync", FOLDER).rename("/data/wal/00000000.free", LOG);
    trace.write("mark-q;").sync("fdatasync", LOG).declared();
    assert_eq!(trace.faults(0), found(Fault::Unnamed, "mark-q;"));
}

#[test]
fn one_answer_for_many_and_an_answer_in_two_pieces_are_understood() {
    let mut trace = declared();
    trace.write("mark-1;").sync("fdatasync", LOG).write("mark-2;");
    let many = method(1, BasicAck { delivery_tag: 2, multiple: true });
    trace.answer(&many[..9]);
    let line = format!("{}) = -1 EAGAIN (Resource)", open("sendto", SOCKET, Some(&many[9..])));
    trace.line(2, &line);
    let early = Trace(trace.0.clone()).answer(&many[9..]).faults(2);
    assert_eq!(early, found(Fault::Unsynced, "mark-2;"));
    // Only its last byte makes it an answer.
    trace.sync("fdatasync", LOG).answer(&many[9..]);
    assert_eq!(trace.faults(2), []);
}

#[test]
fn lines_are_taken_apart() {
    let mut trace = Trace::default();
    trace.line(1, "--- SIGCHLD {si_signo=SIGCHLD} ---").line(1, "+++ exited with 0 +++");
    trace.line(2, "<... futex resumed>) = ? <unavailable>");
    let text = r#"1 2.3 pwrite64(7<\x2f\x61>, "\x22\x3e"..., 9, 4096) = 9"#;
    let [call] = parse(text).try_into().expect("one call");
    let (name, object, data) = ("pwrite64".to_owned(), "/a".to_owned(), b"\">".to_vec());
    assert_eq!(call, Call { name, begin: 0, end: 0, object, data, cut: true, result: 9 });
    // The process ended within it.
    assert_eq!(parse("1 2.3 fdatasync(7<\\x61>) = ?"), []);
    assert_eq!(parse("1 2.3 fdatasync(7<\\x61> <unfinished ...>"), []);
}
