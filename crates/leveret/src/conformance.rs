//! What every transport must do, as tests: the same ones for each.
//!
//! A transport is right if [`run`] says so for [`TESTS`]. The tests need nothing but a way to make
//! a bus, so they run on brokers in the process and on any server. Each has names of its own, so
//! that many can share a broker, at the same time and one after the other; what they leave in it
//! is theirs alone. What a transport says in its [`Capabilities`](crate::transport::Capabilities)
//! that it cannot do is not asked of it.
//!
//! ```no_run
//! # async fn doc() {
//! use leveret::{Bus, conformance};
//! let failures = conformance::run(conformance::TESTS, 4, || Bus::builder("amqp://")).await;
//! assert!(failures.is_empty(), "{failures:#?}");
//! # }
//! ```

/// Fails a test, with what is the matter, unless something holds.
macro_rules! check {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+).into());
        }
    };
}

mod closing;
mod delays;
mod delivery;
mod failures;
mod letters;
mod limits;
mod policies;
mod routing;
mod scene;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::timeout;

pub use self::scene::Scene;

use crate::bus::BusBuilder;
use crate::chance::Names;
use crate::failure::BoxError;

/// What a test says.
pub type Verdict = Result<(), BoxError>;

/// How long a test may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A test.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// What must be so.
    pub name: &'static str,
    /// The test itself.
    pub run: fn(Scene) -> Pin<Box<dyn Future<Output = Verdict>>>,
}

/// Lists tests by their module and function.
macro_rules! tests {
    ($($module:ident: $($name:ident)+;)+) => {
        /// All tests.
        pub const TESTS: &[Test] = &[$($(
            Test { name: stringify!($name), run: |scene| Box::pin($module::$name(scene)) },
        )+)+];
    };
}

tests! {
    letters:
        every_field_comes_through
        bodies_of_any_size_come_through
        a_body_that_is_too_large_is_refused
        what_has_expired_is_not_delivered
        what_has_expired_waits_where_its_queue_says;
    routing:
        every_group_gets_an_event
        consumers_of_a_group_share_the_work
        every_consumer_with_a_queue_of_its_own_gets_all
        subjects_may_be_patterns
        headers_may_say_who_gets_what
        headers_are_for_an_exchange_that_looks_at_them
        what_is_sent_to_a_queue_goes_to_it_alone
        a_message_that_nobody_gets_is_an_error
        an_optional_event_may_go_to_nobody;
    delivery:
        messages_come_in_order
        messages_of_a_key_are_handled_in_order
        order_by_key_has_one_consumer_at_a_time
        a_slow_consumer_holds_no_more_than_its_prefetch
        what_was_not_settled_comes_again
        what_is_released_comes_again
        what_is_settled_in_any_order_is_settled
        important_messages_come_first;
    delays:
        a_message_to_a_queue_can_be_put_off
        a_message_to_a_subject_can_be_put_off
        messages_come_when_they_are_due
        a_message_to_nowhere_cannot_be_put_off
        what_is_put_off_cannot_expire
        a_delay_that_is_too_long_is_an_error;
    failures:
        what_keeps_failing_is_a_dead_letter_with_its_history
        a_permanent_failure_is_a_dead_letter_at_once
        what_cannot_be_read_is_a_dead_letter_at_once
        tries_at_once_are_one_attempt
        a_failure_can_say_when_to_try_again
        a_handler_that_panics_has_failed
        a_handler_that_takes_too_long_has_failed
        dead_letters_can_be_redriven
        a_filter_says_which_dead_letters
        dead_letters_can_be_discarded;
    policies:
        batches_are_handled_together_and_fail_apart
        layers_are_around_each_try_and_around_all_of_it
        what_was_handled_is_not_handled_again
        a_rate_is_kept
        a_breaker_pauses_and_tries_one;
    limits:
        a_full_queue_refuses
        a_full_queue_of_its_own_refuses
        what_should_be_there_and_is_not_is_an_error
        a_declaration_that_differs_is_an_error
        a_window_limits_what_is_unconfirmed
        a_message_larger_than_the_window_goes_alone;
    closing:
        stopping_finishes_what_is_in_hand_and_gives_back_the_rest
        stopping_gives_up_a_handler_that_does_not_end
        closing_waits_for_confirms
        what_is_closed_says_so
        a_bus_can_be_closed_by_several_at_once;
}

/// Runs tests, so many at a time, each with buses of its own, and says which failed and why. Under
/// paused time that is one at a time.
pub async fn run(
    tests: &[Test],
    at_a_time: usize,
    make: impl Fn() -> BusBuilder + Send + Sync + 'static,
) -> Vec<(&'static str, String)> {
    let make = Arc::new(make);
    let names = match Names::new() {
        Ok(names) => names,
        Err(error) => return vec![("all", format!("no names: {error}"))],
    };
    let verdicts = stream::iter(tests).map(|test| {
        let scene = Scene::new(Arc::clone(&make) as _, names.next());
        async move {
            let ran = AssertUnwindSafe(timeout(PATIENCE, (test.run)(scene))).catch_unwind().await;
            let text = match ran {
                Ok(Ok(Ok(()))) => return None,
                Ok(Ok(Err(error))) => error.to_string(),
                Ok(Err(_)) => format!("not done within {PATIENCE:?}"),
                Err(_) => "it panicked".to_owned(),
            };
            Some((test.name, text))
        }
    });
    verdicts.buffer_unordered(at_a_time.max(1)).filter_map(std::future::ready).collect().await
}
