//! The queues, the exchange, and connections that do nothing.

use super::process::{self, Memory};
use super::report::Report;
use super::{Args, CommandError};
use crate::client::{Client, ClientError, QUIET_BYTES};
use leveret_amqp_wire::method::*;
use leveret_model::ShortString;
use std::time::Duration;

/// The exchange of `--fanout`.
pub(crate) fn exchange() -> ShortString {
    ShortString::from_static("leveret-bench.fanout")
}

/// Declares what a run needs.
pub(crate) async fn set_up(args: &Args) -> Result<(), ClientError> {
    let mut client = Client::open(&args.uri, QUIET_BYTES).await?;
    if args.fanout {
        let declare = ExchangeDeclare {
            exchange: exchange(),
            kind: ShortString::from_static("fanout"),
            durable: args.queue_durable,
            ..Default::default()
        };
        client.call(declare, ExchangeDeclareOk::ID).await?;
    }
    for index in 0..args.queues {
        declare(args, &mut client, index).await?;
        if args.fanout {
            let queue = args.queue_name(index)?;
            let bind = QueueBind { queue, exchange: exchange(), ..Default::default() };
            client.call(bind, QueueBindOk::ID).await?;
        }
    }
    client.close().await
}

/// Deletes it again.
pub(crate) async fn tear_down(args: &Args) -> Result<(), ClientError> {
    let mut client = Client::open(&args.uri, QUIET_BYTES).await?;
    for index in 0..args.queues {
        delete(args, &mut client, index).await?;
    }
    if args.fanout {
        let delete = ExchangeDelete { exchange: exchange(), ..Default::default() };
        client.call(delete, ExchangeDeleteOk::ID).await?;
    }
    client.close().await
}

async fn declare(args: &Args, client: &mut Client, index: u64) -> Result<(), ClientError> {
    let declare = QueueDeclare {
        queue: args.queue_name(index)?,
        durable: args.queue_durable,
        arguments: args.queue_args.0.clone(),
        ..Default::default()
    };
    client.call(declare, QueueDeclareOk::ID).await.map(drop)
}

async fn delete(args: &Args, client: &mut Client, index: u64) -> Result<(), ClientError> {
    let delete = QueueDelete { queue: args.queue_name(index)?, ..Default::default() };
    client.call(delete, QueueDeleteOk::ID).await.map(drop)
}

/// What the broker had spent before.
struct Before {
    time: u64,
    cpu: f64,
    memory: Memory,
}

impl Before {
    fn now(args: &Args) -> Before {
        Before {
            time: process::now(),
            cpu: args.broker_pid.map_or(0.0, process::cpu_of),
            memory: args.broker_pid.map(process::memory_of).unwrap_or_default(),
        }
    }

    fn seconds(&self) -> f64 {
        (process::now() - self.time) as f64 / 1e9
    }

    /// What each of `count` things takes of the broker's memory.
    fn memory(&self, args: &Args, count: u64, report: &mut Report) {
        let Some(pid) = args.broker_pid else { return };
        let after = process::memory_of(pid);
        let each = |before: u64, after: u64| (after as f64 - before as f64) / count as f64;
        report.count("broker_rss_before_kib", self.memory.resident);
        report.count("broker_rss_after_kib", after.resident);
        report.real("broker_rss_kib_each", each(self.memory.resident, after.resident));
        report.real("broker_anon_kib_each", each(self.memory.anonymous, after.anonymous));
    }
}

/// Declares the queues, one call at a time, and reports.
pub(crate) async fn declare_each(args: &Args) -> Result<(), CommandError> {
    let mut client = Client::open(&args.uri, QUIET_BYTES).await?;
    let before = Before::now(args);
    for index in 0..args.queues {
        declare(args, &mut client, index).await?;
    }
    report_each(args, &before).await;
    Ok(client.close().await?)
}

/// Deletes the queues, one call at a time, and reports.
pub(crate) async fn delete_each(args: &Args) -> Result<(), CommandError> {
    let mut client = Client::open(&args.uri, QUIET_BYTES).await?;
    let before = Before::now(args);
    for index in 0..args.queues {
        delete(args, &mut client, index).await?;
    }
    report_each(args, &before).await;
    Ok(client.close().await?)
}

async fn report_each(args: &Args, before: &Before) {
    let mut report = Report::default();
    let seconds = before.seconds();
    report.real("seconds", seconds);
    report.real("queues_per_second", args.queues as f64 / seconds);
    if let Some(pid) = args.broker_pid {
        tokio::time::sleep(Duration::from_secs_f64(args.hold)).await;
        report.real("broker_cpu_s", process::cpu_of(pid) - before.cpu);
        before.memory(args, args.queues, &mut report);
    }
    println!("{}", report.show(args.json));
}

/// Opens connections, holds them, and weighs the broker.
pub(crate) async fn idle(args: &Args) -> Result<(), CommandError> {
    let before = Before::now(args);
    let mut open = Vec::with_capacity(args.conns);
    for _ in 0..args.conns {
        open.push(Client::open(&args.uri, QUIET_BYTES).await?);
    }
    let mut report = Report::default();
    let seconds = before.seconds();
    report.real("seconds", seconds);
    report.real("connections_per_second", args.conns as f64 / seconds);
    tokio::time::sleep(Duration::from_secs_f64(args.hold)).await;
    before.memory(args, args.conns as u64, &mut report);
    println!("{}", report.show(args.json));
    for client in open {
        client.close().await?;
    }
    Ok(())
}
