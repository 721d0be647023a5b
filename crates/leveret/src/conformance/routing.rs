//! Who gets what.

use std::collections::BTreeSet;
use std::slice;

use super::scene::{Seen, consume, content, notes, until_waiting};
use super::{Scene, Verdict};
use crate::bus::Bus;
use crate::error::{Error, PublishError};
use crate::failure::BoxError;
use crate::message::Text;
use crate::retry::Retry;
use crate::topology::{Exchange, Match, Queue, Topology};

/// A consumer of some subjects, and what it gets.
async fn listen(
    bus: &Bus,
    queue: &str,
    subjects: &[String],
    own_queue: bool,
) -> Result<Seen, BoxError> {
    let (notes, seen) = notes();
    let consumer = consume(bus, queue, content::<Text>(notes)).subjects(subjects.to_vec());
    match own_queue {
        true => consumer.own_queue().retry(Retry::none()).start().await?,
        false => consumer.start().await?,
    };
    Ok(seen)
}

pub(super) async fn every_group_gets_an_event(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let subjects = [scene.name("event")];
    let mut one = listen(&bus, &scene.name("one"), &subjects, false).await?;
    let mut other = listen(&bus, &scene.name("other"), &subjects, false).await?;
    for number in 0..10 {
        bus.publish(&Text(number.to_string())).subject(subjects[0].clone()).await?;
    }
    let (one, other) = (one.texts(10).await?, other.texts(10).await?);
    check!(one == other, "{one:?} and {other:?}");
    bus.close().await;
    Ok(())
}

pub(super) async fn consumers_of_a_group_share_the_work(scene: Scene) -> Verdict {
    /// Several times what a consumer fetches ahead.
    const MESSAGES: usize = 200;
    let bus = scene.bus().await?;
    let (queue, subjects) = (scene.name("shared"), [scene.name("work")]);
    let mut one = listen(&bus, &queue, &subjects, false).await?;
    let mut other = listen(&bus, &queue, &subjects, false).await?;
    for number in 0..MESSAGES {
        bus.publish(&Text(number.to_string())).subject(subjects[0].clone()).await?;
    }
    let (mut came, mut shares) = (BTreeSet::new(), [0, 0]);
    while came.len() < MESSAGES {
        let (share, (text, _)) = tokio::select! {
            seen = one.next() => (0, seen?),
            seen = other.next() => (1, seen?),
        };
        shares[share] += 1;
        check!(came.insert(text.0.clone()), "{text:?} came twice");
    }
    one.none().await?;
    other.none().await?;
    check!(shares.iter().all(|share| *share >= MESSAGES / 10), "they share as {shares:?}");
    bus.close().await;
    Ok(())
}

pub(super) async fn every_consumer_with_a_queue_of_its_own_gets_all(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let (queue, subjects) = (scene.name("own"), [scene.name("news")]);
    let mut one = listen(&bus, &queue, &subjects, true).await?;
    let mut other = listen(&bus, &queue, &subjects, true).await?;
    for number in 0..10 {
        bus.publish(&Text(number.to_string())).subject(subjects[0].clone()).await?;
    }
    let (one, other) = (one.texts(10).await?, other.texts(10).await?);
    check!(one == other, "{one:?} and {other:?}");
    bus.close().await;
    Ok(())
}

pub(super) async fn subjects_may_be_patterns(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let name = |end: &str| scene.name(end);
    let mut word = listen(&bus, &name("word"), &[name("*.made")], false).await?;
    let mut all = listen(&bus, &name("all"), &[name("#")], false).await?;
    let mut two = listen(&bus, &name("two"), &[name("a.made"), name("b.gone")], false).await?;
    for subject in ["a.made", "b.made", "b.gone", "a.b.made"] {
        bus.publish(&Text::from(subject)).subject(name(subject)).await?;
    }
    let (word, all, two) = (word.texts(2).await?, all.texts(4).await?, two.texts(2).await?);
    check!(word == ["a.made", "b.made"], "*.made is {word:?}");
    check!(all == ["a.made", "b.made", "b.gone", "a.b.made"], "# is {all:?}");
    check!(two == ["a.made", "b.gone"], "two subjects are {two:?}");
    bus.close().await;
    Ok(())
}

pub(super) async fn headers_may_say_who_gets_what(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    if !bus.capabilities().headers {
        return Ok(());
    }
    let documents = Exchange::headers(scene.name("documents"));
    let (all, mut both) = notes();
    consume(&bus, &scene.name("both"), content::<Text>(all))
        .exchange(documents.clone())
        .headers(Match::all([("format", "pdf"), ("signed", "yes")]))
        .start()
        .await?;
    let (any, mut either) = notes();
    consume(&bus, &scene.name("either"), content::<Text>(any))
        .exchange(documents.clone())
        .headers(Match::any([("format", "pdf"), ("signed", "yes")]))
        .own_queue()
        .start()
        .await?;
    let queue = scene.name("unsigned");
    let topology = Topology::new().exchange(documents.clone()).queue(Queue::new(&queue));
    let unsigned = Match::all([("signed", "no")]);
    bus.ensure(topology.bind_where(documents.name.clone(), &queue, unsigned)).await?;
    for (format, signed) in [("pdf", "no"), ("ps", "yes"), ("ps", "no"), ("pdf", "yes")] {
        let text = Text(format!("{format} {signed}"));
        let publish = bus.publish(&text).exchange(documents.clone());
        publish.header("format", format).header("signed", signed).await?;
    }
    let (both_came, either_came) = (both.texts(1).await?, either.texts(3).await?);
    check!(both_came == ["pdf yes"], "all are {both_came:?}");
    check!(either_came == ["pdf no", "ps yes", "pdf yes"], "any are {either_came:?}");
    both.none().await?;
    either.none().await?;
    until_waiting(&bus, &queue, 2).await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn headers_are_for_an_exchange_that_looks_at_them(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let topics = bus.consume(&scene.name("topics"), content::<Text>(notes().0));
    let started = topics.headers(Match::all([("format", "pdf")])).start().await;
    let expected = matches!(started, Err(Error::Invalid(_) | Error::Unsupported { .. }));
    check!(expected, "the bus's exchange knows no headers: {started:?}");
    bus.close().await;
    Ok(())
}

pub(super) async fn what_is_sent_to_a_queue_goes_to_it_alone(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = scene.queue(&bus, "alone").await?;
    let mut others = listen(&bus, &scene.name("others"), slice::from_ref(&queue), false).await?;
    bus.send(&queue, &Text::from("for the queue")).await?;
    until_waiting(&bus, &queue, 1).await?;
    others.none().await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn a_message_that_nobody_gets_is_an_error(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    if bus.capabilities().unroutable {
        let subject = bus.publish(&Text::from("hi")).subject(scene.name("nobody")).await;
        check!(matches!(subject, Err(PublishError::Unroutable { .. })), "{subject:?}");
        let queue = bus.send(&scene.name("nowhere"), &Text::from("hi")).await;
        check!(matches!(queue, Err(PublishError::Unroutable { .. })), "{queue:?}");
    }
    let nameless = bus.publish(&Text::from("hi")).await;
    check!(matches!(nameless, Err(PublishError::Invalid(_))), "{nameless:?}");
    bus.close().await;
    Ok(())
}

pub(super) async fn an_optional_event_may_go_to_nobody(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let receipt = bus.publish(&Text::from("hi")).subject(scene.name("nobody")).optional().await?;
    check!(!receipt.id.is_empty(), "it has no id");
    bus.close().await;
    Ok(())
}
