//! A toolkit for programs that lose no messages.
//!
//! A [`Bus`] leads to a broker: leveret or RabbitMQ by `amqp://` and `amqps://`, or leveret within
//! the process by `embedded:DIRECTORY`, or `memory:` for tests. The same program runs on each.
//!
//! - What is published is confirmed: [`Bus::publish`] and [`Bus::send`] return when the broker has
//!   the message and some queue gets it, or say what is known of its fate ([`PublishError`]).
//! - What is consumed is handled: [`Bus::consume`] acknowledges a message when its handler has
//!   returned `Ok`. One that failed is tried again, at once and then ever later ([`Retry`]), and in
//!   the end is a dead letter that somebody can look at and redrive ([`DeadLetters`]).
//! - What is asked is answered: [`Bus::call`] returns with the answer of who serves it
//!   ([`Bus::serve`]), with the fault it answered with ([`Fault`]), or at its deadline.
//! - Who has a name is found: [`Agents`] are programs that hold conversations, ask each other and
//!   hand over.
//! - What is lost is found again: connections are made again, with all that was declared; what was
//!   not confirmed is sent again, and consumers go on. [`Bus::health`] tells how that goes.
//!
//! ```
//! use leveret::{Bus, Cx, Message, Result};
//!
//! #[derive(serde::Serialize, serde::Deserialize, Message)]
//! #[message(name = "order.created")]
//! struct OrderCreated {
//!     id: u64,
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result {
//!     let bus = Bus::connect("memory:").await?;
//!     let bill = async |order: OrderCreated, _: Cx| {
//!         println!("order {} is billed", order.id);
//!         Ok(())
//!     };
//!     bus.consume("billing", bill).start().await?;
//!     bus.publish(&OrderCreated { id: 1 }).await?;
//! #   while bus.health().consumers[0].handled == 0 {
//! #       tokio::task::yield_now().await;
//! #   }
//!     bus.close().await;
//!     Ok(())
//! }
//! ```
//!
//! The guide (`docs/guide`) has a page for each pattern.
//!
//! # Layout
//! - `bus`, `connect`, `url`: the bus, from a URL on
//! - `message`, `json`, `letter`: what is sent, and what is written on the outside; `claim_check`:
//!   bodies that go another way
//! - `publish`, with `delays`; `consume`, with `retry`, `history`, `dedup`, `breaker` and `rate`;
//!   `dead_letters`
//! - `rpc`: questions and answers; `agents`: programs with a name that talk to each other
//! - `outbox` and `inbox`: messages and PostgreSQL transactions, both or neither
//! - `transport`: what a broker must be able to do; `topology`: what must be there; `via`: the
//!   transports there are
//! - `health`, `stats`: how it goes; `describe`: what is sent and received, as AsyncAPI
//! - `testing`: what tests ask of a bus in memory; `conformance`: what every transport must do, as
//!   tests; `guide`: the pages of the guide, whose snippets are tests

mod agents;
mod backoff;
mod breaker;
mod bus;
mod chance;
mod claim_check;
mod clock;
#[cfg(feature = "testing")]
pub mod conformance;
mod connect;
mod consume;
mod cx;
mod dead_letters;
mod dedup;
mod delays;
mod describe;
mod error;
mod failure;
#[cfg(doctest)]
mod guide;
mod health;
mod history;
#[cfg(feature = "postgres")]
mod inbox;
pub mod json;
mod letter;
mod message;
#[cfg(feature = "postgres")]
mod outbox;
mod publish;
mod rate;
mod retry;
mod rpc;
mod stats;
mod testing;
mod topology;
pub mod transport;
mod url;
mod via;

pub use agents::{
    Agent, AgentBuilder, AgentCx, AgentHandler, AgentInbox, AgentQueue, AgentStatus, Agents,
    AgentsHealth, Ask, Note, Presence, Turn,
};
pub use breaker::Breaker;
pub use bus::{Bus, BusBuilder};
#[cfg(feature = "claim-check")]
pub use claim_check::{ClaimCheck, Swept};
pub use consume::{
    BatchHandler, Batches, Consumer, ConsumerBuilder, Deliveries, Each, Handler, HandlerService,
    Layered, Outcome, Way,
};
pub use cx::Cx;
pub use dead_letters::{DeadLetter, DeadLetters, Filter, Redriven};
pub use dedup::{Dedup, Store};
pub use describe::Description;
pub use error::{ConnectError, Error, PublishError, Result, SubscribeError, TopologyError};
pub use failure::{BoxError, Failure, Permanent};
pub use health::{ConnectionHealth, ConnectionState, ConsumerHealth, ConsumerState, Health};
pub use history::Failed;
#[cfg(feature = "postgres")]
pub use inbox::{Inbox, PostgresStore};
pub use json::Json;
pub use letter::{Headers, Letter};
pub use leveret_macros::Message;
pub use message::{CodecError, Message, Payload, Raw, Text};
#[cfg(feature = "claim-check")]
pub use object_store;
#[cfg(feature = "postgres")]
pub use outbox::{
    Outbox, OutboxPublish, OutboxStatus, Parked, Relay, RelayBuilder, RelayHealth, RelayState,
};
pub use publish::{Publish, Receipt, Ticket};
pub use retry::Retry;
pub use rpc::{Answer, Call, CallError, Fault, ServiceBuilder};
#[cfg(feature = "schema")]
pub use schemars;
#[cfg(feature = "postgres")]
pub use sqlx;
pub use stats::Stats;
pub use topology::{
    Binding, Delay, DelayTarget, Exchange, ExchangeKind, Match, Queue, QueueKind, Topology,
};
pub use transport::QueueStatus;
