//! A client that does no harm, next to those that do: it publishes with confirms and consumes all
//! the time, and must not notice them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use leveret_amqp_wire::method::{BasicConsume, ConfirmSelect, QueueDeclare};
use leveret_amqp_wire::publish::{write_ack, write_envelope, write_publish};
use leveret_amqp_wire::{Method, write_content};

use super::peer::{Peer, method, short};

/// Longest time to a confirm. Nearly all of it is for a disk and two cores that many tests share.
const CONFIRM_LIMIT: Duration = Duration::from_secs(3);
/// Delivery mode 2.
const PERSISTENT: &[u8] = &[0x10, 0x00, 2];

pub(super) struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Duration)>,
}

impl Neighbour {
    pub(super) fn move_in(broker: SocketAddr) -> Neighbour {
        let mut peer = Peer::open(broker);
        let queue = || short("neighbour");
        let declare = QueueDeclare { queue: queue(), durable: true, ..QueueDeclare::default() };
        peer.send(&method(1, declare));
        peer.send(&method(1, BasicConsume { queue: queue(), ..BasicConsume::default() }));
        peer.send(&method(1, ConfirmSelect::default()));
        peer.expect(|method| matches!(method, Method::ConfirmSelectOk(_)));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Neighbour { stop, thread: thread::spawn(move || live(peer, &stopped)) }
    }

    /// Checks that all went well for it.
    pub(super) fn move_out(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (rounds, slowest) = self.thread.join().expect("the neighbour noticed something");
        assert!(rounds > 0, "the neighbour had no time for anything");
        assert!(slowest < CONFIRM_LIMIT, "a confirm took {slowest:?}");
    }
}

/// Returns how many messages went round, and the longest time to a confirm.
fn live(mut peer: Peer, stop: &AtomicBool) -> (u64, Duration) {
    let mut envelope = Vec::new();
    write_envelope(&mut envelope, &short(""), &short("neighbour"));
    let (mut rounds, mut slowest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let mut out = Vec::new();
        write_publish(&mut out, 1, &envelope, true);
        write_content(&mut out, 1, PERSISTENT, b"how do you do", 131_072);
        peer.send(&out);
        rounds += 1;
        let (mut confirmed, mut delivered) = (false, false);
        while !(confirmed && delivered) {
            let both =
                |method: &Method| matches!(method, Method::BasicAck(_) | Method::BasicDeliver(_));
            match peer.expect(both) {
                Method::BasicAck(ack) => {
                    assert_eq!(ack.delivery_tag, rounds);
                    slowest = slowest.max(start.elapsed());
                    confirmed = true;
                }
                Method::BasicDeliver(deliver) => {
                    assert_eq!(deliver.delivery_tag, rounds);
                    let mut ack = Vec::new();
                    write_ack(&mut ack, 1, rounds, false);
                    peer.send(&ack);
                    delivered = true;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    (rounds, slowest)
}
