//! Large bodies go by way of a store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use leveret::object_store::memory::InMemory;
use leveret::object_store::{ObjectStore, ObjectStoreExt};
use leveret::{
    AgentCx, Bus, ClaimCheck, Cx, Error, Filter, Note, PublishError, Queue, Raw, Retry, Text,
    Topology,
};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

fn body(bytes: usize) -> Raw {
    Raw(Bytes::from((0..bytes).map(|n| (n / 7) as u8).collect::<Vec<u8>>()))
}

async fn bus(url: &str, store: ClaimCheck) -> Bus {
    let url = std::env::var("BUS").unwrap_or_else(|_| url.to_owned());
    Bus::builder(&url).large_bodies(store).connect().await.expect("a bus")
}

/// Consumes a queue; what is handled can be received.
async fn consume(bus: &Bus, queue: &str, subject: &str) -> UnboundedReceiver<Bytes> {
    let (seen, handled) = mpsc::unbounded_channel();
    bus.consume(queue, move |Raw(body): Raw, cx: Cx| {
        assert!(cx.letter().body().is_empty());
        let _ = seen.send(body);
        async { Ok(()) }
    })
    .subjects([subject.to_owned()])
    .retry(Retry::fixed(Duration::from_secs(1)).attempts(2))
    .start()
    .await
    .expect("a consumer");
    handled
}

async fn dead(bus: &Bus, queue: &str) -> leveret::DeadLetter {
    while bus.dead_letters(queue).count().await.expect("a count") == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bus.dead_letters(queue).list(1).await.expect("a list").remove(0)
}

async fn two_queues_share_a_body(bus: &Bus, store: &ClaimCheck, bytes: usize) {
    let mut left = consume(bus, "left", "film.made").await;
    let mut right = consume(bus, "right", "film.made").await;
    let film = body(bytes);
    bus.publish(&film).subject("film.made").await.expect("a confirm");
    for handled in [&mut left, &mut right] {
        let came = timeout(PATIENCE, handled.recv())
            .await
            .expect("a message in time")
            .expect("a consumer");
        assert!(came == film.0);
    }
    assert_eq!(store.sweep(Duration::from_secs(3600)).await.expect("a sweep").bodies, 0);
    assert_eq!(store.sweep(Duration::ZERO).await.expect("a sweep").bodies, 1);
    bus.close().await;
}

#[tokio::test]
async fn twenty_mebibytes_reach_two_queues_of_a_broker_in_memory() {
    let store = ClaimCheck::new(InMemory::new(), "bodies");
    let bus = bus("memory:", store.clone()).await;
    two_queues_share_a_body(&bus, &store, 20 * 1024 * 1024).await;
}

#[tokio::test]
async fn twenty_mebibytes_reach_two_queues_of_an_embedded_broker_by_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = ClaimCheck::in_directory(folder.path().join("large/bodies")).unwrap();
    let bus =
        bus(&format!("embedded:{}", folder.path().join("data").display()), store.clone()).await;
    two_queues_share_a_body(&bus, &store, 20 * 1024 * 1024).await;
}

#[tokio::test]
async fn only_what_is_above_the_threshold_goes_to_the_store() {
    let store = ClaimCheck::new(InMemory::new(), "").above(1000);
    let bus = bus("memory:", store.clone()).await;
    bus.ensure(Topology::new().queue(Queue::new("small"))).await.unwrap();
    bus.send("small", &body(1000)).await.unwrap();
    assert_eq!(store.sweep(Duration::ZERO).await.unwrap().bodies, 0);
    bus.send("small", &body(1001)).await.unwrap();
    // The same message again takes its own place, another one of its id does not.
    for bytes in [2000, 2000, 3000] {
        bus.send("small", &body(bytes)).id("../an id / of the program's").await.unwrap();
    }
    assert_eq!(store.sweep(Duration::ZERO).await.unwrap().bodies, 3);
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_body_makes_a_dead_letter_that_can_be_redriven() {
    let objects = Arc::new(InMemory::new());
    let store = ClaimCheck::new(Arc::clone(&objects), "bodies").above(10);
    let bus = bus("memory:", store.clone()).await;
    let mut handled = consume(&bus, "films", "film.made").await;
    bus.publish(&body(200)).subject("film.made").delay(Duration::from_secs(5)).await.unwrap();
    let path = objects.list(None).next().await.unwrap().unwrap().location;
    assert_eq!(store.sweep(Duration::ZERO).await.unwrap().bodies, 1);
    let dead = dead(&bus, "films").await;
    assert_eq!((dead.reason.as_str(), dead.failures.len()), ("no attempts left", 2));
    let error = &dead.failures[1].error;
    assert!(error.contains("it is not there") && error.contains(path.as_ref()), "{error}");
    let text = dead.message::<Raw>().unwrap_err().to_string();
    assert!(text.contains("Bus::payload()"), "{text}");
    let text = bus.payload(&dead.letter).await.unwrap_err().to_string();
    assert!(text.contains("it is not there"), "{text}");
    // Somebody brings it back, wrong at first.
    objects.put(&path, vec![7; 200].into()).await.unwrap();
    let text = bus.payload(&dead.letter).await.unwrap_err().to_string();
    assert!(text.contains("checksum"), "{text}");
    objects.put(&path, body(200).0.into()).await.unwrap();
    assert_eq!(bus.payload(&dead.letter).await.unwrap().body, body(200).0);
    assert_eq!(bus.dead_letters("films").redrive(&Filter::all(), 10).await.unwrap().done, 1);
    assert_eq!(timeout(PATIENCE, handled.recv()).await.unwrap().unwrap(), body(200).0);
    bus.close().await;
}

#[tokio::test]
async fn who_has_no_store_is_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("embedded:{}", folder.path().join("data").display());
    let store = ClaimCheck::in_directory(folder.path().join("bodies")).unwrap().above(10);
    let with = bus(&url, store.clone()).await;
    // A queue as consumers make it.
    let dead_letters = |queue: Queue| queue;
    let topology = Topology::new().queue(dead_letters(Queue::new("films")));
    with.ensure(topology).await.unwrap();
    with.send("films", &body(200)).await.unwrap();
    with.close().await;
    drop(with);
    let without = Bus::connect(&url).await.unwrap();
    let mut handled = consume(&without, "films", "film.made").await;
    let dead = dead(&without, "films").await;
    assert_eq!((dead.reason.as_str(), dead.failures.len()), ("permanent failure", 1));
    let error = &dead.failures[0].error;
    assert!(error.contains("200 bytes") && error.contains("large_bodies()"), "{error}");
    let text = without.payload(&dead.letter).await.unwrap_err().to_string();
    assert!(text.contains("large_bodies()"), "{text}");
    assert!(handled.try_recv().is_err());
    without.close().await;
    drop(without);
    let with = bus(&url, store).await;
    let mut handled = consume(&with, "films", "film.made").await;
    with.dead_letters("films").redrive(&Filter::all(), 10).await.unwrap();
    assert_eq!(timeout(PATIENCE, handled.recv()).await.unwrap().unwrap(), body(200).0);
    with.close().await;
}

#[tokio::test]
async fn a_store_that_fails_is_told_of_and_nothing_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("bodies");
    let store = ClaimCheck::in_directory(&directory).unwrap().above(10).at_most(1000);
    let bus = bus("memory:", store).await;
    bus.ensure(Topology::new().queue(Queue::new("films"))).await.unwrap();
    let error = bus.send("films", &body(1001)).await.unwrap_err();
    assert!(matches!(error, PublishError::TooLarge { size: 1001, limit: 1000 }), "{error}");
    std::fs::remove_dir(&directory).unwrap();
    std::fs::write(&directory, "in the way").unwrap();
    let error = bus.send("films", &body(100)).await.unwrap_err();
    assert!(matches!(error, PublishError::LargeBody { size: 100, .. }), "{error}");
    assert_eq!(bus.queue("films").await.unwrap().unwrap().messages, 0);
    let text = ClaimCheck::in_directory(&directory).unwrap_err();
    assert!(matches!(text, Error::Store { .. }), "{text}");
    bus.send("films", &Text::from("small")).await.unwrap();
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn large_answers_reach_who_asked() {
    let store = ClaimCheck::new(InMemory::new(), "bodies").above(10);
    let bus = bus("memory:", store.clone()).await;
    let answer = async |Raw(body): Raw, _: Cx| Ok(Raw([body.clone(), body].concat().into()));
    bus.serve::<Raw, Raw, _>("double", answer).start().await.unwrap();
    let Raw(answer) = bus.call("double", &body(200)).await.unwrap();
    assert_eq!(answer, [body(200).0, body(200).0].concat());

    let agents = bus.agents();
    let echo = async |note: Note, cx: AgentCx| Ok(cx.reply(note.content).await?);
    agents.agent("Echo").role("says it again").on(echo).start().await.unwrap();
    let said = "a word ".repeat(100);
    assert_eq!(agents.ask::<String>("Echo", said.as_str()).await.unwrap(), said);
    let present = agents.roll_call(Duration::from_secs(1)).await.unwrap();
    assert_eq!(present[0].role, "says it again");
    bus.close().await;
}
