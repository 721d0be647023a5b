//! Very many channels.

use leveret_amqp_wire::Method;
use leveret_amqp_wire::method::{BasicConsume, BasicQos, ChannelClose, ChannelOpen};

use super::client::Client;
use super::scene::{Counts, Scene};
use crate::hostile::peer::{method, short};
use crate::tools::say;

const CONNECTIONS: u16 = 10;
/// Of one connection.
const CHANNELS: u16 = 1_000;
/// Most that a channel with a consumer takes.
const CHANNEL_KIB_MAX: f64 = 8.0;
/// What the allocator may keep for the next ones when all channels are gone, in KiB.
const KEPT_KIB_MAX: u64 = 48 * 1024;
/// How much larger than after the first time the broker may be after the last, in KiB.
const GROWTH_KIB_MAX: u64 = 4 * 1024;

/// Opens channels 2 and up, half of them with a consumer and the others with a prefetch limit.
fn open(client: &mut Client) {
    let mut asked = Vec::new();
    for channel in 2..=CHANNELS {
        asked.extend(method(channel, ChannelOpen::default()));
        if channel % 2 == 0 {
            let consume = BasicConsume { queue: short("shared"), ..BasicConsume::default() };
            asked.extend(method(channel, consume));
        } else {
            let limit = BasicQos { prefetch_count: 10, ..BasicQos::default() };
            asked.extend(method(channel, limit));
        }
    }
    client.peer.send(&asked);
    for _ in 2..=CHANNELS {
        let done =
            |method: &Method| matches!(method, Method::BasicConsumeOk(_) | Method::BasicQosOk(_));
        client.peer.expect(done);
    }
}

fn close(client: &mut Client) {
    let closes = |channel| method(channel, ChannelClose::default());
    client.peer.send(&(2..=CHANNELS).flat_map(closes).collect::<Vec<u8>>());
    for _ in 2..=CHANNELS {
        client.peer.expect(|method| matches!(method, Method::ChannelCloseOk(_)));
    }
}

#[test]
fn ten_thousand_channels_come_and_go() {
    let Some(scene) = Scene::set("ten_thousand_channels_come_and_go", &[]) else { return };
    let mut clients = Client::open_many(scene.amqp, CONNECTIONS.into(), 0);
    clients[0].declare("shared");
    let before = scene.size_kib();
    let idle = Counts { queues: 1, ..Counts::default() };
    let consumers = u64::from(CONNECTIONS * (CHANNELS / 2));
    let mut after = Vec::new();
    for round in 0..3 {
        clients.iter_mut().for_each(open);
        let grown = scene.size_kib().saturating_sub(before);
        let each = grown as f64 / f64::from(CONNECTIONS * CHANNELS);
        scene.await_counts(Counts { consumers, ..idle });
        if round < 2 {
            clients.iter_mut().for_each(close);
        } else {
            // And once without a word.
            clients.clear();
        }
        scene.await_counts(idle);
        after.push(scene.size_kib());
        say(&format!(
            "10,000 channels: {each:.2} KiB each; {before} KiB before, {} after",
            after[round]
        ));
        assert!(each <= CHANNEL_KIB_MAX, "{each:.2} KiB a channel");
    }
    assert!(after[2] <= before + KEPT_KIB_MAX, "it keeps too much: {before} then {after:?} KiB");
    assert!(
        after[2] <= after[0] + GROWTH_KIB_MAX,
        "it grows each time: {before} then {after:?} KiB"
    );
}
