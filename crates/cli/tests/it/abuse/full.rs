//! Publishers into queues that take no more.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use leveret_amqp_wire::Method;
use leveret_amqp_wire::method::{QueueDelete, QueuePurge};
use leveret_model::FieldValue;

use super::client::{Client, TRANSIENT, messages};
use super::hog::Hog;
use super::neighbour::{Abuse, Neighbour, Round, check_slowdown};
use super::scene::{Counts, Scene};
use crate::hostile::peer::short;
use crate::tools::say;

const LENGTH: u32 = 1_000;
/// How much larger the broker may get for it, in MiB.
const GROWTH_MIB_MAX: u64 = 24;
/// The neighbours and their queues.
const NAMES: [&str; 2] = ["left", "right"];
const REST: Duration = Duration::from_micros(500);

/// A publisher into a queue with a limit, and once more at another broker.
struct Flood {
    scenes: [Scene; 2],
    hogs: [Hog; 2],
    /// Two, so that one of them shares a thread of the broker with the publisher.
    neighbours: [Neighbour; 2],
}

impl Flood {
    fn new(
        test: &str,
        round: Round,
        settings: &[&str],
        queue: &[(&str, FieldValue)],
    ) -> Option<Flood> {
        let scene = Scene::set(test, settings)?;
        let scenes = [scene.beside(settings), scene];
        let hogs = [0, 1].map(|place| {
            let prepare = |client: &mut Client| {
                client.declare_with("full", queue);
                client.confirm();
            };
            let some = messages("", "full", TRANSIENT, 1_000, 1_000);
            Hog::new(scenes[place].amqp, prepare, some)
        });
        let neighbours = NAMES.map(|name| Neighbour::move_in(scenes[1].amqp, name, round, REST));
        Some(Flood { scenes, hogs, neighbours })
    }

    fn let_loose(&self, abuse: Abuse) {
        self.hogs[0].let_loose(abuse == Abuse::Elsewhere);
        self.hogs[1].let_loose(abuse == Abuse::Here);
    }

    fn here(&self) -> (&Scene, &Hog) {
        (&self.scenes[1], &self.hogs[1])
    }

    /// Checks that nothing is left, however much was published.
    fn end(self) {
        let [_, scene] = &self.scenes;
        self.hogs.into_iter().for_each(Hog::end);
        self.neighbours.into_iter().for_each(Neighbour::move_out);
        let mut client = Client::open(scene.amqp);
        for queue in NAMES.into_iter().chain(["full"]) {
            let delete = QueueDelete { queue: short(queue), ..QueueDelete::default() };
            client.ask(delete, |method| matches!(method, Method::QueueDeleteOk(_)));
        }
        client.close();
        scene.await_counts(Counts::default());
    }
}

/// Floods a queue that may be so long, and says how many messages were taken and refused.
fn flood_queue(test: &str, overflow: &str) -> Option<(u64, u64)> {
    let overflow = FieldValue::LongString(overflow.into());
    let limit = [("x-max-length", FieldValue::I64(LENGTH.into())), ("x-overflow", overflow)];
    let flood = Flood::new(test, Round::Transient, &[], &limit)?;
    let (scene, hog) = flood.here();
    let before = scene.size_kib();
    check_slowdown(test, &flood.neighbours, |abuse| flood.let_loose(abuse));
    let depth = Client::open(scene.amqp).depth("full");
    let grown = scene.peak_kib().saturating_sub(before) / 1024;
    let [written, acks, nacks] =
        [&hog.heard.written, &hog.heard.acks, &hog.heard.nacks].map(|n| n.load(Ordering::Relaxed));
    let mb = written / 1_000_000;
    say(&format!("{test}: {mb} MB, {acks} acks, {nacks} nacks, {depth} wait, {grown} MiB more"));
    assert_eq!(depth, LENGTH);
    assert!(grown <= GROWTH_MIB_MAX, "it grew by {grown} MiB");
    flood.end();
    Some((acks, nacks))
}

#[test]
fn a_queue_that_drops_its_oldest_may_be_flooded() {
    let test = "a_queue_that_drops_its_oldest_may_be_flooded";
    let Some((_, nacks)) = flood_queue(test, "drop-head") else { return };
    assert_eq!(nacks, 0);
}

#[test]
fn a_queue_that_refuses_may_be_flooded() {
    let test = "a_queue_that_refuses_may_be_flooded";
    let Some((acks, nacks)) = flood_queue(test, "reject-publish") else { return };
    assert_eq!(acks, u64::from(LENGTH));
    assert!(nacks > acks, "{nacks} nacks");
}

/// A queue without limits that nobody consumes. Neighbours that only ask and consume go on.
#[test]
fn a_broker_that_is_full_holds_publishers_back() {
    const BUDGET_MIB: u64 = 32;
    let test = "a_broker_that_is_full_holds_publishers_back";
    let flood = Flood::new(test, Round::Question, &["--memory-max", "32MiB"], &[]);
    let Some(flood) = flood else { return };
    let (scene, hog) = flood.here();
    let before = scene.size_kib();
    let purgers = flood.scenes.each_ref().map(|scene| RefCell::new(Client::open(scene.amqp)));
    check_slowdown(test, &flood.neighbours, |abuse| {
        // It has to fill up anew each time.
        for purger in &purgers {
            let purge = QueuePurge { queue: short("full"), ..QueuePurge::default() };
            purger.borrow_mut().ask(purge, |method| matches!(method, Method::QueuePurgeOk(_)));
        }
        flood.let_loose(abuse);
    });
    let grown = scene.peak_kib().saturating_sub(before) / 1024;
    let [written, blocked] =
        [&hog.heard.written, &hog.heard.blocked].map(|n| n.load(Ordering::Relaxed));
    let mb = written / 1_000_000;
    say(&format!("{test}: {mb} MB, blocked {blocked} times, {grown} MiB more"));
    assert!(blocked > 0, "nobody was held back");
    assert!(grown <= BUDGET_MIB + BUDGET_MIB / 4 + GROWTH_MIB_MAX, "it grew by {grown} MiB");
    flood.end();
}
