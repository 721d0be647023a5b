//! Idempotent consumers: a message may come twice, but no order is paid twice. What was handled is
//! remembered in a file, by the message's id.
//!
//! `payments pay 123`, `payments book handled.redb`

use std::time::Duration;

use leveret::{Cx, Dedup, Failure, Message, Queue, Result, Topology};
use leveret_examples::{connect, no_part, part};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "order.pay")]
struct Pay {
    order: u64,
}

async fn book(pay: Pay, _: Cx) -> Result<(), Failure> {
    println!(" [x] Order {} is paid", pay.order);
    Ok(())
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    let (part, words) = part();
    match (part.as_str(), &words[..]) {
        ("pay", orders) if !orders.is_empty() => {
            bus.ensure(Topology::new().queue(Queue::new("payments"))).await?;
            for order in orders.iter().filter_map(|order| order.parse().ok()) {
                // Whoever does not know whether this arrived does it again, with the same id.
                bus.send("payments", &Pay { order }).id(format!("payment-{order}")).await?;
                println!(" [x] Order {order} is to be paid");
            }
            bus.close().await;
            Ok(())
        }
        ("book", [file]) => {
            let week = Duration::from_secs(7 * 24 * 3_600);
            let handled = Dedup::in_file(file, week).await?;
            bus.consume("payments", book).dedup(handled).start().await?;
            println!(" [*] Waiting for payments");
            bus.run_until_signal().await
        }
        _ => no_part("pay ORDER..., book FILE"),
    }
}
