//! Work queues: tasks wait in a queue, and several workers share them. A task whose worker dies
//! goes to another one.
//!
//! `work_queue task Some text with dots...`, `work_queue worker`: each dot is half a second's work.

use std::time::Duration;

use leveret::{Cx, Queue, Result, Text, Topology};
use leveret_examples::{connect, no_part, part};

const QUEUE: &str = "task_queue";

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    bus.ensure(Topology::new().queue(Queue::new(QUEUE))).await?;
    match part() {
        (task, words) if task == "task" => {
            let text = words.join(" ");
            bus.send(QUEUE, &Text(text.clone())).await?;
            println!(" [x] Sent '{text}'");
            bus.close().await;
            Ok(())
        }
        (worker, _) if worker == "worker" => {
            let work = |Text(text), _: Cx| async move {
                println!(" [x] Received task: {text}");
                let dots = text.matches('.').count() as u32;
                tokio::time::sleep(Duration::from_millis(500) * dots).await;
                println!(" [x] Task finished: {text}");
                Ok(())
            };
            // One at a time, so that no worker has two tasks while another one has none.
            bus.consume(QUEUE, work).prefetch(1).start().await?;
            println!(" [*] Waiting for messages. To exit press CTRL+C");
            bus.run_until_signal().await
        }
        _ => no_part("task TEXT, worker"),
    }
}
