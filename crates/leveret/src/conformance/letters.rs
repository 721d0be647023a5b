//! What is written on a message, and in it, comes through.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::scene::{consume, content, notes, until_waiting};
use super::{Scene, Verdict};
use crate::cx::Cx;
use crate::error::PublishError;
use crate::message::{CodecError, Message, Payload, Raw, Text};
use crate::topology::{Exchange, Queue, Topology};

/// A message with a name and a key of its own.
struct Named(String);

impl Message for Named {
    const NAME: &'static str = "conformance.named";

    fn key(&self) -> Option<String> {
        Some("schlüssel".to_owned())
    }

    fn encode(&self) -> Result<Payload, CodecError> {
        Text(self.0.clone()).encode()
    }

    fn decode(payload: &Payload) -> Result<Self, CodecError> {
        Text::decode(payload).map(|text| Named(text.0))
    }
}

pub(super) async fn every_field_comes_through(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let (notes, mut seen) = notes();
    let subject = scene.name("subject");
    consume(&bus, &scene.name("fields"), content::<Named>(notes))
        .subjects([subject.clone()])
        .start()
        .await?;
    let receipt = bus
        .publish(&Named("Grüße, 世界".to_owned()))
        .subject(subject.clone())
        .header("a", "1")
        .header("unicode", "ünï ✓")
        .header("empty", "")
        .header("a", "2")
        .priority(7)
        .expires(Duration::from_secs(3600))
        .reply_to("answers", "question 1")
        .await?;
    let (Named(text), cx) = seen.next().await?;
    let letter = cx.letter();
    check!(text == "Grüße, 世界", "the text is {text}");
    check!(!receipt.id.is_empty() && letter.id == receipt.id, "the id is {}", letter.id);
    check!(letter.name == Named::NAME, "the name is {}", letter.name);
    check!(letter.key.as_deref() == Some("schlüssel"), "the key is {:?}", letter.key);
    let mut headers: Vec<_> = letter.headers.iter().collect();
    headers.sort_unstable();
    let expected = [("a", "2"), ("empty", ""), ("unicode", "ünï ✓")];
    check!(headers == expected, "the headers are {headers:?}");
    check!(letter.priority == Some(7), "the priority is {:?}", letter.priority);
    check!(letter.reply_to.as_deref() == Some("answers"), "reply to {:?}", letter.reply_to);
    let correlation = letter.correlation_id.as_deref();
    check!(correlation == Some("question 1"), "the correlation is {correlation:?}");
    let expires = letter.expires.unwrap_or_default();
    check!(
        expires > Duration::from_secs(3500) && expires <= Duration::from_secs(3600),
        "it expires after {expires:?}"
    );
    check!(letter.sent_at.is_some(), "it was never sent");
    check!(letter.payload.content_type == "text/plain", "{}", letter.payload.content_type);
    check!(cx.subject() == subject, "the subject is {}", cx.subject());
    check!(!letter.transient, "it is transient");
    check!(cx.attempt() == 1 && !cx.is_redelivered(), "it came before");
    let empty = Named(String::new());
    bus.publish(&empty).subject(subject).id("own").key("k").transient().await?;
    let (_, cx) = seen.next().await?;
    let (id, key, headers) = (cx.id(), cx.key(), cx.headers());
    check!((id, key) == ("own", Some("k")), "id and key are {id:?} and {key:?}");
    check!(headers.is_empty() && cx.reply_to().is_none(), "there are {headers:?}");
    bus.close().await;
    Ok(())
}

pub(super) async fn bodies_of_any_size_come_through(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let (notes, mut seen) = notes();
    let queue = scene.name("bodies");
    consume(&bus, &queue, content::<Raw>(notes)).start().await?;
    for size in [0, 1, 1_000, 131_064, 131_065, 1024 * 1024] {
        let body: Vec<u8> = (0..size).map(|at: usize| (at % 251) as u8).collect();
        bus.send(&queue, &Raw(Bytes::from(body.clone()))).await?;
        let (came, _) = seen.next().await?;
        check!(came.0 == body, "a body of {size} bytes came with {}", came.0.len());
    }
    bus.close().await;
    Ok(())
}

pub(super) async fn a_body_that_is_too_large_is_refused(scene: Scene) -> Verdict {
    /// What a test is ready to make, in bytes.
    const AFFORDABLE: u64 = 64 * 1024 * 1024;
    let bus = scene.bus().await?;
    let queue = scene.queue(&bus, "large").await?;
    let most = bus.capabilities().body_bytes_max;
    if most < AFFORDABLE {
        let large = Raw(Bytes::from(vec![0; usize::try_from(most)? + 1]));
        let result = bus.send(&queue, &large).await;
        let expected = matches!(
            result,
            Err(PublishError::TooLarge { size, limit }) if size == most + 1 && limit == most
        );
        check!(expected, "{result:?}");
    }
    bus.send(&queue, &Text::from("small")).await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn what_has_expired_is_not_delivered(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.queue(&bus, "expiring").await?;
    bus.send(&queue, &Text::from("soon gone")).expires(Duration::from_millis(50)).await?;
    bus.send(&queue, &Text::from("kept")).expires(Duration::from_secs(600)).await?;
    sleep(Duration::from_millis(200)).await;
    let (notes, mut seen) = notes();
    consume(&bus, &queue, content::<Text>(notes)).start().await?;
    let texts = seen.texts(1).await?;
    check!(texts == ["kept"], "{texts:?} came");
    seen.none().await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn what_has_expired_waits_where_its_queue_says(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let names = [scene.name("offers"), scene.name("other-offers"), scene.name("late")];
    let [offers, others, late] = &names;
    // The second one finds it there.
    for name in [offers, others] {
        let ttl = Duration::from_millis(50);
        let queue = Queue::new(name).message_ttl(ttl).dead_letter_queue(late);
        bus.ensure(Topology::new().queue(queue)).await?;
        bus.send(name, &Text::from("an offer")).await?;
    }
    until_waiting(&bus, late, 2).await?;
    // It may be like anything, if that is said.
    let dead = Queue::new(scene.name("own")).message_ttl(Duration::from_secs(600));
    let queue = Queue::new(scene.name("its")).dead_letter_queue(&dead.name);
    bus.ensure(Topology::new().queue(queue.clone()).queue(dead.clone())).await?;
    bus.ensure(Topology::new().queue(queue)).await?;
    bus.ensure(Topology::new().queue(dead)).await?;
    // So it is with a queue that only a consumer has.
    let missed = scene.name("missed");
    let exchange = Exchange::topic(scene.name("news"));
    let stuck = async |_: Text, _: Cx| std::future::pending().await;
    let like =
        |queue: Queue| queue.message_ttl(Duration::from_millis(50)).dead_letter_queue(&missed);
    let news = bus.consume(&scene.name("reader"), stuck).exchange(exchange.clone());
    news.subjects(["news"]).own_queue().prefetch(1).queue(like).start().await?;
    let text = Text::from("news");
    for _ in 0..2 {
        bus.publish(&text).exchange(exchange.clone()).subject("news").await?;
    }
    until_waiting(&bus, &missed, 1).await?;
    bus.close().await;
    Ok(())
}
