//! One conversation at a time, in order, and others meanwhile.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leveret::{AgentCx, Bus, Json, Note};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{Place, on_every_transport, until, within};

/// What each conversation's notes were, in the order in which they were handled.
#[derive(Default)]
struct Log {
    said: Mutex<HashMap<String, Vec<u64>>>,
    busy: Mutex<HashMap<String, u32>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Log {
    async fn take(&self, note: &Note) {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        let key = note.conversation.clone();
        let number = note.content.as_u64().unwrap();
        *self.busy.lock().unwrap().entry(key.clone()).or_default() += 1;
        sleep(Duration::from_millis(number * 7 % 5)).await;
        let others = self.busy.lock().unwrap().insert(key.clone(), 0);
        assert_eq!(others, Some(1), "one at a time");
        self.said.lock().unwrap().entry(key).or_default().push(number);
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    fn count(&self) -> usize {
        self.said.lock().unwrap().values().map(Vec::len).sum()
    }

    /// Fails if a conversation is out of order; a note may come twice, right after itself.
    fn check(&self) {
        for (conversation, said) in &*self.said.lock().unwrap() {
            assert!(said.is_sorted(), "{conversation}: {said:?}");
        }
    }
}

fn logging(log: &Arc<Log>) -> impl leveret::AgentHandler {
    let log = Arc::clone(log);
    move |note: Note, _: AgentCx| {
        let log = Arc::clone(&log);
        async move {
            log.take(&note).await;
            Ok(())
        }
    }
}

async fn conversations_keep_their_order_side_by_side(bus: Bus) {
    let (agents, log) = (bus.agents(), Arc::new(Log::default()));
    agents.agent("Clerk").concurrency(4).on(logging(&log)).start().await.unwrap();
    for number in 0..20_u64 {
        for conversation in 0..10 {
            let note = Note::new(number).conversation(format!("c{conversation}"));
            agents.send("Clerk", note).await.unwrap();
        }
    }
    until(async || log.count() == 200).await;
    log.check();
    assert_eq!(log.most.load(Ordering::SeqCst), 4);
    bus.close().await;
}

/// Whoever writes JSON and knows nothing of headers.
async fn what_others_say_keeps_its_order_too(bus: Bus) {
    let (agents, log) = (bus.agents(), Arc::new(Log::default()));
    agents.agent("Clerk").concurrency(4).on(logging(&log)).start().await.unwrap();
    for number in 0..20_u64 {
        for conversation in 0..5 {
            let note = json!({"content": number, "conversation": format!("c{conversation}")});
            bus.send("agent_clerk_queue", &Json(note)).await.unwrap();
        }
    }
    until(async || log.count() == 100).await;
    log.check();
    bus.close().await;
}

async fn who_waits_for_an_answer_keeps_nobody_waiting(bus: Bus) {
    let agents = bus.agents();
    let slow = async |_: Note, cx: AgentCx| {
        sleep(Duration::from_millis(400)).await;
        cx.reply("done").await?;
        Ok(())
    };
    agents.agent("Slow").concurrency(16).on(slow).start().await.unwrap();
    let asker = async |note: Note, cx: AgentCx| {
        let answer: Value = match note.content.as_str() {
            Some("ask") => cx.ask("Slow", "please").await?,
            _ => "at once".into(),
        };
        cx.reply(answer).await?;
        Ok(())
    };
    // One at a time, and yet ten of them wait at the same time.
    agents.agent("Asker").on(asker).start().await.unwrap();
    let start = Instant::now();
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let agents = agents.clone();
            tokio::spawn(async move { agents.ask::<String>("Asker", "ask").await.unwrap() })
        })
        .collect();
    until(async || bus.stats().confirmed >= 20).await;
    assert_eq!(agents.ask::<String>("Asker", "?").await.unwrap(), "at once");
    assert!(start.elapsed() < Duration::from_millis(390), "{:?}", start.elapsed());
    for asked in waiting {
        assert_eq!(asked.await.unwrap(), "done");
    }
    assert!(start.elapsed() < Duration::from_millis(2_000), "{:?}", start.elapsed());
    bus.close().await;
}

on_every_transport!(
    conversations_keep_their_order_side_by_side,
    what_others_say_keeps_its_order_too,
    who_waits_for_an_answer_keeps_nobody_waiting,
);

/// The same agent in two processes: one works, the other takes over, and the order stays.
#[tokio::test]
async fn order_outlives_the_process_that_kept_it() {
    let place = Place::server();
    let (one, two, sender) = (place.bus().await, place.bus().await, place.bus().await);
    let log = Arc::new(Log::default());
    let first = one.agents().agent("Clerk").concurrency(4).on(logging(&log)).start();
    let first = within(first).await.unwrap();
    let second = two.agents().agent("Clerk").concurrency(4).on(logging(&log)).start();
    let second = within(second).await.unwrap();
    let agents = sender.agents();
    agents.register("Clerk", "").await.unwrap();
    assert_eq!(agents.debug_queues().await.unwrap()["Clerk"].consumer_count, 2);
    assert_eq!(agents.roll_call(Duration::from_millis(300)).await.unwrap().len(), 2);
    for number in 0..30_u64 {
        for conversation in 0..5 {
            let note = Note::new(number).conversation(format!("c{conversation}"));
            agents.send("Clerk", note).await.unwrap();
        }
        if number == 15 {
            assert_eq!(second.health().handled, 0, "it stands by");
            first.stop(Duration::from_secs(10)).await;
        }
    }
    within(until(async || log.count() == 150)).await;
    log.check();
    assert!(second.health().handled >= 14 * 5);
    for bus in [one, two, sender] {
        bus.close().await;
    }
}
