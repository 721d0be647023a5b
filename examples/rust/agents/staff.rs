//! The agents of a small shop.

use std::time::Duration;

use leveret::{AgentCx, Agents, Failure, Note, Result};
use serde_json::{Value, json};

/// Starts one of them, in this process.
pub(crate) async fn start(agents: &Agents, name: &str) -> Result {
    match name {
        "Triage" => agents.agent(name).role("router").inbox(1000).on(triage).start().await?,
        "Billing" => agents.agent(name).role("clerk").concurrency(8).on(billing).start().await?,
        _ => agents.agent(name).role("counts").on(stock).start().await?,
    };
    Ok(())
}

/// Finds out what the customer wants, and who is for that.
async fn triage(note: Note, cx: AgentCx) -> Result<(), Failure> {
    let words: Vec<&str> = note.content.as_str().unwrap_or_default().split(' ').collect();
    match words[..] {
        [pieces, item] if pieces.parse::<u32>().is_ok() => {
            // A context variable: it goes with the conversation.
            cx.set("order", json!({"item": item, "pieces": pieces.parse::<u32>()?}));
            cx.hand_off("Billing").await?;
        }
        _ => cx.reply("Tell me how many of what, as in: 3 carrots").await?,
    }
    Ok(())
}

/// Asks whether there is enough, and answers the customer.
async fn billing(note: Note, cx: AgentCx) -> Result<(), Failure> {
    let order = note.context.get("order").cloned().unwrap_or_default();
    // Nobody waits for this agent meanwhile: it handles other conversations.
    let stock: Value = cx.ask("Stock", order.clone()).within(Duration::from_secs(10)).await?;
    let pieces = order["pieces"].as_u64().unwrap_or(0);
    let item = order["item"].as_str().unwrap_or("nothing");
    let answer = match stock["enough"].as_bool() {
        Some(true) => format!("{pieces} of {item} for {} euros", pieces * 2),
        _ => format!("There are only {} of {item}", stock["pieces"]),
    };
    Ok(cx.reply(answer).await?)
}

/// Knows how many there are.
async fn stock(note: Note, cx: AgentCx) -> Result<(), Failure> {
    let pieces = match note.content["item"].as_str() {
        Some("carrots") => 7,
        // Who asked gets this as a fault.
        other => return Err(Failure::permanent(format!("we do not sell {other:?}"))),
    };
    let enough = note.content["pieces"].as_u64().is_some_and(|wanted| wanted <= pieces);
    Ok(cx.reply(json!({"pieces": pieces, "enough": enough})).await?)
}
