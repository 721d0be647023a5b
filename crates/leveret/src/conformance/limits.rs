//! What there is no room for, and what is not as it should be.

use std::time::Duration;

use bytes::Bytes;

use super::scene::{consume, until_waiting};
use super::{Scene, Verdict};
use crate::cx::Cx;
use crate::error::{Error, PublishError, TopologyError};
use crate::message::{Raw, Text};
use crate::topology::{Exchange, Queue, Topology};

pub(super) async fn a_full_queue_refuses(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    if !bus.capabilities().messages_max {
        return Ok(());
    }
    let queue = scene.name("full");
    bus.ensure(Topology::new().queue(Queue::new(&queue).messages_max(3))).await?;
    for number in 0..3 {
        bus.send(&queue, &Text(number.to_string())).await?;
    }
    // Brokers may see a moment late that it is full.
    let mut refused = None;
    for _ in 0..3 {
        if let Err(error) = bus.send(&queue, &Text::from("too many")).await {
            refused = Some(error);
            break;
        }
    }
    let expected = matches!(&refused, Some(PublishError::Refused { target, .. })
        if target.contains(&queue));
    check!(expected, "{refused:?}");
    bus.close().await;
    Ok(())
}

pub(super) async fn a_full_queue_of_its_own_refuses(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    if !bus.capabilities().messages_max {
        return Ok(());
    }
    let subject = scene.name("news");
    let stuck = async |_: Text, _: Cx| std::future::pending().await;
    let consumer = consume(&bus, &scene.name("own"), stuck).subjects([subject.clone()]).own_queue();
    let consumer = consumer.queue(|it| it.messages_max(1)).prefetch(1).start().await?;
    let mut refused = None;
    for _ in 0..10 {
        if let Err(error) = bus.publish(&Text::from("news")).subject(subject.clone()).await {
            refused = Some(error);
            break;
        }
    }
    check!(matches!(refused, Some(PublishError::Refused { .. })), "{refused:?}");
    consumer.stop(Duration::ZERO).await;
    bus.close().await;
    Ok(())
}

pub(super) async fn what_should_be_there_and_is_not_is_an_error(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    let queue = Queue::new(scene.name("missing")).existing();
    let result = bus.ensure(Topology::new().queue(queue.clone())).await;
    check!(matches!(result, Err(Error::Topology(TopologyError::Missing { .. }))), "{result:?}");
    let handler = async |_: Text, _: Cx| Ok(());
    let started = consume(&bus, &queue.name, handler).queue(|it| it.existing()).start().await;
    check!(started.is_err(), "it consumes a queue that is not there");
    let exchange = Exchange::topic(scene.name("no-exchange")).existing();
    let result = bus.ensure(Topology::new().exchange(exchange)).await;
    check!(matches!(result, Err(Error::Topology(TopologyError::Missing { .. }))), "{result:?}");
    check!(bus.queue(&queue.name).await?.is_none(), "now it is there");
    // One that is there is taken as it is.
    let there = scene.queue(&bus, "there").await?;
    bus.ensure(Topology::new().queue(Queue::new(&there).messages_max(5).existing())).await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn a_declaration_that_differs_is_an_error(scene: Scene) -> Verdict {
    let bus = scene.bus().await?;
    if !bus.capabilities().messages_max {
        return Ok(());
    }
    let queue = scene.queue(&bus, "differs").await?;
    let other = Queue::new(&queue).messages_max(5);
    let names = [scene.name("before"), scene.name("behind")];
    let [before, behind] = names.each_ref().map(Queue::new);
    let topology = Topology::new().queue(before).queue(other).queue(behind);
    let Err(error) = bus.ensure(topology).await else {
        return Err("it may differ".into());
    };
    let differs = matches!(&error, Error::Topology(TopologyError::Differs { what, .. })
        if what.contains(&queue));
    check!(differs && error.to_string().contains("existing()"), "{error}");
    check!(bus.queue(&names[0]).await?.is_some(), "what came before it is not there");
    // What went wrong is not tried again, and does not keep other things from being made.
    scene.queue(&bus, "another").await?;
    bus.send(&queue, &Text::from("x")).await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn a_window_limits_what_is_unconfirmed(scene: Scene) -> Verdict {
    let bus = scene.builder().window(4, 1024 * 1024).connect().await?;
    let queue = scene.queue(&bus, "window").await?;
    let (mut tickets, mut most) = (Vec::new(), 0);
    for number in 0..200 {
        tickets.push(bus.send(&queue, &Text(number.to_string())).pipelined().await?);
        most = most.max(bus.health().unconfirmed);
    }
    check!((1..=4).contains(&most), "{most} were unconfirmed at a time");
    for ticket in tickets {
        ticket.await?;
    }
    check!(bus.health().unconfirmed == 0, "{} are", bus.health().unconfirmed);
    until_waiting(&bus, &queue, 200).await?;
    bus.close().await;
    Ok(())
}

pub(super) async fn a_message_larger_than_the_window_goes_alone(scene: Scene) -> Verdict {
    let bus = scene.builder().window(100, 1_000).connect().await?;
    let queue = scene.queue(&bus, "alone").await?;
    let large = Raw(Bytes::from(vec![0; 100_000]));
    let mut tickets = Vec::new();
    for _ in 0..10 {
        tickets.push(bus.send(&queue, &large).pipelined().await?);
        check!(bus.health().unconfirmed <= 1, "{} are unconfirmed", bus.health().unconfirmed);
    }
    for ticket in tickets {
        ticket.await?;
    }
    until_waiting(&bus, &queue, 10).await?;
    bus.close().await;
    Ok(())
}
