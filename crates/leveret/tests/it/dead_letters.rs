//! Dead letters, many of them, and what happens meanwhile.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use leveret::object_store::memory::InMemory;
use leveret::{
    Bus, ClaimCheck, Cx, Error, Exchange, Failure, Filter, PublishError, Queue, Raw, Redriven,
    Text, Topology,
};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, sleep, timeout};

use crate::elsewhere::Elsewhere;
use crate::proxy::{Proxy, Troubles};
use crate::{Place, on_every_transport, shared_rabbitmq, until, within};

const QUEUE: &str = "work";
/// How long one waits for dead letters that must be there.
const MINUTE: Duration = Duration::from_secs(60);

/// So many dead letters of [`QUEUE`], called by their numbers from there.
async fn bury(bus: &Bus, from: u32, count: u32, bytes: usize) {
    bus.dead_letters(QUEUE).ensure().await.unwrap();
    bus.ensure(Topology::new().queue(Queue::new(QUEUE))).await.unwrap();
    let body = Raw(Bytes::from(vec![7; bytes]));
    let mut sent = Vec::new();
    for number in from..from + count {
        let send = bus.send(&bus.dead_letters(QUEUE).queue(), &body).id(number.to_string());
        sent.push(send.pipelined().await.unwrap());
    }
    for sent in sent {
        sent.await.unwrap();
    }
}

fn numbers(from: u32, count: u32) -> Filter {
    Filter::all().ids((from..from + count).map(|number| number.to_string()))
}

/// Consumes what was sent back; tells the ids.
async fn consume(bus: &Bus, queue: &str) -> UnboundedReceiver<String> {
    let (seen, came) = mpsc::unbounded_channel();
    let handler = move |_: Raw, cx: Cx| {
        let _ = seen.send(cx.id().to_owned());
        async { Ok(()) }
    };
    bus.consume(queue, handler).sent_only().start().await.unwrap();
    came
}

async fn the_few_that_are_meant_are_found_among_many(bus: Bus) {
    bury(&bus, 0, 500, 10).await;
    let dead = bus.dead_letters(QUEUE);
    let mut came = consume(&bus, QUEUE).await;
    let done = dead.redrive(&numbers(490, 3), 1000).await.unwrap();
    assert_eq!(done, Redriven { done: 3, kept: 497 });
    for id in ["490", "491", "492"] {
        assert_eq!(came.recv().await.unwrap(), id);
    }
    until(async || dead.count().await.unwrap() == 497).await;
    assert_eq!(dead.find("499").await.unwrap().unwrap().letter.id, "499");
    assert!(dead.find("490").await.unwrap().is_none());
    let done = dead.discard(&numbers(100, 300)).await.unwrap();
    assert_eq!(done, Redriven { done: 300, kept: 197 });
    until(async || dead.count().await.unwrap() == 197).await;
    let left = dead.list(1000).await.unwrap();
    assert_eq!((left.len(), &*left[99].letter.id, &*left[100].letter.id), (197, "99", "400"));
    bus.close().await;
}

async fn more_than_there_is_room_for_are_sent_behind_those_that_are_kept(bus: Bus) {
    bury(&bus, 0, 500, 10).await;
    let dead = bus.dead_letters(QUEUE);
    let mut came = consume(&bus, QUEUE).await;
    let other = bus.clone();
    let later = tokio::spawn(async move {
        sleep(Duration::from_millis(50)).await;
        bury(&other, 500, 50, 10).await;
    });
    // What comes later is left alone, although it is meant.
    let done = dead.redrive(&numbers(100, 450), 2000).await.unwrap();
    assert_eq!(done, Redriven { done: 400, kept: 100 });
    later.await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..400 {
        ids.push(came.recv().await.unwrap().parse::<u32>().unwrap());
    }
    ids.sort_unstable();
    assert!(ids.into_iter().eq(100..500), "each once");
    until(async || dead.count().await.unwrap() == 150).await;
    bus.close().await;
}

async fn those_that_somebody_else_has_are_not_waited_for(bus: Bus) {
    bury(&bus, 0, 20, 10).await;
    let held = async |_: Raw, _: Cx| {
        sleep(Duration::from_secs(3600)).await;
        Ok(())
    };
    let dead = bus.dead_letters(QUEUE);
    let holder = bus.consume(&dead.queue(), held).sent_only().queue(Queue::existing).prefetch(15);
    let holder = holder.start().await.unwrap();
    until(async || dead.count().await.unwrap() == 5).await;
    let filter = Filter::all();
    let discarding = dead.discard(&filter);
    assert_eq!(discarding.await.unwrap(), Redriven { done: 5, kept: 0 });
    assert!(dead.list(5).await.unwrap().is_empty());
    holder.stop(Duration::ZERO).await;
    bus.close().await;
}

async fn what_came_by_a_queue_that_is_gone_needs_another_one(bus: Bus) {
    let fails = async |_: Text, _: Cx| Err(Failure::permanent("no"));
    let news = bus.consume("news", fails).exchange(Exchange::topic("x")).subjects(["a"]);
    news.own_queue().start().await.unwrap();
    bus.publish(&Text::from("x")).exchange(Exchange::topic("x")).subject("a").await.unwrap();
    let dead = bus.dead_letters("news");
    until(async || dead.count().await.unwrap() == 1).await;
    let error = dead.redrive(&Filter::all(), 10).await.unwrap_err();
    assert!(matches!(error, Error::Publish(PublishError::Unroutable { .. })), "{error}");
    let text = error.to_string();
    assert!(text.contains("\"news\"") && text.contains("redrive_to()"), "{text}");
    until(async || dead.count().await.unwrap() == 1).await;
    let mut came = consume(&bus, "by-hand").await;
    let done = dead.redrive_to(Some("by-hand"), &Filter::all(), 10).await.unwrap();
    assert_eq!(done.done, 1);
    assert!(came.recv().await.is_some());
    bus.close().await;
}

on_every_transport!(
    the_few_that_are_meant_are_found_among_many,
    more_than_there_is_room_for_are_sent_behind_those_that_are_kept,
    those_that_somebody_else_has_are_not_waited_for,
    what_came_by_a_queue_that_is_gone_needs_another_one,
);

/// However slowly large ones are sent back, the bus's other consumers get their messages.
#[tokio::test(start_paused = true)]
async fn others_get_their_messages_meanwhile() {
    let bus = Place::Memory.bus().await;
    bury(&bus, 0, 100, 10).await;
    bury(&bus, 100, 400, 512 * 1024).await;
    let mut came = consume(&bus, "others").await;
    let redriving = tokio::spawn({
        let bus = bus.clone();
        async move { bus.dead_letters(QUEUE).redrive(&numbers(100, 400), 10).await }
    });
    for second in 0..35 {
        sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        let id = format!("other {second}");
        bus.send("others", &Text::from("x")).id(&id).await.unwrap();
        let got = timeout(Duration::from_secs(20), came.recv()).await.expect("it comes");
        assert_eq!(got.unwrap(), id);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
    let done = redriving.await.unwrap().unwrap();
    assert_eq!(done, Redriven { done: 400, kept: 100 });
    bus.close().await;
}

/// Somebody else's consumer may be the only one that gets any.
#[tokio::test(start_paused = true)]
async fn those_that_do_not_come_are_waited_for_for_a_minute() {
    let bus = Place::Memory.bus().await;
    let dead = bus.dead_letters(QUEUE);
    let mut queue = Queue::new(dead.queue());
    queue.single_active_consumer = true;
    bus.ensure(Topology::new().queue(Queue::new(QUEUE)).queue(queue)).await.unwrap();
    for _ in 0..3 {
        bus.send(&dead.queue(), &Text::from("x")).await.unwrap();
    }
    let held = async |_: Text, _: Cx| {
        sleep(Duration::from_secs(3600)).await;
        Ok(())
    };
    let holder = bus.consume(&dead.queue(), held).sent_only().queue(Queue::existing).prefetch(1);
    let holder = holder.start().await.unwrap();
    until(async || dead.count().await.unwrap() == 2).await;
    let start = Instant::now();
    let error = dead.redrive(&Filter::all(), 100).await.unwrap_err();
    let took = start.elapsed();
    assert!((MINUTE..MINUTE + Duration::from_secs(5)).contains(&took), "{took:?}");
    let stalled = matches!(&error, Error::Stalled { queue, done: 0, count: 2, .. }
        if *queue == dead.queue());
    assert!(stalled && error.to_string().contains("do not come"), "{error}");
    holder.stop(Duration::ZERO).await;
    // They are where they were.
    assert_eq!(dead.redrive(&Filter::all(), 100).await.unwrap(), Redriven { done: 3, kept: 0 });
    bus.close().await;
}

#[tokio::test]
async fn a_connection_that_does_not_come_back_is_waited_for_for_a_minute() {
    let place = Place::server();
    let Place::Server(server) = &place else { panic!("it is a server") };
    let (direct, proxy) = (place.bus().await, Proxy::start(server.port()).await);
    bury(&direct, 0, 2_000, 5_000).await;
    let bus = Bus::connect(&proxy.url("")).await.unwrap();
    let discarding =
        tokio::spawn(async move { bus.dead_letters(QUEUE).discard(&Filter::all()).await });
    until(async || direct.dead_letters(QUEUE).count().await.unwrap() < 1_900).await;
    proxy.be_silent();
    // Nothing comes from there any more, so time may pass at once.
    tokio::time::pause();
    let start = Instant::now();
    let error = discarding.await.unwrap().unwrap_err();
    assert!(start.elapsed() >= MINUTE, "{error} after {:?}", start.elapsed());
    let stalled = matches!(error, Error::Stalled { done: 1..2_000, count: 2_000, .. });
    assert!(stalled && error.to_string().contains("the connection was lost"), "{error}");
}

/// A lost connection doubles what was under way, and neither more nor less.
#[tokio::test]
async fn lost_connections_lose_nothing_and_double_little() {
    const CUTS: u32 = 6;
    let place = Place::server();
    let Place::Server(server) = &place else { panic!("it is a server") };
    let (direct, proxy) = (place.bus().await, Proxy::start(server.port()).await);
    bury(&direct, 0, 100, 200).await;
    bury(&direct, 100, 1900, 200).await;
    let mut came = consume(&direct, QUEUE).await;
    let bus = Bus::connect(&proxy.url("")).await.unwrap();
    let dead = bus.dead_letters(QUEUE);
    proxy.begin(Troubles { cuts: CUTS, ..Troubles::default() });
    let redriven = within(dead.redrive(&numbers(50, 1950), 100_000)).await.unwrap();
    assert_eq!(redriven.kept, 50);
    let mut times: HashMap<String, u32> = HashMap::new();
    while let Ok(Some(id)) = timeout(Duration::from_secs(1), came.recv()).await {
        *times.entry(id).or_default() += 1;
    }
    assert_eq!(times.len(), 1950);
    let doubled = times.values().map(|times| times - 1).sum::<u32>();
    assert!(doubled <= 2 * CUTS, "{doubled} came twice");
    until(async || direct.dead_letters(QUEUE).count().await.unwrap() == 50).await;
    for bus in [bus, direct] {
        bus.close().await;
    }
}

/// Other programs may send larger messages than the toolkit does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_that_is_larger_than_what_may_be_sent_goes_back() {
    let Some((rabbit, vhost)) = shared_rabbitmq() else { return };
    let url = rabbit.url_of(&vhost);
    let bus = Bus::connect(&url).await.unwrap();
    bury(&bus, 0, 1, 10).await;
    let size = usize::try_from(bus.capabilities().body_bytes_max).unwrap() + 1;
    let dead = bus.dead_letters(QUEUE);
    let properties = BasicProperties::default().with_message_id("large".into());
    Elsewhere::connect(&url).await.send(&dead.queue(), &vec![7; size], properties).await;
    until(async || dead.count().await.unwrap() == 2).await;
    let done = within(dead.redrive(&Filter::all(), 100)).await.unwrap();
    assert_eq!(done, Redriven { done: 2, kept: 0 });
    let (seen, mut came) = mpsc::unbounded_channel();
    let handler = move |Raw(body): Raw, cx: Cx| {
        let _ = seen.send((cx.id().to_owned(), body.len()));
        async { Ok(()) }
    };
    bus.consume(QUEUE, handler).start().await.unwrap();
    for expected in [("0", 10), ("large", size)] {
        let (id, len) = within(came.recv()).await.unwrap();
        assert_eq!((id.as_str(), len), expected);
    }
    bus.close().await;
}

/// Who redrives may know of a store that those do not who handle what comes back.
#[tokio::test]
async fn a_body_that_was_in_the_message_stays_there() {
    let place = Place::server();
    let direct = place.bus().await;
    bury(&direct, 0, 1, 10_000).await;
    let store = ClaimCheck::new(InMemory::new(), "bodies").above(1_000);
    let bus = Bus::builder(&place.url()).large_bodies(store).connect().await.unwrap();
    let done = bus.dead_letters(QUEUE).redrive(&Filter::all(), 100).await.unwrap();
    assert_eq!(done, Redriven { done: 1, kept: 0 });
    let mut came = consume(&direct, QUEUE).await;
    assert_eq!(within(came.recv()).await.unwrap(), "0");
    for bus in [bus, direct] {
        bus.close().await;
    }
}

/// Numbers are longer as texts, which is how the toolkit reads headers.
#[tokio::test]
async fn a_dead_letter_whose_headers_have_no_room_as_texts_goes_back_without_them() {
    let place = Place::server();
    let bus = place.bus().await;
    bury(&bus, 0, 1, 10).await;
    let mut headers = FieldTable::default();
    for number in 0..7_000 {
        headers.insert(format!("{number}").into(), AMQPValue::LongLongInt(i64::MIN));
    }
    let dead = bus.dead_letters(QUEUE);
    let properties =
        BasicProperties::default().with_message_id("many".into()).with_headers(headers);
    Elsewhere::connect(&place.url()).await.send(&dead.queue(), b"x", properties).await;
    until(async || dead.count().await.unwrap() == 2).await;
    let done = within(dead.redrive(&Filter::all(), 100)).await.unwrap();
    assert_eq!(done, Redriven { done: 2, kept: 0 });
    let mut came = consume(&bus, QUEUE).await;
    for id in ["0", "many"] {
        assert_eq!(within(came.recv()).await.unwrap(), id);
    }
    bus.close().await;
}
