//! A client, as raw as its socket.

use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};

use leveret_amqp_wire::method::{
    BasicConsume, BasicQos, ChannelOpen, ConfirmSelect, ConnectionClose, ConnectionOpen,
    ConnectionStartOk, ConnectionTuneOk, QueueDeclare,
};
use leveret_amqp_wire::publish::{write_envelope, write_publish};
use leveret_amqp_wire::{Method, frame, write_content};
use leveret_model::limits::{CHANNEL_MAX, FRAME_MAX_BYTES};
use leveret_model::{FieldTable, FieldValue, ShortString};

use crate::hostile::peer::{End, Peer, method, short};

/// Delivery mode 2.
pub(super) const PERSISTENT: &[u8] = &[0x10, 0x00, 2];
/// No properties.
pub(super) const TRANSIENT: &[u8] = &[0, 0];

/// A connection with channel 1 open, of a client that wants to hear when it is blocked.
pub(super) struct Client {
    pub(super) peer: Peer,
}

/// All that a client says until its connection and channel 1 are open.
fn handshake(heartbeat: u16) -> Vec<u8> {
    let mut capabilities = FieldTable::new();
    for name in ["connection.blocked", "publisher_confirms", "basic.nack"] {
        capabilities.insert(short(name), FieldValue::Bool(true));
    }
    let mut client_properties = FieldTable::new();
    client_properties.insert(short("capabilities"), FieldValue::Table(capabilities));
    let (mechanism, locale) = (short("PLAIN"), short("en_US"));
    let response = b"\0guest\0guest".to_vec();
    let (channel_max, frame_max) = (CHANNEL_MAX, FRAME_MAX_BYTES);
    let open = ConnectionOpen { virtual_host: short("/"), ..ConnectionOpen::default() };
    [
        frame::PROTOCOL_HEADER.to_vec(),
        method(0, ConnectionStartOk { client_properties, mechanism, response, locale }),
        method(0, ConnectionTuneOk { channel_max, frame_max, heartbeat }),
        method(0, open),
        method(1, ChannelOpen::default()),
    ]
    .concat()
}

impl Client {
    pub(super) fn open(broker: SocketAddr) -> Client {
        Client::open_many(broker, 1, 0).pop().expect("one client")
    }

    /// So many, which all speak before the first listens.
    pub(super) fn open_many(broker: SocketAddr, count: usize, heartbeat: u16) -> Vec<Client> {
        let hello = handshake(heartbeat);
        let connect = |_| {
            let mut peer = Peer::connect(broker);
            peer.send(&hello);
            Client { peer }
        };
        let mut clients: Vec<Client> = (0..count).map(connect).collect();
        for client in &mut clients {
            client.peer.expect(|method| matches!(method, Method::ChannelOpenOk(_)));
        }
        clients
    }

    /// Asks for something, and waits for the answer.
    pub(super) fn ask(&mut self, asked: impl Into<Method>, answer: fn(&Method) -> bool) -> Method {
        self.peer.send(&method(1, asked));
        self.peer.expect(answer)
    }

    pub(super) fn declare(&mut self, queue: &str) {
        self.declare_with(queue, &[]);
    }

    /// A transient queue with arguments.
    pub(super) fn declare_with(&mut self, queue: &str, arguments: &[(&str, FieldValue)]) {
        let arguments = arguments.iter().map(|(name, value)| (short(name), value.clone()));
        let arguments: FieldTable = arguments.collect();
        let declare = QueueDeclare { queue: short(queue), arguments, ..QueueDeclare::default() };
        self.ask(declare, |method| matches!(method, Method::QueueDeclareOk(_)));
    }

    /// How many messages wait in a queue.
    pub(super) fn depth(&mut self, queue: &str) -> u32 {
        let look = QueueDeclare { queue: short(queue), passive: true, ..QueueDeclare::default() };
        match self.ask(look, |method| matches!(method, Method::QueueDeclareOk(_))) {
            Method::QueueDeclareOk(ok) => ok.message_count,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn consume(&mut self, queue: &str, no_ack: bool) {
        let consume = BasicConsume { queue: short(queue), no_ack, ..BasicConsume::default() };
        self.ask(consume, |method| matches!(method, Method::BasicConsumeOk(_)));
    }

    pub(super) fn confirm(&mut self) {
        self.ask(ConfirmSelect::default(), |method| matches!(method, Method::ConfirmSelectOk(_)));
    }

    /// Returns when all that was said before has been taken in.
    pub(super) fn sync(&mut self) {
        self.ask(BasicQos::default(), |method| matches!(method, Method::BasicQosOk(_)));
    }

    /// Leaves politely.
    pub(super) fn close(mut self) {
        self.peer.send(&method(0, ConnectionClose::default()));
        assert_eq!(self.peer.end(), End::Agreed);
    }

    /// Its socket, for another thread to write to.
    pub(super) fn writer(&self) -> TcpStream {
        self.peer.socket.try_clone().expect("share a socket")
    }
}

/// Writes everything, unless the socket is closed meanwhile. Says whether it could.
pub(super) fn write(socket: &mut TcpStream, bytes: &[u8]) -> bool {
    match socket.write_all(bytes) {
        Ok(()) => true,
        Err(error) => {
            let gone = matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
            assert!(gone, "cannot write: {error}");
            false
        }
    }
}

/// Messages to a queue or an exchange, published on channel 1.
pub(super) fn messages(
    exchange: &str,
    key: &str,
    properties: &[u8],
    size: usize,
    count: usize,
) -> Vec<u8> {
    let mut envelope = Vec::new();
    write_envelope(&mut envelope, &ShortString::try_from(exchange).expect("short"), &short(key));
    let mut out = Vec::new();
    write_publish(&mut out, 1, &envelope, false);
    write_content(&mut out, 1, properties, &vec![b'x'; size], FRAME_MAX_BYTES);
    out.repeat(count)
}
