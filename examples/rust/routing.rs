//! Routing: each kind of task has a queue of its own. A direct exchange brings a task to the queue
//! that is bound by exactly the name it was published under.
//!
//! `routing submit image_resizing cat.jpg`, `routing work image_resizing pdf_generation`

use leveret::{Cx, Exchange, Failure, Result, Text};
use leveret_examples::{connect, no_part, part};

fn tasks() -> Exchange {
    Exchange::direct("tasks")
}

async fn work(Text(file): Text, cx: Cx) -> Result<(), Failure> {
    // What computes for long has a thread of its own, so that nothing else waits for it.
    let size = tokio::task::spawn_blocking(move || file.len()).await?;
    println!(" [x] {} is done, {size} letters", cx.subject());
    Ok(())
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    let (part, words) = part();
    match (part.as_str(), &words[..]) {
        ("submit", [kind, file]) => {
            let task = Text::from(file.as_str());
            // An error if nobody ever worked on such tasks.
            bus.publish(&task).exchange(tasks()).subject(kind.clone()).await?;
            println!(" [x] Submitted {kind}: {file}");
            bus.close().await;
            Ok(())
        }
        ("work", kinds) if !kinds.is_empty() => {
            for kind in kinds {
                let consumer = bus.consume(kind, work).exchange(tasks()).subjects([kind.clone()]);
                consumer.concurrency(2).start().await?;
            }
            println!(" [*] Waiting for {}", kinds.join(", "));
            bus.run_until_signal().await
        }
        _ => no_part("submit KIND FILE, work KIND..."),
    }
}
