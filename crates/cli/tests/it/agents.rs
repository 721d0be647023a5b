//! `leveret agents` beside agents that run.

use std::process::{Command, Output};

use leveret::{AgentCx, Bus, Failure, Note};

use crate::broker::Broker;

/// Calls the roll with these names.
async fn agents(url: &str, names: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    command.arg("agents").args(["--uri", url, "--wait", "500"]).args(names);
    tokio::task::spawn_blocking(move || command.output().expect("run leveret agents"))
        .await
        .expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_found_and_missed() {
    let broker = Broker::start();
    let nobody = agents(broker.url(), &[]).await;
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");

    let bus = Bus::connect(broker.url()).await.expect("connect");
    let agents_here = bus.agents();
    let fail = async |_: Note, _: AgentCx| Err(Failure::permanent("no carrots"));
    let started = agents_here.agent("Agent A").role("Sender").on(fail).start().await;
    let _agent = started.expect("start an agent");
    let asked = agents_here.ask::<u32>("Agent A", "?").await;
    assert!(asked.is_err());
    agents_here.register("Agent B", "Receiver").await.expect("register an agent");
    agents_here.send("Agent B", "hello").await.expect("send a note");

    let output = agents(broker.url(), &["Agent A"]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).expect("a line").to_owned();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(line(&text, "Agent A"), "Agent A Sender agent_agent_a_queue 0 1 0 1 no carrots");

    let output = agents(broker.url(), &["Agent B", "Agent C"]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(line(&text, "Agent B"), "Agent B - agent_agent_b_queue 1 0 - - no live consumer");
    assert_eq!(line(&text, "Agent C"), "Agent C - agent_agent_c_queue 0 0 - - no such queue");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(complaint.trim(), "leveret: no answer from Agent B, Agent C");
    assert_eq!(output.status.code(), Some(1));

    let first_lines = "$0 agents --watch --wait 100 --uri $1 | head -n 4";
    let watched = Command::new("sh")
        .args(["-c", first_lines, env!("CARGO_BIN_EXE_leveret"), broker.url()])
        .output();
    let text = String::from_utf8(watched.expect("run a shell").stdout).expect("text");
    assert_eq!(text.matches("\x1b[2J").count(), 2, "{text}");
    assert_eq!(text.matches("agent_agent_a_queue").count(), 2, "{text}");
    bus.close().await;
}

#[tokio::test]
async fn without_a_broker_nothing_can_be_asked() {
    let output = agents("amqp://127.0.0.1:1", &[]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let output = agents("http://127.0.0.1", &[]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
