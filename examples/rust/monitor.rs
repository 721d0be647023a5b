//! Monitoring: how many messages wait in queues, and how many consumers they have.
//!
//! `monitor hello task_queue`

use leveret::Result;
use leveret_examples::{connect, part};

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    let (first, more) = part();
    for queue in [first].iter().chain(&more) {
        match bus.queue(queue).await? {
            Some(it) => println!("{queue}: {} waiting, {} consumers", it.messages, it.consumers),
            None => println!("{queue}: no such queue"),
        }
    }
    println!("{}", if bus.health().is_ok() { "The bus is well" } else { "The bus is not well" });
    bus.close().await;
    Ok(())
}
