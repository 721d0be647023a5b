//! Broadcasts: a fanout exchange brings an announcement to everyone who is there. Each has a queue
//! of its own, which goes with him: who is not there does not hear of it later.
//!
//! `broadcast listen email`, `broadcast announce Maintenance at noon`, `broadcast all` for both in
//! one process

use leveret::{Bus, Cx, Exchange, Failure, Result, Text};
use leveret_examples::{connect, no_part, part};

fn announcements() -> Exchange {
    Exchange::fanout("announcements")
}

async fn hear(Text(text): Text, cx: Cx) -> Result<(), Failure> {
    println!(" [x] {} hears: {text}", cx.queue());
    Ok(())
}

async fn listen(bus: &Bus, service: &str) -> Result {
    bus.consume(service, hear).exchange(announcements()).own_queue().start().await?;
    println!(" [*] {service} listens");
    Ok(())
}

async fn announce(bus: &Bus, text: String) -> Result {
    let text = Text(text);
    // It is no error if nobody listens.
    bus.publish(&text).exchange(announcements()).optional().await?;
    println!(" [x] Announced: {}", text.0);
    Ok(())
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    let (part, words) = part();
    match (part.as_str(), &words[..]) {
        ("listen", [service]) => listen(&bus, service).await?,
        ("announce", [_, ..]) => {
            announce(&bus, words.join(" ")).await?;
            bus.close().await;
            return Ok(());
        }
        ("all", []) => {
            listen(&bus, "email").await?;
            listen(&bus, "inventory").await?;
            announce(&bus, "Maintenance at noon".to_owned()).await?;
        }
        _ => return no_part("listen SERVICE, announce TEXT, all"),
    }
    bus.run_until_signal().await
}
