//! What a consumer does around its handler.

use std::time::Duration;

use tokio::time::Instant;

use super::scene::{Shared, consume, content, delay, notes, until};
use super::{Scene, Verdict};
use crate::breaker::Breaker;
use crate::cx::Cx;
use crate::dedup::Dedup;
use crate::failure::Failure;
use crate::health::ConsumerState;
use crate::message::Text;
use crate::retry::Retry;

pub(super) async fn what_was_handled_is_not_handled_again(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.name("twice");
    let (notes, mut seen) = notes();
    consume(&bus, &queue, content::<Text>(notes))
        .dedup(Dedup::in_memory(1_000, Duration::from_secs(3600)))
        .concurrency(4)
        .start()
        .await?;
    for id in ["a", "b", "a", "a", "c", "b"] {
        bus.send(&queue, &Text::from(id)).id(id).await?;
    }
    let mut texts = seen.texts(3).await?;
    texts.sort_unstable();
    check!(texts == ["a", "b", "c"], "{texts:?} were handled");
    seen.none().await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn a_rate_is_kept(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.queue(&bus, "rate").await?;
    for number in 0..21 {
        bus.send(&queue, &Text(number.to_string())).await?;
    }
    let (notes, mut seen) = notes();
    let start = Instant::now();
    consume(&bus, &queue, content::<Text>(notes)).rate(50, Duration::from_secs(1)).start().await?;
    seen.texts(21).await?;
    // Timers that were late may be made up for by a moment.
    let taken = start.elapsed();
    check!(taken >= Duration::from_millis(375), "50 a second, and 21 took {taken:?}");
    bus.close().await;
    Ok(())
}

pub(super) async fn a_breaker_pauses_and_tries_one(scene: Scene) -> Verdict {
    let pause = Duration::from_millis(500);
    let bus = scene.bus().await?;
    let queue = scene.name("breaker");
    let broken = Shared::<bool>::default();
    broken.with(|broken| *broken = true);
    let tried = Shared::<Vec<Instant>>::default();
    let (is_broken, noted) = (broken.clone(), tried.clone());
    let consumer = consume(&bus, &queue, move |_: Text, _: Cx| {
        noted.with(|noted| noted.push(Instant::now()));
        let result = match is_broken.with(|broken| *broken) {
            true => Err(Failure::transient("the database is gone")),
            false => Ok(()),
        };
        std::future::ready(result)
    })
    .retry(Retry::fixed(delay(&bus, Duration::from_millis(10))).attempts(20))
    .breaker(Breaker::new(3, 3, pause))
    .start()
    .await?;
    for number in 0..20 {
        bus.send(&queue, &Text(number.to_string())).await?;
    }
    let paused = || consumer.health().state == ConsumerState::Paused;
    until("a pause", async || paused()).await?;
    until("five tries", async || tried.with(|tried| tried.len() >= 5)).await?;
    let tries = tried.with(|tried| tried.clone());
    let apart: Vec<Duration> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    check!(apart[2..].iter().all(|it| *it >= pause), "messages were tried {apart:?} apart");
    broken.with(|broken| *broken = false);
    until("the end of the pause", async || !paused()).await?;
    until("all messages", async || consumer.health().handled == 20).await?;
    check!(bus.dead_letters(&queue).count().await? == 0, "there are dead letters");
    bus.close().await;
    Ok(())
}
