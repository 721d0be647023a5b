//! SIGKILL at named points: between any two steps that the broker takes with its files, where a
//! random moment rarely falls. `fsync/disk.c` pulls the trigger.
//!
//! `LEVERET_KILL_POINT_ROUNDS` sets the number of rounds at each point, `LEVERET_KILL_SEED`
//! repeats the choices of a run.

use super::body::{Random, body};
use super::fault::tally;
use super::ledger::Ledger;
use super::plan::QUEUES;
use super::points::{AT_RECOVERY, AT_WORK, Call, Life, Point};
use super::{Record, declare, inspection, load, number, seed_of_now, tight};
use crate::amqp::persistent;
use crate::broker::{Broker, Surroundings};
use crate::fsync::disk::Disk;
use crate::tools::say;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Confirmation, Connection, ConnectionProperties};
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long a life may last.
const LIFE_LIMIT: Duration = Duration::from_secs(20);
/// Each frame is written some time later than it could be.
const SLOW_LOG: &str = "pwrite */wal/*.wal stall 30 0";
/// How many rounds more a point gets that was not reached: what happens under load is chance.
const MORE_ROUNDS: u64 = 3;

/// A broker on a disk that kills, and all that is known of it.
struct Scene {
    broker: Broker,
    disk: Disk,
    record: Record,
    random: Random,
    runtime: Runtime,
}

#[test]
fn kill9_at_every_step_of_work() {
    check("kill9_at_every_step_of_work", AT_WORK);
}

#[test]
fn kill9_at_every_step_of_recovery() {
    check("kill9_at_every_step_of_recovery", AT_RECOVERY);
}

fn check(test: &str, points: &[Point]) {
    let Some(disk) = Disk::new(test) else { return };
    let environment = [tight(), disk.environment()].concat();
    let surroundings = Surroundings { environment, ..Surroundings::default() };
    let Some(broker) = Broker::start_mortal_in(test, surroundings) else { return };
    let seed = number("LEVERET_KILL_SEED").unwrap_or_else(seed_of_now);
    let record = Record(Arc::new(Mutex::new(Ledger::new(seed))));
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(declare(broker.url()));
    let mut scene = Scene { broker, disk, record, random: Random::new(seed), runtime };
    let rounds = number("LEVERET_KILL_POINT_ROUNDS").unwrap_or(1);
    for point in points {
        scene.visit(point, rounds);
    }
}

impl Scene {
    /// Kills at a point so many times, and checks what is there after each.
    fn visit(&mut self, point: &Point, wanted: u64) {
        let (published, confirmed) = {
            let ledger = self.record.lock();
            (ledger.published(), ledger.confirmed())
        };
        let (mut rounds, mut reached) = (0, 0);
        while rounds < wanted || reached == 0 && rounds < wanted + MORE_ROUNDS {
            reached += u64::from(self.round(point));
            rounds += 1;
        }
        let ledger = self.record.lock();
        let faults = ledger.faults();
        let line = format!(
            "kill at {}: {rounds} rounds, {reached} reached, {} messages, {} confirmed, {}",
            point.name,
            ledger.published() - published,
            ledger.confirmed() - confirmed,
            tally(faults),
        );
        say(&line);
        let some = faults.iter().take(20).map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(faults.is_empty() && reached > 0, "seed {}, {line}:\n{some}", ledger.seed());
    }

    fn round(&mut self, point: &Point) -> bool {
        let reached = point.lives.iter().all(|life| self.live(life));
        self.disk.recover();
        self.broker.restart();
        self.runtime.block_on(inspection::inspect(self.broker.url(), &self.record));
        reached
    }

    /// One life to its end; says whether that came where it should.
    fn live(&mut self, life: &Life) -> bool {
        match life {
            Life::Load(call) => {
                let load = self.load();
                self.order(call);
                let reached = self.await_end();
                self.runtime.block_on(load::finish(load));
                reached
            }
            Life::Crash => {
                let load = self.load();
                thread::sleep(Duration::from_millis(300 + self.random.below(400)));
                self.broker.kill9();
                self.runtime.block_on(load::finish(load));
                true
            }
            Life::Clear(call) => {
                self.broker.restart();
                let held = inspection::begin(self.broker.url(), &self.record);
                let held = self.runtime.block_on(held);
                self.order(call);
                let task = self.runtime.spawn(held.clear(self.record.clone()));
                let reached = self.await_end();
                task.abort();
                reached
            }
            Life::Start(call) => {
                self.order(call);
                if let Err(status) = self.broker.try_restart() {
                    return self.check_end(status);
                }
                let one = publish(self.broker.url().to_owned(), self.record.clone());
                let task = self.runtime.spawn(one);
                let reached = self.await_end();
                task.abort();
                reached
            }
        }
    }

    fn load(&mut self) -> load::Load {
        let load = load::start(self.broker.url(), &self.record, &mut self.random);
        self.runtime.block_on(load)
    }

    /// From now on the broker dies at this call.
    fn order(&mut self, Call { when, name, path, among, slow_log }: &Call) {
        let skipped = self.random.below(*among);
        let slow = if *slow_log { SLOW_LOG } else { "" };
        self.disk.order(&format!("{name} {path} {when} 0 {skipped}\n{slow}"));
    }

    /// Waits for the broker to be killed by the disk; says whether it was.
    fn await_end(&mut self) -> bool {
        if let Some(status) = self.broker.await_end(LIFE_LIMIT) {
            return self.check_end(status);
        }
        self.broker.kill9();
        false
    }

    fn check_end(&mut self, status: ExitStatus) -> bool {
        let killed = status.signal() == Some(Signal::KILL.as_raw());
        assert!(killed, "the broker ended with {status}:\n{}", self.broker.log());
        true
    }
}

/// Publishes a message, if the broker lives to take it.
async fn publish(url: String, record: Record) -> lapin::Result<()> {
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let id = record.lock().attempt(0);
    let body = body(id, record.lock().seed());
    let (options, key) = (BasicPublishOptions::default(), QUEUES[0].into());
    let sent = channel.basic_publish("".into(), key, options, &body, persistent()).await?;
    if sent.await? == Confirmation::Ack(None) {
        record.lock().confirm(id);
    }
    Ok(())
}
