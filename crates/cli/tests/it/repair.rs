//! A damaged data directory: the broker refuses it, `leveret inspect` names the place, `leveret
//! repair` saves the rest, and the broker starts on what was saved.

use crate::amqp::{connect, consume, delete, depth, next, persistent, soon};
use crate::broker::{Broker, Surroundings};
use lapin::options::{
    BasicAckOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const QUEUE: &str = "salvage";
/// Messages that fill several segments.
const MANY: u32 = 4_000;
/// Messages that come one by one, so that each is in a frame of its own.
const SINGLE: u32 = 30;
/// The messages that are acknowledged before it all happens.
const ACKNOWLEDGED: u32 = 20;

fn body(number: u32) -> Vec<u8> {
    let mut body = format!("message {number:06} ").repeat(64).into_bytes();
    body.truncate(1000);
    body
}

/// A broker with many messages in packs, a few in the log, and then killed.
fn filled(test: &str, runtime: &Runtime) -> Option<Broker> {
    let environment =
        vec![("LEVERET_SEGMENT_SIZE", "1MiB".into()), ("LEVERET_MEMORY_TARGET", "0".into())];
    let surroundings = Surroundings { environment, ..Surroundings::default() };
    let mut broker = Broker::start_mortal_in(test, surroundings)?;
    runtime.block_on(fill(broker.url()));
    let deadline = Instant::now() + Duration::from_secs(30);
    while files(&broker, "pack", "pack").len() < 2 {
        assert!(Instant::now() < deadline, "there are no packs");
        thread::sleep(Duration::from_millis(20));
    }
    runtime.block_on(publish_singly(broker.url()));
    broker.kill9();
    Some(broker)
}

async fn fill(url: &str) {
    let connection = connect(url).await;
    let channel = connection.create_channel().await.expect("a channel");
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    soon("confirm.select", confirms).await.expect("confirms");
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let declared = channel.queue_declare(QUEUE.into(), options, FieldTable::default());
    soon("queue.declare", declared).await.expect("declare");
    let mut confirms = Vec::new();
    for number in 0..MANY {
        let options = BasicPublishOptions::default();
        let body = body(number);
        let sent = channel.basic_publish("".into(), QUEUE.into(), options, &body, persistent());
        confirms.push(soon("basic.publish", sent).await.expect("publish"));
        // All at once would be one frame, in one segment.
        if confirms.len() == 200 {
            for confirm in confirms.drain(..) {
                soon("a confirm", confirm).await.expect("a confirm");
            }
        }
    }
    let mut consumer = consume(&channel, QUEUE).await;
    for number in 0..ACKNOWLEDGED {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.data, body(number));
        let acked = delivery.ack(BasicAckOptions::default());
        soon("basic.ack", acked).await.expect("acknowledge");
    }
    connection.close(200, "bye".into()).await.expect("close");
}

async fn publish_singly(url: &str) {
    let connection = connect(url).await;
    let channel = connection.create_channel().await.expect("a channel");
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    soon("confirm.select", confirms).await.expect("confirms");
    for number in MANY..MANY + SINGLE {
        let (options, body) = (BasicPublishOptions::default(), body(number));
        let sent = channel.basic_publish("".into(), QUEUE.into(), options, &body, persistent());
        let confirm = soon("basic.publish", sent).await.expect("publish");
        soon("a confirm", confirm).await.expect("a confirm");
    }
    connection.close(200, "bye".into()).await.expect("close");
}

fn files(broker: &Broker, folder: &str, ending: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(broker.data_dir().join(folder)).expect("list").flatten();
    let mut all: Vec<_> = all.map(|entry| entry.path()).collect();
    all.retain(|path| path.extension().is_some_and(|is| is == ending));
    all.sort();
    all
}

/// Flips a bit in a message, wherever in these files it is. Returns the file.
fn spoil(files: &[PathBuf], number: u32) -> PathBuf {
    let wanted = body(number);
    for path in files {
        let mut bytes = fs::read(path).expect("read");
        let found = bytes.windows(wanted.len()).position(|window| window == wanted);
        if let Some(at) = found {
            bytes[at + 500] ^= 0x20;
            fs::write(path, bytes).expect("write");
            return path.clone();
        }
    }
    panic!("message {number} is in none of {files:?}");
}

pub(crate) fn leveret(arguments: &[&str], directory: &Path) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_leveret"))
        .args(arguments)
        .arg("--data-dir")
        .arg(directory)
        .output()
        .expect("the binary runs");
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(!text.contains("panicked"), "{text}");
    (status.code(), text)
}

/// Consumes all there is, and compares it with what should be.
async fn drain(url: &str, missing: &[u32]) {
    let connection = connect(url).await;
    let channel = connection.create_channel().await.expect("a channel");
    let missing: BTreeSet<u32> = missing.iter().copied().collect();
    let expected: Vec<u32> =
        (ACKNOWLEDGED..MANY + SINGLE).filter(|number| !missing.contains(number)).collect();
    assert_eq!(depth(&channel, QUEUE).await as usize, expected.len());
    let mut consumer = consume(&channel, QUEUE).await;
    for number in expected {
        let delivery = next(&mut consumer).await;
        assert!(delivery.data == body(number), "message {number} should come now");
        delivery.ack(BasicAckOptions::default()).await.expect("acknowledge");
    }
    delete(&channel, QUEUE).await;
    connection.close(200, "bye".into()).await.expect("close");
}

/// Puts the repaired directory in the place of the damaged one.
fn replace(broker: &Broker) {
    let data = broker.data_dir();
    fs::rename(&data, data.with_extension("damaged")).expect("put it away");
    fs::rename(data.with_extension("repaired"), &data).expect("put it in place");
}

#[test]
fn what_is_not_damaged_is_saved() {
    let runtime = Runtime::new().expect("a runtime");
    let test = "what_is_not_damaged_is_saved";
    let Some(mut broker) = filled(test, &runtime) else { return };
    let data = broker.data_dir();
    let (code, text) = leveret(&["inspect"], &data);
    assert_eq!(code, Some(0), "{text}");
    let live = MANY + SINGLE - ACKNOWLEDGED;
    assert!(text.contains(&format!("{QUEUE} (queue")), "{text}");
    assert!(text.contains(&format!("{live} live messages")), "{text}");

    let in_log = spoil(&files(&broker, "wal", "wal"), MANY + 7);
    let in_pack = spoil(&files(&broker, "pack", "pack"), 700);
    let environment = vec![("LEVERET_MEMORY_TARGET", "0".into())];
    let refused = broker.restart_in(Surroundings { environment, ..Surroundings::default() });
    assert!(refused.is_err() && broker.log().contains("the log is damaged"), "{}", broker.log());

    let (code, text) = leveret(&["inspect"], &data);
    assert_eq!(code, Some(1), "{text}");
    for path in [&in_log, &in_pack] {
        assert!(text.contains(&format!("DAMAGED: {}", path.display())), "{text}");
    }
    let (code, text) = leveret(&["inspect", "--records", "--bodies", "--queue", QUEUE], &data);
    assert_eq!(code, Some(1));
    assert!(text.contains("message 004008") && !text.contains("message 004007"), "a body");

    let (code, text) = leveret(&["repair"], &data);
    assert_eq!(code, Some(1), "{text}");
    for part in [
        &*in_log.display().to_string(),
        &*in_pack.display().to_string(),
        "lost: 1 messages, at positions 700",
        "perhaps lost: up to 1, at positions 4007",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let (again, text) = leveret(&["repair"], &data);
    assert!(again == Some(2) && text.contains("exists already"), "{text}");
    replace(&broker);
    broker.restart();
    runtime.block_on(drain(broker.url(), &[700, MANY + 7]));
}

#[test]
fn packs_do_without_their_indexes() {
    let runtime = Runtime::new().expect("a runtime");
    let test = "packs_do_without_their_indexes";
    let Some(mut broker) = filled(test, &runtime) else { return };
    let data = broker.data_dir();
    for index in files(&broker, "pack", "idx") {
        fs::remove_file(index).expect("remove");
    }
    assert!(broker.restart_in(Surroundings::default()).is_err());
    let (code, text) = leveret(&["inspect"], &data);
    assert!(code == Some(1) && text.contains("the file is missing"), "{text}");
    let (_, text) = leveret(&["repair"], &data);
    assert!(text.contains("the file is missing"), "{text}");
    replace(&broker);
    broker.restart();
    let (code, text) = leveret(&["repair"], &data);
    assert!(code == Some(2) && text.contains("in use by process"), "{text}");
    runtime.block_on(drain(broker.url(), &[]));
}
