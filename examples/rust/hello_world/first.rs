//! The program of the project's README: all of it in one process, with its data in `./data`.

use leveret::{Bus, Cx, Result, Text};

#[tokio::main]
async fn main() -> Result {
    let bus = Bus::connect("embedded:./data").await?;
    let greet = async |Text(name), _: Cx| {
        println!("Hello, {name}!");
        Ok(())
    };
    bus.consume("greetings", greet).start().await?;
    bus.send("greetings", &Text::from("world")).await?;
    bus.run_until_signal().await
}
