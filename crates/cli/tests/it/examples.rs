//! The programs under `examples/python`, run as their README says.

use crate::amqp::{connect, delete, depth, soon};
use crate::broker::Broker;
use crate::program::Program;
use crate::python;
use lapin::options::ExchangeDeleteOptions;
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;

/// How long the shop lets a customer wait.
const ORDER_LIMIT_MS: f64 = 200.0;

/// The examples, and a broker without anything of theirs.
struct Stage {
    interpreter: PathBuf,
    broker: Broker,
}

impl Stage {
    fn open(test: &str, queues: &[&str], exchange: &str) -> Option<Stage> {
        let interpreter = python::interpreter(test)?;
        let broker = Broker::start();
        block_on(async {
            let connection = connect(broker.url()).await;
            let channel = connection.create_channel().await.expect("a channel");
            for queue in queues {
                delete(&channel, queue).await;
            }
            let gone = channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default());
            if !exchange.is_empty() {
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
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    Runtime::new().expect("a runtime").block_on(future)
}

#[test]
fn hello_world() {
    let Some(stage) = Stage::open("hello_world", &["hello"], "") else { return };
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
    let Some(stage) = Stage::open("work_queue", &["task_queue"], "") else { return };
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
    let Some(stage) = Stage::open("topic_logs", &[], "topic_logs") else { return };
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
    let Some(mut stage) = Stage::open("orders", &queues, "orders.created") else { return };
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
