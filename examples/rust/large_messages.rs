//! Claim check: a large body goes into a store, and the message says only where it is. Here the
//! store is a directory; it may as well be S3.
//!
//! `large_messages send film.mp4`, `large_messages receive`, both with the same directory in the
//! environment variable `BODIES`, by default `bodies`

use leveret::{Bus, ClaimCheck, Cx, Error, Queue, Raw, Result, Topology};
use leveret_examples::{no_part, part, url};

#[tokio::main]
async fn main() -> Result {
    let directory = std::env::var("BODIES").unwrap_or_else(|_| "bodies".to_owned());
    let store = ClaimCheck::in_directory(directory)?.above(64 * 1024);
    let bus = Bus::builder(&url()).large_bodies(store).connect().await?;
    let (part, words) = part();
    match (part.as_str(), &words[..]) {
        ("send", [file]) => {
            let body = std::fs::read(file).map_err(|error| Error::Invalid(error.to_string()))?;
            bus.ensure(Topology::new().queue(Queue::new("films"))).await?;
            bus.send("films", &Raw(body.into())).header("file", file).await?;
            println!(" [x] Sent {file}");
            bus.close().await;
            Ok(())
        }
        ("receive", []) => {
            let receive = async |Raw(film), cx: Cx| {
                let file = cx.headers().get("file").unwrap_or("a film");
                println!(" [x] Received {file}: {} bytes", film.len());
                Ok(())
            };
            bus.consume("films", receive).start().await?;
            println!(" [*] Waiting for films");
            bus.run_until_signal().await
        }
        _ => no_part("send FILE, receive"),
    }
}
