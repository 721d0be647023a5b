//! `leveret dead`: dead letters of a program with the toolkit, seen and treated from a shell.

use crate::amqp::{connect, delete};
use crate::broker::Broker;
use leveret::{Bus, Cx, Failure, Message, Permanent, Raw, Retry};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::time::sleep;

const QUEUE: &str = "dead.shipping";
const OTHER: &str = "dead.shipping.by-hand";
const LIMIT: Duration = Duration::from_secs(30);

#[derive(serde::Serialize, serde::Deserialize, Message)]
#[message(name = "dead.order.paid", key = "id")]
struct OrderPaid {
    id: u32,
    weight: String,
}

/// A shell with a broker.
struct Shell {
    broker: Broker,
    runtime: Runtime,
}

impl Shell {
    fn open() -> Shell {
        let (broker, runtime) = (Broker::start(), Runtime::new().expect("a runtime"));
        runtime.block_on(async {
            let connection = connect(broker.url()).await;
            let channel = connection.create_channel().await.expect("a channel");
            for queue in [QUEUE, OTHER] {
                delete(&channel, queue).await;
                delete(&channel, &format!("{queue}.dead")).await;
            }
        });
        Shell { broker, runtime }
    }

    /// What `leveret dead` says, and its exit code.
    fn dead(&self, line: &str) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        command.arg("dead").args(line.split(' ')).env("LEVERET_URI", self.broker.url());
        let output = command.output().expect("run leveret");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().expect("an exit code"), text(&output.stdout) + &text(&output.stderr))
    }

    /// The dead letters as JSON.
    fn list(&self) -> Value {
        let (code, text) = self.dead(&format!("list {QUEUE} --json"));
        assert_eq!(code, 0, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    fn waiting(&self, queue: &str) -> u64 {
        self.runtime.block_on(async {
            let bus = Bus::connect(self.broker.url()).await.expect("connect");
            let status = bus.queue(queue).await.expect("ask for a queue");
            bus.close().await;
            status.map_or(0, |status| status.messages)
        })
    }
}

/// One order that a carrier refuses twice, one that makes no sense, and one that is none.
async fn die(url: &str) {
    let bus = Bus::connect(url).await.expect("connect");
    let ship = |order: OrderPaid, _: Cx| async move {
        order.weight.parse::<u32>().permanent()?;
        Err(Failure::transient("the carrier\u{1b}[2J does not answer"))
    };
    let retry = Retry::fixed(Duration::from_millis(20)).attempts(2);
    let consumer = bus.consume(QUEUE, ship).retry(retry).start().await.expect("consume");
    for (id, weight) in [(1, "250"), (2, "heavy")] {
        let order = OrderPaid { id, weight: weight.to_owned() };
        bus.publish(&order)
            .id(format!("order-{id}"))
            .header("shop", "north")
            .await
            .expect("publish");
    }
    bus.send(QUEUE, &Raw(vec![0xff; 20].into())).id("no-order").await.expect("send");
    let start = Instant::now();
    while bus.dead_letters(QUEUE).count().await.expect("count") < 3 {
        assert!(start.elapsed() < LIMIT, "no dead letters");
        sleep(Duration::from_millis(10)).await;
    }
    consumer.stop(LIMIT).await;
    bus.close().await;
}

#[test]
fn dead_letters_are_seen_sent_back_and_discarded() {
    let shell = Shell::open();
    shell.runtime.block_on(die(shell.broker.url()));

    let (code, text) = shell.dead(&format!("list {QUEUE}"));
    assert_eq!(code, 0, "{text}");
    for part in [
        "3 in \"dead.shipping.dead\"\n",
        "       1  core::num::error::ParseIntError\n",
        "\norder-1\n    since 20",
        ", attempts 2: no attempts left\n",
        ": the carrier\\u{1b}[2J does not answer\n",
        ", attempts 1: permanent failure\n",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let (_, short) = shell.dead(&format!("list {QUEUE}.dead -n 1"));
    assert!(short.starts_with("3 in") && short.matches(" since ").count() == 1, "{short}");
    let list = shell.list();
    assert_eq!((&list["count"], list["kinds"].as_array().unwrap().len()), (&3.into(), 3));
    let letters = list["letters"].as_array().unwrap();
    let first = letters.iter().find(|letter| letter["id"] == "order-1").unwrap();
    assert_eq!((&first["attempts"], &first["subject"]), (&2.into(), &"dead.order.paid".into()));

    let (code, text) = shell.dead(&format!("show {QUEUE} order-1"));
    assert_eq!(code, 0, "{text}");
    for part in [
        "exchange       events\n",
        "\nkey            1\n",
        "\n    shop: north\n",
        ", attempt 1: ",
        ", attempt 2: ",
        "{\"id\":1,\"weight\":\"250\"}\n",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let (_, text) = shell.dead(&format!("show {QUEUE} no-order"));
    assert!(text.contains("00000010  ff ff ff ff    "), "{text}");
    let (code, text) = shell.dead(&format!("show {QUEUE} order-9"));
    assert_eq!((code, text.as_str()), (1, "leveret: none of them has the id \"order-9\"\n"));

    let (code, text) = shell.dead(&format!("redrive {QUEUE} --error carrier --rate 1000"));
    assert_eq!((code, text.as_str()), (0, "1 sent back, 2 kept\n"));
    assert_eq!((shell.waiting(QUEUE), &shell.list()["count"]), (1, &2.into()));
    let (code, text) = shell.dead(&format!("redrive {QUEUE} --id order-2 --to {OTHER}"));
    assert!(code == 2 && text.contains("leads to no queue"), "{code}: {text}");
    let (code, text) = shell.dead(&format!("redrive {QUEUE} --id order-2 --to {QUEUE}"));
    assert_eq!((code, text.as_str()), (0, "1 sent to \"dead.shipping\", 1 kept\n"));

    let (code, text) = shell.dead(&format!("discard {QUEUE}"));
    assert!(code == 2 && text.contains("--all"), "{code}: {text}");
    let (code, _) = shell.dead(&format!("discard {QUEUE} --all --kind x"));
    assert_eq!(code, 2);
    let (code, text) = shell.dead(&format!("discard {QUEUE} --kind ParseInt"));
    assert!(code == 1 && text.contains("1 are there"), "{code}: {text}");
    let (code, text) = shell.dead(&format!("discard {QUEUE} --all"));
    assert_eq!((code, text.as_str()), (0, "1 discarded, 0 kept\n"));
    let (code, text) = shell.dead(&format!("list {QUEUE}"));
    assert_eq!((code, text.as_str()), (0, "0 in \"dead.shipping.dead\"\n"));
}

#[test]
fn what_cannot_be_asked_is_said() {
    let shell = Shell::open();
    let (code, text) = shell.dead("list dead.nobody");
    assert!(code == 1 && text.contains("no queue is called \"dead.nobody.dead\""), "{text}");
    let (code, text) = shell.dead("list -u amqp://guest:hunter2@127.0.0.1:1 shipping");
    assert!(code == 2 && text.contains("no connection to 127.0.0.1:1"), "{code}: {text}");
    let (code, text) = shell.dead("list -u http://hunter2@x shipping");
    assert!(code == 2 && !text.contains("hunter2"), "{code}: {text}");
}
