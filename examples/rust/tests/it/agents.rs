//! Three agents and a customer: in a process each, or all in one.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::brokers::{Place, Program, binary, everywhere};

const STAFF: [&str; 3] = ["Triage", "Billing", "Stock"];

fn start(place: &Place, name: &str) -> Program {
    let mut agent = place.start("agents", &[name]);
    agent.wait_for(&format!("{name} is there"));
    agent
}

fn customer(place: &Place, text: &str) -> Output {
    place.command("agents", &["customer", text]).output().expect("run the customer")
}

/// What `leveret agents` shows, and whether it is content.
fn shown(place: &Place, names: &[&str]) -> (String, bool) {
    let mut command = Command::new(binary("leveret"));
    let output = command.args(["agents", "--uri", &place.bus]).args(names).output();
    let output = output.expect("run leveret agents");
    (String::from_utf8(output.stdout).expect("text"), output.status.success())
}

/// Whether these lines are a conversation about carrots, and what was said of the inboxes.
fn assert_conversation(lines: &[String], consumers: u64) {
    let text = lines.join("\n");
    let (transcript, queues) = text.split_once("\n{\n").expect("queues");
    let said = [
        "Customer to Triage (user): \"3 carrots\"",
        "Triage to Billing (hand_off): null",
        "Billing to Stock (assistant): {\"item\":\"carrots\",\"pieces\":3}",
        "Stock to Billing (assistant): {\"enough\":true,\"pieces\":7}",
        "Billing to Customer (assistant): \"3 of carrots for 6 euros\"",
    ];
    assert_eq!(transcript, said.join("\n"));
    let (queues, waiting) = queues.split_once("\n}\n").expect("an object");
    assert_eq!(waiting, "0 messages wait");
    let queues: Value = serde_json::from_str(&format!("{{{queues}}}")).expect("JSON");
    for name in STAFF {
        let slug = name.to_lowercase();
        let expected = json!({
            "queue_name": format!("agent_{slug}_queue"),
            "message_count": 0,
            "consumer_count": consumers,
            "routing_key": format!("agent.{slug}"),
            "status": "active"
        });
        assert_eq!(queues[name], expected);
    }
}

#[test]
fn agents_hold_a_conversation() {
    everywhere(|place| {
        if place.alone {
            assert_conversation(&place.run("agents", &["all", "3", "carrots"]), 1);
            return;
        }
        let mut agents = STAFF.map(|name| start(place, name));
        assert_conversation(&place.run("agents", &["customer", "3", "carrots"]), 1);
        let output = customer(place, "hello");
        assert!(String::from_utf8_lossy(&output.stdout).contains("Tell me how many of what"));
        let output = customer(place, "2 hares");
        assert!(String::from_utf8_lossy(&output.stderr).contains("we do not sell"), "{output:?}");

        let (table, there) = shown(place, &STAFF);
        assert!(there, "{table}");
        for (name, role) in STAFF.iter().zip(["router", "clerk", "counts"]) {
            let row = table.lines().find(|line| line.starts_with(name)).expect("a row");
            assert!(row.contains(role), "{table}");
        }

        // One that is gone is missed, and another one takes its place.
        agents[2].kill();
        let (table, there) = shown(place, &["Stock"]);
        assert!(!there && table.contains("no live consumer"), "{table}");
        agents[2] = start(place, "Stock");
        assert!(customer(place, "7 carrots").status.success());
    });
}
