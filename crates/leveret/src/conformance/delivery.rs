//! How messages come: in order, no more than fit, and again if need be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::scene::{Shared, consume, content, notes, until, until_waiting};
use super::{Scene, Verdict};
use crate::bus::Bus;
use crate::cx::Cx;
use crate::error::Error;
use crate::failure::BoxError;
use crate::message::Text;
use crate::topology::{Queue, Topology};
use crate::transport::{Inbound, Inlet, Source, Subscription};

pub(super) async fn messages_come_in_order(scene: Scene) -> Verdict {
    const MESSAGES: usize = 500;
    let bus = scene.bus().await?;
    let queue = scene.queue(&bus, "ordered").await?;
    let (notes, mut seen) = notes();
    consume(&bus, &queue, content::<Text>(notes)).start().await?;
    let mut tickets = Vec::new();
    for number in 0..MESSAGES {
        tickets.push(bus.send(&queue, &Text(number.to_string())).pipelined().await?);
    }
    let texts = seen.texts(MESSAGES).await?;
    let expected: Vec<String> = (0..MESSAGES).map(|number| number.to_string()).collect();
    check!(texts == expected, "they came as {texts:?}");
    for ticket in tickets {
        ticket.await?;
    }
    bus.close().await;
    Ok(())
}

pub(super) async fn messages_of_a_key_are_handled_in_order(scene: Scene) -> Verdict {
    const KEYS: usize = 7;
    const MESSAGES: usize = 140;
    let bus = scene.bus().await?;
    if !bus.capabilities().single_active_consumer {
        return Ok(());
    }
    let queue = scene.name("keys");
    let handled: Shared<BTreeMap<String, Vec<usize>>> = Shared::default();
    let (noted, most) = (handled.clone(), Shared::<(usize, usize)>::default());
    let counted = most.clone();
    consume(&bus, &queue, move |Text(text): Text, cx: Cx| {
        let (noted, counted) = (noted.clone(), counted.clone());
        async move {
            let number: usize = text.parse()?;
            counted.with(|(now, most)| (*now += 1, *most = (*most).max(*now)));
            // The later, the faster: without lanes they would overtake each other.
            sleep(Duration::from_millis(5 - number as u64 * 5 / MESSAGES as u64)).await;
            counted.with(|(now, _)| *now -= 1);
            let key = cx.key().unwrap_or_default().to_owned();
            noted.with(|noted| noted.entry(key).or_default().push(number));
            Ok(())
        }
    })
    .ordered_by_key()
    .concurrency(4)
    .start()
    .await?;
    for number in 0..MESSAGES {
        let key = (number % KEYS).to_string();
        bus.send(&queue, &Text(number.to_string())).key(key).await?;
    }
    let count = || handled.with(|handled| handled.values().map(Vec::len).sum::<usize>());
    until("all messages", async || count() == MESSAGES).await?;
    handled.with(|handled| {
        let in_order = handled.values().all(|numbers| numbers.is_sorted());
        check!(in_order && handled.len() == KEYS, "they were handled as {handled:?}");
        Ok::<(), BoxError>(())
    })?;
    let most = most.with(|(_, most)| *most);
    check!((2..=4).contains(&most), "{most} were handled at a time");
    bus.close().await;
    Ok(())
}

pub(super) async fn order_by_key_has_one_consumer_at_a_time(scene: Scene) -> Verdict {
    const MESSAGES: usize = 50;
    let bus = scene.bus().await?;
    if !bus.capabilities().single_active_consumer {
        return Ok(());
    }
    let queue = scene.name("one-at-a-time");
    let [(one, mut first), (two, mut second), (three, mut third)] = [notes(), notes(), notes()];
    // In whichever order that is said.
    let like = |_| Queue::new("").message_ttl(Duration::from_secs(3600));
    let there = |it: Queue| it.existing().single_active_consumer();
    consume(&bus, &queue, content::<Text>(one)).ordered_by_key().queue(like).start().await?;
    consume(&bus, &queue, content::<Text>(two)).queue(like).ordered_by_key().start().await?;
    consume(&bus, &queue, content::<Text>(three)).ordered_by_key().queue(there).start().await?;
    let nobody = async |_: Text, _: Cx| Ok(());
    let unsaid = consume(&bus, &queue, nobody).queue(Queue::existing).ordered_by_key();
    let unsaid = unsaid.start().await;
    check!(matches!(unsaid, Err(Error::Unsupported { .. })), "{unsaid:?}");
    for number in 0..MESSAGES {
        bus.send(&queue, &Text(number.to_string())).await?;
    }
    first.texts(MESSAGES).await?;
    second.none().await?;
    third.none().await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn a_slow_consumer_holds_no_more_than_its_prefetch(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.queue(&bus, "competing").await?;
    let ((slow, mut slow_seen), release) = (notes(), Arc::new(Notify::new()));
    let held = Arc::clone(&release);
    let handler = move |text: Text, cx: Cx| {
        slow.note(text, cx);
        let held = Arc::clone(&held);
        async move {
            held.notified().await;
            Ok(())
        }
    };
    consume(&bus, &queue, handler).prefetch(1).start().await?;
    bus.send(&queue, &Text::from("held")).await?;
    slow_seen.next().await?;
    let (fast, mut fast_seen) = notes();
    consume(&bus, &queue, content::<Text>(fast)).prefetch(1).start().await?;
    for number in 0..20 {
        bus.send(&queue, &Text(number.to_string())).await?;
    }
    let texts = fast_seen.texts(20).await?;
    let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    check!(texts == expected, "the other one got {texts:?}");
    release.notify_one();
    slow_seen.none().await?;
    bus.close().await;
    Ok(())
}

/// Consumes without a handler.
async fn subscribe(bus: &Bus, queue: &str) -> Result<Box<dyn Inlet>, BoxError> {
    let source = Source::Queue(Queue::new(queue));
    let subscription = Subscription { source, prefetch: 10, priority: 0 };
    Ok(bus.inner.transport.subscribe(subscription).await?)
}

/// The next so many messages.
async fn take(inlet: &mut dyn Inlet, count: usize) -> Result<Vec<Arc<Inbound>>, BoxError> {
    let mut batch = Vec::new();
    while batch.len() < count {
        timeout(Duration::from_secs(30), inlet.next(&mut batch)).await??;
    }
    Ok(batch)
}

fn texts(batch: &[Arc<Inbound>]) -> Vec<String> {
    let text = |it: &Arc<Inbound>| String::from_utf8_lossy(it.letter.body()).into_owned();
    batch.iter().map(text).collect()
}

pub(super) async fn what_was_not_settled_comes_again(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.queue(&bus, "unsettled").await?;
    for text in ["a", "b", "c"] {
        bus.send(&queue, &Text::from(text)).await?;
    }
    let mut inlet = subscribe(&bus, &queue).await?;
    let batch = take(&mut *inlet, 3).await?;
    check!(texts(&batch) == ["a", "b", "c"], "{:?} came", texts(&batch));
    check!(batch.iter().all(|it| !it.redelivered), "they came before");
    inlet.settler().ack(batch[1].token);
    inlet.settler().flush();
    drop(inlet);
    let mut inlet = subscribe(&bus, &queue).await?;
    let batch = take(&mut *inlet, 2).await?;
    check!(texts(&batch) == ["a", "c"], "{:?} came again", texts(&batch));
    check!(batch.iter().all(|it| it.redelivered), "they are not marked");
    for inbound in &batch {
        inlet.settler().ack(inbound.token);
    }
    inlet.settler().flush();
    inlet.stop().await;
    drop(inlet);
    until_waiting(&bus, &queue, 0).await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn what_is_released_comes_again(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.queue(&bus, "released").await?;
    for text in ["a", "b", "c"] {
        bus.send(&queue, &Text::from(text)).await?;
    }
    let mut inlet = subscribe(&bus, &queue).await?;
    let settler = inlet.settler();
    let batch = take(&mut *inlet, 3).await?;
    settler.ack(batch[0].token);
    settler.release(batch[1].token);
    settler.ack(batch[2].token);
    settler.flush();
    let again = take(&mut *inlet, 1).await?;
    check!(texts(&again) == ["b"], "{:?} came again", texts(&again));
    settler.ack(again[0].token);
    settler.flush();
    drop(inlet);
    sleep(Duration::from_millis(100)).await;
    until_waiting(&bus, &queue, 0).await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn what_is_settled_in_any_order_is_settled(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.queue(&bus, "any-order").await?;
    let mut inlet = subscribe(&bus, &queue).await?;
    let settler = inlet.settler();
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for text in ["a", "b", "c"] {
            bus.send(&queue, &Text::from(text)).await?;
        }
        let batch = take(&mut *inlet, 3).await?;
        check!(batch.iter().all(|it| !it.redelivered), "{order:?}: they came before");
        for index in order {
            settler.ack(batch[index].token);
        }
        settler.flush();
    }
    let more = timeout(Duration::from_millis(300), inlet.next(&mut Vec::new())).await;
    check!(more.is_err(), "something came again");
    drop(inlet);
    sleep(Duration::from_millis(100)).await;
    until_waiting(&bus, &queue, 0).await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn important_messages_come_first(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    if bus.capabilities().priorities_of(&Queue::default()) < 5 {
        return Ok(());
    }
    let queue = scene.name("priorities");
    bus.ensure(Topology::new().queue(Queue::new(&queue).priorities(5))).await?;
    for (text, priority) in [("a", 1), ("b", 5), ("c", 3), ("d", 5)] {
        bus.send(&queue, &Text::from(text)).priority(priority).await?;
    }
    let (notes, mut seen) = notes();
    consume(&bus, &queue, content::<Text>(notes)).queue(|it| it.priorities(5)).start().await?;
    let texts = seen.texts(4).await?;
    check!(texts == ["b", "d", "c", "a"], "they came as {texts:?}");
    bus.close().await;
    Ok(())
}
