//! The shop's agents, each in a process, and a server.

use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use leveret::Bus;
use leveret_peers::Leveret;
use serde_json::{Value, json};

/// A process that ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(server: &Leveret, name: &str) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
    command.args(["--name", name, "--uri", &server.url()]);
    Process(command.spawn().expect("start an agent"))
}

fn customer(server: &Leveret, text: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_customer"));
    command.args(["--uri", &server.url(), text]).output().expect("run the customer")
}

/// Returns when so many agents are started.
async fn await_agents(bus: &Bus, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let agents = bus.agents();
    while agents.roll_call(Duration::from_millis(100)).await.expect("a roll call").len() != count {
        assert!(Instant::now() < deadline, "not all agents start");
    }
}

#[tokio::test]
async fn three_processes_hold_a_conversation() {
    let server = Leveret::start();
    let mut agents = ["Triage", "Billing", "Stock"].map(|name| start(&server, name));
    let bus = Bus::connect(&server.url()).await.expect("connect");
    await_agents(&bus, 3).await;

    let output = customer(&server, "3 carrots");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let (transcript, queues) = text.split_once("\n{\n").expect("queues");
    let said = [
        "Customer to Triage (user): \"3 carrots\"",
        "Triage to Billing (hand_off): null",
        "Billing to Stock (assistant): {\"item\":\"carrots\",\"pieces\":3}",
        "Stock to Billing (assistant): {\"enough\":true,\"pieces\":7}",
        "Billing to Customer (assistant): \"3 of carrots for 6 euros\"",
    ];
    assert_eq!(transcript, said.join("\n"));
    let queues: Value = serde_json::from_str(&format!("{{{queues}")).expect("JSON");
    let queue = |slug: &str| {
        json!({
            "queue_name": format!("agent_{slug}_queue"),
            "message_count": 0,
            "consumer_count": 1,
            "routing_key": format!("agent.{slug}"),
            "status": "active"
        })
    };
    let all = json!({
        "Billing": queue("billing"), "Stock": queue("stock"), "Triage": queue("triage")
    });
    assert_eq!(queues, all);

    let output = customer(&server, "hello");
    assert!(String::from_utf8_lossy(&output.stdout).contains("Tell me how many of what"));
    let output = customer(&server, "2 hares");
    assert!(String::from_utf8_lossy(&output.stderr).contains("we do not sell"), "{output:?}");

    // One that is gone answers no more, and its inbox waits for the next one.
    drop(std::mem::replace(&mut agents[2], start(&server, "Stock")));
    await_agents(&bus, 3).await;
    assert!(customer(&server, "7 carrots").status.success());
    bus.close().await;
}
