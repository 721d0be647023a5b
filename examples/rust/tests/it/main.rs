//! The examples, each on every broker they are for: embedded, a leveret server, RabbitMQ.

mod agents;
mod brokers;
mod patterns;
mod reliability;
