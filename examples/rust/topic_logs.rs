//! Topics: who listens says by patterns of words what to hear. Everyone has a queue of his own,
//! which goes when he does: what is logged while nobody listens is gone.
//!
//! `topic_logs emit kernel.error A critical kernel error`,
//! `topic_logs receive '*.error' 'kernel.*'`, `topic_logs all` for both in one process

use leveret::{Bus, Cx, Exchange, Failure, Result, Text};
use leveret_examples::{connect, no_part, part};

fn logs() -> Exchange {
    Exchange::topic("topic_logs")
}

async fn emit(bus: &Bus, subject: &str, text: &str) -> Result {
    let line = Text::from(text);
    // It is no error if nobody listens.
    bus.publish(&line).exchange(logs()).subject(subject.to_owned()).optional().await?;
    println!(" [x] Sent {subject}:{text}");
    Ok(())
}

async fn show(Text(line): Text, cx: Cx) -> Result<(), Failure> {
    println!(" [x] {}:{line}", cx.subject());
    Ok(())
}

async fn receive(bus: &Bus, patterns: &[String]) -> Result {
    let consumer = bus.consume("logs", show).exchange(logs()).subjects(patterns.to_vec());
    consumer.own_queue().start().await?;
    println!(" [*] Waiting for logs. To exit press CTRL+C");
    Ok(())
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    let (part, words) = part();
    match (part.as_str(), &words[..]) {
        ("emit", [subject, text @ ..]) => {
            emit(&bus, subject, &text.join(" ")).await?;
            bus.close().await;
            return Ok(());
        }
        ("receive", patterns @ [_, ..]) => receive(&bus, patterns).await?,
        ("all", []) => {
            for pattern in ["*.error", "kernel.*", "#"] {
                receive(&bus, &[pattern.to_owned()]).await?;
            }
            emit(&bus, "kernel.error", "A critical kernel error").await?;
            emit(&bus, "auth.info", "User logged in").await?;
            emit(&bus, "payment.error", "Payment failed").await?;
        }
        _ => return no_part("emit SUBJECT TEXT, receive PATTERN..., all"),
    }
    bus.run_until_signal().await
}
