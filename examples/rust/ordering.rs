//! Order: what concerns the same account is handled one after the other, as it was sent; different
//! accounts are handled at the same time.
//!
//! `ordering send`, `ordering handle`, in as many processes as you like

use std::time::Duration;

use leveret::{Cx, Failure, Message, Result};
use leveret_examples::{connect, no_part, part};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Message)]
#[message(name = "account.changed", key = "account")]
struct Changed {
    account: String,
    step: u64,
}

async fn handle(change: Changed, _: Cx) -> Result<(), Failure> {
    // The first of an account's steps take longest: unordered, the last one would be done first.
    tokio::time::sleep(Duration::from_millis(100 / change.step)).await;
    println!(" [x] {} step {}", change.account, change.step);
    Ok(())
}

#[tokio::main]
async fn main() -> Result {
    let bus = connect().await?;
    match part().0.as_str() {
        "send" => {
            for step in 1..=3 {
                for account in ["Ann", "Bob", "Cid"] {
                    let account = account.to_owned();
                    bus.publish(&Changed { account, step }).await?;
                }
            }
            println!(" [x] Sent three steps for each of three accounts");
            bus.close().await;
            Ok(())
        }
        "handle" => {
            bus.consume("accounts", handle).ordered_by_key().concurrency(8).start().await?;
            println!(" [*] Waiting for changes");
            bus.run_until_signal().await
        }
        _ => no_part("send, handle"),
    }
}
