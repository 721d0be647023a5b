//! The `leveret` command as people meet it: the real binary, driven by the clients of other
//! people and by the example programs.
//!
//! Every test starts a broker of its own, on a port and in a directory of its own. Two variables
//! point the tests elsewhere: `LEVERET_TEST_BINARY` at another binary with the same flags, and
//! `LEVERET_TEST_AMQP_URL` at a broker that runs already (tests that must kill it are skipped).

mod abuse;
mod agents;
mod amqp;
mod broker;
// By this lints know that it is tests, helpers included.
#[cfg(test)]
mod dead;
#[cfg(test)]
mod describe;
#[cfg(unix)]
mod descriptors;
mod examples;
mod fixture;
#[cfg(target_os = "linux")]
mod fsync;
mod hostile;
mod kill;
mod lapin;
mod limits;
mod node;
mod order;
mod program;
mod python;
mod repair;
mod startup;
mod tools;
