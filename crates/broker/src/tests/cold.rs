//! Messages that only packs hold, where these cannot be read, or where the log is behind.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use leveret_engine::{Load, Outcome};
use leveret_model::FieldValue;
use leveret_model::limits::{LEASED_BYTES_MAX, LOG_BACKLOG_BYTES_MAX};
use leveret_storage::simulated::SimulatedDisk;
use leveret_storage::{Disk, Stepper};

use super::*;
use crate::broker::Parts;
use crate::loader::Loader;
use crate::packer::pack_next;

const BODY_BYTES: usize = 64 * 1024;

/// A broker without threads.
struct Scene {
    disk: SimulatedDisk,
    now: Arc<AtomicU64>,
    parts: Parts,
    stepper: Stepper,
    broker: Broker,
    loads: VecDeque<Load>,
}

impl Scene {
    fn open(memory_target: usize) -> Scene {
        let (disk, now) = (SimulatedDisk::new(1), Arc::new(AtomicU64::new(1_700_000_000_000)));
        let options = Options {
            memory_target,
            segment_bytes: SEGMENT_BYTES_MIN,
            ..options(Path::new("/data"))
        };
        let told = Arc::clone(&now);
        let clock = Clock::given(move || Time(told.load(Ordering::Relaxed)));
        let mut stepper = None;
        let parts = Parts::open(&options, [7; 16], clock, |log, replay, on_durable| {
            let shared = Arc::new(disk.clone());
            let directory = Path::new("/data");
            let (log, steps) = Log::open_stepped(shared, directory, log, replay, on_durable)?;
            stepper = Some(steps);
            Ok(log)
        });
        let parts = parts.expect("opens");
        let (stepper, broker) = (stepper.expect("made with the log"), parts.broker());
        Scene { disk, now, parts, stepper, broker, loads: VecDeque::new() }
    }

    /// A client, and a durable queue with these arguments.
    fn client(&self, queue: &'static str, arguments: FieldTable) -> Client {
        let session = self.broker.connect(b"/").expect("a virtual host");
        let client = Client { session, told: Vec::new() };
        client.send(Operation::Open);
        client.send(Operation::DeclareQueue(Box::new(DeclareQueue {
            name: ShortString::from_static(queue),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments,
            reply: true,
        })));
        client
    }

    /// Does what there is to be done beside the engine, but for loads.
    fn work(&mut self) {
        while self.stepper.commit() {}
        while matches!(pack_next(&self.parts.shared, &self.parts.packs), Ok(true)) {}
        while self.stepper.commit() || self.stepper.keep() {}
    }

    /// Publishes messages, which leave memory.
    fn publish(&mut self, client: &Client, queue: &str, count: usize) {
        for _ in 0..count {
            client.publish(queue, &[vec![7; BODY_BYTES]], true);
            self.work();
        }
    }

    /// Brings what is asked for. Says whether that is to be tried again.
    fn bring(&mut self) -> bool {
        self.loads.extend(self.parts.wanted.try_iter());
        let Some(load) = self.loads.pop_front() else { return false };
        let mut loader = Loader::new(Arc::downgrade(&self.parts.shared), self.parts.packs.clone());
        let again = loader.bring(load).err();
        self.loads.extend(again);
        !self.loads.is_empty()
    }

    fn ready(&self, name: &str) -> usize {
        let queues = self.broker.queues();
        queues.iter().find(|queue| queue.name == name).expect("declared").ready
    }

    /// The files of packs, with this ending.
    fn pack_files(&self, ending: &str) -> Vec<PathBuf> {
        let files = self.disk.files().into_iter().map(|(path, _)| path);
        files.filter(|path| path.extension().is_some_and(|it| it == ending)).collect()
    }
}

/// How many messages the client has got.
fn got(client: &mut Client) -> usize {
    let session = &client.session;
    while session.poll_outbound(&mut Context::from_waker(Waker::noop()), &mut client.told)
        == Poll::Ready(())
    {}
    let items = client.told.iter().flat_map(|outbound| &outbound.items);
    items.filter(|item| matches!(item, Item::Got { .. })).count()
}

fn get(queue: &'static str) -> Operation {
    Operation::Get { queue: ShortString::from_static(queue), no_ack: false }
}

/// As a disk may be that is not mounted for a moment.
#[test]
fn messages_whose_pack_is_away_come_when_it_is_back() {
    let mut scene = Scene::open(0);
    let mut client = scene.client("q", FieldTable::new());
    scene.publish(&client, "q", 40);
    let there = [scene.pack_files("pack"), scene.pack_files("idx")].concat();
    assert!(there.len() >= 2);
    let away = |path: &PathBuf| Path::new("/data").join(path.file_name().expect("a name"));
    there.iter().for_each(|path| scene.disk.rename(path, &away(path)).unwrap());
    client.send(get("q"));
    for _ in 0..3 {
        assert!(scene.bring(), "it is tried again");
        assert_eq!((scene.ready("q"), got(&mut client)), (40, 0));
    }
    there.iter().for_each(|path| scene.disk.rename(&away(path), path).unwrap());
    scene.bring();
    scene.work();
    assert_eq!((scene.ready("q"), got(&mut client)), (39, 1));
    assert_eq!(scene.broker.queues().iter().map(|queue| queue.damaged).sum::<u64>(), 0);
}

#[test]
fn packs_that_cannot_be_read_keep_no_other_from_being_merged() {
    let mut scene = Scene::open(0);
    let client = scene.client("q", FieldTable::new());
    scene.publish(&client, "q", 60);
    let indexes = scene.pack_files("idx");
    assert!(indexes.len() >= 2, "{indexes:?}");
    scene.disk.remove(&indexes[0]).unwrap();
    scene.disk.remove(&indexes[1]).unwrap();
    scene.disk.create(&indexes[1]).unwrap().write_all_at(&[7; 8192], 0).unwrap();
    for _ in 0..2 {
        let merged = scene.parts.merger.merge_next(&scene.parts.shared);
        assert!(matches!(merged, Ok(false)), "{merged:?}");
    }
}

/// Each dead letter is written to the log, however cheap it was to find that it is one.
#[test]
fn messages_that_are_too_old_wait_for_the_log() {
    const COUNT: usize = 600;
    /// What one step may add.
    const STEP_BYTES: u64 = 4 * 1024 * 1024;
    let mut scene = Scene::open(1024 * 1024);
    let mut arguments = FieldTable::new();
    arguments.insert(ShortString::from_static("x-dead-letter-exchange"), "");
    arguments.insert(ShortString::from_static("x-dead-letter-routing-key"), "dead");
    arguments.insert(ShortString::from_static("x-message-ttl"), FieldValue::I32(10_000));
    let client = scene.client("q", arguments);
    let _dead = scene.client("dead", FieldTable::new());
    scene.publish(&client, "q", COUNT);
    assert_eq!(scene.ready("q"), COUNT);
    scene.now.fetch_add(20_000, Ordering::Relaxed);
    // The disk does nothing.
    for _ in 0..1_000 {
        scene.parts.shared.tick();
        scene.bring();
        let backlog = scene.parts.shared.progress.backlog();
        assert!(backlog < LOG_BACKLOG_BYTES_MAX + STEP_BYTES, "{backlog} bytes");
    }
    assert!(scene.ready("q") > 0 && scene.ready("dead") > 0);
    for _ in 0..10_000 {
        if scene.ready("dead") == COUNT {
            break;
        }
        scene.work();
        scene.parts.shared.tick();
        scene.bring();
    }
    assert_eq!((scene.ready("q"), scene.ready("dead")), (0, COUNT));
}

/// The files of packs in a data directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(directory.join("pack")).unwrap();
    all.map(|file| file.unwrap().path()).collect()
}

#[test]
fn a_pack_that_cannot_be_read_keeps_no_other_queue_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let away = tempfile::tempdir().unwrap();
    let options = Options { memory_target: 0, ..options(directory.path()) };
    let broker = Broker::open(options).expect("opens");
    let mut clients = ["away", "there"].map(|queue| {
        let mut client = Client::new(&broker);
        client.declare(queue, true);
        (queue, client)
    });
    let mut moved = Vec::new();
    for (queue, client) in &clients {
        let before = files(directory.path()).len();
        let deadline = Instant::now() + PATIENCE;
        while files(directory.path()).len() < before + 6 || broker.memory().used > 1 << 20 {
            assert!(Instant::now() < deadline, "segments become packs");
            client.publish(queue, &[vec![7; BODY_BYTES]], true);
            thread::sleep(Duration::from_millis(5));
        }
        if *queue == "away" {
            // Whatever is packed from now on is not of it.
            thread::sleep(Duration::from_millis(300));
            moved = files(directory.path());
        }
    }
    let place = |path: &PathBuf| away.path().join(path.file_name().unwrap());
    for path in &moved {
        fs::copy(path, place(path)).unwrap();
        fs::remove_file(path).unwrap();
    }
    let [(_, waits), (_, goes_on)] = &mut clients;
    waits.send(get("away"));
    thread::sleep(Duration::from_millis(300));
    for _ in 0..20 {
        goes_on.told.clear();
        goes_on.ask(get("there"));
        assert_eq!(got(goes_on), 1);
    }
    waits.told.retain(|told| told.items.iter().any(|item| matches!(item, Item::Got { .. })));
    assert_eq!(got(waits), 0);
    for path in &moved {
        fs::copy(place(path), path).unwrap();
    }
    while got(waits) == 0 {
        waits.wait();
    }
    assert_eq!(broker.queues().iter().map(|queue| queue.damaged).sum::<u64>(), 0);
}

#[test]
fn what_nobody_acknowledges_leaves_memory_for_others() {
    const COUNT: usize = 800;
    /// What one consumer may have beyond that, and a load that was on its way.
    const BEYOND_BYTES: usize = LEASED_BYTES_MAX + 1024 * 1024;
    let directory = tempfile::tempdir().unwrap();
    let options = Options { memory_target: 1024 * 1024, ..options(directory.path()) };
    let memory_max = options.memory_max;
    let broker = Broker::open(options).expect("opens");
    let mut client = Client::new(&broker);
    client.declare("q", true);
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..COUNT {
        client.publish("q", &[vec![7; BODY_BYTES]], true);
        while broker.memory().used > memory_max / 4 {
            assert!(Instant::now() < deadline, "messages leave memory");
            thread::sleep(Duration::from_millis(1));
        }
    }
    client.ask(Operation::Consume(Box::new(Consume {
        queue: ShortString::from_static("q"),
        tag: ShortString::default(),
        no_ack: false,
        exclusive: false,
        arguments: FieldTable::default(),
        reply: true,
    })));
    let (mut count, mut last) = (0, Instant::now());
    let enough = memory_max / 2 / BODY_BYTES;
    while count < enough || last.elapsed() < Duration::from_secs(1) {
        assert!(last.elapsed() < PATIENCE, "{count} came");
        let used = broker.memory().used;
        assert!(used < memory_max + BEYOND_BYTES, "{used} bytes");
        let mut cx = Context::from_waker(Waker::noop());
        if client.session.poll_outbound(&mut cx, &mut client.told) == Poll::Ready(()) {
            count += client.bodies().len();
            last = Instant::now();
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert!(count < COUNT, "all came");
    let all = Operation::Settle { lease: 0, multiple: true, outcome: Outcome::Accept };
    client.send(all);
    while count < COUNT {
        client.wait();
        count += client.bodies().len();
    }
}
