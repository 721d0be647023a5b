//! What is committed with a message in the outbox is sent, and nothing else.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use leveret::sqlx::{self, PgPool};
use leveret::{
    Bus, Cx, Dedup, Error, Exchange, Message, Outbox, PublishError, Queue, Raw, Relay, RelayState,
    Text, Topology,
};
use leveret_peers::Leveret;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, sleep, timeout};

use crate::database::Postgres;

async fn memory() -> Bus {
    Bus::connect("memory:").await.unwrap()
}

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "order.created", key = "id")]
struct Order {
    id: i64,
}

async fn consume(bus: &Bus, dedup: Option<Dedup>) -> UnboundedReceiver<i64> {
    let (seen, handled) = mpsc::unbounded_channel();
    let mut consumer = bus.consume("orders", move |order: Order, _: Cx| {
        let _ = seen.send(order.id);
        async { Ok(()) }
    });
    if let Some(dedup) = dedup {
        consumer = consumer.dedup(dedup);
    }
    consumer.start().await.expect("a consumer");
    handled
}

async fn next<T>(handled: &mut UnboundedReceiver<T>) -> T {
    timeout(PATIENCE, handled.recv()).await.expect("a message in time").expect("a consumer")
}

async fn wait_until(relay: &Relay, state: RelayState) {
    let start = Instant::now();
    while relay.health().state != state {
        assert!(start.elapsed() < PATIENCE, "{:?}, not {state:?}", relay.health());
        sleep(Duration::from_millis(10)).await;
    }
}

async fn wait_until_empty(outbox: &Outbox) {
    let start = Instant::now();
    while outbox.status().await.map_or(1, |status| status.waiting) > 0 {
        assert!(start.elapsed() < PATIENCE, "{:?}", outbox.status().await);
        sleep(Duration::from_millis(20)).await;
    }
}

/// Writes an order and its message in one transaction.
async fn order(pool: &PgPool, outbox: &Outbox, id: i64, commit: bool) -> Result<(), Error> {
    let failed = |error: sqlx::Error| Error::Invalid(error.to_string());
    let mut transaction = pool.begin().await.map_err(failed)?;
    let insert = sqlx::query("insert into orders (id) values ($1)").bind(id);
    insert.execute(&mut *transaction).await.map_err(failed)?;
    outbox.publish(&mut transaction, &Order { id }).await?;
    match commit {
        true => transaction.commit().await.map_err(failed),
        false => transaction.rollback().await.map_err(failed),
    }
}

async fn with_orders(postgres: &Postgres, bus: &Bus) -> (PgPool, Outbox) {
    let pool = postgres.pool().await;
    let outbox = Outbox::new(pool.clone(), bus);
    outbox.migrate().await.expect("tables");
    sqlx::query("create table if not exists orders (id bigint primary key)")
        .execute(&pool)
        .await
        .expect("a table");
    (pool, outbox)
}

#[tokio::test]
async fn what_is_committed_is_sent_once_and_in_order_and_nothing_else_is() {
    let Some(postgres) = Postgres::start() else { return };
    let bus = memory().await;
    let (pool, outbox) = with_orders(&postgres, &bus).await;
    let mut handled = consume(&bus, None).await;
    for id in 0..100 {
        order(&pool, &outbox, id, id % 10 != 0).await.unwrap();
    }
    let status = outbox.status().await.unwrap();
    assert_eq!((status.waiting, status.parked), (90, 0));
    assert!(status.oldest.is_some_and(|age| age < PATIENCE));
    let relay = outbox.relay().batch(7).every(PATIENCE).start();
    let expected: Vec<i64> = (0..100).filter(|id| id % 10 != 0).collect();
    for id in &expected {
        assert_eq!(next(&mut handled).await, *id);
    }
    // From now on it is told.
    let (first, start) = (1000, Instant::now());
    for id in first..first + 20 {
        order(&pool, &outbox, id, true).await.unwrap();
        assert_eq!(next(&mut handled).await, id);
    }
    assert!(start.elapsed() < PATIENCE / 2, "it was not told");
    let mut transaction = pool.begin().await.unwrap();
    outbox.publish(&mut transaction, &Order { id: 2000 }).await.unwrap();
    outbox.publish(&mut transaction, &Order { id: 2001 }).await.unwrap();
    assert!(timeout(Duration::from_millis(300), handled.recv()).await.is_err());
    transaction.commit().await.unwrap();
    assert_eq!((next(&mut handled).await, next(&mut handled).await), (2000, 2001));
    wait_until_empty(&outbox).await;
    assert!(handled.try_recv().is_err());
    relay.stop(PATIENCE).await;
    let health = relay.health();
    assert_eq!((health.state, health.sent), (RelayState::Stopped, 112));
    assert_eq!(health.last_error, None);
    bus.close().await;
}

#[tokio::test]
async fn a_message_arrives_with_all_that_was_said_of_it() {
    let Some(postgres) = Postgres::start() else { return };
    let bus = memory().await;
    let (pool, outbox) = with_orders(&postgres, &bus).await;
    let (seen, mut handled) = mpsc::unbounded_channel();
    bus.consume("letters", move |Text(text): Text, cx: Cx| {
        let _ = seen.send((text, cx.subject().to_owned(), cx.letter().clone()));
        async { Ok(()) }
    })
    .exchange(Exchange::direct("letters"))
    .subjects(["letter"])
    .start()
    .await
    .unwrap();
    let _relay = outbox.without_notify().relay().every(Duration::from_millis(50)).start();
    let outbox = Outbox::new(pool.clone(), &bus).without_notify();
    let mut transaction = pool.begin().await.unwrap();
    let id = outbox
        .publish(&mut transaction, &Text::from("one"))
        .exchange(Exchange::direct("letters"))
        .subject("letter")
        .key("k\0")
        .header("colour", "blue")
        .id("an-id")
        .correlation_id("question")
        .priority(3)
        .delay(Duration::from_secs(2))
        .await
        .unwrap();
    assert_eq!(id, "an-id");
    let made = outbox.send(&mut transaction, "letters", &Text::from("two")).await.unwrap();
    let written = Instant::now();
    transaction.commit().await.unwrap();
    let (text, subject, letter) = next(&mut handled).await;
    assert_eq!((text.as_str(), subject.as_str()), ("two", "letters"));
    assert_eq!(letter.id, made);
    let (text, subject, letter) = next(&mut handled).await;
    assert_eq!((text.as_str(), subject.as_str()), ("one", "letter"));
    assert_eq!((letter.id.as_str(), letter.key.as_deref()), ("an-id", Some("k\0")));
    assert_eq!(letter.headers.get("colour"), Some("blue"));
    assert_eq!((letter.correlation_id.as_deref(), letter.priority), (Some("question"), Some(3)));
    assert!(written.elapsed() > Duration::from_millis(1500), "{:?}", written.elapsed());
    // What can never be sent is refused at once.
    let mut transaction = pool.begin().await.unwrap();
    let error = outbox.publish(&mut transaction, &Text::from("x")).await.unwrap_err();
    assert!(matches!(error, Error::Publish(PublishError::Invalid(_))), "{error}");
    let large = Raw(vec![0; 17 * 1024 * 1024].into());
    let error = outbox.send(&mut transaction, "letters", &large).await.unwrap_err();
    assert!(matches!(error, Error::Publish(PublishError::TooLarge { .. })), "{error}");
    transaction.commit().await.unwrap();
    bus.close().await;
}

#[tokio::test]
async fn one_relay_works_and_another_takes_its_place() {
    let Some(postgres) = Postgres::start() else { return };
    let bus = memory().await;
    // Many at once make the tables.
    let pools = futures_util::future::join_all((0..4).map(|_| postgres.pool())).await;
    let outboxes: Vec<Outbox> = pools.into_iter().map(|pool| Outbox::new(pool, &bus)).collect();
    let all = outboxes.iter().chain(&outboxes).map(Outbox::migrate);
    futures_util::future::try_join_all(all).await.unwrap();
    let (pool, outbox) = with_orders(&postgres, &bus).await;
    let mut handled = consume(&bus, None).await;
    let first = outboxes[0].relay().start();
    wait_until(&first, RelayState::Relaying).await;
    let second = outboxes[1].relay().start();
    wait_until(&second, RelayState::Standby).await;
    order(&pool, &outbox, 1, true).await.unwrap();
    assert_eq!(next(&mut handled).await, 1);
    first.stop(PATIENCE).await;
    let start = Instant::now();
    wait_until(&second, RelayState::Relaying).await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    order(&pool, &outbox, 2, true).await.unwrap();
    assert_eq!(next(&mut handled).await, 2);
    second.stop(PATIENCE).await;
    assert_eq!((first.health().sent, second.health().sent), (1, 1));
    // Those that do not care for order share the work.
    for id in 100..600 {
        order(&pool, &outbox, id, true).await.unwrap();
    }
    let relays = outboxes.iter().map(|outbox| outbox.relay().batch(5).concurrent().start());
    let relays: Vec<Relay> = relays.collect();
    let mut ids: Vec<i64> = Vec::new();
    for _ in 100..600 {
        ids.push(next(&mut handled).await);
    }
    ids.sort_unstable();
    assert!(ids.into_iter().eq(100..600), "each of them once");
    let worked = relays.iter().filter(|relay| relay.health().sent > 0).count();
    assert!(worked > 1, "{relays:?}");
    for relay in relays {
        relay.stop(PATIENCE).await;
    }
    bus.close().await;
}

#[tokio::test]
async fn what_cannot_be_sent_is_set_aside_and_others_go_on() {
    let Some(postgres) = Postgres::start() else { return };
    let bus = memory().await;
    let (pool, outbox) = with_orders(&postgres, &bus).await;
    let mut handled = consume(&bus, None).await;
    let mut transaction = pool.begin().await.unwrap();
    outbox.send(&mut transaction, "later", &Text::from("x")).id("early").await.unwrap();
    outbox.send(&mut transaction, &"q".repeat(300), &Text::from("x")).id("wrong").await.unwrap();
    outbox.send(&mut transaction, "nowhere", &Text::from("x")).id("lost").optional().await.unwrap();
    sqlx::query("insert into leveret_outbox (id, envelope, body) values ('odd', '{}', '')")
        .execute(&mut *transaction)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    for id in 0..10 {
        order(&pool, &outbox, id, true).await.unwrap();
    }
    let relay = outbox.relay().attempts(3).every(Duration::from_millis(50)).start();
    for id in 0..10 {
        assert_eq!(next(&mut handled).await, id);
    }
    wait_until_empty(&outbox).await;
    let parked = outbox.parked(10).await.unwrap();
    let what = parked.iter().map(|it| (it.id.as_str(), it.attempts)).collect::<Vec<_>>();
    assert_eq!(what, [("early", 3), ("wrong", 1), ("odd", 1)]);
    assert!(parked[0].reason.contains("leads to no queue"), "{}", parked[0].reason);
    assert!(parked[1].reason.contains("255"), "{}", parked[1].reason);
    assert!(parked[2].reason.contains("envelope"), "{}", parked[2].reason);
    assert!(relay.health().last_error.is_some());
    assert_eq!(outbox.status().await.unwrap().parked, 3);
    bus.ensure(Topology::new().queue(Queue::new("later"))).await.unwrap();
    assert_eq!(outbox.retry_parked(&["early"]).await.unwrap(), 1);
    wait_until_empty(&outbox).await;
    assert_eq!(bus.queue("later").await.unwrap().unwrap().messages, 1);
    assert_eq!(outbox.retry_parked(&[]).await.unwrap(), 2);
    wait_until_empty(&outbox).await;
    assert_eq!(outbox.status().await.unwrap().parked, 2);
    // A pool that is closed ends the relay.
    pool.close().await;
    wait_until(&relay, RelayState::Stopped).await;
    bus.close().await;
}

/// Run as a process of its own by the test below.
#[tokio::test]
#[ignore = "another test starts it"]
async fn relay_process() {
    let Ok(database) = std::env::var("LEVERET_TEST_DATABASE") else { return };
    let bus = Bus::connect(&std::env::var("LEVERET_TEST_BUS").unwrap()).await.unwrap();
    let pool = PgPool::connect(&database).await.unwrap();
    let _relay = Outbox::new(pool, &bus).relay().batch(20).start();
    std::future::pending::<()>().await;
}

fn start_relay_process(postgres: &Postgres, server: &Leveret) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["outbox::relay_process", "--exact", "--ignored"])
        .env("LEVERET_TEST_DATABASE", postgres.url())
        .env("LEVERET_TEST_BUS", server.url())
        .stdout(Stdio::null())
        .spawn()
        .expect("a process")
}

/// Compares what was handled with the orders that there are, each of which must be there once.
async fn check(pool: &PgPool, mut handled: UnboundedReceiver<i64>) -> usize {
    let orders: Vec<i64> =
        sqlx::query_scalar("select id from orders").fetch_all(pool).await.expect("an answer");
    let mut times: HashMap<i64, u32> = HashMap::new();
    let start = Instant::now();
    while times.len() < orders.len() {
        assert!(start.elapsed() < PATIENCE, "{} of {}", times.len(), orders.len());
        if let Ok(Some(id)) = timeout(Duration::from_secs(1), handled.recv()).await {
            *times.entry(id).or_default() += 1;
        }
    }
    sleep(Duration::from_secs(1)).await;
    while let Ok(id) = handled.try_recv() {
        *times.entry(id).or_default() += 1;
    }
    assert!(orders.iter().all(|id| times.get(id) == Some(&1)), "each order once");
    assert_eq!(times.len(), orders.len(), "and no others");
    orders.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_loses_nothing() {
    let Some(postgres) = Postgres::start() else { return };
    let server = Leveret::start();
    let bus = Bus::connect(&server.url()).await.unwrap();
    let (pool, outbox) = with_orders(&postgres, &bus).await;
    let (seen, mut all) = mpsc::unbounded_channel();
    bus.consume("audit", move |order: Order, _: Cx| {
        let _ = seen.send(order.id);
        async { Ok(()) }
    })
    .start()
    .await
    .unwrap();
    let handled = consume(&bus, Some(Dedup::in_memory(10_000, PATIENCE * 10))).await;
    let writer = tokio::spawn({
        let (pool, outbox) = (pool.clone(), outbox.clone());
        async move {
            for id in 0..2_000 {
                order(&pool, &outbox, id, id % 20 != 0).await.unwrap();
                sleep(Duration::from_millis(2)).await;
            }
        }
    });
    let mut relay = start_relay_process(&postgres, &server);
    let mut deliveries = 0;
    for _ in 0..10 {
        // When some more have come, and a moment that nobody knows.
        let some = 100 + relay.id() % 90;
        for _ in 0..some {
            next(&mut all).await;
        }
        deliveries += some;
        sleep(Duration::from_micros(u64::from(relay.id() * 7919 % 20_000))).await;
        relay.kill().unwrap();
        relay.wait().unwrap();
        relay = start_relay_process(&postgres, &server);
    }
    writer.await.unwrap();
    wait_until_empty(&outbox).await;
    let orders = check(&pool, handled).await;
    relay.kill().unwrap();
    relay.wait().unwrap();
    while all.try_recv().is_ok() {
        deliveries += 1;
    }
    println!("{orders} orders, {deliveries} deliveries");
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_and_a_broker_that_crash_lose_nothing() {
    let Some(mut postgres) = Postgres::start() else { return };
    let mut server = Leveret::start();
    let bus = Bus::connect(&server.url()).await.unwrap();
    let (pool, outbox) = with_orders(&postgres, &bus).await;
    let handled = consume(&bus, Some(Dedup::in_memory(10_000, PATIENCE * 10))).await;
    let relay = outbox.relay().start();
    let writer = tokio::spawn({
        let (pool, outbox) = (pool.clone(), outbox.clone());
        async move {
            let mut failed = 0;
            for id in 0..2_000 {
                // Nobody knows whether it was committed; the orders themselves tell.
                failed += u32::from(order(&pool, &outbox, id, true).await.is_err());
                sleep(Duration::from_millis(3)).await;
            }
            failed
        }
    });
    for round in 0..3 {
        sleep(Duration::from_millis(700)).await;
        tokio::task::block_in_place(|| postgres.restart(round % 2 == 1));
        sleep(Duration::from_millis(700)).await;
        tokio::task::block_in_place(|| {
            server.kill();
            server.start_again();
        });
    }
    let failed = writer.await.unwrap();
    wait_until(&relay, RelayState::Relaying).await;
    wait_until_empty(&outbox).await;
    let orders = check(&pool, handled).await;
    println!("{orders} orders are there, {failed} failed; {:?}", relay.health());
    assert!(orders > 500);
    relay.stop(PATIENCE).await;
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_waited_for() {
    let Some(postgres) = Postgres::start() else { return };
    let mut server = Leveret::start();
    let bus = Bus::builder(&server.url()).confirm_timeout(Duration::from_millis(500));
    let bus = bus.connect().await.unwrap();
    let (pool, outbox) = with_orders(&postgres, &bus).await;
    let handled = consume(&bus, Some(Dedup::in_memory(10_000, PATIENCE * 10))).await;
    let relay = outbox.relay().attempts(3).start();
    tokio::task::block_in_place(|| server.kill());
    for id in 0..100 {
        order(&pool, &outbox, id, true).await.unwrap();
    }
    sleep(Duration::from_secs(4)).await;
    let health = relay.health();
    assert_eq!((health.state, health.sent), (RelayState::Relaying, 0));
    assert!(health.last_error.is_some_and(|(text, _)| text.contains("not sent")));
    assert_eq!(outbox.status().await.unwrap().waiting, 100);
    tokio::task::block_in_place(|| server.start_again());
    wait_until_empty(&outbox).await;
    assert_eq!(check(&pool, handled).await, 100);
    assert_eq!(outbox.status().await.unwrap().parked, 0);
    relay.stop(PATIENCE).await;
    bus.close().await;
}

#[cfg(feature = "claim-check")]
#[tokio::test]
async fn a_large_body_goes_by_way_of_the_database_and_the_store() {
    use leveret::{ClaimCheck, object_store::memory::InMemory};
    let Some(postgres) = Postgres::start() else { return };
    let store = ClaimCheck::new(InMemory::new(), "bodies");
    let bus = Bus::builder("memory:").large_bodies(store.clone()).connect().await.unwrap();
    let (pool, outbox) = with_orders(&postgres, &bus).await;
    let (seen, mut handled) = mpsc::unbounded_channel();
    bus.consume("films", move |Raw(body): Raw, _: Cx| {
        let _ = seen.send(body.len());
        async { Ok(()) }
    })
    .start()
    .await
    .unwrap();
    let _relay = outbox.relay().start();
    let mut transaction = pool.begin().await.unwrap();
    for mebibytes in [20, 1, 15, 3] {
        let film = Raw(vec![7; mebibytes << 20].into());
        outbox.send(&mut transaction, "films", &film).await.unwrap();
    }
    transaction.commit().await.unwrap();
    for mebibytes in [20, 1, 15, 3] {
        assert_eq!(next(&mut handled).await, mebibytes << 20);
    }
    assert_eq!(store.sweep(Duration::ZERO).await.unwrap().bodies, 4);
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_connection_survives_is_found_and_set_aside() {
    let Some(postgres) = Postgres::start() else { return };
    let server = Leveret::start();
    let bus = Bus::builder(&server.url()).confirm_timeout(Duration::from_secs(1));
    let bus = bus.connect().await.unwrap();
    let (pool, outbox) = with_orders(&postgres, &bus).await;
    let handled = consume(&bus, Some(Dedup::in_memory(10_000, PATIENCE * 10))).await;
    for id in 0..20 {
        order(&pool, &outbox, id, true).await.unwrap();
    }
    let mut transaction = pool.begin().await.unwrap();
    // No frame has room for this, and headers are not cut into several.
    let large = "x".repeat(1 << 20);
    let poison = outbox.publish(&mut transaction, &Order { id: -1 }).id("poison");
    poison.header("large", large).await.unwrap();
    transaction.commit().await.unwrap();
    for id in 20..40 {
        order(&pool, &outbox, id, true).await.unwrap();
    }
    let relay = outbox.relay().attempts(2).start();
    wait_until_empty(&outbox).await;
    assert_eq!(check(&pool, handled).await, 40);
    let parked = outbox.parked(10).await.unwrap();
    assert_eq!(parked.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["poison"]);
    println!("{} {}", parked[0].attempts, parked[0].reason);
    relay.stop(PATIENCE).await;
    bus.close().await;
}
