//! Batches of what is handled once.

use std::time::Duration;

use leveret::transport::BoxFuture;
use leveret::{BoxError, Bus, Cx, Dedup, Queue, Store, Text, Topology};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::within;

/// Knows nothing, and takes its time.
struct Slow;

impl Store for Slow {
    fn contains<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<bool, BoxError>> {
        Box::pin(async {
            sleep(Duration::from_millis(10)).await;
            Ok(false)
        })
    }

    fn insert<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Batches with the same messages, in different orders, do not wait for each other for ever.
#[tokio::test(start_paused = true)]
async fn batches_that_want_the_same_messages_are_handled_one_after_the_other() {
    let bus = Bus::connect("memory:").await.unwrap();
    bus.ensure(Topology::new().queue(Queue::new("twice"))).await.unwrap();
    for id in ["a", "b", "b", "a"] {
        bus.send("twice", &Text::from(id)).id(id).await.unwrap();
    }
    let (seen, mut handled) = mpsc::unbounded_channel();
    let handler = move |batch: Vec<(Text, Cx)>| {
        let texts: Vec<String> = batch.into_iter().map(|(Text(text), _)| text).collect();
        let _ = seen.send(texts);
        async { Ok(()) }
    };
    let consumer = bus.consume_batches("twice", 2, Duration::from_secs(1), handler);
    consumer.sent_only().dedup(Dedup::new(Slow)).concurrency(2).start().await.unwrap();
    let mut batches =
        within(async { [handled.recv().await.unwrap(), handled.recv().await.unwrap()] }).await;
    batches.sort_unstable();
    assert_eq!(batches, [["a", "b"], ["b", "a"]], "each in its own order");
    bus.close().await;
}
