//! Messages with a type: a Rust type is sent as JSON, and comes as that type or not at all.
//!
//! `json_messages produce`, `json_messages consume`

use leveret::{Cx, Message, Queue, Result, Topology};
use leveret_examples::{connect, no_part, part};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "greeting", key = "id")]
struct Greeting {
    id: u32,
    text: String,
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    match part().0.as_str() {
        "produce" => {
            bus.ensure(Topology::new().queue(Queue::new("hello_queue"))).await?;
            for id in 1..=5 {
                let greeting = Greeting { id, text: format!("Hello number {id}") };
                bus.send("hello_queue", &greeting).await?;
                println!("Sent: {greeting:?}");
            }
            bus.close().await;
            Ok(())
        }
        "consume" => {
            let show = async |greeting: Greeting, _: Cx| {
                println!("Received: {greeting:?}");
                Ok(())
            };
            bus.consume("hello_queue", show).prefetch(1).start().await?;
            println!("Waiting for greetings");
            bus.run_until_signal().await
        }
        _ => no_part("produce, consume"),
    }
}
