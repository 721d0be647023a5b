//! Batches, and layers.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep};
use tower_layer::Layer;
use tower_service::Service;

use super::{BatchHandler, Outcome};
use crate::dedup::Store;
use crate::failure::BoxError;
use crate::transport::BoxFuture;
use crate::{Breaker, Bus, ConsumerState, Cx, Dedup, Failure, Retry, Text, Topology};

const QUEUE: &str = "q";
const SECOND: Duration = Duration::from_secs(1);

async fn bus_with(texts: &[&str]) -> Bus {
    let bus = Bus::connect("memory:").await.unwrap();
    bus.ensure(Topology::new().queue(crate::Queue::new(QUEUE))).await.unwrap();
    for text in texts {
        bus.send(QUEUE, &Text::from(*text)).await.unwrap();
    }
    bus
}

/// Handles batches, in which `bad` fails.
fn batches() -> (impl BatchHandler<Text>, UnboundedReceiver<Vec<String>>) {
    let (sender, receiver) = unbounded_channel();
    let handler = move |batch: Vec<(Text, Cx)>| {
        let texts: Vec<String> = batch.into_iter().map(|(Text(text), _)| text).collect();
        let bad = texts.iter().any(|text| text == "bad");
        sender.send(texts).unwrap();
        let result = if bad { Err(Failure::permanent("it is bad")) } else { Ok(()) };
        ready(result)
    };
    (handler, receiver)
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_handled_when_it_is_full_or_old_enough() {
    let bus = bus_with(&["1", "2", "3", "4", "5"]).await;
    let (handler, mut seen) = batches();
    let start = Instant::now();
    bus.consume_batches(QUEUE, 3, 2 * SECOND, handler).start().await.unwrap();
    assert_eq!(seen.recv().await.unwrap(), ["1", "2", "3"]);
    assert_eq!(start.elapsed().as_secs(), 0);
    assert_eq!(seen.recv().await.unwrap(), ["4", "5"]);
    assert_eq!(start.elapsed().as_secs(), 2);
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_that_fails_only_those_fail_that_are_at_fault() {
    let bus = bus_with(&["1", "bad", "3"]).await;
    let (handler, mut seen) = batches();
    bus.consume_batches(QUEUE, 3, SECOND, handler).start().await.unwrap();
    for batch in [&["1", "bad", "3"][..], &["1"], &["bad"], &["3"]] {
        assert_eq!(seen.recv().await.unwrap(), batch);
    }
    sleep(SECOND).await;
    let dead = bus.dead_letters(QUEUE).list(10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].message::<Text>().unwrap().0, "bad");
    assert_eq!(bus.health().consumers[0].handled, 2);
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_that_fails_each_is_tried_at_once_as_often_as_it_may_be() {
    let bus = bus_with(&["1", "2"]).await;
    let (sender, mut seen) = unbounded_channel();
    let handler = move |batch: Vec<(Text, Cx)>| {
        let attempts: Vec<u32> = batch.iter().map(|(_, cx)| cx.attempt()).collect();
        sender.send(attempts).unwrap();
        ready(Err(Failure::transient("no")))
    };
    let consumer = bus.consume_batches(QUEUE, 2, SECOND, handler);
    let retry = Retry::fixed(60 * SECOND).at_once(3).attempts(2).jitter(0.0);
    consumer.retry(retry).start().await.unwrap();
    bus.settle_all().await.unwrap();
    let mut attempts = Vec::new();
    while let Ok(batch) = seen.try_recv() {
        attempts.push(batch);
    }
    let (first, second): (&[u32], &[u32]) = (&[1], &[2]);
    let once = [&[&[1_u32, 1][..]], &[first; 6][..], &[&[2, 2]], &[second; 6]].concat();
    assert_eq!(attempts, once);
    assert_eq!(bus.dead_letters(QUEUE).count().await.unwrap(), 2);
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_in_order_may_be_of_one_key() {
    let bus = bus_with(&[]).await;
    bus.ensure(Topology::new().queue(crate::Queue::new("keys").single_active_consumer()))
        .await
        .unwrap();
    for (text, key) in [("1", "a"), ("2", "a"), ("3", "b"), ("4", "a"), ("5", "a"), ("6", "b")] {
        bus.send("keys", &Text::from(text)).key(key).await.unwrap();
    }
    let (handler, mut seen) = batches();
    let start = Instant::now();
    bus.consume_batches("keys", 3, 2 * SECOND, handler).ordered_by_key().start().await.unwrap();
    assert_eq!(seen.recv().await.unwrap(), ["1", "2", "3"]);
    assert_eq!(seen.recv().await.unwrap(), ["4", "5", "6"]);
    assert_eq!(start.elapsed().as_secs(), 0);
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn there_is_a_batch_for_each_that_may_be_handled_at_a_time() {
    let texts: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let bus = bus_with(&texts).await;
    let (sender, mut seen) = unbounded_channel();
    let slow = move |batch: Vec<(Text, Cx)>| {
        sender.send(batch.len()).unwrap();
        async {
            sleep(3600 * SECOND).await;
            Ok(())
        }
    };
    let consumer = bus.consume_batches(QUEUE, 3, SECOND, slow).concurrency(4);
    let consumer = consumer.start().await.unwrap();
    for _ in 0..4 {
        assert_eq!(seen.recv().await.unwrap(), 3);
    }
    // And one more is fetched ahead.
    assert_eq!(bus.queue(QUEUE).await.unwrap().unwrap().messages, 5);
    consumer.stop(Duration::ZERO).await;
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_twice_in_a_batch_is_handled_once() {
    let bus = bus_with(&[]).await;
    for id in ["a", "a", "b"] {
        bus.send(QUEUE, &Text::from(id)).id(id).await.unwrap();
    }
    let (handler, mut seen) = batches();
    let dedup = Dedup::in_memory(100, 3_600 * SECOND);
    bus.consume_batches(QUEUE, 3, SECOND, handler).dedup(dedup).start().await.unwrap();
    assert_eq!(seen.recv().await.unwrap(), ["a", "b"]);
    sleep(5 * SECOND).await;
    assert!(seen.try_recv().is_err());
    assert_eq!(bus.queue(QUEUE).await.unwrap().unwrap().messages, 0);
    bus.close().await;
}

/// Writes down what comes by, and what comes of it.
#[derive(Clone)]
struct Notes<S> {
    name: &'static str,
    service: S,
    notes: Arc<Mutex<Vec<String>>>,
}

struct NotesLayer {
    name: &'static str,
    notes: Arc<Mutex<Vec<String>>>,
}

impl<S> Layer<S> for NotesLayer {
    type Service = Notes<S>;

    fn layer(&self, service: S) -> Notes<S> {
        Notes { name: self.name, service, notes: Arc::clone(&self.notes) }
    }
}

impl<S: Service<(Text, Cx), Response = (), Error = Failure>> Service<(Text, Cx)> for Notes<S>
where
    S::Future: Send + 'static,
{
    type Response = ();
    type Error = Failure;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, (text, cx): (Text, Cx)) -> S::Future {
        self.notes.lock().unwrap().push(format!("{} {}", self.name, text.0));
        self.service.call((Text(text.0 + "!"), cx))
    }
}

impl<S: Service<Cx, Response = Outcome, Error = Infallible>> Service<Cx> for Notes<S>
where
    S::Future: Send + 'static,
{
    type Response = Outcome;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Outcome, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, cx: Cx) -> Self::Future {
        let (name, notes, attempt) = (self.name, Arc::clone(&self.notes), cx.attempt());
        let handling = self.service.call(cx);
        Box::pin(async move {
            let Ok(outcome) = handling.await;
            notes.lock().unwrap().push(format!("{name} {attempt} {outcome:?}"));
            Ok(outcome)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn layers_are_around_each_try_and_around_all_of_it() {
    let bus = bus_with(&["hi"]).await;
    let notes = Arc::new(Mutex::new(Vec::new()));
    let note = |name| NotesLayer { name, notes: Arc::clone(&notes) };
    let seen = Arc::clone(&notes);
    let handler = move |Text(text), cx: Cx| -> Ready<Result<(), Failure>> {
        seen.lock().unwrap().push(format!("handler {text}"));
        ready(if cx.attempt() == 1 { Err(Failure::transient("not yet")) } else { Ok(()) })
    };
    bus.consume(QUEUE, handler)
        .inner(note("inner"))
        .inner(note("outside it"))
        .outer(note("outer"))
        .retry(Retry::fixed(SECOND).at_once(2))
        .start()
        .await
        .unwrap();
    sleep(10 * SECOND).await;
    let try_once = ["outside it hi", "inner hi!", "handler hi!!"];
    let mut expected = [&try_once[..], &try_once, &["outer 1 Failed"]].concat();
    expected.extend([&try_once[..], &["outer 2 Done"]].concat());
    assert_eq!(*notes.lock().unwrap(), expected);
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_layer_may_limit_what_is_handled_at_a_time() {
    let bus = bus_with(&["1", "2", "3", "4"]).await;
    let handler = |_: Text, _: Cx| async {
        sleep(SECOND).await;
        Ok(())
    };
    let layer = tower::limit::GlobalConcurrencyLimitLayer::new(2);
    let start = Instant::now();
    bus.consume(QUEUE, handler).concurrency(4).inner(layer).start().await.unwrap();
    while bus.health().consumers[0].handled < 4 {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(start.elapsed().as_secs(), 2);
    bus.close().await;
}

/// A message that cannot be sent on as it is must not keep a worker for ever.
#[tokio::test(start_paused = true)]
async fn what_has_no_room_for_its_history_is_a_dead_letter_without_it() {
    let bus = bus_with(&[]).await;
    let fail = async |Text(text): Text, _: Cx| match text.as_str() {
        "good" => Ok(()),
        _ => Err(Failure::transient("no")),
    };
    let retry = Retry::fixed(SECOND).attempts(2);
    bus.consume(QUEUE, fail).retry(retry).start().await.unwrap();
    let bad = Text::from("bad");
    bus.send(QUEUE, &bad).header("note", "x".repeat(130_900)).await.unwrap();
    bus.send(QUEUE, &Text::from("good")).await.unwrap();
    bus.settle_all().await.unwrap();
    let dead = bus.dead_letters(QUEUE).list(10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].letter.payload.body, "bad");
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_wants_to_wait_for_ever_waits_as_long_as_can_be() {
    let bus = bus_with(&["later"]).await;
    let fail = async |_: Text, cx: Cx| match cx.attempt() {
        1 => Err(Failure::retry_after(Duration::MAX, "in the next life")),
        _ => Ok(()),
    };
    let start = Instant::now();
    bus.consume(QUEUE, fail).start().await.unwrap();
    bus.settle_all().await.unwrap();
    assert!(start.elapsed() > 700 * 86_400 * SECOND, "{:?}", start.elapsed());
    assert_eq!(bus.stats().health.consumers[0].handled, 1);
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_that_is_said_of_attempts_or_time_ends_a_worker() {
    let bus = bus_with(&[]).await;
    let text = Text::from("many");
    bus.send(QUEUE, &text).header("leveret-attempts", u32::MAX.to_string()).await.unwrap();
    let fail = async |_: Text, _: Cx| Err::<(), _>(Failure::transient("no"));
    bus.consume(QUEUE, fail).rate(1, Duration::MAX).start().await.unwrap();
    bus.settle_all().await.unwrap();
    assert_eq!(bus.dead_letters(QUEUE).count().await.unwrap(), 1);

    let (handler, mut seen) = batches();
    bus.ensure(Topology::new().queue(crate::Queue::new("endless"))).await.unwrap();
    bus.consume_batches("endless", 2, Duration::MAX, handler).start().await.unwrap();
    for text in ["1", "2"] {
        bus.send("endless", &Text::from(text)).await.unwrap();
    }
    assert_eq!(seen.recv().await.unwrap(), ["1", "2"]);
    bus.close().await;
}

/// A store that panics when it is asked for the first time.
#[derive(Default)]
struct Broken(AtomicBool);

impl Store for Broken {
    fn contains<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<bool, BoxError>> {
        assert!(self.0.swap(true, Ordering::Relaxed), "it is broken");
        Box::pin(ready(Ok(false)))
    }

    fn insert<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(ready(Ok(())))
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_beside_the_handler_is_the_messages_failure() {
    let bus = bus_with(&["1"]).await;
    let handle = async |_: Text, _: Cx| Ok(());
    let dedup = || Dedup::new(Broken::default());
    bus.consume(QUEUE, handle).dedup(dedup()).start().await.unwrap();
    let (handler, mut seen) = batches();
    bus.ensure(Topology::new().queue(crate::Queue::new("batches"))).await.unwrap();
    bus.consume_batches("batches", 1, SECOND, handler).dedup(dedup()).start().await.unwrap();
    bus.send("batches", &Text::from("2")).await.unwrap();
    bus.settle_all().await.unwrap();
    assert_eq!(seen.recv().await.unwrap(), ["2"]);
    let consumers = bus.health().consumers;
    assert!(consumers.iter().all(|it| (it.handled, it.failed) == (1, 1)), "{consumers:?}");
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn bad_messages_do_not_open_the_breaker() {
    let bus = bus_with(&[]).await;
    for _ in 0..100 {
        bus.send(QUEUE, &crate::Raw(vec![0xff].into())).await.unwrap();
    }
    bus.send(QUEUE, &Text::from("good")).await.unwrap();
    let start = Instant::now();
    bus.consume(QUEUE, async |_: Text, _: Cx| Ok(())).start().await.unwrap();
    bus.settle_all().await.unwrap();
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    assert_eq!(bus.dead_letters(QUEUE).count().await.unwrap(), 100);
    bus.close().await;
}

/// What is done is acknowledged while a slow message is being handled.
#[tokio::test(start_paused = true)]
async fn acknowledgements_do_not_wait_for_slow_messages() {
    let bus = bus_with(&["1", "2", "slow", "3"]).await;
    let handle = async |Text(text): Text, _: Cx| {
        if text == "slow" {
            sleep(3600 * SECOND).await;
        }
        Ok(())
    };
    bus.consume(QUEUE, handle).start().await.unwrap();
    sleep(60 * SECOND).await;
    let broker = bus.native::<leveret_broker::Broker>().unwrap();
    let queue = broker.queues().into_iter().find(|it| it.name.as_bytes() == QUEUE.as_bytes());
    assert_eq!(queue.unwrap().unacknowledged, 2);
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_done_is_acknowledged_before_the_breaker_lets_the_next_one_through() {
    let bus = bus_with(&["bad", "good"]).await;
    let handler = async |text: Text, _: Cx| match text.0.as_str() {
        "bad" => Err(Failure::transient("bad")),
        _ => Ok(()),
    };
    let consumer = bus.consume(QUEUE, handler).breaker(Breaker::new(1, 1, 3600 * SECOND));
    let consumer = consumer.retry(Retry::fixed(7200 * SECOND)).start().await.unwrap();
    let broker: &leveret_broker::Broker = bus.native().unwrap();
    let out = || {
        let queues = broker.queues();
        let queue = queues.iter().find(|queue| queue.name.as_bytes() == QUEUE.as_bytes());
        queue.map(|queue| queue.unacknowledged)
    };
    while consumer.health().state != ConsumerState::Paused || out() != Some(1) {
        assert_eq!(consumer.health().handled, 0);
        sleep(SECOND / 100).await;
    }
    bus.close().await;
}
