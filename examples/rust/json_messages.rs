//! Messages with a type: a Rust type is sent as JSON, and comes as that type or not at all.
//!
//! `json_messages produce`, `json_messages consume`

use leveret::{Cx, Message, Queue, Result, Topology};
use leveret_examples::{connect, no_part, part};
use serde::{Deserialize, Serialize};

const QUEUE: &str = "hello_queue";

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "greeting", key = "id")]
struct Greeting {
    id: u32,
    text: String,
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    bus.ensure(Topology::new().queue(Queue::new(QUEUE))).await?;
    match part().0.as_str() {
        "produce" => {
            for id in 1..=5 {
                let greeting = Greeting { id, text: format!("Hello number {id}") };
                bus.send(QUEUE, &greeting).await?;
                println!("Sent: {greeting:?}");
            }
            bus.close().await;
            Ok(())
        }
        "consume" => {
            let receive = |greeting: Greeting, _: Cx| async move {
                println!("Received: {greeting:?}");
                Ok(())
            };
            bus.consume(QUEUE, receive).prefetch(1).start().await?;
            bus.run_until_signal().await
        }
        _ => no_part("produce, consume"),
    }
}
