//! A way to a broker that can be cut.

use crate::amqp::soon;
use crate::broker::Broker;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Passes one connection on.
pub(super) struct Wire {
    uri: AMQPUri,
    ends: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    pub(super) fn to(broker: &Broker) -> Wire {
        let mut uri: AMQPUri = broker.url().parse().expect("an address");
        let target = (uri.authority.host.clone(), uri.authority.port);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        uri.authority.host = Ipv4Addr::LOCALHOST.to_string();
        uri.authority.port = listener.local_addr().expect("a port").port();
        let ends = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&ends);
        thread::spawn(move || {
            let (client, _) = listener.accept().expect("accept");
            let server = TcpStream::connect(target).expect("connect");
            let copy = |end: &TcpStream| end.try_clone().expect("a second handle");
            pass_on(copy(&client), copy(&server));
            pass_on(copy(&server), copy(&client));
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = vec![client, server];
        });
        Wire { uri, ends }
    }

    pub(super) async fn connect(&self) -> Connection {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect_uri(self.uri.clone(), properties);
        soon("a connection", connection).await.expect("connect")
    }

    /// Ends it for both sides, without a word.
    pub(super) fn cut(self) {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(ends.len(), 2, "nobody has connected");
        for end in ends.iter() {
            // The other side may have been quicker.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        // Ends when the wire is cut, well or not.
        let _ = io::copy(&mut from, &mut to);
    });
}
