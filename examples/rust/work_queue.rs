//! Work queues: tasks wait in a queue, and several workers share them. A task whose worker dies
//! goes to another one.
//!
//! `work_queue task Some text with dots...`, `work_queue worker`: each dot is half a second's work.

use std::time::Duration;

use leveret::{Cx, Failure, Queue, Result, Text, Topology};
use leveret_examples::{connect, no_part, part};

const QUEUE: &str = "task_queue";

async fn work(Text(task): Text, _: Cx) -> Result<(), Failure> {
    println!(" [x] Received task: {task}");
    let dots = task.matches('.').count() as u32;
    tokio::time::sleep(Duration::from_millis(500) * dots).await;
    println!(" [x] Task finished: {task}");
    Ok(())
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    let (part, words) = part();
    match part.as_str() {
        "task" => {
            let task = Text(words.join(" "));
            bus.ensure(Topology::new().queue(Queue::new(QUEUE))).await?;
            bus.send(QUEUE, &task).await?;
            println!(" [x] Sent '{}'", task.0);
            bus.close().await;
            Ok(())
        }
        "worker" => {
            // One at a time, so that no worker has two tasks while another one has none. One that
            // takes far too long is given up, and tried again later.
            let consumer = bus.consume(QUEUE, work).prefetch(1).timeout(Duration::from_secs(60));
            consumer.start().await?;
            println!(" [*] Waiting for messages. To exit press CTRL+C");
            bus.run_until_signal().await
        }
        _ => no_part("task TEXT, worker"),
    }
}
