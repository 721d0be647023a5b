//! Hello World: one program sends a message to a queue, another one receives it, now or later.
//!
//! `hello_world send`, `hello_world receive`

use leveret::{Cx, Queue, Result, Text, Topology};
use leveret_examples::{connect, no_part, part};

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    // Both make sure that the queue is there, so it does not matter which one starts first.
    bus.ensure(Topology::new().queue(Queue::new("hello"))).await?;
    match part().0.as_str() {
        "send" => {
            bus.send("hello", &Text::from("Hello World!")).await?;
            println!(" [x] Sent 'Hello World!'");
            bus.close().await;
            Ok(())
        }
        "receive" => {
            let receive = |Text(text), _: Cx| async move {
                println!(" [x] Received {text}");
                Ok(())
            };
            bus.consume("hello", receive).start().await?;
            println!(" [*] Waiting for messages. To exit press CTRL+C");
            bus.run_until_signal().await
        }
        _ => no_part("send, receive"),
    }
}
