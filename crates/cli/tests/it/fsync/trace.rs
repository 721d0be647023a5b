//! What `strace` saw.
//!
//! The place of a line stands for the time. That is safe: a tracer writes down that a call begins
//! before the kernel carries it out, and that it has ended before the thread goes on.

use std::collections::HashMap;

/// The calls that writing, syncing and answering are made of.
pub(super) const CALLS: &str =
    "pwrite64,write,writev,sendto,sendmsg,fdatasync,fsync,rename,renameat,renameat2";
/// The most that is shown of what is written, in bytes.
pub(super) const SHOWN_BYTES: usize = 32 * 1024;

/// A call that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) name: String,
    /// The lines in which it began and ended.
    pub(super) begin: usize,
    pub(super) end: usize,
    /// The path of its file, or what else names it; of a rename the new path.
    pub(super) object: String,
    /// What was written.
    pub(super) data: Vec<u8>,
    /// Whether `data` is less than what was written.
    pub(super) cut: bool,
    pub(super) result: i64,
}

/// All calls that have ended, in the order in which they began.
pub(super) fn parse(text: &str) -> Vec<Call> {
    let mut open: HashMap<&str, (usize, &str)> = HashMap::new();
    let mut calls = Vec::new();
    for (line, text) in text.lines().enumerate() {
        let Some((thread, rest)) = text.split_once(' ') else { continue };
        let Some((_time, rest)) = rest.trim_start().split_once(' ') else { continue };
        // A signal, or the end of a thread.
        if rest.starts_with("---") || rest.starts_with("+++") {
            continue;
        }
        if let Some(half) = rest.strip_suffix(" <unfinished ...>") {
            open.insert(thread, (line, half));
        } else if rest.starts_with("<... ") {
            let (_, end) = rest.split_once(" resumed>").expect("the end of a call");
            let (begin, half) = open.remove(thread).expect("a call that began");
            calls.extend(call(&format!("{half}{end}"), begin, line));
        } else {
            calls.extend(call(rest, line, line));
        }
    }
    calls.sort_by_key(|call| call.begin);
    calls
}

/// A call as it looks when it is written in one line; none if nobody saw it end.
fn call(text: &str, begin: usize, end: usize) -> Option<Call> {
    let (name, arguments) = text.split_once('(').expect("a call");
    let (arguments, result) = arguments.rsplit_once(" = ").expect("a result");
    let result = result.split(' ').next()?.parse().ok()?;
    let (strings, cut) = strings(arguments);
    let mut call = Call {
        name: name.to_owned(),
        begin,
        end,
        object: String::new(),
        data: vec![],
        cut,
        result,
    };
    if name.starts_with("rename") {
        call.object = String::from_utf8_lossy(strings.last()?).into_owned();
    } else {
        let path = arguments.split_once('<')?.1.split_once('>')?.0;
        call.object = String::from_utf8_lossy(&bytes(path)).into_owned();
        call.data = strings.concat();
    }
    Some(call)
}

/// What stands between quotation marks, and whether something of it is left out. Everything that
/// could be mistaken for a quotation mark is written as a number.
fn strings(arguments: &str) -> (Vec<Vec<u8>>, bool) {
    let parts: Vec<&str> = arguments.split('"').collect();
    let texts = parts.iter().skip(1).step_by(2).map(|text| bytes(text)).collect();
    (texts, parts.iter().skip(2).step_by(2).any(|between| between.starts_with("...")))
}

/// The bytes of a text like `\x61\x62`.
fn bytes(text: &str) -> Vec<u8> {
    let digits = text.split("\\x").skip(1);
    digits.map(|digits| u8::from_str_radix(digits, 16).expect("two digits")).collect()
}
