//! Packs that have lost most of what they held, in a running broker.

use std::fs;

use super::*;

/// The data files of packs, and how many bytes they have.
fn packs(directory: &Path) -> (usize, u64) {
    let files = fs::read_dir(directory.join("pack")).unwrap().map(|file| file.unwrap());
    let sizes: Vec<u64> = files
        .filter(|file| file.path().extension().is_some_and(|it| it == "pack"))
        // It may go at this moment.
        .filter_map(|file| file.metadata().ok())
        .map(|metadata| metadata.len())
        .collect();
    (sizes.len(), sizes.iter().sum())
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Consumes this many messages.
fn take(broker: &Broker, queue: &'static str, count: usize) -> Vec<Vec<u8>> {
    let mut client = Client::new(broker);
    consume(&mut client, queue);
    let mut bodies = client.bodies();
    while bodies.len() < count {
        client.wait();
        bodies.extend(client.bodies());
    }
    bodies
}

#[test]
fn packs_that_are_half_dead_become_one() {
    const EACH: usize = 100;
    const BATCHES: u64 = 100;
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path());
    let mut client = Client::new(&broker);
    client.declare("goes", true);
    client.declare("stays", true);
    client.ask(Operation::SelectConfirms { reply: true });
    // Ten mebibytes, of which one in a hundred stays.
    for batch in 0..BATCHES {
        client.publish("goes", &vec![vec![b'g'; 1024]; EACH], true);
        client.publish("stays", &[batch.to_be_bytes().repeat(128)], true);
        // Or all of it might be one frame, in one segment.
        while client.confirmed() < (batch + 1) * (EACH as u64 + 1) {
            client.wait();
        }
    }
    wait_until("most segments are packs", || packs(directory.path()).0 >= 6);
    assert_eq!(take(&broker, "goes", EACH * BATCHES as usize).len(), EACH * BATCHES as usize);
    wait_until("the packs are merged", || {
        let (count, bytes) = packs(directory.path());
        count <= 3 && bytes < 3 * SEGMENT_BYTES_MIN
    });
    broker.close();
    drop(client);
    let broker = open(directory.path());
    let expected: Vec<_> = (0..BATCHES).map(|batch| batch.to_be_bytes().repeat(128)).collect();
    assert_eq!(take(&broker, "stays", BATCHES as usize), expected);
    wait_until("nothing is left", || packs(directory.path()).0 == 0);
}
