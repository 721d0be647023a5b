//! Time to live: a message that nobody takes in time leaves its queue, and is a dead letter.
//!
//! `expiry offer 5 Umbrellas` is good for five seconds, `expiry take`, `expiry missed`

use std::time::Duration;

use leveret::{Cx, Queue, Result, Text, Topology};
use leveret_examples::{connect, no_part, part};

/// Whatever is offered is good for a day, or for less if it says so.
fn offers() -> Queue {
    let day = Duration::from_secs(24 * 3_600);
    Queue::new("offers").message_ttl(day).dead_letter_queue("offers.dead")
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    bus.ensure(Topology::new().queue(offers())).await?;
    let (part, words) = part();
    match (part.as_str(), &words[..]) {
        ("offer", [seconds, rest @ ..]) => {
            let offer = Text(rest.join(" "));
            let good_for = Duration::from_secs(seconds.parse().unwrap_or(0));
            bus.send("offers", &offer).expires(good_for).await?;
            println!(" [x] Offered for {good_for:?}: {}", offer.0);
        }
        ("take", []) => {
            let take = async |Text(offer), _: Cx| {
                println!(" [x] Taken: {offer}");
                Ok(())
            };
            bus.consume("offers", take).queue(|_| offers()).start().await?;
            println!(" [*] Waiting for offers");
            return bus.run_until_signal().await;
        }
        ("missed", []) => {
            for letter in bus.dead_letters("offers").list(100).await? {
                println!(" [!] {}: {}", letter.message::<Text>()?.0, letter.reason);
            }
        }
        _ => return no_part("offer SECONDS TEXT, take, missed"),
    }
    bus.close().await;
    Ok(())
}
