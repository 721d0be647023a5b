//! A client that is none of ours: it sends what the toolkit would not.

use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

pub(crate) struct Elsewhere {
    _connection: Connection,
    pub(crate) channel: Channel,
}

impl Elsewhere {
    pub(crate) async fn connect(url: &str) -> Elsewhere {
        let options = ConnectionProperties::default();
        let connection = Connection::connect(url, options).await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        Elsewhere { _connection: connection, channel }
    }

    /// Sends a message to a queue.
    pub(crate) async fn send(&self, queue: &str, body: &[u8], properties: BasicProperties) {
        let sent = self.channel.basic_publish(
            "".into(),
            queue.into(),
            Default::default(),
            body,
            properties,
        );
        sent.await.expect("it is sent");
    }
}
