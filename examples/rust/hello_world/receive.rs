//! Hello World: receives what is sent to a queue.

use leveret::{Cx, Result, Text};

#[tokio::main]
async fn main() -> Result {
    let bus = leveret_examples::connect().await?;
    let receive = async |Text(text), _: Cx| {
        println!(" [x] Received {text}");
        Ok(())
    };
    bus.consume("hello", receive).start().await?;
    bus.run_until_signal().await
}
