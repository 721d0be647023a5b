//! What cannot be had is an error when a program starts, with what to do instead.

use leveret::transport::Capabilities;
use leveret::{
    AgentCx, Bus, Consumer, Cx, DelayTarget, Error, Exchange, Match, Note, PublishError, Queue,
    QueueKind, Result, Retry, Text, Topology, TopologyError,
};
use leveret_peers::{Leveret, RabbitMq};
use std::time::Duration;

use crate::wrapped::{Asked, wrapped};
use crate::{shared_rabbitmq, within};

const SECOND: Duration = Duration::from_secs(1);

async fn handle(_: Text, _: Cx) -> Result<(), leveret::Failure> {
    Ok(())
}

async fn handle_batch(_: Vec<(Text, Cx)>) -> Result<(), leveret::Failure> {
    Ok(())
}

async fn memory() -> Bus {
    Bus::connect("memory:").await.unwrap()
}

/// A bus by a transport that can do less.
async fn lesser(less: impl Fn(&mut Capabilities) + Send + Sync + 'static) -> Bus {
    wrapped(&Asked::default(), less)().connect().await.unwrap()
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T>, what: &str, hint: &str) {
    match result.expect_err("a refusal") {
        Error::Unsupported { what: refused, hint: hinted, .. } => {
            assert!(refused.contains(what), "{refused}");
            assert!(hinted.contains(hint), "{hinted}");
        }
        other => panic!("{other}"),
    }
}

#[track_caller]
fn assert_senseless(result: Result<Consumer>, text: &str) {
    match result.expect_err("a refusal") {
        Error::Invalid(said) => assert!(said.contains(text), "{said}"),
        other => panic!("{other}"),
    }
}

/// Both ways to make a queue, neither of which leaves anything behind.
async fn assert_no_queue(bus: &Bus, like: fn(Queue) -> Queue, what: &str, hint: &str) {
    let made = bus.ensure(Topology::new().queue(like(Queue::new("q")))).await;
    assert_refused(made, what, hint);
    assert_refused(bus.consume("q", handle).queue(like).start().await, what, hint);
    let own = bus.consume("q", handle).subjects(["s"]).own_queue();
    if like(Queue::new("q")).kind.is_none() {
        assert_refused(own.queue(like).start().await, what, hint);
    }
    assert_eq!(bus.queue("q").await.unwrap(), None);
    assert_eq!(bus.queue("q.dead").await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn queues_that_a_transport_cannot_make() {
    let bus = lesser(|can| can.messages_max = false).await;
    assert_no_queue(&bus, |it| it.messages_max(1), "length", "messages_max()").await;
    let bus = lesser(|can| can.priorities = 4).await;
    assert_no_queue(&bus, |it| it.priorities(5), "priorities", "fewer").await;
    bus.ensure(Topology::new().queue(Queue::new("four").priorities(4))).await.unwrap();
    let bus = lesser(|can| can.single_active_consumer = false).await;
    let alone = Queue::single_active_consumer;
    assert_no_queue(&bus, alone, "one consumer", "single_active_consumer()").await;
    // What is there is taken as it is.
    bus.ensure(Topology::new().queue(Queue::new("there"))).await.unwrap();
    let there = Queue::new("there").existing().single_active_consumer();
    bus.ensure(Topology::new().queue(there)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn queues_that_their_kind_does_not_allow() {
    let bus = memory().await;
    let quorum = |it: Queue| it.kind(QueueKind::Quorum).priorities(5);
    assert_no_queue(&bus, quorum, "quorum", "QueueKind::Classic").await;
    let limited = |it: Queue| Queue { delivery_limit: Some(3), ..it };
    assert_no_queue(&bus, limited, "count deliveries", "delivery_limit").await;
    let counting = limited(Queue::new("counting").kind(QueueKind::Quorum));
    bus.ensure(Topology::new().queue(counting)).await.unwrap();
    let own = bus.consume("q", handle).subjects(["s"]).own_queue();
    let own = own.queue(|it| it.kind(QueueKind::Quorum)).start().await;
    assert_refused(own, "quorum queue that goes", "kind()");
    let own = bus.consume("q", handle).subjects(["s"]).own_queue().queue(limited).start().await;
    assert_refused(own, "count deliveries", "own_queue()");
}

#[tokio::test(start_paused = true)]
async fn routes_that_a_transport_does_not_have() {
    let documents = Exchange::headers("documents");
    let signed = || Match::all([("signed", "yes")]);
    let bus = lesser(|can| can.headers = false).await;
    let topology = Topology::new().exchange(documents.clone()).queue(Queue::new("q"));
    let made = bus.ensure(topology.bind_where("documents", "q", signed())).await;
    assert_refused(made, "by headers", "subjects");
    let consumer = || bus.consume("q", handle).exchange(documents.clone()).headers(signed());
    assert_refused(consumer().start().await, "by headers", "subjects");
    assert_refused(consumer().own_queue().start().await, "by headers", "subjects");
    let bus = memory().await;
    let topic = bus.consume("q", handle).headers(signed()).start().await;
    assert_senseless(topic, "Exchange::headers()");
    let topology = Topology::new().exchange(Exchange::topic("documents")).queue(Queue::new("q"));
    let made = bus.ensure(topology.bind_where("documents", "q", signed())).await;
    assert!(matches!(made, Err(Error::Invalid(_))), "{made:?}");
    let consumer = || bus.consume("q", handle).exchange(documents.clone());
    let ours = consumer().headers(Match::any([("x-ours", "1")])).start().await;
    assert_senseless(ours, "x-ours");
    let neither = consumer().headers(signed()).sent_only().start().await;
    assert_senseless(neither, "sent_only()");
}

#[tokio::test(start_paused = true)]
async fn order_that_cannot_be_kept() {
    let bus = lesser(|can| can.single_active_consumer = false).await;
    let ordered = bus.consume("q", handle).ordered_by_key().start().await;
    assert_refused(ordered, "order across processes", "ordered_by_key()");
    // Nobody else gets what is in a queue of one's own.
    let own = bus.consume("q", handle).subjects(["s"]).own_queue().ordered_by_key();
    own.start().await.unwrap();
    // Nor must all agents be alone.
    let agent = || bus.agents().agent("Ann").on(async |_: Note, _: AgentCx| Ok(()));
    assert_refused(agent().start().await, "order across processes", "ordered_by_key()");
    agent().shared().start().await.unwrap();
    let bus = memory().await;
    bus.ensure(Topology::new().queue(Queue::new("there"))).await.unwrap();
    let there = || bus.consume("there", handle).queue(Queue::existing).ordered_by_key();
    assert_refused(there().start().await, "one consumer at a time", "single_active_consumer()");
    there().queue(Queue::single_active_consumer).start().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn delays_that_a_transport_does_not_have() {
    let bus = lesser(|can| can.delay_max = None).await;
    assert_refused(bus.consume("q", handle).start().await, "put off", "Retry::none()");
    let to = || DelayTarget::Queue("q".to_owned());
    let delays = Topology::new().queue(Queue::new("q")).delay(to(), SECOND);
    assert_refused(bus.ensure(delays).await, "put off", "delay_max");
    for retry in [Retry::none().at_once(3), Retry::fixed(Duration::ZERO)] {
        bus.consume("q", handle).retry(retry).start().await.unwrap();
    }
    let bus = lesser(|can| can.delay_max = Some(60 * SECOND)).await;
    assert_refused(bus.consume("q", handle).start().await, "put off", "shorter delays");
    let delays = Topology::new().queue(Queue::new("q"));
    assert_refused(bus.ensure(delays.clone().delay(to(), 61 * SECOND)).await, "put off", "longer");
    bus.ensure(delays.delay(to(), 60 * SECOND)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn retries_of_a_queue_of_ones_own() {
    let bus = memory().await;
    let news = || bus.consume("q", handle).subjects(["s"]);
    for retry in [Retry::exponential(SECOND), Retry::fixed(Duration::ZERO)] {
        for either in [news().own_queue().retry(retry), news().retry(retry).own_queue()] {
            assert_refused(either.start().await, "of the consumer's own", "Retry::none()");
        }
    }
    news().own_queue().retry(Retry::none().at_once(5)).start().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_does_not_go_together() {
    let bus = memory().await;
    let news = || bus.consume("q", handle).own_queue();
    assert_senseless(news().start().await, "subjects()");
    let both = news().subjects(["s"]).queue(Queue::existing).start().await;
    assert_senseless(both, "existing()");
    let batches = || bus.consume_batches("q", 10, SECOND, handle_batch);
    assert_senseless(batches().ordered_by_key().concurrency(2).start().await, "concurrency()");
    assert_senseless(batches().prefetch(9).start().await, "never full");
    batches().prefetch(10).ordered_by_key().start().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_cannot_tell_what_went_nowhere() {
    let make = wrapped(&Asked::default(), |can| can.unroutable = false);
    assert_refused(make().connect().await, "went nowhere", "unverified()");
    let bus = make().unverified().connect().await.unwrap();
    bus.send("nowhere", &Text::from("x")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_to_a_queue_has_no_subject() {
    let bus = memory().await;
    bus.consume("q", handle).sent_only().start().await.unwrap();
    let (text, exchange) = (Text::from("x"), Exchange::topic("x"));
    for both in [
        bus.send("q", &text).subject("s"),
        bus.send("q", &text).exchange(exchange.clone()),
        bus.send("q", &text).subject("s").exchange(exchange),
    ] {
        let result = both.await;
        assert!(matches!(&result, Err(PublishError::Invalid(it)) if it.contains("publish()")));
    }
    assert_eq!(bus.published::<Text>().unwrap(), []);
}

/// Only what differs is said to differ: what a broker never makes is not there to be deleted.
async fn assert_refusals_are_told_apart(url: &str) {
    let bus = Bus::connect(url).await.unwrap();
    let forever = Queue::new("refusals.ttl").message_ttl(Duration::from_secs(1 << 40));
    let result = bus.ensure(Topology::new().queue(forever)).await;
    assert!(matches!(&result, Err(Error::Topology(TopologyError::Refused { .. }))), "{result:?}");
    let quorum = Bus::connect(&format!("{url}?queues=quorum")).await.unwrap();
    let can = quorum.capabilities();
    assert_eq!((can.queues, can.priorities_of(&Queue::default())), (QueueKind::Quorum, 0));
    let levels = Queue::new("refusals.priorities").priorities(5);
    let made = quorum.ensure(Topology::new().queue(levels.clone())).await;
    assert_refused(made, "quorum", "QueueKind::Classic");
    let classic = Topology::new().queue(levels.kind(QueueKind::Classic));
    quorum.ensure(classic.clone()).await.unwrap();
    bus.ensure(classic).await.unwrap();
    let differs = bus.ensure(Topology::new().queue(Queue::new("refusals.priorities"))).await;
    assert!(matches!(&differs, Err(Error::Topology(TopologyError::Differs { .. }))), "{differs:?}");
    bus.close().await;
    quorum.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_a_server_are_told_apart() {
    let server = tokio::task::block_in_place(Leveret::start);
    within(assert_refusals_are_told_apart(&server.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_rabbitmq_are_told_apart() {
    let Some((rabbit, vhost)) = shared_rabbitmq() else { return };
    within(assert_refusals_are_told_apart(&RabbitMq::url_of(rabbit, &vhost))).await;
}
