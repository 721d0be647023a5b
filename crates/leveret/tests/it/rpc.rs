//! Questions and answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use leveret::{Bus, CallError, Cx, Fault, Json, Message, PublishError, Queue, Text, Topology};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::{Place, on_every_transport, until, within};

#[derive(Debug, Serialize, Deserialize, Message)]
#[message(name = "stock.ask")]
struct Ask {
    item: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "stock.level")]
struct Level {
    item: String,
    pieces: u32,
}

fn ask(item: &str) -> Ask {
    Ask { item: item.to_owned() }
}

/// A service that knows carrots and fails in every way there is.
async fn stock(bus: &Bus) -> leveret::Consumer {
    let stock = async |ask: Ask, cx: Cx| match ask.item.as_str() {
        "carrot" => Ok(Level { item: ask.item, pieces: 7 }),
        "header" => {
            let pieces = cx.headers().get("pieces").unwrap_or("0").parse()?;
            Ok(Level { item: ask.item, pieces })
        }
        "panic" => panic!("the shelf fell over"),
        "slow" => {
            sleep(Duration::from_secs(3600)).await;
            Ok(Level { item: ask.item, pieces: 1 })
        }
        other => Err(Fault::new("stock.unknown", format!("what is a {other}?"))),
    };
    let service = bus.serve::<Ask, Level, _>("stock", stock).concurrency(4);
    service.timeout(Duration::from_millis(500)).start().await.unwrap()
}

async fn fault(bus: &Bus, item: &str) -> Fault {
    match bus.call::<_, Level>("stock", &ask(item)).await.unwrap_err() {
        CallError::Fault(fault) => fault,
        other => panic!("{other}"),
    }
}

async fn a_question_is_answered_or_gets_a_fault(bus: Bus) {
    let _stock = stock(&bus).await;
    let level: Level = bus.call("stock", &ask("carrot")).await.unwrap();
    assert_eq!(level, Level { item: "carrot".to_owned(), pieces: 7 });
    let level: Level = bus.call("stock", &ask("header")).header("pieces", "12").await.unwrap();
    assert_eq!(level.pieces, 12);

    let unknown = Fault::new("stock.unknown", "what is a hare?");
    assert_eq!(fault(&bus, "hare").await, unknown);
    assert_eq!(fault(&bus, "panic").await.kind, "panic");
    let slow = fault(&bus, "slow").await;
    assert_eq!((slow.kind.as_str(), slow.retryable), ("timeout", true));
    let parse = bus.call::<_, Level>("stock", &ask("header")).header("pieces", "some").await;
    let Err(CallError::Fault(parse)) = parse else { panic!("{parse:?}") };
    assert_eq!((parse.kind.as_str(), parse.retryable), ("core::num::error::ParseIntError", true));
    let unreadable = bus.call::<_, Level>("stock", &Text::from("no JSON")).await;
    let Err(CallError::Fault(unreadable)) = unreadable else { panic!("{unreadable:?}") };
    assert_eq!((unreadable.kind.as_str(), unreadable.retryable), ("codec", false));
    let wrong = bus.call::<_, Json<u32>>("stock", &ask("carrot")).await;
    assert!(matches!(wrong, Err(CallError::Codec { .. })), "{wrong:?}");

    let stats = bus.stats();
    assert_eq!((stats.answered, stats.faults, stats.late_answers), (3, 5, 0));
    assert!(stats.to_string().contains("leveret_bus_questions_total{result=\"fault\"} 5"));
    assert_eq!(bus.queue("stock.dead").await.unwrap(), None, "faults are no dead letters");
    bus.close().await;
}

async fn a_service_that_does_not_exist_is_an_error_at_once(bus: Bus) {
    let asked = bus.call::<_, Level>("nowhere", &ask("carrot")).await;
    let Err(CallError::Publish(error @ PublishError::Unroutable { .. })) = asked else {
        panic!("{asked:?}")
    };
    assert!(error.to_string().contains("nowhere"), "{error}");
    bus.close().await;
    let asked = bus.call::<_, Level>("stock", &ask("carrot")).await;
    assert!(matches!(asked, Err(CallError::Publish(_) | CallError::Replies(_))), "{asked:?}");
}

async fn after_its_deadline_a_question_is_not_handled(bus: Bus) {
    let queue = Topology::new().queue(Queue::new("slow"));
    bus.ensure(queue).await.unwrap();
    let start = Instant::now();
    let within = Duration::from_millis(200);
    let asked = bus.call::<_, Text>("slow", &Text::from("?")).within(within).await;
    let Err(CallError::Timeout { taken: true, .. }) = asked else { panic!("{asked:?}") };
    assert!(start.elapsed() >= within);
    until(async || bus.queue("slow").await.unwrap().unwrap().messages == 0).await;

    // Those that were fetched before and come too late are skipped.
    let handled = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&handled);
    let slow = move |question: Text, _: Cx| {
        let count = Arc::clone(&count);
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(600)).await;
            Ok(question)
        }
    };
    let service = bus.serve::<Text, Text, _>("slow", slow).start().await.unwrap();
    let (one, two) = (Text::from("one"), Text::from("two"));
    let ask = |question| bus.call::<_, Text>("slow", question).within(within);
    let (first, second) = tokio::join!(ask(&one), ask(&two));
    assert!(first.is_err() && second.is_err());
    until(async || bus.stats().expired_questions == 1 && bus.stats().late_answers == 1).await;
    assert_eq!(handled.load(Ordering::Relaxed), 1);
    assert_eq!(service.health().handled, 2);
    bus.close().await;
}

async fn what_nobody_asked_for_is_dropped(bus: Bus) {
    let (done, handled) = tokio::sync::mpsc::unbounded_channel();
    let note = move |text: Text, cx: Cx| {
        let done = done.clone();
        async move {
            done.send((text.0, cx.reply_to().is_some(), cx.time_left())).unwrap();
            Ok(Text::from("an answer"))
        }
    };
    bus.serve::<Text, Text, _>("note", note).start().await.unwrap();
    let mut handled = handled;
    bus.send("note", &Text::from("hi")).await.unwrap();
    assert_eq!(handled.recv().await.unwrap(), ("hi".to_owned(), false, None));
    bus.send("note", &Text::from("hello")).reply_to("gone", "1").await.unwrap();
    assert!(handled.recv().await.unwrap().1);
    until(async || bus.stats().unwanted_answers == 1).await;
    bus.close().await;
}

async fn many_are_asked_at_a_time(bus: Bus) {
    let double = async |Json(number): Json<u64>, _: Cx| {
        sleep(Duration::from_millis(number % 7)).await;
        Ok(Json(number * 2))
    };
    bus.serve::<Json<u64>, Json<u64>, _>("double", double).concurrency(8).start().await.unwrap();
    let asked = (0..200_u64).map(|number| {
        let bus = bus.clone();
        tokio::spawn(async move {
            let Json(answer) = bus.call::<_, Json<u64>>("double", &Json(number)).await.unwrap();
            assert_eq!(answer, number * 2);
        })
    });
    for asked in asked.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
    assert_eq!((bus.stats().answered, bus.stats().late_answers), (200, 0));
    bus.close().await;
}

on_every_transport!(
    a_question_is_answered_or_gets_a_fault,
    a_service_that_does_not_exist_is_an_error_at_once,
    after_its_deadline_a_question_is_not_handled,
    what_nobody_asked_for_is_dropped,
    many_are_asked_at_a_time,
);

/// The service has the question when the server dies, so its answer is lost with the queue it was
/// for: the question is asked again.
#[tokio::test]
async fn a_call_outlives_the_server() {
    let Place::Server(mut server) = Place::server() else { unreachable!() };
    let (caller, callee) = (Bus::connect(&server.url()).await, Bus::connect(&server.url()).await);
    let (caller, callee) = (caller.unwrap(), callee.unwrap());
    let (go, asked) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (wait, tell) = (Arc::clone(&go), Arc::clone(&asked));
    let stock = move |ask: Ask, _: Cx| {
        let (wait, tell) = (Arc::clone(&wait), Arc::clone(&tell));
        async move {
            tell.add_permits(1);
            wait.acquire().await?.forget();
            Ok(Level { item: ask.item, pieces: 7 })
        }
    };
    callee.serve::<Ask, Level, _>("stock", stock).start().await.unwrap();
    let question = ask("carrot");
    let call = async { caller.call::<_, Level>("stock", &question).await };
    let trouble = async {
        asked.acquire().await.unwrap().forget();
        server.kill();
        go.add_permits(1);
        sleep(Duration::from_millis(300)).await;
        server.start_again();
        go.add_permits(10);
    };
    let (level, ()) = within(async { tokio::join!(call, trouble) }).await;
    assert_eq!(level.unwrap().pieces, 7);
    caller.close().await;
    callee.close().await;
}

/// A question that waits when its server dies is not lost either.
#[tokio::test]
async fn a_call_outlives_the_server_without_a_service() {
    let Place::Server(mut server) = Place::server() else { unreachable!() };
    let bus = Bus::connect(&server.url()).await.unwrap();
    bus.ensure(Topology::new().queue(Queue::new("stock"))).await.unwrap();
    let question = ask("carrot");
    let call = async { bus.call::<_, Level>("stock", &question).await };
    let trouble = async {
        until(async || bus.queue("stock").await.unwrap().unwrap().messages == 1).await;
        server.kill();
        server.start_again();
        stock(&bus).await
    };
    let (level, _stock) = within(async { tokio::join!(call, trouble) }).await;
    assert_eq!(level.unwrap().pieces, 7);
    bus.close().await;
}
