//! Who gets a message, and when.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::brokers::{Program, binary, everywhere};

/// How many lines contain this.
fn count(lines: &[String], text: &str) -> usize {
    lines.iter().filter(|line| line.contains(text)).count()
}

/// Where in the lines this is.
fn position(lines: &[String], text: &str) -> usize {
    lines.iter().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {lines:?}"))
}

#[test]
fn every_program_is_in_the_readme() {
    let manifest = include_str!("../../Cargo.toml");
    let readme = include_str!("../../README.md");
    let programs = manifest.split("[[bin]]\nname = \"").skip(1);
    for program in programs.filter_map(|text| text.split('"').next()) {
        assert!(readme.contains(&format!("./{program}")), "{program}");
    }
}

#[test]
fn the_first_program_is_that_of_the_readme() {
    let program = include_str!("../../hello_world/first.rs");
    let (_, program) = program.split_once("\n\n").expect("a program below its heading");
    let readme = include_str!("../../../../README.md");
    let shown = readme.split("```rust,no_run\n").nth(1).and_then(|text| text.split("```").next());
    assert_eq!(shown, Some(program));
    let directory = tempfile::tempdir().expect("make a directory");
    let mut first = Program::start(Command::new(binary("first")).current_dir(&directory));
    first.wait_for("Hello, world!");
    first.stop();
    assert!(directory.path().join("data").is_dir());
}

#[test]
fn hello_world() {
    everywhere(|place| {
        place.run("send", &[]);
        let mut receiver = place.start("receive", &[]);
        receiver.wait_for("Received Hello World!");
        if !place.alone {
            place.run("send", &[]);
        }
        receiver.stop();
    });
}

#[test]
fn a_work_queue() {
    const TASKS: [&str; 4] = ["First task.", "Second task..", "Third task.", "Fourth task.."];
    everywhere(|place| {
        for task in TASKS {
            place.run("work_queue", &["task", task]);
        }
        let workers = if place.alone { 1 } else { 2 };
        let mut workers: Vec<Program> =
            (0..workers).map(|_| place.start("work_queue", &["worker"])).collect();
        // One is killed in the middle of a task, which goes to another one.
        let mut killed = workers.pop().unwrap();
        killed.find("Received task");
        drop(killed);
        let mut rest = workers.pop().unwrap_or_else(|| place.start("work_queue", &["worker"]));
        for task in TASKS {
            rest.wait_for(&format!("Task finished: {task}"));
        }
        rest.stop();
    });
}

#[test]
fn tasks_by_their_kind() {
    everywhere(|place| {
        place.start("routing", &["work", "image_resizing"]).wait_for("Waiting for");
        place.start("routing", &["work", "pdf_generation"]).wait_for("Waiting for");
        place.run("routing", &["submit", "image_resizing", "cat.jpg"]);
        place.run("routing", &["submit", "pdf_generation", "bill.html"]);
        let nobody = place.command("routing", &["submit", "video", "film.mp4"]).output().unwrap();
        assert!(!nobody.status.success(), "{nobody:?}");
        let mut images = place.start("routing", &["work", "image_resizing"]);
        images.wait_for("image_resizing is done, 7 letters");
        assert_eq!(count(&images.stop(), "pdf"), 0);
        let mut documents = place.start("routing", &["work", "pdf_generation"]);
        documents.wait_for("pdf_generation is done, 9 letters");
        documents.stop();
    });
}

#[test]
fn documents_go_where_their_headers_are_wanted() {
    everywhere(|place| {
        for service in ["archive", "convert"] {
            let mut first = place.start("headers", &[service]);
            first.wait_for("waits");
            first.stop();
        }
        place.run("headers", &["publish", "contract", "format=pdf", "signed=yes"]);
        place.run("headers", &["publish", "letter", "format.old=doc", "signed=yes"]);
        let nobody = ["publish", "draft", "format=pdf", "signed=no"];
        let nobody = place.command("headers", &nobody).output().unwrap();
        assert!(!nobody.status.success(), "{nobody:?}");
        for (service, document) in [("archive", "contract"), ("convert", "letter")] {
            let mut running = place.start("headers", &[service]);
            running.wait_for(&format!("{service} has {document}"));
            assert_eq!(count(&running.stop(), "has"), 1);
        }
    });
}

#[test]
fn everyone_hears_an_announcement() {
    everywhere(|place| {
        let expected = ["email hears: Maintenance at noon", "inventory hears: Maintenance at noon"];
        if place.alone {
            let mut all = place.start("broadcast", &["all"]);
            all.wait_for(expected[0]).wait_for(expected[1]);
            all.stop();
            return;
        }
        let mut listeners =
            ["email", "inventory"].map(|it| place.start("broadcast", &["listen", it]));
        for listener in &mut listeners {
            listener.wait_for("listens");
        }
        place.run("broadcast", &["announce", "Maintenance", "at", "noon"]);
        for (mut listener, expected) in listeners.into_iter().zip(expected) {
            listener.wait_for(expected);
            listener.stop();
        }
        // Nobody is there: that is no error.
        place.run("broadcast", &["announce", "Good night"]);
    });
}

#[test]
fn logs_by_topic() {
    everywhere(|place| {
        if place.alone {
            let mut all = place.start("topic_logs", &["all"]);
            all.wait_for("Sent payment.error").wait_for(" [x] payment.error:Payment failed");
            thread::sleep(Duration::from_millis(300));
            let lines = all.stop();
            assert_eq!(count(&lines, "[x] kernel.error:"), 3);
            assert_eq!(count(&lines, "[x] auth.info:"), 1);
            assert_eq!(count(&lines, "[x] payment.error:"), 2);
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
        assert_eq!(count(&errors.stop(), " [x] "), 2);
        assert_eq!(count(&kernel.stop(), " [x] "), 1);
        assert_eq!(count(&all.stop(), " [x] "), 3);
    });
}

#[test]
fn questions_and_answers() {
    everywhere(|place| {
        let served = (!place.alone).then(|| {
            let mut service = place.start("rpc", &["serve"]);
            service.wait_for("Waiting for questions");
            service
        });
        let part = if place.alone { "all" } else { "ask" };
        let lines = place.run("rpc", &[part, "carrot", "hare"]);
        assert_eq!(count(&lines, "carrot: 30 cents"), 1, "{lines:?}");
        assert_eq!(count(&lines, "No price: there is no hare"), 1, "{lines:?}");
        served.map(Program::stop);
    });
}

#[test]
fn messages_with_a_type() {
    everywhere(|place| {
        place.run("json_messages", &["produce"]);
        let mut consumer = place.start("json_messages", &["consume"]);
        consumer.wait_for("Greeting { id: 5, text: \"Hello number 5\" }");
        assert_eq!(count(&consumer.stop(), "Received"), 5);
    });
}

#[test]
fn large_messages_go_by_a_store() {
    everywhere(|broker| {
        let directory = tempfile::tempdir().unwrap();
        let bodies = directory.path().join("bodies");
        let film = directory.path().join("film.mp4");
        fs::write(&film, vec![7; 20_000_000]).unwrap();
        broker.set("BODIES", bodies.to_str().unwrap());
        broker.run("large_messages", &["send", film.to_str().unwrap()]);
        assert!(bodies.is_dir());
        let mut receiver = broker.start("large_messages", &["receive"]);
        receiver.wait_for("film.mp4: 20000000 bytes");
        receiver.stop();
    });
}

#[test]
fn what_is_important_comes_first() {
    everywhere(|broker| {
        for (priority, alarm) in [("0", "dust"), ("9", "fire"), ("5", "door")] {
            broker.run("priorities", &["send", priority, alarm]);
        }
        let mut receiver = broker.start("priorities", &["receive"]);
        receiver.wait_for("Received: dust");
        let lines = receiver.stop();
        let order = ["fire", "door", "dust"].map(|alarm| position(&lines, alarm));
        assert!(order.is_sorted(), "{lines:?}");
    });
}

#[test]
fn what_is_of_one_account_is_in_order() {
    everywhere(|broker| {
        // So that there is a queue.
        broker.start("ordering", &["handle"]).wait_for("Waiting for changes");
        broker.run("ordering", &["send"]);
        let mut handler = broker.start("ordering", &["handle"]);
        for account in ["Ann", "Bob", "Cid"] {
            handler.wait_for(&format!("{account} step 3"));
        }
        let lines = handler.stop();
        for account in ["Ann", "Bob", "Cid"] {
            let steps = [1, 2, 3].map(|step| position(&lines, &format!("{account} step {step}")));
            assert!(steps.is_sorted(), "{lines:?}");
        }
        // Accounts do not wait for each other.
        assert!(position(&lines, "Cid step 1") < position(&lines, "Ann step 3"), "{lines:?}");
    });
}

#[test]
fn a_message_for_later() {
    everywhere(|broker| {
        broker.run("reminders", &["remind", "2", "Call Ann back"]);
        broker.run("reminders", &["remind", "0", "Begin"]);
        let mut receiver = broker.start("reminders", &["receive"]);
        receiver.wait_for("Call Ann back");
        let lines = receiver.stop();
        assert!(position(&lines, "Begin") < position(&lines, "Call Ann back"), "{lines:?}");
    });
}

#[test]
fn how_much_waits() {
    everywhere(|place| {
        place.run("send", &[]);
        place.run("send", &[]);
        let lines = place.run("monitor", &["hello", "goodbye"]);
        let expected =
            ["hello: 2 waiting, 0 consumers", "goodbye: no such queue", "The bus is well"];
        assert_eq!(lines, expected);
    });
}
