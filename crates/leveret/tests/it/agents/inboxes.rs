//! What is in agents' inboxes, and how much may be.

use std::sync::Arc;
use std::time::Duration;

use leveret::{AgentCx, AgentStatus, Bus, Error, Note, PublishError};
use tokio::sync::Semaphore;

use crate::{on_every_transport, until};

/// A handler that waits until it may go on.
fn waiting(go: &Arc<Semaphore>) -> impl leveret::AgentHandler {
    let go = Arc::clone(go);
    move |_: Note, _: AgentCx| {
        let go = Arc::clone(&go);
        async move {
            go.acquire().await?.forget();
            Ok(())
        }
    }
}

/// What is shown of "Agent A", to the byte.
fn object(messages: u64, consumers: u64, status: &str) -> String {
    let names = r#""queue_name":"agent_agent_a_queue""#;
    let counts = format!(r#""message_count":{messages},"consumer_count":{consumers}"#);
    let rest = format!(r#""routing_key":"agent.agent_a","status":"{status}""#);
    format!(r#"{{"Agent A":{{{names},{counts},{rest}}}}}"#)
}

async fn debug_queues_are_as_promised(bus: Bus) {
    let agents = bus.agents();
    agents.register("Agent A", "Sender").await.unwrap();
    let shown = async || serde_json::to_string(&agents.debug_queues().await.unwrap()).unwrap();
    assert_eq!(shown().await, object(0, 0, "idle"));
    let go = Arc::new(Semaphore::new(0));
    let agent = agents.agent("Agent A").role("Sender").prefetch(1).on(waiting(&go));
    let agent = agent.start().await.unwrap();
    agents.send("Agent A", "in handling").await.unwrap();
    until(async || agent.health().handling == 1).await;
    agents.send("Agent A", "waits").await.unwrap();
    assert_eq!(shown().await, object(1, 1, "active"));
    go.add_permits(2);
    until(async || agent.health().handled == 2).await;
    agent.stop(Duration::from_secs(1)).await;
    let health = agents.health().await.unwrap();
    assert_eq!((health.without_consumer, health.inboxes.len()), (vec!["Agent A".to_owned()], 1));
    bus.close().await;
}

async fn a_full_inbox_refuses(bus: Bus) {
    let agents = bus.agents();
    let go = Arc::new(Semaphore::new(0));
    let agent = agents.agent("Slow").inbox(2).prefetch(1).on(waiting(&go)).start().await.unwrap();
    agents.send("Slow", 0).await.unwrap();
    until(async || agent.health().handling == 1).await;
    for number in 1..=2 {
        agents.send("Slow", number).await.unwrap();
    }
    let refused = agents.send("Slow", 3).await;
    assert!(matches!(refused, Err(PublishError::Refused { .. })), "{refused:?}");
    go.add_permits(10);
    until(async || agent.health().handled == 3).await;
    agents.send("Slow", 4).await.unwrap();
    bus.close().await;
}

async fn an_inbox_that_is_there_is_taken_as_it_is(bus: Bus) {
    let agents = bus.agents();
    agents.agent("Agent A").inbox(2).register().await.unwrap();
    let others = bus.agents();
    others.register("Agent A", "").await.unwrap();
    for number in 1..=2 {
        others.send("Agent A", number).await.unwrap();
    }
    assert!(matches!(others.send("Agent A", 3).await, Err(PublishError::Refused { .. })));
    // Who runs it says what it is to be like, and must know.
    let go = Arc::new(Semaphore::new(9));
    let differs = others.agent("Agent A").on(waiting(&go)).start().await;
    assert!(matches!(differs, Err(Error::Topology(_))), "{differs:?}");
    assert_eq!(others.debug_queues().await.unwrap()["Agent A"].status, AgentStatus::Idle);
    let agent = others.agent("Agent A").inbox(2).on(waiting(&go)).start().await.unwrap();
    until(async || agent.health().handled == 2).await;
    bus.close().await;
}

on_every_transport!(
    debug_queues_are_as_promised,
    a_full_inbox_refuses,
    an_inbox_that_is_there_is_taken_as_it_is,
);
