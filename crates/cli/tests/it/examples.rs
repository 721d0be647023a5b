//! The programs under `examples/python`, run as their README says, and what other pages have in
//! Python.

use crate::amqp::{connect, delete, depth, persistent, soon};
use crate::broker::Broker;
use crate::program::Program;
use crate::python;
use lapin::message::Delivery;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation};
use leveret::{Bus, Cx, Failure, Json};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How long the shop lets a customer wait.
const ORDER_LIMIT_MS: f64 = 200.0;
/// How long the broker may take to move a message from queue to queue.
const MOVE_LIMIT: Duration = Duration::from_secs(30);
/// What the examples' JSON parser says of `not json`.
const NOT_JSON: &str = "JSONDecodeError('Expecting value: line 1 column 1 (char 0)')";

/// The examples, and a broker without anything of theirs.
struct Stage {
    interpreter: PathBuf,
    broker: Broker,
}

impl Stage {
    fn open(test: &str, queues: &[&str], exchanges: &[&str]) -> Option<Stage> {
        let interpreter = python::interpreter(test)?;
        let broker = Broker::start();
        block_on(async {
            let connection = connect(broker.url()).await;
            let channel = connection.create_channel().await.expect("a channel");
            for queue in queues {
                delete(&channel, queue).await;
            }
            for &exchange in exchanges {
                let options = ExchangeDeleteOptions::default();
                let gone = channel.exchange_delete(exchange.into(), options);
                soon("exchange.delete", gone).await.expect("delete the exchange");
            }
        });
        Some(Stage { interpreter, broker })
    }

    /// Starts a program that goes on until it is stopped.
    fn start(&self, path: &str, arguments: &[&str]) -> Program {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/python");
        let mut script = python::script(&self.interpreter, &self.broker, &examples.join(path));
        script.args(arguments);
        Program::start(script)
    }

    /// Runs a program to its end and gives what it prints.
    fn run(&self, path: &str, arguments: &[&str]) -> Vec<String> {
        self.start(path, arguments).finish()
    }

    fn depth(&self, queue: &str) -> u32 {
        block_on(async {
            let connection = connect(self.broker.url()).await;
            let channel = connection.create_channel().await.expect("a channel");
            depth(&channel, queue).await
        })
    }

    /// Returns when so many messages wait in the queue.
    fn wait_for_depth(&self, queue: &str, expected: u32) {
        let deadline = Instant::now() + MOVE_LIMIT;
        loop {
            let found = self.depth(queue);
            if found == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{found} messages in {queue}, not {expected}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Publishes what none of the examples would.
    fn publish(&self, exchange: &str, key: &str, body: &str, properties: BasicProperties) {
        block_on(async {
            let connection = connect(self.broker.url()).await;
            let channel = connection.create_channel().await.expect("a channel");
            let confirms = channel.confirm_select(ConfirmSelectOptions::default());
            soon("confirm.select", confirms).await.expect("confirms");
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let (exchange, key) = (exchange.into(), key.into());
            let sent = channel.basic_publish(exchange, key, options, body.as_bytes(), properties);
            let confirm = soon("basic.publish", sent).await.expect("publish");
            let confirm = soon("a confirm", confirm).await.expect("a confirm");
            assert!(matches!(confirm, Confirmation::Ack(None)), "{confirm:?}");
        });
    }

    /// Takes the oldest message out of a queue.
    fn take(&self, queue: &str) -> Delivery {
        block_on(async {
            let connection = connect(self.broker.url()).await;
            let channel = connection.create_channel().await.expect("a channel");
            let got = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true });
            soon("basic.get", got).await.expect("get").expect("a message").delivery
        })
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    Runtime::new().expect("a runtime").block_on(future)
}

/// The only snippet in Python on a page.
fn snippet(page: &str) -> &str {
    let (_, text) = page.split_once("```python\n").expect("a snippet");
    let (snippet, rest) = text.split_once("```").expect("its end");
    assert!(!rest.contains("```python"), "a second snippet is to be run, too");
    snippet
}

#[test]
fn ten_lines_of_pika() {
    let Some(stage) = Stage::open("ten_lines_of_pika", &["greetings"], &[]) else { return };
    let url = "amqp://guest:guest@localhost:5672/";
    let lines = snippet(include_str!("../../../../README.md"));
    assert!(lines.contains(url));
    let script = tempfile::NamedTempFile::new().expect("make a file");
    fs::write(&script, lines.replace(url, stage.broker.url())).expect("write it");
    assert_eq!(stage.run(&script.path().display().to_string(), &[]), ["hello"]);
}

#[test]
fn a_program_in_python_publishes_to_the_toolkit() {
    let test = "a_program_in_python_publishes_to_the_toolkit";
    let queues = ["python_orders", "python_orders.dead"];
    let Some(stage) = Stage::open(test, &queues, &["events"]) else { return };
    let (sender, orders) = std::sync::mpsc::channel();
    let runtime = Runtime::new().expect("a runtime");
    let bus = runtime.block_on(async {
        let bus = Bus::connect(stage.broker.url()).await.expect("a bus");
        let handler = move |Json(order): Json<Value>, cx: Cx| {
            let sent = sender.send((cx.subject().to_owned(), order));
            std::future::ready(sent.map_err(Failure::permanent))
        };
        let consumer = bus.consume("python_orders", handler).subjects(["order.created"]);
        consumer.start().await.expect("a consumer");
        bus
    });
    let script = tempfile::NamedTempFile::new().expect("make a file");
    let before = "import os, pika\n\
        connection = pika.BlockingConnection(pika.URLParameters(os.environ['AMQP_URL']))\n\
        channel = connection.channel()\n\
        channel.confirm_delivery()\n";
    let lines = snippet(include_str!("../../../../docs/guide/brokers.md"));
    fs::write(&script, format!("{before}{lines}connection.close()\n")).expect("write it");
    stage.run(&script.path().display().to_string(), &[]);
    let order = orders.recv_timeout(MOVE_LIMIT).expect("an order");
    assert_eq!(order, ("order.created".to_owned(), json!({"id": 456})));
    runtime.block_on(bus.close());
}

#[test]
fn hello_world() {
    let Some(stage) = Stage::open("hello_world", &["hello"], &[]) else { return };
    let waiting = "waiting for greetings, Ctrl+C ends";
    let receiver = stage.start("hello_world/receive.py", &[]);
    receiver.wait_for(waiting);
    assert_eq!(stage.run("hello_world/send.py", &[]), ["sent: Hello World!"]);
    receiver.wait_for("acknowledged");
    assert_eq!(receiver.interrupt(), [waiting, "received: Hello World!", "acknowledged"]);
    assert_eq!(stage.depth("hello"), 0);

    // The other way round: the queue keeps what nobody has fetched yet.
    stage.run("hello_world/send.py", &[]);
    stage.run("hello_world/send.py", &[]);
    assert_eq!(stage.depth("hello"), 2);
    let receiver = stage.start("hello_world/receive.py", &[]);
    receiver.wait_for_all("acknowledged", 2);
    let expected = ["received: Hello World!", "acknowledged"].repeat(2);
    assert_eq!(receiver.interrupt()[1..], expected);
    assert_eq!(stage.depth("hello"), 0);
}

#[test]
fn work_queue() {
    let Some(stage) = Stage::open("work_queue", &["task_queue"], &[]) else { return };
    let waiting = "waiting for tasks, Ctrl+C ends";
    let workers = [(); 2].map(|()| {
        let worker = stage.start("work_queue/worker.py", &[]);
        worker.wait_for(waiting);
        worker
    });
    // Tasks without a dot cost no time: idle workers get them in turn.
    for (n, task) in ["one", "two", "three", "four"].into_iter().enumerate() {
        let printed = stage.run("work_queue/new_task.py", &["Task", task]);
        assert_eq!(printed, [format!("queued: Task {task}")]);
        workers[n % 2].wait_for(&format!("finished: Task {task}"));
    }
    let log = |tasks: [&str; 2]| {
        let lines = tasks.map(|task| [format!("started: {task}"), format!("finished: {task}")]);
        [vec![waiting.to_owned()], lines.concat()].concat()
    };
    assert_eq!(workers[0].lines(), log(["Task one", "Task three"]));
    assert_eq!(workers[1].lines(), log(["Task two", "Task four"]));

    // A busy worker holds no further task; those go to the idle one.
    let slow = "Paint the door...";
    stage.run("work_queue/new_task.py", &[slow]);
    let [busy, idle] = Program::first_of(&format!("started: {slow}"), [&workers[0], &workers[1]]);
    for task in ["Quick one", "Quick two"] {
        stage.run("work_queue/new_task.py", &[task]);
        idle.wait_for(&format!("finished: {task}"));
    }
    assert!(!busy.lines().contains(&format!("finished: {slow}")), "the machine is too slow");

    // It dies over its task, and the other one does it.
    let busy_first = std::ptr::eq(busy, &raw const workers[0]);
    let [first, second] = workers;
    let (mut busy, idle) = if busy_first { (first, second) } else { (second, first) };
    busy.kill();
    idle.wait_for(&format!("started: {slow} (again)"));
    idle.wait_for(&format!("finished: {slow}"));
    idle.interrupt();
    assert_eq!(stage.depth("task_queue"), 0);
}

#[test]
fn topic_logs() {
    let Some(stage) = Stage::open("topic_logs", &[], &["topic_logs"]) else { return };
    let waiting = "waiting for log lines, Ctrl+C ends";
    let receivers = ["*.error", "kernel.*", "#"].map(|pattern| {
        let receiver = stage.start("topic_logs/receive_logs.py", &[pattern]);
        receiver.wait_for(waiting);
        receiver
    });
    let both = "kernel.error: Out of memory";
    let info = "auth.info: Jane logged in";
    let payment = "payment.error: Card refused";
    // The last one goes to all: whoever has it has all that was before it.
    let last = "kernel.error: End of the test";
    for line in [both, info, payment, last] {
        let (key, text) = line.split_once(": ").expect("a key and a text");
        let printed = stage.run("topic_logs/emit_log.py", &[key, text]);
        assert_eq!(printed, [format!("emitted: {line}")]);
    }
    let [errors, kernel, all] = receivers.map(|receiver| {
        receiver.wait_for(last);
        receiver.interrupt()
    });
    assert_eq!(errors, [waiting, both, payment, last]);
    assert_eq!(kernel, [waiting, both, last]);
    assert_eq!(all, [waiting, both, info, payment, last]);
}

/// Places an order and gives the milliseconds it took.
fn place_order(stage: &Stage, id: &str, items: &[&str]) -> f64 {
    let arguments = [&[id, "jane@example.com"], items].concat();
    let printed = stage.run("orders/order_api.py", &arguments);
    let [line] = printed.as_slice() else { panic!("one line, not {printed:?}") };
    let took = line
        .strip_prefix(&format!("order {id} accepted in "))
        .and_then(|rest| rest.strip_suffix(" ms"))
        .unwrap_or_else(|| panic!("an accepted order, not {line:?}"));
    took.parse().expect("milliseconds")
}

#[test]
fn orders() {
    let queues = ["orders.email", "orders.inventory", "orders.analytics"];
    let Some(mut stage) = Stage::open("orders", &queues, &["orders.created"]) else { return };
    let names = ["email", "inventory", "analytics"];
    let [mut email, inventory, analytics] = names.map(|name| {
        let service = stage.start(&format!("orders/{name}_service.py"), &[]);
        let name = if name == "email" { "e-mail" } else { name };
        service.wait_for(&format!("{name} service waiting for orders, Ctrl+C ends"));
        service
    });
    place_order(&stage, "1001", &["book", "pen"]);
    let thanks = |id: &str| format!("e-mail to jane@example.com: thanks for order {id}");
    email.wait_for(&thanks("1001"));
    inventory.wait_for("reserved for order 1001: book, pen");
    analytics.wait_for("1 orders, 2 items so far");

    // Orders go through without the e-mail service, as fast and as far as ever.
    email.kill();
    let mut took = ["1002", "1003", "1004"].map(|id| place_order(&stage, id, &["lamp"]));
    took.sort_by(f64::total_cmp);
    // Not the worst: other tests may use the machine at the same time.
    assert!(took[1] < ORDER_LIMIT_MS, "orders took {took:?} ms");
    inventory.wait_for("reserved for order 1004: lamp");
    analytics.wait_for("4 orders, 5 items so far");
    assert_eq!(inventory.interrupt().len(), 5);
    assert_eq!(analytics.interrupt().len(), 5);

    // Not even the end of the broker makes the shop forget an e-mail.
    if stage.broker.is_ours() {
        stage.broker.kill9();
        stage.broker.restart();
    }
    let email = stage.start("orders/email_service.py", &[]);
    email.wait_for(&thanks("1004"));
    let expected = ["1002", "1003", "1004"].map(thanks);
    assert_eq!(email.interrupt()[1..], expected);
    assert_eq!(stage.depth("orders.email"), 0);
}

#[test]
fn dead_letters() {
    let queues = ["shipping", "shipping.retry", "shipping.dlq"];
    let exchanges = ["events", "events.dlx"];
    let Some(mut stage) = Stage::open("dead_letters", &queues, &exchanges) else { return };
    let waiting = "shipping waiting for events, Ctrl+C ends";
    let about = |lines: &[String], order: &str| -> Vec<String> {
        lines.iter().filter(|line| line.contains(order)).cloned().collect()
    };
    let mut shop = stage.start("dead_letters/shop.py", &[]);
    // Before the first start of a service the shop hears that nobody listens.
    shop.say(r#"{"id": 1}"#);
    shop.wait_for(r#"nobody to take it: {"id": 1}"#);

    // Two retries, a second before each; the third would be the last.
    let shipping = stage.start("dead_letters/shipping.py", &[]);
    shipping.wait_for(waiting);
    let start = Instant::now();
    shop.say(r#"{"id": 2, "fails": 2}"#);
    shop.say(r#"{"id": 3, "fails": 4}"#);
    shipping.wait_for("shipped: order 2");
    assert!(start.elapsed() >= Duration::from_secs(2), "retried after {:?}", start.elapsed());
    shipping.wait_for("no carrier for order 3: given up");
    // What nobody can read is refused at once and does not come again.
    stage.publish("events", "order.paid", "not json", persistent());
    shipping.wait_for(&format!("unreadable: {NOT_JSON}"));
    let lines = shipping.interrupt();
    let retry = |order: u32, n: u32| format!("no carrier for order {order}: retry {n} of 3 in 1 s");
    let expected = [retry(2, 1), retry(2, 2), "shipped: order 2".to_owned()];
    assert_eq!(about(&lines, "order 2"), expected);
    let given_up = "no carrier for order 3: given up".to_owned();
    let expected = [retry(3, 1), retry(3, 2), retry(3, 3), given_up];
    assert_eq!(about(&lines, "order 3"), expected);
    assert_eq!(lines.len(), 9, "{lines:#?}");
    stage.wait_for_depth("shipping.dlq", 2);
    assert_eq!(queues.map(|queue| stage.depth(queue)), [0, 0, 2]);

    // What nobody takes in time dies, too.
    let mut hasty = stage.start("dead_letters/shop.py", &["0.2"]);
    hasty.say(r#"{"id": 4}"#);
    hasty.wait_for(r#"published: {"id": 4}"#);
    stage.wait_for_depth("shipping.dlq", 3);
    assert_eq!(stage.depth("shipping"), 0);
    hasty.interrupt();
    let letters = stage.run("dead_letters/review.py", &[]);
    let [failed, unreadable, expired] = letters.as_slice() else { panic!("three: {letters:#?}") };
    assert!(failed.starts_with("rejected after 3 retries: {"), "{failed}");
    assert!(failed.ends_with(r#""payload": {"id": 3, "fails": 4}}"#), "{failed}");
    assert_eq!(unreadable, "rejected after 0 retries: not json");
    assert!(expired.starts_with("expired after 0 retries: {"), "{expired}");
    assert!(expired.ends_with(r#""payload": {"id": 4}}"#), "{expired}");
    assert_eq!(stage.depth("shipping.dlq"), 3);

    // Both programs outlive the broker, and so does the event that waits for its retry.
    let shipping = stage.start("dead_letters/shipping.py", &[]);
    shipping.wait_for(waiting);
    shop.say(r#"{"id": 5, "fails": 1}"#);
    shipping.wait_for(&retry(5, 1));
    if stage.broker.is_ours() {
        stage.broker.kill9();
        stage.broker.restart();
        shipping.wait_for_all(waiting, 2);
    }
    shipping.wait_for("shipped: order 5");
    shop.say(r#"{"id": 6}"#);
    shipping.wait_for("shipped: order 6");
    shop.interrupt();

    // A fresh start for the dead letters, with all of their retries.
    assert_eq!(stage.run("dead_letters/review.py", &["replay"]), letters);
    shipping.wait_for("shipped: order 4");
    shipping.wait_for("no carrier for order 3: given up");
    let lines = about(&shipping.interrupt(), "order 3");
    assert_eq!(lines, expected);
    stage.wait_for_depth("shipping.dlq", 2);
    assert_eq!(queues.map(|queue| stage.depth(queue)), [0, 0, 2]);
}

#[test]
fn json_messages() {
    let queues = ["readings", "readings.dlq"];
    let Some(stage) = Stage::open("json_messages", &queues, &[]) else { return };
    let noon = ["Küche", "21.5", "2026-01-31T12:00+01:00"];
    let printed = stage.run("json_messages/producer.py", &noon);
    let body =
        r#"{"sensor": "K\u00fcche", "celsius": 21.5, "taken_at": "2026-01-31T12:00:00+01:00"}"#;
    assert_eq!(printed, [format!("sent: {body}")]);
    let sent = stage.take("readings");
    assert_eq!(String::from_utf8_lossy(&sent.data), body);
    let content_type = sent.properties.content_type().as_ref().map(|text| text.as_str());
    assert_eq!(content_type, Some("application/json"));
    assert_eq!(sent.properties.delivery_mode(), &Some(2));

    let json = || BasicProperties::default().with_content_type("application/json".into());
    let waiting = "waiting for readings, Ctrl+C ends";
    stage.run("json_messages/producer.py", &noon);
    stage.publish("", "readings", "not json", json());
    stage.publish("", "readings", r#"{"sensor": "attic"}"#, json());
    stage.publish("", "readings", body, BasicProperties::default());
    stage.run("json_messages/producer.py", &["Keller", "-3", "2026-01-31T12:00:00+00:00"]);
    let consumer = stage.start("json_messages/consumer.py", &[]);
    let last = "Keller: -3.0 degrees at 12:00";
    consumer.wait_for(last);
    // What was refused has not come again, and what came behind it was not held up.
    let expected = [
        waiting,
        "Küche: 21.5 degrees at 11:00",
        &format!("refused: {NOT_JSON}"),
        "refused: KeyError('celsius')",
        "refused: ValueError('None is not application/json')",
        last,
    ];
    assert_eq!(consumer.interrupt(), expected);
    stage.wait_for_depth("readings.dlq", 3);
    assert_eq!(stage.depth("readings"), 0);
    for expected in ["not json", r#"{"sensor": "attic"}"#, body] {
        let dead = stage.take("readings.dlq");
        assert_eq!(String::from_utf8_lossy(&dead.data), expected);
        let headers = dead.properties.headers().clone().unwrap_or_default();
        assert_eq!(last_death(&headers), "rejected in readings");
    }
}

/// What the broker notes on a dead letter about its latest death.
fn last_death(headers: &FieldTable) -> String {
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else {
        panic!("no deaths in {headers:?}")
    };
    let Some(AMQPValue::FieldTable(death)) = deaths.as_slice().first() else {
        panic!("no death in {headers:?}")
    };
    let text = |name: &str| match death.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => panic!("{name} is {other:?}"),
    };
    format!("{} in {}", text("reason"), text("queue"))
}
