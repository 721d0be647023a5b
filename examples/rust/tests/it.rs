//! The examples, each on every broker they are for: embedded, a leveret server, RabbitMQ.
//!
//! Embedded, one process at a time has the broker; the others let all run at once.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use leveret_peers::{Leveret, RabbitMq};
use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the programs find their broker.
struct Place {
    bus: String,
    /// Only one process at a time.
    alone: bool,
}

/// An example that runs.
struct Program {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Place {
    fn start(&self, name: &str, arguments: &[&str]) -> Program {
        self.start_with(name, arguments, &[])
    }

    fn start_with(&self, name: &str, arguments: &[&str], more: &[(&str, &str)]) -> Program {
        let path = match name {
            "hello_world" => env!("CARGO_BIN_EXE_hello_world"),
            "work_queue" => env!("CARGO_BIN_EXE_work_queue"),
            "topic_logs" => env!("CARGO_BIN_EXE_topic_logs"),
            "json_messages" => env!("CARGO_BIN_EXE_json_messages"),
            "orders" => env!("CARGO_BIN_EXE_orders"),
            "dead_letters" => env!("CARGO_BIN_EXE_dead_letters"),
            other => panic!("no example is called {other}"),
        };
        let mut command = Command::new(path);
        command.args(arguments).env("BUS", &self.bus).envs(more.iter().copied());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("start it");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The test may have ended.
                let _ = sender.send(line);
            }
        });
        Program { child, lines, seen: Vec::new() }
    }

    /// Runs it to its end, which must be a good one.
    fn run(&self, name: &str, arguments: &[&str]) -> Vec<String> {
        self.start(name, arguments).end()
    }
}

impl Program {
    /// Waits for a line that contains this.
    fn wait_for(&mut self, text: &str) -> &mut Self {
        let start = Instant::now();
        while !self.seen.iter().any(|line| line.contains(text)) {
            let left = PATIENCE.saturating_sub(start.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("no {text:?} in {:#?}", self.seen),
            }
        }
        self
    }

    /// Waits for its end, which must be a good one.
    fn end(mut self) -> Vec<String> {
        let status = self.wait();
        assert!(status.success(), "{status}: {:#?}", self.seen);
        std::mem::take(&mut self.seen)
    }

    /// Tells it to end, and waits for that. It may not have begun to listen to such words.
    fn stop(mut self) -> Vec<String> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("tell it");
        let status = self.wait();
        let killed = status.signal() == Some(Signal::TERM.as_raw());
        assert!(status.success() || killed, "{status}: {:#?}", self.seen);
        std::mem::take(&mut self.seen)
    }

    fn wait(&mut self) -> ExitStatus {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.seen.push(line);
        }
        self.child.wait().expect("it ends")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a scenario on every broker.
fn everywhere(scenario: impl Fn(&Place)) {
    let directory = tempfile::tempdir().expect("make a directory");
    scenario(&Place { bus: format!("embedded:{}", directory.path().display()), alone: true });
    let leveret = Leveret::start();
    scenario(&Place { bus: leveret.url(), alone: false });
    if let Some(rabbit) = RabbitMq::shared() {
        scenario(&Place { bus: rabbit.url_of(&rabbit.vhost()), alone: false });
    }
}

#[test]
fn hello_world() {
    everywhere(|place| {
        place.run("hello_world", &["send"]);
        let mut receiver = place.start("hello_world", &["receive"]);
        receiver.wait_for("Received Hello World!");
        if !place.alone {
            place.run("hello_world", &["send"]);
        }
        receiver.stop();
    });
}

#[test]
fn a_work_queue() {
    everywhere(|place| {
        for task in ["First task.", "Second task..", "Third task.", "Fourth task.."] {
            place.run("work_queue", &["task", task]);
        }
        let workers = if place.alone { 1 } else { 2 };
        let mut workers: Vec<Program> =
            (0..workers).map(|_| place.start("work_queue", &["worker"])).collect();
        // One is killed in the middle of a task, which goes to another one.
        let mut killed = workers.pop().unwrap();
        killed.wait_for("Received task");
        let task =
            killed.seen.iter().find_map(|line| line.split_once("task: ")).unwrap().1.to_owned();
        drop(killed);
        let mut rest = workers.pop().unwrap_or_else(|| place.start("work_queue", &["worker"]));
        rest.wait_for(&format!("Task finished: {task}"));
        for task in ["First task.", "Second task..", "Third task.", "Fourth task.."] {
            rest.wait_for(&format!("Task finished: {task}"));
        }
        rest.stop();
    });
}

#[test]
fn logs_by_topic() {
    let heard = |lines: &[String], text: &str| {
        lines.iter().filter(|line| line.starts_with(" [x] ") && line.contains(text)).count()
    };
    everywhere(|place| {
        if place.alone {
            let mut all = place.start("topic_logs", &["all"]);
            all.wait_for("Sent payment.error").wait_for(" [x] payment.error:Payment failed");
            thread::sleep(Duration::from_millis(300));
            let lines = all.stop();
            assert_eq!(heard(&lines, "[x] kernel.error:"), 3);
            assert_eq!(heard(&lines, "[x] auth.info:"), 1);
            assert_eq!(heard(&lines, "[x] payment.error:"), 2);
            return;
        }
        let patterns = ["*.error", "kernel.*", "#"];
        let mut listeners =
            patterns.map(|pattern| place.start("topic_logs", &["receive", pattern]));
        for listener in &mut listeners {
            listener.wait_for("Waiting for logs");
        }
        place.run("topic_logs", &["emit", "kernel.error", "A", "critical", "kernel", "error"]);
        place.run("topic_logs", &["emit", "auth.info", "User", "logged", "in"]);
        place.run("topic_logs", &["emit", "payment.error", "Payment", "failed"]);
        let [mut errors, mut kernel, mut all] = listeners;
        all.wait_for("kernel.error:A critical kernel error").wait_for("auth.info:User logged in");
        all.wait_for("payment.error");
        errors.wait_for("kernel.error").wait_for("payment.error");
        kernel.wait_for("kernel.error");
        assert_eq!(heard(&errors.stop(), "."), 2);
        assert_eq!(heard(&kernel.stop(), "."), 1);
        assert_eq!(heard(&all.stop(), "."), 3);
    });
}

#[test]
fn messages_with_a_type() {
    everywhere(|place| {
        place.run("json_messages", &["produce"]);
        let mut consumer = place.start("json_messages", &["consume"]);
        consumer.wait_for("Greeting { id: 5, text: \"Hello number 5\" }");
        let lines = consumer.stop();
        assert_eq!(lines.iter().filter(|line| line.contains("Received")).count(), 5);
    });
}

#[test]
fn orders_are_placed_quickly_while_the_email_service_is_down() {
    everywhere(|place| {
        // Each service has been there once, so its queue is.
        for service in ["email", "inventory", "analytics"] {
            let mut program = place.start("orders", &[service]);
            program.wait_for("waits for orders");
            program.stop();
        }
        let others = || ["inventory", "analytics"].map(|it| place.start("orders", &[it]));
        let running = (!place.alone).then(others);
        let placed = place.run("orders", &["place", "456", "457", "458"]);
        let times = placed.iter().filter_map(|line| line.split_once(" placed in "));
        let times = times.map(|(_, time)| time.trim_end_matches(" ms").parse().unwrap());
        let times: Vec<u64> = times.collect();
        assert_eq!(times.len(), 3, "{placed:#?}");
        assert!(times.iter().all(|&time| time < 200), "{times:?} ms");
        if let Some([mut inventory, mut analytics]) = running {
            inventory.wait_for("Stock reduced by book, pen for order 458");
            analytics.wait_for("Recorded order 458");
        }
        let mut email = place.start("orders", &["email"]);
        for order in 456..=458 {
            email.wait_for(&format!("Email sent to jane.doe@email.com for order {order}"));
        }
        email.stop();
    });
}

#[test]
fn what_fails_is_retried_and_then_a_dead_letter() {
    everywhere(|place| {
        let mut service = place.start("dead_letters", &["ship"]);
        service.wait_for("Waiting for orders");
        service.stop();
        place.run("dead_letters", &["publish"]);
        let mut broken = place.start_with("dead_letters", &["ship"], &[("BROKEN", "1")]);
        broken.wait_for("Order 1 failed, attempt 3");
        broken.stop();
        let listed = place.run("dead_letters", &["list"]);
        let listed = listed.join("\n");
        assert!(listed.contains("Order 1: no attempts left"), "{listed}");
        assert!(listed.contains("attempt 2: the carrier does not answer"), "{listed}");
        assert!(listed.contains("Order 2: permanent failure"), "{listed}");
        let redriven = place.run("dead_letters", &["redrive"]);
        assert_eq!(redriven, ["1 sent back, 1 kept"]);
        let mut service = place.start("dead_letters", &["ship"]);
        service.wait_for("Order 1 shipped, 250 g");
        service.stop();
    });
}
