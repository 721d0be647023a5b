//! A message's effect and the memory of it are one.

use std::time::Duration;

use leveret::sqlx::{self, PgPool};
use leveret::{Bus, Cx, Dedup, Failure, Inbox, PostgresStore, Retry, Text};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::database::Postgres;

async fn memory() -> Bus {
    Bus::connect("memory:").await.unwrap()
}

const PATIENCE: Duration = Duration::from_secs(60);

/// Books the message, once.
async fn book(pool: &PgPool, inbox: &Inbox, cx: &Cx) -> Result<(), Failure> {
    let mut transaction = pool.begin().await?;
    if inbox.seen(&mut transaction, cx.queue(), cx.id()).await? {
        return Ok(());
    }
    let book = sqlx::query("insert into bookings (id) values ($1)").bind(cx.id());
    book.execute(&mut *transaction).await?;
    transaction.commit().await?;
    if cx.attempt() == 1 && cx.id().ends_with('7') {
        return Err(Failure::transient("it fails when all is done"));
    }
    Ok(())
}

async fn count(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from bookings").fetch_one(pool).await.expect("an answer")
}

#[tokio::test]
async fn a_handler_has_its_effect_once() {
    let Some(postgres) = Postgres::start() else { return };
    let pool = postgres.pool().await;
    let inbox = Inbox::new(pool.clone());
    inbox.migrate().await.unwrap();
    sqlx::query("create table bookings (id text)").execute(&pool).await.unwrap();
    let bus = memory().await;
    let consumer = {
        let (pool, inbox) = (pool.clone(), inbox.clone());
        bus.consume("bookings", move |_: Text, cx: Cx| {
            let (pool, inbox) = (pool.clone(), inbox.clone());
            async move { book(&pool, &inbox, &cx).await }
        })
        .concurrency(8)
        .retry(Retry::fixed(Duration::from_millis(100)))
        .start()
        .await
        .unwrap()
    };
    for n in 0..300 {
        // Each comes three times, some of them at the same time.
        let id = format!("{}", n % 100);
        bus.send("bookings", &Text::from("book it")).id(id).await.unwrap();
    }
    let start = Instant::now();
    while consumer.health().handled < 300 {
        assert!(start.elapsed() < PATIENCE, "{:?}", consumer.health());
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(count(&pool).await, 100);
    let mut transaction = pool.begin().await.unwrap();
    assert!(inbox.seen(&mut transaction, "bookings", "1").await.unwrap());
    assert!(!inbox.seen(&mut transaction, "other", "1").await.unwrap());
    transaction.rollback().await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    assert!(!inbox.seen(&mut transaction, "other", "1").await.unwrap());
    transaction.commit().await.unwrap();
    assert_eq!(inbox.sweep(Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(inbox.sweep(Duration::ZERO).await.unwrap(), 101);
    bus.close().await;
}

#[tokio::test]
async fn processes_share_a_store_that_forgets() {
    let Some(postgres) = Postgres::start() else { return };
    Inbox::new(postgres.pool().await).migrate().await.unwrap();
    let (seen, mut handled) = mpsc::unbounded_channel();
    let mut buses = Vec::new();
    for keep in [3600, 3600, 2] {
        let store = PostgresStore::new(postgres.pool().await, Duration::from_secs(keep));
        let bus = Bus::connect("memory:").await.unwrap();
        let seen = seen.clone();
        bus.consume("news", move |_: Text, cx: Cx| {
            let _ = seen.send(format!("{keep} {}", cx.id()));
            async { Ok(()) }
        })
        .dedup(Dedup::new(store))
        .start()
        .await
        .unwrap();
        buses.push(bus);
    }
    let send = async |bus: &Bus| {
        bus.send("news", &Text::from("hello")).id("a").await.unwrap();
        sleep(Duration::from_millis(300)).await;
    };
    for bus in &buses {
        send(bus).await;
    }
    assert_eq!(handled.recv().await.unwrap(), "3600 a");
    assert!(handled.try_recv().is_err(), "the others know");
    sleep(Duration::from_secs(3)).await;
    send(&buses[2]).await;
    assert_eq!(handled.recv().await.unwrap(), "2 a");
    sleep(Duration::from_secs(4)).await;
    let left: i64 = sqlx::query_scalar("select count(*) from leveret_inbox")
        .fetch_one(&postgres.pool().await)
        .await
        .unwrap();
    assert_eq!(left, 0, "it is swept");
    for bus in buses {
        bus.close().await;
    }
}
