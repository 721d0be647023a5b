//! What clients say does not become lines of the log, or commands to a terminal.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use leveret_amqp_wire::method::ConnectionClose;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;

use super::*;

const EVIL: &str = "evil\n2026-01-01T00:00:00Z ERROR forged \x1b[31m\u{9b}31m\u{2028}";
const ESCAPED: &str = "evil\\n2026-01-01T00:00:00Z ERROR forged \\u{1b}[31m\\u{9b}31m\\u{2028}";

/// Where the log goes.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that are logged meanwhile, in the form in which the server logs.
fn logged(what: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    let writer = lines.clone();
    let layer = fmt::layer().with_writer(move || writer.clone()).with_ansi(false);
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, what);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// That there is one line of this beginning, which has the text in it, escaped.
fn assert_one(lines: &[String], beginning: &str) {
    let [line] = lines else { panic!("{lines:#?}") };
    assert!(line.contains(beginning) && line.contains(ESCAPED), "{line:?}");
    assert!(!line.contains(char::is_control), "{line:?}");
}

fn evil() -> ShortString {
    ShortString::try_from(EVIL).unwrap()
}

#[test]
fn a_name_that_may_not_log_in_is_one_line() {
    let client = Client::new();
    let mut connection = Connection::new(client.broker.clone(), client.connection.peer);
    connection.receive(&frame::PROTOCOL_HEADER, &mut Vec::new());
    let mechanism = ShortString::from_static("PLAIN");
    let response = format!("\0{EVIL}\0password").into_bytes();
    let start_ok = ConnectionStartOk { mechanism, response, ..Default::default() };
    let input = framed(0, start_ok);
    let lines = logged(|| assert_eq!(connection.receive(&input, &mut Vec::new()), input.len()));
    assert_one(&lines, "login refused");
}

#[test]
fn a_name_that_is_not_found_is_one_line_and_is_told_as_it_is() {
    let mut client = Client::new();
    // Queues' names would lose the newline before.
    let mut publish = framed(1, BasicPublish { exchange: evil(), ..Default::default() });
    write_content(&mut publish, 1, &[0, 0], b"m", FRAME_MAX_BYTES);
    let mut told = Vec::new();
    assert_one(&logged(|| told = client.send(&publish)), "closing a channel");
    let [Told::Method(Method::ChannelClose(close))] = &told[..] else { panic!("{told:?}") };
    assert!(close.reply_text.to_string().contains(EVIL), "{close:?}");
}

#[test]
fn a_virtual_host_that_is_not_found_is_one_line_and_is_told_as_it_is() {
    let mut client = Client::new();
    client.connection.session = None;
    client.connection.phase = Phase::Open;
    let open = framed(0, ConnectionOpen { virtual_host: evil(), ..Default::default() });
    let mut told = Vec::new();
    assert_one(&logged(|| told = client.send(&open)), "closing a connection");
    let [Told::Method(Method::ConnectionClose(close))] = &told[..] else { panic!("{told:?}") };
    assert!(close.reply_text.to_string().contains(EVIL), "{close:?}");
}

#[test]
fn the_reason_for_which_a_client_closes_is_one_line() {
    let mut client = Client::new();
    let close = framed(0, ConnectionClose { reply_text: evil(), ..Default::default() });
    assert_one(&logged(|| drop(client.send(&close))), "the client closes");
}
