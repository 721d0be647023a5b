//! Agents: each has a name and an inbox, in a process of its own or together with others. They hold
//! conversations, ask each other, and hand over.
//!
//! `agents Triage`, `agents Billing`, `agents Stock`, `agents customer 3 carrots`; `agents all 3
//! carrots` for all of it in one process

mod staff;

use std::error::Error;

use leveret::{Agents, Note};
use leveret_examples::{connect, no_part, part};
use serde_json::Value;

const STAFF: [&str; 3] = ["Triage", "Billing", "Stock"];

/// Asks Triage, and shows what was said until there was an answer, and the agents' inboxes.
async fn ask(agents: &Agents, text: String) -> Result<(), Box<dyn Error>> {
    let question = Note::new(text).sender("Customer");
    let answer = agents.ask::<Value>("Triage", question).note().await?;
    for turn in &answer.transcript {
        println!("{} to {} ({}): {}", turn.from, turn.to, turn.role, turn.content);
    }
    for name in STAFF {
        agents.watch(name)?;
    }
    let queues = agents.debug_queues().await?;
    println!("{}", serde_json::to_string_pretty(&queues)?);
    let waiting: u64 = queues.values().map(|queue| queue.message_count).sum();
    println!("{waiting} messages wait");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bus = connect().await?;
    let agents = bus.agents();
    let (part, words) = part();
    match part.as_str() {
        "customer" => ask(&agents, words.join(" ")).await?,
        "all" => {
            for name in STAFF {
                staff::start(&agents, name).await?;
            }
            ask(&agents, words.join(" ")).await?;
        }
        name if STAFF.contains(&name) => {
            staff::start(&agents, name).await?;
            println!("{name} is there");
            bus.run_until_signal().await?;
        }
        _ => no_part("Triage, Billing, Stock, customer TEXT, all TEXT")?,
    }
    bus.close().await;
    Ok(())
}
