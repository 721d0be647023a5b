//! Agents that talk to each other.

mod inboxes;
mod order;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use leveret::{
    AgentCx, Agents, Bus, CallError, Dedup, Error, Failure, Note, PublishError, Retry, Turn,
};
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::sleep;

use crate::{Place, on_every_transport, until, within};

/// Notes that an agent got.
type Heard = UnboundedReceiver<Note>;

/// An agent that only listens.
async fn listener(agents: &Agents, name: &str) -> Heard {
    let (sender, heard) = mpsc::unbounded_channel();
    agents.agent(name).on(listening(sender)).start().await.unwrap();
    heard
}

fn listening(sender: UnboundedSender<Note>) -> impl leveret::AgentHandler {
    move |note: Note, _: AgentCx| {
        let sent = sender.send(note);
        async move { sent.map_err(Failure::permanent) }
    }
}

fn said(transcript: &[Turn]) -> Vec<String> {
    let line = |turn: &Turn| format!("{}>{} {}: {}", turn.from, turn.to, turn.role, turn.content);
    transcript.iter().map(line).collect()
}

/// Triage hands over to Billing, which asks Stock and replies.
async fn shop(agents: &Agents) {
    let triage = async |note: Note, cx: AgentCx| {
        cx.set("customer", 7);
        assert_eq!((cx.name(), cx.role()), ("Triage", "router"));
        match note.content.as_str() {
            Some("lost") => cx.reply("I do not know who could help").await?,
            _ => cx.hand_off("Billing").await?,
        }
        Ok(())
    };
    agents.agent("Triage").role("router").on(triage).start().await.unwrap();
    let billing = async |note: Note, cx: AgentCx| {
        let pieces: u32 = cx.ask("Stock", json!({"item": note.content})).await?;
        cx.set("pieces", pieces);
        cx.reply(format!("you owe us {}", pieces * 2)).await?;
        Ok(())
    };
    agents.agent("Billing").on(billing).start().await.unwrap();
    let stock = async |note: Note, cx: AgentCx| match note.content["item"].as_str() {
        Some("carrot") => Ok(cx.reply(note.context["count"].clone()).await?),
        _ => Err(Failure::permanent("no such thing")),
    };
    agents.agent("Stock").on(stock).start().await.unwrap();
}

async fn a_conversation_keeps_its_context_over_hand_off_and_ask(bus: Bus) {
    let agents = bus.agents();
    shop(&agents).await;
    let note = Note::new("carrot").sender("Ann").conversation("c1").context("count", 3);
    let answer = agents.ask::<Value>("Triage", note).note().await.unwrap();
    assert_eq!(answer.content, "you owe us 6");
    assert_eq!((answer.from.as_str(), answer.to.as_str()), ("Billing", "Ann"));
    assert_eq!((answer.role.as_str(), answer.conversation.as_str()), ("assistant", "c1"));
    let context = json!({"count": 3, "customer": 7, "pieces": 3});
    assert_eq!(Value::Object(answer.context), context);
    assert_eq!(
        said(&answer.transcript),
        [
            r#"Ann>Triage user: "carrot""#,
            r#"Triage>Billing hand_off: null"#,
            r#"Billing>Stock assistant: {"item":"carrot"}"#,
            r#"Stock>Billing assistant: 3"#,
            r#"Billing>Ann assistant: "you owe us 6""#,
        ]
    );

    // Without anybody who waits, the reply goes into the sender's inbox.
    let mut ann = listener(&agents, "Ann").await;
    agents.send("Triage", Note::new("lost").sender("Ann")).await.unwrap();
    let reply = ann.recv().await.unwrap();
    assert_eq!(
        (reply.content, reply.from.as_str()),
        (json!("I do not know who could help"), "Triage")
    );
    assert_eq!(reply.transcript.len(), 2);
    bus.close().await;
}

async fn who_asks_gets_the_fault(bus: Bus) {
    let agents = bus.agents();
    shop(&agents).await;
    let asked = agents.ask::<u32>("Stock", json!({"item": "hare"})).await;
    let Err(CallError::Fault(fault)) = asked else { panic!("{asked:?}") };
    assert_eq!((fault.message.as_str(), fault.retryable), ("no such thing", false));
    let asked = agents.ask::<u32>("Nobody", "?").await;
    assert!(matches!(asked, Err(CallError::Publish(PublishError::Unroutable { .. }))), "{asked:?}");
    let asked = agents.ask::<u32>("Triage", "lost").await;
    assert!(matches!(asked, Err(CallError::Codec { .. })), "{asked:?}");
    agents.register("Later", "").await.unwrap();
    let asked = agents.ask::<u32>("Later", "?").within(Duration::from_millis(50)).await;
    assert!(matches!(asked, Err(CallError::Timeout { taken: true, .. })), "{asked:?}");
    // It comes after its deadline, and is not handled; the next one is.
    sleep(Duration::from_millis(50)).await;
    let answer = async |note: Note, cx: AgentCx| Ok(cx.reply(note.content).await?);
    agents.agent("Later").on(answer).start().await.unwrap();
    assert_eq!(agents.ask::<String>("Later", "!").await.unwrap(), "!");
    assert_eq!(bus.stats().expired_questions, 1);
    bus.close().await;
}

async fn what_would_wait_for_itself_is_refused(bus: Bus) {
    let agents = bus.agents();
    let asks = |other: &'static str| {
        move |_: Note, cx: AgentCx| async move {
            let answer: Value = cx.ask(other, "and you?").await?;
            cx.reply(answer).await?;
            Ok(())
        }
    };
    agents.agent("Left").on(asks("Right")).start().await.unwrap();
    agents.agent("Right").on(asks("Left")).start().await.unwrap();
    let asked = agents.ask::<Value>("Left", "how are you?").await;
    let Err(CallError::Fault(fault)) = asked else { panic!("{asked:?}") };
    assert!(fault.message.contains("\"Left\" waits for this very answer"), "{fault}");

    let hands = |other: &'static str| {
        move |_: Note, cx: AgentCx| async move {
            cx.hand_off(other).await?;
            Ok(())
        }
    };
    agents.agent("Here").on(hands("There")).start().await.unwrap();
    agents.agent("There").on(hands("Here")).start().await.unwrap();
    let asked = agents.ask::<Value>("Here", "whose is this?").await;
    let Err(CallError::Fault(fault)) = asked else { panic!("{asked:?}") };
    assert!(fault.message.contains("handed off 32 times"), "{fault}");
    bus.close().await;
}

async fn a_broadcast_is_for_all_others(bus: Bus) {
    let agents = bus.agents();
    let nobody = agents.broadcast("is anybody there?").await;
    assert!(matches!(nobody, Err(PublishError::Unroutable { .. })), "{nobody:?}");
    let mut one = listener(&agents, "One").await;
    let mut two = listener(&agents, "Two").await;
    agents.broadcast(Note::new("news").conversation("n")).await.unwrap();
    for heard in [&mut one, &mut two] {
        let note = heard.recv().await.unwrap();
        assert_eq!((note.content, note.to.as_str()), (json!("news"), ""));
    }
    let tell = async |note: Note, cx: AgentCx| {
        assert_eq!(note.content, "tell", "it does not hear itself");
        cx.broadcast("told").await?;
        Ok(())
    };
    agents.agent("Teller").on(tell).start().await.unwrap();
    agents.send("Teller", "tell").await.unwrap();
    for heard in [&mut one, &mut two] {
        assert_eq!(heard.recv().await.unwrap().content, "told");
    }
    until(async || agents.debug_queues().await.unwrap()["Teller"].message_count == 0).await;
    assert_eq!(agents.health().await.unwrap().last_errors.len(), 0);
    bus.close().await;
}

async fn what_fails_is_tried_again_and_then_a_dead_letter(bus: Bus) {
    let agents = bus.agents();
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&attempts);
    let fail = move |note: Note, cx: AgentCx| {
        seen.lock().unwrap().push((note.content, cx.message().attempt()));
        async { Err(Failure::transient("not today")) }
    };
    let agent = agents
        .agent("Agent A")
        .retry(Retry::fixed(Duration::from_millis(20)).attempts(2))
        .timeout(Duration::from_secs(1))
        .dedup(Dedup::in_memory(10, Duration::from_secs(60)))
        .on(fail)
        .start()
        .await
        .unwrap();
    agents.send("Agent A", 1).await.unwrap();
    let dead = bus.dead_letters("agent_agent_a_queue");
    until(async || dead.count().await.unwrap() == 1).await;
    assert_eq!(*attempts.lock().unwrap(), [(json!(1), 1), (json!(1), 2)]);
    let letter = dead.list(1).await.unwrap().remove(0);
    assert_eq!(letter.message::<Note>().unwrap().content, 1);
    let health = agents.health().await.unwrap();
    assert_eq!(health.last_errors["Agent A"], "not today");
    assert_eq!((health.inboxes[0].dead_letters, health.is_ok()), (1, false));
    assert_eq!(agent.health().handled, 0);
    bus.close().await;
}

async fn a_roll_call_finds_who_is_started(bus: Bus) {
    let agents = bus.agents();
    agents.register("Absent", "sleeper").await.unwrap();
    let second = Duration::from_millis(300);
    assert_eq!(agents.roll_call(second).await.unwrap(), []);
    shop(&agents).await;
    let late = listener(&bus.agents(), "Zoe").await;
    agents.ask::<Value>("Triage", Note::new("lost")).await.unwrap();
    agents.ask::<u32>("Stock", json!({"item": "hare"})).await.unwrap_err();
    until(async || agents.health().await.unwrap().last_errors.len() == 1).await;
    let present = agents.roll_call(second).await.unwrap();
    let names: Vec<&str> = present.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["Billing", "Stock", "Triage", "Zoe"]);
    let (stock, triage) = (&present[1], &present[2]);
    assert_eq!((triage.role.as_str(), triage.queue().as_str()), ("router", "agent_triage_queue"));
    assert_eq!((triage.handled, triage.failed, triage.handling), (1, 0, 0));
    assert_eq!((stock.handled, stock.failed), (0, 1));
    assert_eq!(stock.last_error.as_deref(), Some("no such thing"));
    assert_eq!(triage.process, std::process::id());
    assert!(triage.since > 0 && !triage.host.is_empty());
    drop(late);
    bus.close().await;
}

async fn names_are_checked(bus: Bus) {
    let agents = bus.agents();
    for name in ["", "All", "a.*"] {
        let started = agents.agent(name).on(async |_: Note, _: AgentCx| Ok(())).start().await;
        assert!(matches!(started, Err(Error::Invalid(_))), "{started:?}");
        assert!(matches!(agents.send(name, 1).await, Err(PublishError::Invalid(_))));
    }
    agents.register("Agent A", "").await.unwrap();
    agents.register("Agent A", "").await.unwrap();
    assert!(matches!(agents.register("agent a", "").await, Err(Error::Invalid(_))));
    let agent = listener(&agents, "Agent A").await;
    let nothing = async |_: Note, _: AgentCx| Ok(());
    let again = agents.agent("Agent A").on(nothing).start().await;
    assert!(matches!(again, Err(Error::Invalid(_))), "{again:?}");
    drop(agent);
    // A start that was given up, however far it had come, is no start.
    for polls in 0..20 {
        let gone = async {
            for _ in 0..polls {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            started = agents.agent("Agent B").on(nothing).start() => {
                started.unwrap().stop(Duration::ZERO).await;
            }
            () = gone => {}
        }
    }
    agents.agent("Agent B").on(nothing).start().await.unwrap();
    bus.close().await;
}

on_every_transport!(
    a_conversation_keeps_its_context_over_hand_off_and_ask,
    who_asks_gets_the_fault,
    what_would_wait_for_itself_is_refused,
    a_broadcast_is_for_all_others,
    what_fails_is_tried_again_and_then_a_dead_letter,
    a_roll_call_finds_who_is_started,
    names_are_checked,
);

/// The question waits on disk, and the answer for the one who asked to be connected again.
#[tokio::test]
async fn an_ask_outlives_the_server_and_is_asked_once() {
    let Place::Server(mut server) = Place::server() else { unreachable!() };
    let (one, two) = (Bus::connect(&server.url()).await, Bus::connect(&server.url()).await);
    let (one, two) = (one.unwrap(), two.unwrap());
    let (asked, mut questions) = mpsc::unbounded_channel();
    let answer = move |note: Note, cx: AgentCx| {
        let asked = asked.clone();
        async move {
            asked.send(note.content.clone())?;
            sleep(Duration::from_millis(200)).await;
            cx.reply(note.content).await?;
            Ok(())
        }
    };
    two.agents().register("Echo", "").await.unwrap();
    let agents = one.agents();
    let trouble = async {
        until(async || one.queue("agent_echo_queue").await.unwrap().unwrap().messages == 1).await;
        // What is not confirmed is sent again.
        until(async || one.health().unconfirmed == 0).await;
        server.kill();
        server.start_again();
        let agents = two.agents();
        agents.agent("Echo").on(answer).start().await.unwrap();
        questions.recv().await.unwrap();
        questions
    };
    let asking = agents.ask::<String>("Echo", "hello");
    let asking = async { asking.await };
    let (answer, mut questions) = within(async { tokio::join!(asking, trouble) }).await;
    assert_eq!(answer.unwrap(), "hello");
    assert!(questions.try_recv().is_err(), "it was asked once");
    one.close().await;
    two.close().await;
}
