//! Messages that are put off: never early, and not much late.

use std::time::Duration;

use tokio::time::Instant;

use super::scene::{consume, content, notes};
use super::{Scene, Verdict};
use crate::error::PublishError;
use crate::message::Text;
use crate::retry::Retry;

/// How late a message may be: a busy machine is no fault of the transport's.
const LATE: Duration = Duration::from_secs(5);

pub(super) async fn a_message_to_a_queue_can_be_put_off(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    if bus.capabilities().delay_max.is_none() {
        return Ok(());
    }
    let (notes, mut seen) = notes();
    let queue = scene.name("queue");
    consume(&bus, &queue, content::<Text>(notes)).start().await?;
    for milliseconds in [1, 100, 333, 1024] {
        let (delay, start) = (Duration::from_millis(milliseconds), Instant::now());
        let later = Text::from("later");
        let receipt = bus.send(&queue, &later).header("h", "1").key("k").delay(delay).await?;
        let (text, cx, at) = seen.next_at().await?;
        let taken = at - start;
        check!(taken >= delay && taken < delay + LATE, "{delay:?} took {taken:?}");
        check!(text.0 == "later" && cx.id() == receipt.id, "{cx:?} came");
        check!(cx.key() == Some("k"), "the key is {:?}", cx.key());
        let headers: Vec<_> = cx.headers().iter().collect();
        check!(headers == [("h", "1")], "the headers are {headers:?}");
    }
    bus.close().await;
    Ok(())
}

pub(super) async fn a_message_to_a_subject_can_be_put_off(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    if bus.capabilities().delay_max.is_none() {
        return Ok(());
    }
    let subject = scene.name("subject");
    let ((one, mut one_seen), (other, mut other_seen)) = (notes(), notes());
    let consumer = consume(&bus, &scene.name("one"), content::<Text>(one));
    consumer.subjects([subject.clone()]).start().await?;
    let (delay, start) = (Duration::from_secs(1), Instant::now());
    bus.publish(&Text::from("later")).subject(subject.clone()).delay(delay).await?;
    // Who listens by the time it is due gets it too.
    let consumer = consume(&bus, &scene.name("other"), content::<Text>(other)).retry(Retry::none());
    consumer.subjects([subject.clone()]).start().await?;
    for seen in [&mut one_seen, &mut other_seen] {
        let (_, cx, at) = seen.next_at().await?;
        let taken = at - start;
        check!(taken >= delay && taken < delay + LATE, "{delay:?} took {taken:?}");
        check!(cx.subject() == subject, "the subject is {}", cx.subject());
        seen.none().await?;
    }
    bus.close().await;
    Ok(())
}

pub(super) async fn messages_come_when_they_are_due(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    if bus.capabilities().delay_max.is_none() {
        return Ok(());
    }
    let (notes, mut seen) = notes();
    let queue = scene.name("due");
    consume(&bus, &queue, content::<Text>(notes)).start().await?;
    // What a delay needs is made before.
    bus.send(&queue, &Text::from("first")).delay(Duration::from_millis(3_000)).await?;
    let start = Instant::now();
    for milliseconds in [1_200, 800, 400, 0] {
        let delay = Duration::from_millis(milliseconds);
        bus.send(&queue, &Text(milliseconds.to_string())).delay(delay).await?;
    }
    // Later than the difference, one may be late and still not overtake another.
    if start.elapsed() < Duration::from_millis(200) {
        let texts = seen.texts(5).await?;
        check!(texts == ["0", "400", "800", "1200", "first"], "they came as {texts:?}");
    }
    bus.close().await;
    Ok(())
}

pub(super) async fn a_message_to_nowhere_cannot_be_put_off(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let capabilities = bus.capabilities();
    if capabilities.delay_max.is_none() || !capabilities.unroutable {
        return Ok(());
    }
    let delay = Duration::from_millis(100);
    let result = bus.send(&scene.name("nowhere"), &Text::from("later")).delay(delay).await;
    check!(matches!(result, Err(PublishError::Topology(_))), "{result:?}");
    bus.close().await;
    Ok(())
}

pub(super) async fn what_is_put_off_cannot_expire(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    if bus.capabilities().delay_max.is_none() {
        return Ok(());
    }
    let queue = scene.queue(&bus, "both").await?;
    let later = Text::from("later");
    let both = bus.send(&queue, &later).delay(Duration::from_millis(500));
    let result = both.expires(Duration::from_millis(50)).await;
    check!(matches!(result, Err(PublishError::Invalid(_))), "{result:?}");
    bus.close().await;
    Ok(())
}

pub(super) async fn a_delay_that_is_too_long_is_an_error(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.queue(&bus, "long").await?;
    let longest = bus.capabilities().delay_max.unwrap_or_default();
    let delay = longest.saturating_add(Duration::from_secs(1));
    let result = bus.send(&queue, &Text::from("later")).delay(delay).await;
    check!(matches!(result, Err(PublishError::Invalid(_))), "{result:?}");
    bus.close().await;
    Ok(())
}
