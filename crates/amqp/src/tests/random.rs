//! Clients that do anything.

use std::sync::Mutex;

use leveret_broker::Broker;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::fuzzing;

/// What the clients do at this moment.
static CASE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Always the same ones, so that a failure can be seen again.
#[test]
fn whatever_clients_do_they_get_answers_and_leave_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::open(fuzzing::options(directory.path().to_owned())).unwrap();
    // A defect of the engine ends the process before anybody could say what led to it.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        eprintln!("random clients do {:?}", CASE.try_lock());
    }));
    let config = Config { cases: 500, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let result = runner.run(&vec(any::<u8>(), 0..4000), |data| {
        CASE.lock().unwrap().clone_from(&data);
        fuzzing::run(&broker, &data);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
