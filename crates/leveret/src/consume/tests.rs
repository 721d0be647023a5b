//! Batches, and layers.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, sleep};
use tower_layer::Layer;
use tower_service::Service;

use super::{BatchHandler, Outcome};
use crate::{Bus, Cx, Dedup, Failure, Retry, Text, Topology};

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
