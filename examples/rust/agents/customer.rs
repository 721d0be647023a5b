//! A customer of the shop: asks Triage, and prints all that was said until there was an answer.
//! Then it shows the agents' inboxes.

use std::error::Error;

use clap::Parser;
use leveret::{Bus, Note};
use serde_json::Value;

#[derive(Parser)]
struct Args {
    /// The bus
    #[arg(long, env = "LEVERET_URI", hide_env_values = true, default_value = "amqp://")]
    uri: String,
    /// What to say
    text: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let bus = Bus::connect(&args.uri).await?;
    let agents = bus.agents();
    let note = Note::new(args.text).sender("Customer");
    let answer = agents.ask::<Value>("Triage", note).note().await?;
    for turn in &answer.transcript {
        println!("{} to {} ({}): {}", turn.from, turn.to, turn.role, turn.content);
    }
    for name in ["Triage", "Billing", "Stock"] {
        agents.watch(name)?;
    }
    println!("{}", serde_json::to_string_pretty(&agents.debug_queues().await?)?);
    bus.close().await;
    Ok(())
}
