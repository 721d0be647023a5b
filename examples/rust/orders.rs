//! Publish/subscribe: an order is placed, and three services hear of it, each at its own pace. One
//! that is down gets its orders when it is back; whoever places orders does not notice.
//!
//! `orders place 456`, `orders email`, `orders inventory`, `orders analytics`

use std::time::{Duration, Instant};

use leveret::{Bus, Cx, Exchange, Message, Result};
use leveret_examples::{connect, no_part, part};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "order.created", key = "order_id")]
struct OrderCreated {
    order_id: u64,
    customer_email: String,
    items: Vec<String>,
}

fn events() -> Exchange {
    Exchange::fanout("order_events")
}

/// What the order API does after the payment: one message, however many services want to know.
async fn place(bus: &Bus, order_id: u64) -> Result {
    let start = Instant::now();
    let order = OrderCreated {
        order_id,
        customer_email: "jane.doe@email.com".to_owned(),
        items: vec!["book".to_owned(), "pen".to_owned()],
    };
    bus.publish(&order).exchange(events()).await?;
    println!(" [x] Order {order_id} placed in {} ms", start.elapsed().as_millis());
    Ok(())
}

async fn email(order: OrderCreated, _: Cx) -> Result<(), leveret::Failure> {
    tokio::time::sleep(Duration::from_millis(100)).await;
    println!(" [x] Email sent to {} for order {}", order.customer_email, order.order_id);
    Ok(())
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    let inventory = async |order: OrderCreated, _: Cx| {
        println!(" [x] Stock reduced by {} for order {}", order.items.join(", "), order.order_id);
        Ok(())
    };
    let analytics = async |order: OrderCreated, _: Cx| {
        println!(" [x] Recorded order {}", order.order_id);
        Ok(())
    };
    let (part, orders) = part();
    match part.as_str() {
        "place" => {
            for order in orders.iter().filter_map(|order| order.parse().ok()) {
                place(&bus, order).await?;
            }
            bus.close().await;
            return Ok(());
        }
        "email" => bus.consume("email_queue", email).exchange(events()).start().await?,
        "inventory" => bus.consume("inventory_queue", inventory).exchange(events()).start().await?,
        "analytics" => bus.consume("analytics_queue", analytics).exchange(events()).start().await?,
        _ => return no_part("place NUMBER..., email, inventory, analytics"),
    };
    println!(" [*] The {part} service waits for orders");
    bus.run_until_signal().await
}
