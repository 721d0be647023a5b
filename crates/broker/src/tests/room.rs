//! A disk that is nearly full, and segments that only wait to leave it.

use std::fs;
use std::sync::atomic::AtomicU64;

use super::*;
use crate::{Probe, Space};

fn count(directory: &Path, folder: &str, ending: &str) -> usize {
    let files = fs::read_dir(directory.join(folder)).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|it| it == ending)).count()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn segments_do_not_wait_for_the_next_while_the_disk_is_low() {
    const EACH: u64 = 100;
    let directory = tempfile::tempdir().unwrap();
    let free = Arc::new(AtomicU64::new(1 << 40));
    let told = Arc::clone(&free);
    let probe = Probe::new(move || Ok(Space { free: told.load(Ordering::SeqCst), total: 1 << 40 }));
    let disk = DiskOptions { low: Some(1000), critical: Some(0), probe: Some(probe) };
    let broker = Broker::open(Options { disk, ..options(directory.path()) }).expect("opens");
    let (mut client, mut consumer) = (Client::new(&broker), Client::new(&broker));
    client.declare("goes", true);
    client.declare("stays", true);
    client.ask(Operation::SelectConfirms { reply: true });
    consume(&mut consumer, "goes");
    // Of each segment little stays: that is copied.
    let mut batch = 0;
    let segments = || count(directory.path(), "wal", "wal");
    let sealed =
        || broker.shared.combiner.with(|core| core.log().map_or(0, |log| log.sealed().len()));
    // Until one waits for the next to begin.
    while count(directory.path(), "pack", "pack") < 4 || sealed() != 1 || segments() != 3 {
        thread::sleep(Duration::from_millis(20));
        client.publish("goes", &vec![vec![b'g'; 1024]; EACH as usize], true);
        client.publish("stays", &[vec![b's'; 1024]], true);
        batch += 1;
        while client.confirmed() < batch * (EACH + 1) {
            client.wait();
        }
        let mut gone = consumer.bodies().len();
        while gone < EACH as usize {
            consumer.wait();
            gone += consumer.bodies().len();
        }
    }
    let mut taker = Client::new(&broker);
    consume(&mut taker, "stays");
    let mut taken = 0;
    while taken < batch as usize {
        taken += taker.bodies().len();
        if taken < batch as usize {
            taker.wait();
        }
    }
    wait_until("nothing is in packs", || count(directory.path(), "pack", "pack") == 0);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(segments(), 3, "damage could hide what says so");
    free.store(999, Ordering::SeqCst);
    wait_until("the room is there again", || segments() == 1);
    assert!(count(directory.path(), "wal", "free") <= 2);
    assert!(client.session.shortage().is_some_and(|it| it.disk));
    broker.close();
    assert_eq!(open(directory.path()).queues().iter().map(|queue| queue.ready).sum::<usize>(), 0);
}
