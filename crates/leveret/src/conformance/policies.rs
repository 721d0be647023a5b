//! What a consumer does around its handler.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tower_layer::layer_fn;
use tower_service::Service;

use super::scene::{Shared, consume, content, delay, notes, until};
use super::{Scene, Verdict};
use crate::breaker::Breaker;
use crate::cx::Cx;
use crate::dedup::Dedup;
use crate::failure::Failure;
use crate::health::ConsumerState;
use crate::message::Text;
use crate::retry::Retry;

pub(super) async fn batches_are_handled_together_and_fail_apart(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.queue(&bus, "batches").await?;
    for text in ["1", "2", "bad", "4", "5", "6"] {
        bus.send(&queue, &Text::from(text)).await?;
    }
    let sizes = Shared::<Vec<usize>>::default();
    let seen = sizes.clone();
    let handler = move |batch: Vec<(Text, Cx)>| {
        seen.with(|sizes| sizes.push(batch.len()));
        let bad = batch.iter().any(|(text, _)| text.0 == "bad");
        let result = if bad { Err(Failure::permanent("it is bad")) } else { Ok(()) };
        std::future::ready(result)
    };
    let within = Duration::from_secs(60);
    let consumer = bus.consume_batches(&queue, 3, within, handler);
    let consumer = consumer.retry(Retry::none()).start().await?;
    until("all batches", async || consumer.health().handled == 5).await?;
    let sizes = sizes.with(|sizes| sizes.clone());
    check!(sizes == [3, 1, 1, 1, 3], "there were batches of {sizes:?}");
    until("a dead letter", async || {
        bus.dead_letters(&queue).count().await.is_ok_and(|count| count == 1)
    })
    .await?;
    let dead = bus.dead_letters(&queue).list(1).await?;
    check!(dead[0].message::<Text>()?.0 == "bad", "{:?} is dead", dead[0]);
    bus.close().await;
    Ok(())
}

/// Writes down when a service is called.
#[derive(Clone)]
struct Noted<S> {
    name: &'static str,
    calls: Shared<Vec<&'static str>>,
    service: S,
}

impl<R, S: Service<R>> Service<R> for Noted<S>
where
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        self.calls.with(|calls| calls.push(self.name));
        Box::pin(self.service.call(request))
    }
}

pub(super) async fn layers_are_around_each_try_and_around_all_of_it(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.name("layers");
    let calls = Shared::<Vec<&'static str>>::default();
    let handler = async |_: Text, cx: Cx| match cx.attempt() {
        1 => Err(Failure::transient("not yet")),
        _ => Ok(()),
    };
    let (inner, outer) = (calls.clone(), calls.clone());
    let consumer = bus
        .consume(&queue, handler)
        .inner(layer_fn(|service| Noted { name: "inner", calls: inner.clone(), service }))
        .outer(layer_fn(move |service| Noted { name: "outer", calls: outer.clone(), service }))
        .retry(Retry::fixed(delay(&bus, Duration::from_millis(10))).at_once(2))
        .start()
        .await?;
    bus.send(&queue, &Text::from("hi")).await?;
    until("the second attempt", async || consumer.health().handled == 1).await?;
    let calls = calls.with(|calls| calls.clone());
    check!(calls == ["outer", "inner", "inner", "outer", "inner"], "it was {calls:?}");
    bus.close().await;
    Ok(())
}

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
