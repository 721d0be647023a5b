//! Hello World: sends a message to a queue, where it waits for whoever receives it.

use leveret::{Queue, Result, Text, Topology};

#[tokio::main]
async fn main() -> Result {
    let bus = leveret_examples::connect().await?;
    bus.ensure(Topology::new().queue(Queue::new("hello"))).await?;
    bus.send("hello", &Text::from("Hello World!")).await?;
    println!(" [x] Sent 'Hello World!'");
    bus.close().await;
    Ok(())
}
