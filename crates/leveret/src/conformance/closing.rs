//! Ends: nothing half done, nothing forgotten, nobody waiting for ever.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::scene::{Shared, consume, content, notes, until, until_waiting};
use super::{Scene, Verdict};
use crate::cx::Cx;
use crate::error::PublishError;
use crate::health::{ConnectionState, ConsumerState};
use crate::message::Text;

pub(super) async fn stopping_finishes_what_is_in_hand_and_gives_back_the_rest(
    scene: Scene,
) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.queue(&bus, "stopping").await?;
    for number in 0..10 {
        bus.send(&queue, &Text(number.to_string())).await?;
    }
    let ((notes, mut seen), done) = (notes(), Shared::<u64>::default());
    let counted = done.clone();
    let consumer = consume(&bus, &queue, move |text: Text, cx: Cx| {
        notes.note(text, cx);
        let counted = counted.clone();
        async move {
            sleep(Duration::from_millis(300)).await;
            counted.with(|count| *count += 1);
            Ok(())
        }
    })
    .concurrency(2)
    .start()
    .await?;
    seen.texts(2).await?;
    consumer.stop(Duration::from_secs(10)).await;
    check!(done.with(|done| *done) == 2, "{} were handled", done.with(|done| *done));
    check!(consumer.health().state == ConsumerState::Stopped, "{:?}", consumer.health());
    check!(seen.waiting() == 0, "{} more were begun", seen.waiting());
    until_waiting(&bus, &queue, 8).await?;
    let (notes, mut rest) = super::scene::notes();
    consume(&bus, &queue, content::<Text>(notes)).start().await?;
    // RabbitMQ's quorum queues do not always keep the order of what is given back.
    let mut texts = rest.texts(8).await?;
    texts.sort();
    check!(texts == ["2", "3", "4", "5", "6", "7", "8", "9"], "{texts:?} are left");
    bus.close().await;
    Ok(())
}

pub(super) async fn stopping_gives_up_a_handler_that_does_not_end(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.queue(&bus, "endless").await?;
    bus.send(&queue, &Text::from("x")).await?;
    let (notes, mut seen) = notes();
    let consumer = consume(&bus, &queue, move |text: Text, cx: Cx| {
        notes.note(text, cx);
        std::future::pending()
    })
    .start()
    .await?;
    seen.next().await?;
    let start = Instant::now();
    consumer.stop(Duration::from_millis(200)).await;
    let taken = start.elapsed();
    check!(taken >= Duration::from_millis(200), "it was given up after {taken:?}");
    check!(taken < Duration::from_secs(5), "stopping took {taken:?}");
    until_waiting(&bus, &queue, 1).await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn closing_waits_for_confirms(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.queue(&bus, "confirms").await?;
    let mut tickets = Vec::new();
    for number in 0..500 {
        tickets.push(bus.send(&queue, &Text(number.to_string())).pipelined().await?);
    }
    bus.close().await;
    for ticket in tickets {
        ticket.await?;
    }
    Ok(())
}

pub(super) async fn what_is_closed_says_so(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.queue(&bus, "closed").await?;
    let (notes, mut seen) = notes();
    let consumer = consume(&bus, &queue, content::<Text>(notes)).start().await?;
    bus.send(&queue, &Text::from("x")).await?;
    seen.next().await?;
    check!(bus.health().is_ok(), "{:?}", bus.health());
    bus.close().await;
    check!(consumer.health().state == ConsumerState::Stopped, "{:?}", consumer.health());
    let connections = bus.health().connections;
    let closed = connections.iter().all(|it| it.state == ConnectionState::Closed);
    check!(closed, "{connections:?}");
    // Whoever publishes now is told so at once.
    let send = async || timeout(Duration::from_secs(5), bus.send(&queue, &Text::from("x"))).await;
    until("an error", async || matches!(send().await, Ok(Err(PublishError::Closed)))).await?;
    let handler = async |_: Text, _: Cx| Ok(());
    let started = timeout(Duration::from_secs(5), consume(&bus, &queue, handler).start()).await;
    check!(matches!(started, Ok(Err(_))), "it consumes");
    Ok(())
}

pub(super) async fn a_bus_can_be_closed_by_several_at_once(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.name("several");
    let (notes, _seen) = notes();
    consume(&bus, &queue, content::<Text>(notes)).start().await?;
    bus.send(&queue, &Text::from("x")).await?;
    let other = bus.clone();
    let all = async { tokio::join!(bus.close(), other.close(), bus.close()) };
    timeout(Duration::from_secs(20), all).await?;
    timeout(Duration::from_secs(5), bus.close()).await?;
    Ok(())
}
