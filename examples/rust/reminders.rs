//! Delays: a message for later. The broker keeps it, so whoever sent it may end.
//!
//! `reminders remind 5 Call Ann back`, `reminders receive`

use std::time::Duration;

use leveret::{Cx, Queue, Result, Text, Topology};
use leveret_examples::{connect, no_part, part};

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    let (part, words) = part();
    match (part.as_str(), &words[..]) {
        ("remind", [seconds, rest @ ..]) => {
            let reminder = Text(rest.join(" "));
            let delay = Duration::from_secs(seconds.parse().unwrap_or(0));
            bus.ensure(Topology::new().queue(Queue::new("reminders"))).await?;
            bus.send("reminders", &reminder).delay(delay).await?;
            println!(" [x] In {delay:?}: {}", reminder.0);
            bus.close().await;
            Ok(())
        }
        ("receive", []) => {
            let receive = async |Text(reminder), _: Cx| {
                println!(" [x] {reminder}");
                Ok(())
            };
            bus.consume("reminders", receive).start().await?;
            println!(" [*] Waiting for reminders");
            bus.run_until_signal().await
        }
        _ => no_part("remind SECONDS TEXT, receive"),
    }
}
