//! Priorities: of the messages that wait, the most important one comes first.
//!
//! `priorities send 9 The door is open`, `priorities receive`

use leveret::{Cx, Queue, Result, Text, Topology};
use leveret_examples::{connect, no_part, part};

/// A queue that tells priorities from 0 to 9 apart.
fn alarms() -> Queue {
    Queue::new("alarms").priorities(9)
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    let (part, words) = part();
    match (part.as_str(), &words[..]) {
        ("send", [priority, rest @ ..]) => {
            let alarm = Text(rest.join(" "));
            bus.ensure(Topology::new().queue(alarms())).await?;
            bus.send("alarms", &alarm).priority(priority.parse().unwrap_or(0)).await?;
            println!(" [x] Sent: {}", alarm.0);
            bus.close().await;
            Ok(())
        }
        ("receive", []) => {
            let receive = async |Text(alarm), _: Cx| {
                println!(" [x] Received: {alarm}");
                Ok(())
            };
            // What was fetched ahead cannot be overtaken any more.
            bus.consume("alarms", receive).queue(|_| alarms()).prefetch(1).start().await?;
            println!(" [*] Waiting for alarms");
            bus.run_until_signal().await
        }
        _ => no_part("send PRIORITY TEXT, receive"),
    }
}
