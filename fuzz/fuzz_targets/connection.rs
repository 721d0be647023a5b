//! Connections: whatever clients do, they get answers that make sense, and leave nothing behind.
#![no_main]

use std::sync::OnceLock;

use leveret_amqp::fuzzing;
use leveret_broker::Broker;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

/// One broker for all inputs: each leaves it empty.
static BROKER: OnceLock<(Broker, TempDir)> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let (broker, _) = BROKER.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let options = fuzzing::options(directory.path().to_owned());
        (Broker::open(options).expect("a broker"), directory)
    });
    fuzzing::run(broker, data);
});
