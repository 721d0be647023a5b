//! The order of what the broker says to a client that asks for many things in one write, some of
//! them wrong: each is answered once, in its place, and a channel that was closed can be opened
//! again. What is wrong is found in two places, with the channel or by the engine.

use std::time::{Duration, Instant};

use leveret_amqp_wire::method::{
    BasicConsume, BasicQos, ChannelClose, ChannelCloseOk, ChannelOpen, ConnectionCloseOk,
    QueueBind, QueueDeclare, QueueDelete, QueuePurge, QueueUnbind,
};
use leveret_amqp_wire::{Method, write_content};
use leveret_model::limits::FRAME_MAX_BYTES;

use crate::broker::Broker;
use crate::hostile::address;
use crate::hostile::peer::{Peer, method, short};

/// Longest time to an answer that changes nothing. It is held back only if the broker forgets it,
/// and then until somebody else brings work; the rest is for tests that share two cores.
const A_MOMENT: Duration = Duration::from_secs(3);
/// No property but the user: one who has not logged in.
const OF_ANOTHER: &[u8] = &[0x00, 0x10, 3, b'b', b'o', b'b'];

/// A client with channels 1 and 2 open.
fn client(broker: &Broker) -> Peer {
    let mut peer = Peer::open(address(broker));
    peer.send(&method(2, ChannelOpen::default()));
    peer.expect(|method| matches!(method, Method::ChannelOpenOk(_)));
    peer
}

fn publish(exchange: &str, properties: &[u8]) -> Vec<u8> {
    let mut out = crate::hostile::publish(1, exchange, "nowhere");
    write_content(&mut out, 1, properties, b"x", FRAME_MAX_BYTES);
    out
}

/// What the engine refuses with 404.
fn publish_to_nothing() -> Vec<u8> {
    publish("nothing", &[0, 0])
}

/// What is refused with 406 before the engine sees it.
fn publish_for_another() -> Vec<u8> {
    publish("", OF_ANOTHER)
}

fn close() -> Vec<u8> {
    method(1, ChannelClose::default())
}

fn declare(channel: u16) -> Vec<u8> {
    method(channel, QueueDeclare { exclusive: true, ..QueueDeclare::default() })
}

fn in_short(channel: u16, method: &Method) -> String {
    let name = method.name();
    match method {
        Method::ChannelClose(close) => format!("{channel} {name} {}", close.reply_code),
        Method::ConnectionClose(close) => format!("{channel} {name} {}", close.reply_code),
        _ => format!("{channel} {name}"),
    }
}

/// All that the broker says to a few things sent in one write, before it answers what is asked
/// next on channel 2.
fn answers(peer: &mut Peer, asked: &[Vec<u8>]) -> Vec<String> {
    peer.send(&asked.concat());
    peer.send(&method(2, BasicQos::default()));
    let mut said = Vec::new();
    loop {
        let (channel, method) = peer.method().expect("an answer");
        if matches!(method, Method::BasicQosOk(_)) {
            return said;
        }
        said.push(in_short(channel, &method));
    }
}

/// Agrees to a close of channel 1, opens it again and uses it, all in one write.
fn reopen(peer: &mut Peer) {
    let asked = [method(1, ChannelCloseOk {}), method(1, ChannelOpen::default()), declare(1)];
    assert_eq!(answers(peer, &asked), ["1 channel.open-ok", "1 queue.declare-ok"]);
}

#[test]
fn a_channel_is_closed_once_for_two_faults() {
    let broker = Broker::start();
    let mut peer = client(&broker);
    for _ in 0..4 {
        let asked = [publish_to_nothing(), publish_for_another()];
        assert_eq!(answers(&mut peer, &asked), ["1 channel.close 404"]);
        // One step at a time.
        assert_eq!(answers(&mut peer, &[method(1, ChannelCloseOk {})]), [""; 0]);
        let open = [method(1, ChannelOpen::default())];
        assert_eq!(answers(&mut peer, &open), ["1 channel.open-ok"]);
        assert_eq!(answers(&mut peer, &[declare(1)]), ["1 queue.declare-ok"]);
    }
}

#[test]
fn a_fault_is_told_after_the_answers_before_it() {
    let broker = Broker::start();
    let mut peer = client(&broker);
    let asked = [declare(1), publish_for_another(), declare(1)];
    for _ in 0..4 {
        let said = answers(&mut peer, &asked);
        assert_eq!(said, ["1 queue.declare-ok", "1 channel.close 406"]);
        reopen(&mut peer);
    }
}

#[test]
fn a_closed_channel_may_be_opened_again_at_once() {
    let broker = Broker::start();
    let mut peer = client(&broker);
    for (fault, said) in [
        (publish_to_nothing(), "1 channel.close 404"),
        (publish_for_another(), "1 channel.close 406"),
    ] {
        for _ in 0..4 {
            assert_eq!(answers(&mut peer, std::slice::from_ref(&fault)), [said]);
            reopen(&mut peer);
        }
    }
}

#[test]
fn a_close_right_behind_a_fault_is_answered() {
    let broker = Broker::start();
    let mut peer = client(&broker);
    for faults in [
        vec![publish_to_nothing()],
        vec![publish_for_another()],
        vec![publish_to_nothing(), publish_for_another()],
        vec![declare(1), publish_for_another()],
    ] {
        for _ in 0..4 {
            let mut said = answers(&mut peer, &[faults.concat(), close()]);
            if faults.len() > 1 && said[0] == "1 queue.declare-ok" {
                said.remove(0);
            }
            // Whether the client, which leaves anyway, is told of a fault is the broker's choice.
            match &*said {
                [told, agreed] if told.starts_with("1 channel.close 40") => {
                    assert_eq!(agreed, "1 channel.close-ok");
                    reopen(&mut peer);
                }
                said => {
                    assert_eq!(said, ["1 channel.close-ok"]);
                    let asked = [method(1, ChannelOpen::default()), declare(1)];
                    let said = answers(&mut peer, &asked);
                    assert_eq!(said, ["1 channel.open-ok", "1 queue.declare-ok"]);
                }
            }
        }
    }
    // What the engine has refused is told.
    let said = answers(&mut peer, &[publish_to_nothing(), close()]);
    assert_eq!(said, ["1 channel.close 404", "1 channel.close-ok"]);
}

#[test]
fn nothing_follows_the_end_of_a_connection() {
    let broker = Broker::start();
    let mut peer = client(&broker);
    let queue = QueueDeclare { queue: short("end"), exclusive: true, ..QueueDeclare::default() };
    let (queue_name, consumer_tag) = (short("end"), short("same"));
    let consume = BasicConsume { queue: queue_name, consumer_tag, ..BasicConsume::default() };
    let consume = method(1, consume);
    peer.send(&[method(1, queue), consume.clone(), consume, declare(2), declare(1)].concat());
    let mut said = Vec::new();
    while said.last().is_none_or(|last| last != "0 connection.close 530") {
        let (channel, method) = peer.method().expect("a reason before the end");
        said.push(in_short(channel, &method));
    }
    assert_eq!(said[..2], ["1 queue.declare-ok", "1 basic.consume-ok"]);
    assert_eq!(said.len(), 3, "{said:?}");
    peer.send(&method(0, ConnectionCloseOk {}));
    assert_eq!(peer.frame(), None);
}

#[test]
fn what_changes_nothing_is_answered_too() {
    let broker = Broker::start();
    let mut peer = Peer::open(address(&broker));
    let queue = || short("unchanged");
    let declare = || QueueDeclare { queue: queue(), durable: true, ..QueueDeclare::default() };
    let transient = QueueDeclare { queue: short("transient"), ..QueueDeclare::default() };
    let (exchange, routing_key) = (short("amq.direct"), short("key"));
    let bind = QueueBind {
        queue: queue(),
        exchange: exchange.clone(),
        routing_key: routing_key.clone(),
        ..QueueBind::default()
    };
    let unbind = QueueUnbind { queue: queue(), exchange, routing_key, ..QueueUnbind::default() };
    let purge = QueuePurge { queue: queue(), ..QueuePurge::default() };
    let delete = |queue| QueueDelete { queue, ..QueueDelete::default() };
    // Each of them twice: the second time there is nothing to write.
    let all: [Method; 7] = [
        declare().into(),
        transient.into(),
        purge.into(),
        bind.into(),
        unbind.into(),
        delete(queue()).into(),
        delete(short("transient")).into(),
    ];
    for asked in all {
        for time in ["first", "second"] {
            let begun = Instant::now();
            peer.send(&method(1, asked.clone()));
            let (_, answer) = peer.method().expect("an answer");
            let took = begun.elapsed();
            assert_eq!(answer.name(), format!("{}-ok", asked.name()));
            assert!(took < A_MOMENT, "{} took {took:?} the {time} time", asked.name());
        }
    }
}
