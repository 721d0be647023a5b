//! What becomes of messages when something fails.

use std::thread;
use std::time::Duration;

use leveret_peers::Postgres;

use crate::brokers::{Place, everywhere};

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
        place.set("BROKEN", "1");
        let mut broken = place.start("dead_letters", &["ship"]);
        broken.wait_for("Order 1 failed, attempt 3");
        broken.stop();
        place.variables.clear();
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

#[test]
fn what_nobody_takes_in_time_is_a_dead_letter() {
    everywhere(|place| {
        place.run("expiry", &["offer", "1", "Umbrellas"]);
        place.run("expiry", &["offer", "600", "Parasols"]);
        thread::sleep(Duration::from_millis(1_500));
        let mut shop = place.start("expiry", &["take"]);
        shop.wait_for("Taken: Parasols");
        assert!(!shop.stop().join("\n").contains("Umbrellas"));
        let missed = place.run("expiry", &["missed"]);
        assert_eq!(missed, [" [!] Umbrellas: the broker gave it up"]);
    });
}

#[test]
fn no_order_is_paid_twice() {
    everywhere(|place| {
        let directory = tempfile::tempdir().unwrap();
        let handled = directory.path().join("handled.redb");
        let handled = handled.to_str().unwrap();
        place.run("payments", &["pay", "123", "123", "124"]);
        let mut first = place.start("payments", &["book", handled]);
        first.wait_for("Order 124 is paid");
        let mut lines = first.stop();
        // Another process, which remembers.
        place.run("payments", &["pay", "123", "125"]);
        let mut second = place.start("payments", &["book", handled]);
        second.wait_for("Order 125 is paid");
        lines.extend(second.stop());
        let paid = lines.iter().filter(|line| line.ends_with("is paid")).count();
        assert_eq!(paid, 3, "{lines:?}");
    });
}

#[test]
fn an_order_and_its_event_are_one() {
    everywhere(|place| {
        let Some(postgres) = Postgres::start() else { return };
        place.set("DATABASE", postgres.url());
        // So that there is a queue.
        place.start("outbox", &["bill"]).wait_for("Waiting for orders");
        place.run("outbox", &["order", "7", "8"]);
        // That order is there already: the transaction fails, and with it its event.
        let again = place.command("outbox", &["order", "7"]).output().unwrap();
        assert!(!again.status.success(), "{again:?}");
        let mut billing = place.start("outbox", &["bill"]);
        billing.wait_for("Order 7 is billed").wait_for("Order 8 is billed");
        let lines = billing.stop();
        assert_eq!(lines.iter().filter(|line| line.ends_with("is billed")).count(), 2);
    });
}

#[test]
fn a_bridge_forwards_what_the_other_broker_takes() {
    everywhere(|place| {
        let directory = tempfile::tempdir().unwrap();
        let bus = format!("embedded:{}", directory.path().join("office").display());
        place.set("TO", bus.as_str());
        let office = Place { bus, alone: true, variables: Vec::new() };
        let open = || {
            let mut bridge = place.start("bridge", &["order.#"]);
            bridge.wait_for("The bridge is open");
            bridge
        };
        open().stop();
        place.run("dead_letters", &["publish"]);
        // Nobody is there for them: they stay here.
        let mut bridge = open();
        bridge.wait_for("[!]");
        assert!(!bridge.stop().iter().any(|line| line.contains("[x]")));

        office.start("dead_letters", &["ship"]).wait_for("Waiting for orders");
        let mut bridge = open();
        bridge.wait_for("Forwarded order.paid 1").wait_for("Forwarded order.paid 2");
        bridge.stop();
        let mut shipping = office.start("dead_letters", &["ship"]);
        shipping.wait_for("Order 1 shipped, 250 g");
        shipping.stop();
        let dead = office.run("dead_letters", &["list"]);
        assert!(dead.iter().any(|line| line.contains("Order 2")), "{dead:?}");
    });
}
