//! The servers that other tests start: that each answers, keeps its data when it is killed, and
//! leaves nothing behind.

mod client;
mod cluster;
mod ending;
mod leveret;
mod postgres;
mod rabbitmq;
mod traces;
