//! A bridge: what is published on one broker is published on another one, too, such as from a shop
//! to the head office. A message is acknowledged on the one when the other one has confirmed it.
//!
//! `bridge 'order.#'`: from the broker that `BUS` names to the one that `TO` names

use leveret::{Bus, CodecError, Cx, Error, Failure, Message, Payload, Result, Retry};
use leveret_examples::{connect, no_part, part};

/// A message as it came: its bytes, and what they are.
struct Whole(Payload);

impl Message for Whole {
    const NAME: &'static str = "";

    fn encode(&self) -> Result<Payload, CodecError> {
        Ok(self.0.clone())
    }

    fn decode(payload: &Payload) -> Result<Self, CodecError> {
        Ok(Whole(payload.clone()))
    }
}

/// Returns when the other broker has confirmed it. By its id consumers there know it if it comes
/// twice.
async fn forward(to: Bus, message: Whole, cx: Cx) -> Result<(), Failure> {
    let mut copy = to.publish(&message).subject(cx.subject().to_owned()).id(cx.id());
    if let Some(key) = cx.key() {
        copy = copy.key(key);
    }
    // The toolkit's own headers say what the message has been through on this side.
    for (name, value) in cx.headers().iter().filter(|(name, _)| !name.starts_with("leveret-")) {
        copy = copy.header(name.to_owned(), value);
    }
    copy.await.inspect_err(|error| println!(" [!] {error}"))?;
    println!(" [x] Forwarded {} {}", cx.subject(), cx.key().unwrap_or_default());
    Ok(())
}

#[tokio::main]
async fn main() -> Result {
    let Ok(url) = std::env::var("TO") else {
        return Err(Error::Invalid("TO is to name the other broker".to_owned()));
    };
    let (subject, _) = part();
    if subject.is_empty() {
        return no_part("a subject or a pattern, such as 'order.#'");
    }
    let (from, to) = (connect().await?, Bus::connect(&url).await?);
    let other = to.clone();
    let forward = move |message: Whole, cx: Cx| forward(other.clone(), message, cx);
    let a_day = Retry::default().attempts(300);
    let bridge = from.consume("bridge", forward).subjects([subject]).ordered_by_key();
    bridge.retry(a_day).start().await?;
    println!(" [*] The bridge is open");
    from.run_until_signal().await?;
    to.close().await;
    Ok(())
}
