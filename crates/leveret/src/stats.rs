//! Numbers for monitoring.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::PublishError;
use crate::health::{ConnectionState, ConsumerState, Health};

/// What a bus counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    confirmed: AtomicU64,
    unroutable: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    pub(crate) answered: AtomicU64,
    pub(crate) faults: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) unwanted: AtomicU64,
    pub(crate) late_answers: AtomicU64,
}

impl Counters {
    pub(crate) fn published(&self, result: &Result<(), PublishError>) {
        let counter = match result {
            Ok(()) => &self.confirmed,
            Err(PublishError::Unroutable { .. }) => &self.unroutable,
            Err(PublishError::Unknown { .. }) => &self.unknown,
            Err(_) => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self, health: Health) -> Stats {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            confirmed: value(&self.confirmed),
            unroutable: value(&self.unroutable),
            refused: value(&self.refused),
            unknown: value(&self.unknown),
            answered: value(&self.answered),
            faults: value(&self.faults),
            expired_questions: value(&self.expired),
            unwanted_answers: value(&self.unwanted),
            late_answers: value(&self.late_answers),
            health,
        }
    }
}

/// What a bus has done so far. Shown, it is in Prometheus' text format.
#[derive(Debug, Clone)]
pub struct Stats {
    /// Messages that were confirmed.
    pub confirmed: u64,
    /// Messages that nobody got.
    pub unroutable: u64,
    /// Messages that were refused, or not sent.
    pub refused: u64,
    /// Messages of which nobody knows.
    pub unknown: u64,
    /// Questions that were answered here.
    pub answered: u64,
    /// Questions that were answered here with a fault.
    pub faults: u64,
    /// Questions that came here after their deadline, and were not handled.
    pub expired_questions: u64,
    /// Answers from here that nobody waited for any more.
    pub unwanted_answers: u64,
    /// Answers that came here when nobody waited for them any more.
    pub late_answers: u64,
    /// How the bus is now.
    pub health: Health,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let published = "leveret_bus_published_total";
        writeln!(f, "# TYPE {published} counter")?;
        for (result, count) in [
            ("confirmed", self.confirmed),
            ("unroutable", self.unroutable),
            ("refused", self.refused),
            ("unknown", self.unknown),
        ] {
            writeln!(f, "{published}{{result=\"{result}\"}} {count}")?;
        }
        let questions = "leveret_bus_questions_total";
        writeln!(f, "# TYPE {questions} counter")?;
        for (result, count) in [
            ("answered", self.answered),
            ("fault", self.faults),
            ("expired", self.expired_questions),
        ] {
            writeln!(f, "{questions}{{result=\"{result}\"}} {count}")?;
        }
        writeln!(f, "# TYPE leveret_bus_unwanted_answers_total counter")?;
        writeln!(f, "leveret_bus_unwanted_answers_total {}", self.unwanted_answers)?;
        writeln!(f, "# TYPE leveret_bus_late_answers_total counter")?;
        writeln!(f, "leveret_bus_late_answers_total {}", self.late_answers)?;
        writeln!(f, "# TYPE leveret_bus_unconfirmed gauge")?;
        writeln!(f, "leveret_bus_unconfirmed {}", self.health.unconfirmed)?;
        writeln!(f, "# TYPE leveret_bus_connection_up gauge")?;
        for connection in &self.health.connections {
            let up = u8::from(connection.state == ConnectionState::Up);
            let purpose = connection.purpose;
            writeln!(f, "leveret_bus_connection_up{{purpose=\"{purpose}\"}} {up}")?;
        }
        writeln!(f, "# TYPE leveret_bus_connection_blocked gauge")?;
        for connection in &self.health.connections {
            let blocked = matches!(connection.state, ConnectionState::Blocked { .. });
            let (purpose, blocked) = (connection.purpose, u8::from(blocked));
            writeln!(f, "leveret_bus_connection_blocked{{purpose=\"{purpose}\"}} {blocked}")?;
        }
        writeln!(f, "# TYPE leveret_bus_connects_total counter")?;
        for connection in &self.health.connections {
            let (purpose, connects) = (connection.purpose, connection.connects);
            writeln!(f, "leveret_bus_connects_total{{purpose=\"{purpose}\"}} {connects}")?;
        }
        self.consumers(f, "handled_total", "counter", |consumer| consumer.handled)?;
        self.consumers(f, "failed_total", "counter", |consumer| consumer.failed)?;
        self.consumers(f, "retried_total", "counter", |consumer| consumer.retried)?;
        self.consumers(f, "dead_total", "counter", |consumer| consumer.dead)?;
        self.consumers(f, "handling", "gauge", |consumer| consumer.handling as u64)?;
        self.consumers(f, "up", "gauge", |consumer| {
            u64::from(consumer.state == ConsumerState::Consuming)
        })?;
        self.consumers(f, "paused", "gauge", |consumer| {
            u64::from(consumer.state == ConsumerState::Paused)
        })?;
        self.oldest(f)
    }
}

impl Stats {
    /// Not a sum: of the consumers of a queue that counts which is at something for longest.
    fn oldest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# TYPE leveret_consumer_oldest_seconds gauge")?;
        let mut by_queue = BTreeMap::<&str, Duration>::new();
        for consumer in &self.health.consumers {
            let oldest = by_queue.entry(&consumer.queue).or_default();
            *oldest = consumer.oldest.unwrap_or_default().max(*oldest);
        }
        for (queue, oldest) in by_queue {
            let seconds = oldest.as_secs_f64();
            writeln!(f, "leveret_consumer_oldest_seconds{{queue={queue:?}}} {seconds:.3}")?;
        }
        Ok(())
    }

    fn consumers(
        &self,
        f: &mut fmt::Formatter<'_>,
        name: &str,
        kind: &str,
        value: impl Fn(&crate::health::ConsumerHealth) -> u64,
    ) -> fmt::Result {
        writeln!(f, "# TYPE leveret_consumer_{name} {kind}")?;
        let mut by_queue = BTreeMap::<&str, u64>::new();
        for consumer in &self.health.consumers {
            *by_queue.entry(&consumer.queue).or_default() += value(consumer);
        }
        for (queue, value) in by_queue {
            // A label's value is in quotes, as Rust writes them, too.
            writeln!(f, "leveret_consumer_{name}{{queue={queue:?}}} {value}")?;
        }
        Ok(())
    }
}
