//! The outbox: an order is in the database and its event is published, both or neither. And the
//! inbox: an order is billed exactly once, however often its event comes.
//!
//! `outbox order 7 8`, `outbox bill`, both with the URL of a PostgreSQL database in the environment
//! variable `DATABASE`

use leveret::sqlx::{self, PgPool};
use leveret::{Bus, Cx, Failure, Inbox, Message, Outbox};
use leveret_examples::{connect, no_part, part};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "order.accepted")]
struct Accepted {
    order: i64,
}

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

async fn order(pool: &PgPool, outbox: &Outbox, order: i64) -> Result {
    let mut transaction = pool.begin().await?;
    let insert = sqlx::query("insert into orders (number) values ($1)").bind(order);
    insert.execute(&mut *transaction).await?;
    outbox.publish(&mut transaction, &Accepted { order }).await?;
    transaction.commit().await?;
    println!(" [x] Order {order} is accepted");
    Ok(())
}

async fn bill(event: Accepted, cx: Cx, pool: PgPool) -> std::result::Result<(), Failure> {
    let mut transaction = pool.begin().await?;
    if Inbox::new(pool.clone()).seen(&mut transaction, cx.queue(), cx.id()).await? {
        return Ok(());
    }
    let insert = sqlx::query("insert into bills (number) values ($1)").bind(event.order);
    insert.execute(&mut *transaction).await?;
    transaction.commit().await?;
    println!(" [x] Order {} is billed", event.order);
    Ok(())
}

async fn bill_all(bus: &Bus, pool: PgPool, outbox: &Outbox) -> Result {
    let bill = move |event, cx| bill(event, cx, pool.clone());
    bus.consume("billing", bill).start().await?;
    // Sends what was committed. Any program with the database and the bus may do this.
    let _relay = outbox.relay().start();
    println!(" [*] Waiting for orders");
    Ok(bus.run_until_signal().await?)
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    let pool = PgPool::connect(&std::env::var("DATABASE")?).await?;
    let outbox = Outbox::new(pool.clone(), &bus);
    outbox.migrate().await?;
    for table in ["orders", "bills"] {
        let create = format!("create table if not exists {table} (number bigint primary key)");
        sqlx::raw_sql(&create).execute(&pool).await?;
    }
    let (part, numbers) = part();
    match part.as_str() {
        "order" => {
            for number in numbers {
                order(&pool, &outbox, number.parse()?).await?;
            }
            bus.close().await;
        }
        "bill" => bill_all(&bus, pool, &outbox).await?,
        _ => no_part("order NUMBER..., bill")?,
    }
    Ok(())
}
