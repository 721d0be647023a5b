//! What a program sends and receives, as an AsyncAPI document.
//!
//! The `catalog` is what a bus knows of it; `document` writes that down.

mod catalog;
mod document;
mod growing;
mod section;

pub(crate) use self::catalog::{Catalog, Received, Traffic};

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::bus::Bus;
use crate::message::Message;
use crate::publish::Address;
use crate::topology::Exchange;

/// What a program sends and receives, as an [AsyncAPI 3.0](https://www.asyncapi.com) document.
/// Shown or serialized, it is JSON. It names the broker's hosts, and nobody's password.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Description {
    document: Value,
}

impl Bus {
    /// Describes what this program sends and receives, as an AsyncAPI document with that title and
    /// version of the program: `bus.describe("billing", env!("CARGO_PKG_VERSION"))`.
    ///
    /// It has the consumers, services and agents that were started on this bus; the messages that
    /// were published, sent and asked; and those of which the program says that they will be
    /// ([`Bus::publishes`], [`Bus::sends`], [`Bus::calls`]). What a message looks like it has where
    /// [`Message::schema`] says it. Where a type was seen to go to eight subjects of an exchange,
    /// or to eight queues, they are one channel without an address; its own name and what the
    /// program says itself are not.
    #[must_use]
    pub fn describe(&self, title: &str, version: &str) -> Description {
        Description { document: document::document(&self.inner.catalog, title, version) }
    }

    /// Says that this program publishes messages of a type, so that [`Bus::describe`] has them from
    /// the start, and not only when the first one was published.
    pub fn publishes<M: Message>(&self) -> &Self {
        let exchange = M::EXCHANGE.map_or_else(|| self.inner.exchange.clone(), Exchange::topic);
        let to = Address::Subject { exchange, subject: Cow::Borrowed(M::NAME) };
        self.inner.catalog.declare(Traffic::of::<M>(), &to, false);
        self
    }

    /// Says that this program sends messages of a type to a queue, as [`Bus::publishes`].
    pub fn sends<M: Message>(&self, queue: &str) -> &Self {
        let to = Address::Queue(queue.to_owned());
        self.inner.catalog.declare(Traffic::of::<M>(), &to, false);
        self
    }

    /// Says that this program calls a service, with questions of type `Q` that are answered by an
    /// `A`, as [`Bus::publishes`].
    pub fn calls<Q: Message, A: Message>(&self, service: &str) -> &Self {
        let to = Address::Queue(service.to_owned());
        self.inner.catalog.declare(Traffic::call::<Q, A>(), &to, true);
        self
    }
}

impl Description {
    /// The document, as JSON on several lines.
    #[must_use]
    pub fn to_json(&self) -> String {
        format!("{:#}", self.document)
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.document)
    }
}
