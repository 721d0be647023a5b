//! A publisher as fast as the broker lets it be, while it is let loose.

use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use leveret_amqp_wire::{Method, frame};
use leveret_model::limits::FRAME_MAX_BYTES;

use super::client::{Client, write};

/// What it is to do.
const HELD: u8 = 0;
const LOOSE: u8 = 1;
const ENDED: u8 = 2;

const POLL: Duration = Duration::from_millis(1);

pub(super) struct Hog {
    socket: TcpStream,
    state: Arc<AtomicU8>,
    pub(super) heard: Arc<Heard>,
    threads: [JoinHandle<()>; 2],
}

/// What the broker has told it.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Bytes it has taken.
    pub(super) written: AtomicU64,
    pub(super) acks: AtomicU64,
    pub(super) nacks: AtomicU64,
    /// How often it was told to stop.
    pub(super) blocked: AtomicU64,
}

impl Hog {
    /// Not let loose yet. It publishes `messages` again and again.
    pub(super) fn new(
        broker: SocketAddr,
        prepare: impl FnOnce(&mut Client),
        messages: Vec<u8>,
    ) -> Hog {
        let mut client = Client::open(broker);
        prepare(&mut client);
        let socket = client.writer();
        socket.set_read_timeout(None).expect("wait for ever");
        let (state, heard) = (Arc::new(AtomicU8::new(HELD)), Arc::<Heard>::default());
        let reader = {
            let (socket, heard) = (client.writer(), Arc::clone(&heard));
            thread::spawn(move || listen(socket, &heard))
        };
        let writer = {
            let (socket, state) = (client.writer(), Arc::clone(&state));
            let heard = Arc::clone(&heard);
            thread::spawn(move || publish(socket, &messages, &state, &heard))
        };
        Hog { socket, state, heard, threads: [reader, writer] }
    }

    pub(super) fn let_loose(&self, loose: bool) {
        self.state.store(if loose { LOOSE } else { HELD }, Ordering::Relaxed);
    }

    /// Goes without a word.
    pub(super) fn end(self) {
        self.state.store(ENDED, Ordering::Relaxed);
        // The broker may have hung up first.
        let _ = self.socket.shutdown(Shutdown::Both);
        for thread in self.threads {
            thread.join().expect("a hog that works");
        }
    }
}

fn publish(mut socket: TcpStream, messages: &[u8], state: &AtomicU8, heard: &Heard) {
    // So much at a time that it can be stopped soon.
    let mut parts = messages.chunks(64 * 1024).cycle();
    loop {
        match state.load(Ordering::Relaxed) {
            HELD => thread::sleep(POLL),
            LOOSE => {
                let part = parts.next().expect("something to publish");
                if !write(&mut socket, part) {
                    return;
                }
                heard.written.fetch_add(part.len() as u64, Ordering::Relaxed);
            }
            _ => return,
        }
    }
}

/// Reads until the connection ends.
fn listen(mut socket: TcpStream, heard: &Heard) {
    let (mut input, mut answered) = (Vec::new(), 0);
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = socket.read(&mut bytes) {
        input.extend_from_slice(&bytes[..count]);
        let mut start = 0;
        while let Some((frame, used)) =
            frame::parse(&input[start..], FRAME_MAX_BYTES).expect("a frame as it should be")
        {
            start += used;
            if frame.kind != frame::METHOD {
                continue;
            }
            match Method::decode(frame.payload).expect("a method") {
                Method::BasicAck(ack) => {
                    let count = if ack.multiple { ack.delivery_tag - answered } else { 1 };
                    heard.acks.fetch_add(count, Ordering::Relaxed);
                    answered = answered.max(ack.delivery_tag);
                }
                Method::BasicNack(nack) => {
                    let count = if nack.multiple { nack.delivery_tag - answered } else { 1 };
                    heard.nacks.fetch_add(count, Ordering::Relaxed);
                    answered = answered.max(nack.delivery_tag);
                }
                Method::ConnectionBlocked(_) => {
                    heard.blocked.fetch_add(1, Ordering::Relaxed);
                }
                Method::ConnectionUnblocked(_) => {}
                other => panic!("{other:?}"),
            }
        }
        input.drain(..start);
    }
}
