//! Retry with backoff, and dead letters: what fails is tried again, ever later; what keeps failing
//! is put aside with its whole history, for somebody to look at and send back.
//!
//! `dead_letters publish`, `dead_letters ship` (set `BROKEN=1` for a service that fails),
//! `dead_letters list`, `dead_letters redrive`

use std::time::Duration;

use leveret::{Cx, Failure, Filter, Message, Permanent, Result, Retry};
use leveret_examples::{connect, no_part, part};
use serde::{Deserialize, Serialize};

const QUEUE: &str = "shipping";

#[derive(Serialize, Deserialize, Message)]
#[message(name = "order.paid", key = "id")]
struct OrderPaid {
    id: u32,
    weight: String,
}

/// Ships an order. A weight that is no number never will be one, so another try is useless; a
/// service that is down may be up the next time.
async fn ship(order: OrderPaid, cx: Cx) -> Result<(), Failure> {
    let grams: u32 = order.weight.parse().permanent()?;
    if std::env::var_os("BROKEN").is_some() {
        println!(" [!] Order {} failed, attempt {}", order.id, cx.attempt());
        return Err(Failure::transient("the carrier does not answer"));
    }
    println!(" [x] Order {} shipped, {grams} g", order.id);
    Ok(())
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    let dead = bus.dead_letters(QUEUE);
    match part().0.as_str() {
        "publish" => {
            for (id, weight) in [(1, "250"), (2, "heavy")] {
                let order = OrderPaid { id, weight: weight.to_owned() };
                bus.publish(&order).await?;
                println!(" [x] Order {id} is paid");
            }
        }
        "ship" => {
            let retry = Retry::exponential(Duration::from_millis(100)).attempts(3);
            bus.consume(QUEUE, ship).retry(retry).start().await?;
            println!(" [*] Waiting for orders");
            return bus.run_until_signal().await;
        }
        "list" => {
            for letter in dead.list(100).await? {
                let order: OrderPaid = letter.message()?;
                println!("Order {}: {}", order.id, letter.reason);
                for failed in letter.failures {
                    println!("  attempt {}: {}", failed.attempt, failed.error);
                }
            }
        }
        "redrive" => {
            let redriven = dead.redrive(&Filter::all().error("carrier"), 100).await?;
            println!("{} sent back, {} kept", redriven.done, redriven.kept);
        }
        _ => return no_part("publish, ship, list, redrive"),
    }
    bus.close().await;
    Ok(())
}
