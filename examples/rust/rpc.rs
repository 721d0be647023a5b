//! Questions and answers (RPC): a call waits for the answer of whichever process serves it, or for
//! its deadline.
//!
//! `rpc serve`, `rpc ask carrot`, `rpc all carrot` for both in one process

use std::time::Duration;

use leveret::{Bus, CallError, Cx, Fault, Message, Result};
use leveret_examples::{connect, no_part, part};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "price.ask")]
struct Ask {
    item: String,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "price.told")]
struct Price {
    cents: u64,
}

async fn price(ask: Ask, _: Cx) -> Result<Price, Fault> {
    match ask.item.as_str() {
        "carrot" => Ok(Price { cents: 30 }),
        other => Err(Fault::new("unknown_item", format!("there is no {other}"))),
    }
}

async fn ask(bus: &Bus, item: &str) {
    let question = Ask { item: item.to_owned() };
    match bus.call("prices", &question).within(Duration::from_secs(5)).await {
        Ok(Price { cents }) => println!(" [x] {item}: {cents} cents"),
        Err(CallError::Fault(fault)) => println!(" [!] No price: {}", fault.message),
        Err(error) => println!(" [!] No answer: {error}"),
    }
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    let (part, items) = part();
    if matches!(part.as_str(), "serve" | "all") {
        bus.serve("prices", price).concurrency(8).start().await?;
        println!(" [*] Waiting for questions");
    }
    match part.as_str() {
        "serve" => return bus.run_until_signal().await,
        "ask" | "all" => {
            for item in &items {
                ask(&bus, item).await;
            }
        }
        _ => return no_part("serve, ask ITEM..., all ITEM..."),
    }
    bus.close().await;
    Ok(())
}
