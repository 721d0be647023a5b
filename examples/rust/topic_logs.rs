//! Topics: who listens says by patterns of words what to hear. Everyone has a queue of his own,
//! which goes when he does: what is logged while nobody listens is gone.
//!
//! `topic_logs emit kernel.error A critical kernel error`,
//! `topic_logs receive '*.error' 'kernel.*'`, `topic_logs all` for both in one process

use leveret::{Bus, Cx, Exchange, Result, Text};
use leveret_examples::{connect, no_part, part};

const LOGS: &str = "topic_logs";

async fn emit(bus: &Bus, severity: &str, text: &str) -> Result {
    // It is no error if nobody listens.
    let text = Text::from(text);
    let event = bus.publish(&text).exchange(Exchange::topic(LOGS)).subject(severity.to_owned());
    event.optional().await?;
    println!(" [x] Sent {severity}:{}", text.0);
    Ok(())
}

async fn receive(bus: &Bus, patterns: Vec<String>) -> Result {
    let show = |Text(text), cx: Cx| async move {
        println!(" [x] {}:{text}", cx.subject());
        Ok(())
    };
    let consumer = bus.consume("logs", show).exchange(Exchange::topic(LOGS)).subjects(patterns);
    consumer.own_queue().start().await?;
    println!(" [*] Waiting for logs. To exit press CTRL+C");
    Ok(())
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    match part() {
        (emits, words) if emits == "emit" && words.len() > 1 => {
            emit(&bus, &words[0], &words[1..].join(" ")).await?;
            bus.close().await;
            Ok(())
        }
        (receives, patterns) if receives == "receive" && !patterns.is_empty() => {
            receive(&bus, patterns).await?;
            bus.run_until_signal().await
        }
        (all, _) if all == "all" => {
            receive(&bus, vec!["*.error".to_owned()]).await?;
            receive(&bus, vec!["kernel.*".to_owned()]).await?;
            receive(&bus, vec!["#".to_owned()]).await?;
            emit(&bus, "kernel.error", "A critical kernel error").await?;
            emit(&bus, "auth.info", "User logged in").await?;
            emit(&bus, "payment.error", "Payment failed").await?;
            bus.run_until_signal().await
        }
        _ => no_part("emit SUBJECT TEXT, receive PATTERN..., all"),
    }
}
