//! Messages that cannot be handled: tried again, and kept.

use std::time::Duration;

use tokio::time::sleep;

use super::scene::{Notes, Shared, consume, delay, notes, until_waiting};
use super::{Scene, Verdict};
use crate::bus::Bus;
use crate::cx::Cx;
use crate::dead_letters::{DeadLetter, Filter};
use crate::failure::{BoxError, Failure, Permanent};
use crate::json::Json;
use crate::message::Text;
use crate::retry::Retry;

/// Soon, so that tests are short.
fn soon(bus: &Bus) -> Retry {
    Retry::fixed(delay(bus, Duration::from_millis(50))).attempts(3).jitter(0.0)
}

/// A handler that notes what it is given, and never succeeds.
fn failing(
    notes: Notes,
    failure: impl Fn() -> Failure + Send + Sync + 'static,
) -> impl Fn(Text, Cx) -> std::future::Ready<Result<(), Failure>> {
    move |text, cx| {
        notes.note(text, cx);
        std::future::ready(Err(failure()))
    }
}

/// Waits for a queue's dead letters.
async fn dead(bus: &Bus, queue: &str, count: u64) -> Result<Vec<DeadLetter>, BoxError> {
    until_waiting(bus, &format!("{queue}.dead"), count).await?;
    let dead = bus.dead_letters(queue).list(100).await?;
    check!(dead.len() as u64 == count, "{} dead letters, not {count}", dead.len());
    Ok(dead)
}

pub(super) async fn what_keeps_failing_is_a_dead_letter_with_its_history(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let (notes, mut seen) = notes();
    let (queue, subject) = (scene.name("failing"), scene.name("subject"));
    let first = delay(&bus, Duration::from_millis(50));
    let retry = Retry::exponential(first).attempts(3).jitter(0.0);
    consume(&bus, &queue, failing(notes, || Failure::transient("never")))
        .subjects([subject.clone()])
        .retry(retry)
        .start()
        .await?;
    let text = Text::from("x");
    let sent = bus.publish(&text).subject(subject.clone()).key("k").header("h", "1");
    let receipt = sent.await?;
    let mut times = Vec::new();
    for attempt in 1..=3 {
        let (_, cx, at) = seen.next_at().await?;
        times.push(at);
        check!(cx.attempt() == attempt, "attempt {} and not {attempt}", cx.attempt());
        let same = cx.id() == receipt.id && cx.subject() == subject && cx.key() == Some("k");
        check!(same && cx.headers().get("h") == Some("1"), "{cx:?} came");
    }
    let apart = [times[1] - times[0], times[2] - times[1]];
    check!(apart[0] >= first && apart[1] >= 2 * first, "attempts are {apart:?} apart");
    let dead = &dead(&bus, &queue, 1).await?[0];
    let attempts: Vec<u32> = dead.failures.iter().map(|failed| failed.attempt).collect();
    check!(attempts == [1, 2, 3], "its attempts were {attempts:?}");
    check!(dead.failures.iter().all(|it| it.error == "never"), "it says {:?}", dead.failures);
    let found = (&*dead.queue, &*dead.subject, &*dead.reason, &*dead.letter.id);
    let expected = (&*queue, &*subject, "no attempts left", &*receipt.id);
    check!(found == expected, "it says {found:?}");
    check!(dead.message::<Text>()?.0 == "x" && dead.since.is_some(), "{dead:?}");
    // Looking did not take it away.
    until_waiting(&bus, &format!("{queue}.dead"), 1).await?;
    until_waiting(&bus, &queue, 0).await?;
    seen.none().await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn a_permanent_failure_is_a_dead_letter_at_once(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.name("permanent");
    let (notes, mut seen) = notes();
    consume(&bus, &queue, move |text: Text, cx: Cx| {
        notes.note(text.clone(), cx);
        std::future::ready(text.0.parse::<u32>().permanent().map(drop))
    })
    .retry(soon(&bus).at_once(3))
    .start()
    .await?;
    bus.send(&queue, &Text::from("no number")).await?;
    seen.next().await?;
    let dead = &dead(&bus, &queue, 1).await?[0];
    check!(dead.reason == "permanent failure" && dead.failures.len() == 1, "{dead:?}");
    check!(dead.failures[0].kind.contains("ParseIntError"), "{:?}", dead.failures);
    seen.none().await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn what_cannot_be_read_is_a_dead_letter_at_once(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.name("unreadable");
    let (notes, mut seen) = notes();
    let handler = super::scene::content::<Json<u64>>(notes);
    consume(&bus, &queue, handler).retry(soon(&bus)).start().await?;
    bus.send(&queue, &Text::from("{")).await?;
    bus.send(&queue, &Json(7_u64)).await?;
    check!(seen.next().await?.0.0 == 7, "something else came");
    let dead = &dead(&bus, &queue, 1).await?[0];
    check!(dead.letter.body() == "{" && dead.failures.len() == 1, "{dead:?}");
    bus.close().await;
    Ok(())
}

pub(super) async fn tries_at_once_are_one_attempt(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.name("at-once");
    let (notes, mut seen) = notes();
    let failed = Shared::<u32>::default();
    let counted = failed.clone();
    consume(&bus, &queue, move |text: Text, cx: Cx| {
        let tries = counted.with(|count| {
            *count += 1;
            *count
        });
        notes.note(text, cx);
        std::future::ready(if tries < 6 { Err(Failure::transient("no")) } else { Ok(()) })
    })
    .retry(soon(&bus).at_once(4))
    .start()
    .await?;
    bus.send(&queue, &Text::from("x")).await?;
    let mut attempts = Vec::new();
    for _ in 0..6 {
        attempts.push(seen.next().await?.1.attempt());
    }
    check!(attempts == [1, 1, 1, 1, 2, 2], "the attempts were {attempts:?}");
    seen.none().await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn a_failure_can_say_when_to_try_again(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    if bus.capabilities().delay_max.is_none() {
        return Ok(());
    }
    let queue = scene.name("after");
    let (notes, mut seen) = notes();
    let after = Duration::from_millis(400);
    let failure = move || Failure::retry_after(after, "busy");
    consume(&bus, &queue, failing(notes, failure)).retry(soon(&bus).attempts(2)).start().await?;
    bus.send(&queue, &Text::from("x")).await?;
    let (_, _, first) = seen.next_at().await?;
    let (_, _, second) = seen.next_at().await?;
    let taken = second - first;
    check!(taken >= after, "it came again after {taken:?}");
    dead(&bus, &queue, 1).await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn a_handler_that_panics_has_failed(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.name("panics");
    // In the future that it returns, and before it returns one.
    let handler = |text: Text, _: Cx| {
        assert!(text.0 != "at once", "at once");
        async move {
            assert!(text.0 != "later", "later");
            Ok(())
        }
    };
    consume(&bus, &queue, handler).retry(Retry::none()).start().await?;
    for text in ["at once", "later", "well"] {
        bus.send(&queue, &Text::from(text)).await?;
    }
    let dead = dead(&bus, &queue, 2).await?;
    for (dead, text) in dead.iter().zip(["at once", "later"]) {
        let failed = &dead.failures[0];
        let found = (&*failed.kind, &*failed.error);
        check!(found == ("panic", text), "it says {found:?}");
    }
    until_waiting(&bus, &queue, 0).await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn a_handler_that_takes_too_long_has_failed(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.name("slow");
    consume(&bus, &queue, async |_: Text, _: Cx| {
        sleep(Duration::from_secs(3600)).await;
        Ok(())
    })
    .timeout(Duration::from_millis(50))
    .retry(soon(&bus).attempts(2))
    .start()
    .await?;
    bus.send(&queue, &Text::from("x")).await?;
    let dead = &dead(&bus, &queue, 1).await?[0];
    let kinds: Vec<&str> = dead.failures.iter().map(|failed| &*failed.kind).collect();
    check!(kinds == ["timeout"; 2], "it says {kinds:?}");
    bus.close().await;
    Ok(())
}

/// A queue with dead letters, one for each text, and who sees what is handled from now on.
async fn buried(
    scene: &Scene,
    bus: &Bus,
    texts: &[&'static str],
) -> Result<(String, super::scene::Seen), BoxError> {
    let queue = scene.name("buried");
    let (notes, seen) = notes();
    consume(bus, &queue, move |text: Text, cx: Cx| {
        let result = match cx.headers().get("leveret-history") {
            None if text.0.starts_with('b') => Err(Failure::permanent("bad")),
            None => Err(Failure::permanent(std::fmt::Error)),
            Some(_) => Ok(()),
        };
        if result.is_ok() {
            notes.note(text, cx);
        }
        std::future::ready(result)
    })
    .start()
    .await?;
    for text in texts {
        bus.send(&queue, &Text::from(*text)).id(*text).await?;
    }
    dead(bus, &queue, texts.len() as u64).await?;
    Ok((queue, seen))
}

pub(super) async fn dead_letters_can_be_redriven(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let (queue, mut seen) = buried(&scene, &bus, &["a", "b"]).await?;
    let done = bus.dead_letters(&queue).redrive(&Filter::all(), 1_000).await?;
    check!((done.done, done.kept) == (2, 0), "{done:?}");
    for text in ["a", "b"] {
        let (came, cx) = seen.next().await?;
        check!((came.0.as_str(), cx.attempt()) == (text, 1), "{cx:?} came");
    }
    until_waiting(&bus, &format!("{queue}.dead"), 0).await?;
    let again = bus.dead_letters(&queue).redrive(&Filter::all(), 1_000).await?;
    check!((again.done, again.kept) == (0, 0), "{again:?}");
    let none = bus.dead_letters(&scene.name("unknown"));
    check!(none.count().await? == 0 && none.list(10).await?.is_empty(), "there are some");
    bus.close().await;
    Ok(())
}

pub(super) async fn a_filter_says_which_dead_letters(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let (queue, mut seen) = buried(&scene, &bus, &["a1", "a2", "b1", "b2"]).await?;
    let dead_letters = bus.dead_letters(&queue);
    for (filter, expected, kept) in [
        (Filter::all().ids(["a2", "unknown"]), "a2", 3),
        (Filter::all().error("bad").ids(["b2"]), "b2", 2),
        (Filter::all().error("bad"), "b1", 1),
        (Filter::all().kind("fmt::Error").subject(&queue), "a1", 0),
    ] {
        let done = dead_letters.redrive(&filter, 1_000).await?;
        check!((done.done, done.kept) == (1, kept), "{filter:?}: {done:?}");
        let texts = seen.texts(1).await?;
        check!(texts == [expected], "{filter:?}: {texts:?} came");
        until_waiting(&bus, &format!("{queue}.dead"), kept).await?;
    }
    bus.close().await;
    Ok(())
}

pub(super) async fn dead_letters_can_be_discarded(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let (queue, mut seen) = buried(&scene, &bus, &["a", "b", "c"]).await?;
    let done = bus.dead_letters(&queue).discard(&Filter::all().error("bad")).await?;
    check!((done.done, done.kept) == (1, 2), "{done:?}");
    until_waiting(&bus, &format!("{queue}.dead"), 2).await?;
    let left: Vec<String> =
        dead(&bus, &queue, 2).await?.iter().map(|dead| dead.letter.id.clone()).collect();
    check!(left == ["a", "c"], "{left:?} are left");
    seen.none().await?;
    bus.close().await;
    Ok(())
}
