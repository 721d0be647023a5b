//! A publisher as fast as it can be, among others that are not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use leveret_amqp_wire::Method;
use leveret_amqp_wire::method::QueueDeclare;
use leveret_model::{FieldTable, FieldValue};

use super::client::{Client, PERSISTENT, TRANSIENT, messages};
use super::hog::Hog;
use super::neighbour::{Abuse, Neighbour, Round, check_slowdown};
use super::scene::Scene;
use crate::hostile::peer::short;
use crate::tools::say;

const NEIGHBOURS: usize = 16;
const REST: Duration = Duration::from_millis(4);

/// Each neighbour publishes a message now and then, and waits until it is confirmed and came back.
fn check(test: &str, round: Round) {
    let Some(scene) = Scene::set(test, &[]) else { return };
    let scenes = [scene.beside(&[]), scene];
    let hogs = scenes.each_ref().map(|scene| {
        let durable = round == Round::Persistent;
        let properties = if durable { PERSISTENT } else { TRANSIENT };
        // It never runs into a limit that would stop it.
        let arguments = [(short("x-max-length"), FieldValue::I64(1_000))];
        let arguments: FieldTable = arguments.into_iter().collect();
        let queue = short("hog");
        let declare = QueueDeclare { queue, durable, arguments, ..QueueDeclare::default() };
        let prepare = move |client: &mut Client| {
            client.ask(declare, |method| matches!(method, Method::QueueDeclareOk(_)));
            client.confirm();
        };
        Hog::new(scene.amqp, prepare, messages("", "hog", properties, 1_000, 1_000))
    });
    let move_in =
        |number| Neighbour::move_in(scenes[1].amqp, &format!("neighbour-{number}"), round, REST);
    let neighbours: Vec<Neighbour> = (0..NEIGHBOURS).map(move_in).collect();
    check_slowdown(test, &neighbours, |abuse| {
        hogs[0].let_loose(abuse == Abuse::Elsewhere);
        hogs[1].let_loose(abuse == Abuse::Here);
    });
    let published = hogs[1].heard.acks.load(Ordering::Relaxed);
    say(&format!("{test}: the fast one had {published} confirms"));
    assert!(published > 10_000, "the fast one was not fast: {published}");
    neighbours.into_iter().for_each(Neighbour::move_out);
    hogs.into_iter().for_each(Hog::end);
}

#[test]
fn a_fast_publisher_leaves_others_their_share() {
    check("a_fast_publisher_leaves_others_their_share", Round::Transient);
}

#[test]
fn a_fast_publisher_leaves_others_their_share_of_the_disk() {
    check("a_fast_publisher_leaves_others_their_share_of_the_disk", Round::Persistent);
}
