//! `leveret bench`: loads any AMQP 0-9-1 broker and says what it did.
//!
//! It has to be far cheaper than a broker, or on one machine it would measure itself: publishes
//! are encoded once and written many at a time, deliveries are counted in the read buffer, and
//! everything runs on one thread unless told otherwise. The report says how much CPU it took.

mod consumer;
mod histogram;
mod process;
mod producer;
mod report;
mod run;
mod shared;
mod ticker;
mod topology;
mod window;

use crate::client::ClientError;
use crate::uri::Uri;
use crate::{CommandError, Outcome};
use clap::builder::RangedU64ValueParser;
use clap::value_parser;
use leveret_model::{FieldTable, ShortString};

/// Publishes and consumes as fast as the broker lets it, and reports rates, latencies, its own
/// CPU and, with --broker-pid, the broker's CPU and memory.
#[derive(clap::Args, Clone)]
pub(crate) struct Args {
    /// What to do
    #[arg(value_enum, default_value_t = Action::Run, hide_default_value = true)]
    action: Action,
    /// The broker, as amqp://user:password@host:port/vhost
    #[arg(long, env = "LEVERET_URI", hide_env_values = true, default_value = "amqp://")]
    uri: Uri,
    /// Producers, each with a connection
    #[arg(short = 'x', value_name = "N", default_value_t = 1)]
    producers: u64,
    /// Consumers, each with a connection
    #[arg(short = 'y', value_name = "N", default_value_t = 1)]
    consumers: u64,
    /// Size of a body; from 8 on it carries the time for the end-to-end latency
    #[arg(short = 's', value_name = "BYTES", default_value_t = 16)]
    size: usize,
    /// Persistent messages
    #[arg(short = 'p')]
    persistent: bool,
    /// Publisher confirms with N in flight; 0 is no confirms
    #[arg(short = 'c', value_name = "N", default_value_t = 0)]
    confirm: u64,
    /// Consumer prefetch; 0 is no limit
    #[arg(long, value_name = "N", default_value_t = 1000)]
    prefetch: u16,
    /// Deliveries settled by one ack
    #[arg(long, value_name = "N", default_value_t = 100)]
    ack_every: u64,
    /// No acks
    #[arg(long)]
    auto_ack: bool,
    /// The queue; with --queues the start of each name
    #[arg(long, default_value = "leveret-bench")]
    queue: String,
    /// Spread over N queues
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive())]
    queues: u64,
    /// Each producer publishes to all queues in turn, instead of to one of them
    #[arg(long, conflicts_with = "fanout")]
    in_turn: bool,
    /// Declare the queues durable
    #[arg(long)]
    queue_durable: bool,
    /// Arguments of the queues
    #[arg(long, value_name = "K=V,…", default_value = "", hide_default_value = true)]
    queue_args: Pairs,
    /// Arguments of the consumers
    #[arg(long, value_name = "K=V,…", default_value = "", hide_default_value = true)]
    consumer_args: Pairs,
    /// Publish to a fanout exchange that all the queues are bound to
    #[arg(long)]
    fanout: bool,
    /// Messages a second, all producers together; 0 is as many as go
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    rate: f64,
    /// Publish N messages and stop, all producers together
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    count: u64,
    /// Consume N messages and stop, all consumers together
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    drain: u64,
    /// How long to run before measuring
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    warmup: f64,
    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    duration: f64,
    /// Leave the queues; otherwise they are deleted at the end
    #[arg(long)]
    keep: bool,
    /// Most bytes of a write
    #[arg(long, value_name = "N", default_value_t = 64 * 1024)]
    batch_bytes: usize,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive())]
    threads: u64,
    /// Report this process's CPU and memory
    #[arg(long, value_name = "PID")]
    broker_pid: Option<u32>,
    /// Connections, for idle
    #[arg(long, value_name = "N", default_value_t = 1000)]
    conns: usize,
    /// How long to hold them, for idle; how long to wait before weighing the broker, for declare
    /// and delete
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    hold: f64,
    /// A line a second while it runs
    #[arg(long)]
    progress: bool,
    /// One line of JSON instead of a table
    #[arg(long)]
    json: bool,
}

fn positive() -> RangedU64ValueParser {
    value_parser!(u64).range(1..)
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Publish and consume, then report
    Run,
    /// Declare the queues one after another
    Declare,
    /// Delete them
    Delete,
    /// Hold connections that do nothing
    Idle,
}

/// Names and values of a table, `a=1,b=text,c=true`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Pairs(FieldTable);

impl std::str::FromStr for Pairs {
    type Err = String;

    fn from_str(text: &str) -> Result<Pairs, String> {
        let mut table = FieldTable::new();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(format!("there is no = in {pair}"))?;
            let name = ShortString::try_from(name).map_err(|e| e.to_string())?;
            // Told apart by their look, as nobody wants to write types in a shell.
            if let Ok(number) = value.parse::<i64>() {
                table.insert(name, number);
            } else if let Ok(truth) = value.parse::<bool>() {
                table.insert(name, truth);
            } else {
                table.insert(name, value);
            }
        }
        Ok(Pairs(table))
    }
}

impl Args {
    fn queue_name(&self, index: u64) -> Result<ShortString, ClientError> {
        let name = match self.queues {
            1 => self.queue.clone(),
            _ => format!("{}-{index}", self.queue),
        };
        Ok(ShortString::try_from(name)?)
    }
}

/// Does what the arguments say.
pub(crate) fn run(args: &Args) -> Result<Outcome, CommandError> {
    match args.action {
        Action::Run => run::run(args)?,
        Action::Declare => runtime()?.block_on(topology::declare_each(args))?,
        Action::Delete => runtime()?.block_on(topology::delete_each(args))?,
        Action::Idle => runtime()?.block_on(topology::idle(args))?,
    }
    Ok(Outcome::Done)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    // Looks for input after every few turns, not after tokio's 61: a turn here is a whole write.
    tokio::runtime::Builder::new_current_thread().event_interval(4).enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_model::FieldValue;

    #[test]
    fn pairs_have_the_type_they_look_like() {
        let Pairs(table) = "x-max-length=5,x-queue-type=quorum,flag=true,".parse().unwrap();
        assert_eq!(table.get("x-max-length"), Some(&FieldValue::I64(5)));
        assert_eq!(table.get("x-queue-type"), Some(&FieldValue::from("quorum")));
        assert_eq!(table.get("flag"), Some(&FieldValue::Bool(true)));
        assert_eq!(table.len(), 3);
        assert!("novalue".parse::<Pairs>().is_err());
    }
}
