//! A run: producers and consumers on their threads, and the thread that keeps the time.

use super::histogram::Histogram;
use super::producer::Order;
use super::report::Report;
use super::shared::Shared;
use super::{Args, CommandError, consumer, process, producer, topology};
use crate::client::ClientError;
use leveret_model::ShortString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::task::JoinHandle as TaskHandle;

/// How often the clock is looked at: a fixed count must be timed finely, a fixed time must not
/// be disturbed.
const LOOK_AT_COUNT: Duration = Duration::from_millis(5);
const LOOK_AT_TIME: Duration = Duration::from_millis(50);

/// Latencies of confirms, and from end to end.
struct Latencies {
    confirm: Histogram,
    end_to_end: Histogram,
}

/// Publishes and consumes as the arguments say, and prints the report.
pub(crate) fn run(args: &Args) -> Result<(), CommandError> {
    super::runtime()?.block_on(topology::set_up(args))?;
    let args = Arc::new(args.clone());
    let shared = Arc::new(Shared::default());
    let threads: Vec<_> = (0..args.threads)
        .map(|thread| {
            let (args, shared) = (args.clone(), shared.clone());
            std::thread::spawn(move || work(&args, thread, &shared))
        })
        .collect();
    let measured = measure(&args, &shared);
    let latencies = join(threads)?;
    if !args.keep {
        super::runtime()?.block_on(topology::tear_down(&args))?;
    }
    println!("{}", measured.report(&args, &shared, &latencies).show(args.json));
    Ok(())
}

/// Share `index` of `of` of a total that may be "no limit".
fn share(total: u64, index: u64, of: u64) -> u64 {
    match total {
        u64::MAX => total,
        _ => total / of + u64::from(index < total % of),
    }
}

/// The part of one thread.
fn work(args: &Arc<Args>, thread: u64, shared: &Arc<Shared>) -> Result<Latencies, CommandError> {
    let done = super::runtime().map_err(CommandError::from).and_then(|runtime| {
        runtime.block_on(async {
            let (mut producers, mut consumers) = (Vec::new(), Vec::new());
            let all = args.producers + args.consumers;
            for task in (0..all).filter(|task| task % args.threads == thread) {
                match task.checked_sub(args.producers) {
                    None => producers.push(start_producer(args, task, shared)?),
                    Some(index) => consumers.push(start_consumer(args, index, shared)?),
                }
            }
            Ok(Latencies {
                confirm: finish(producers, shared).await?,
                end_to_end: finish(consumers, shared).await?,
            })
        })
    });
    done.inspect_err(|_| shared.fail())
}

type Task = TaskHandle<Result<Histogram, ClientError>>;

fn start_producer(args: &Arc<Args>, index: u64, shared: &Arc<Shared>) -> Result<Task, ClientError> {
    let order = Order {
        exchange: if args.fanout { topology::exchange() } else { ShortString::default() },
        routing_keys: match (args.fanout, args.in_turn) {
            (true, _) => vec![ShortString::default()],
            (_, true) => {
                (0..args.queues).map(|it| args.queue_name(it)).collect::<Result<_, _>>()?
            }
            (_, false) => vec![args.queue_name(index % args.queues)?],
        },
        count: share(args.count, index, args.producers),
        rate: args.rate / args.producers as f64,
    };
    Ok(spawn(producer::produce(args.clone(), order, shared.clone()), shared))
}

fn start_consumer(args: &Arc<Args>, index: u64, shared: &Arc<Shared>) -> Result<Task, ClientError> {
    let queue = args.queue_name(index % args.queues)?;
    let count = share(args.drain, index, args.consumers);
    Ok(spawn(consumer::consume(args.clone(), queue, count, shared.clone()), shared))
}

fn spawn(
    task: impl Future<Output = Result<Histogram, ClientError>> + Send + 'static,
    shared: &Arc<Shared>,
) -> Task {
    let shared = shared.clone();
    tokio::spawn(async move { task.await.inspect_err(|_| shared.fail()) })
}

async fn finish(tasks: Vec<Task>, shared: &Shared) -> Result<Histogram, CommandError> {
    let mut latencies = Histogram::new();
    for task in tasks {
        let done = task.await.map_err(io::Error::other).inspect_err(|_| shared.fail())?;
        latencies.merge(&done?);
    }
    Ok(latencies)
}

fn join(
    threads: Vec<JoinHandle<Result<Latencies, CommandError>>>,
) -> Result<Latencies, CommandError> {
    let mut all = Latencies { confirm: Histogram::new(), end_to_end: Histogram::new() };
    for thread in threads {
        let part = thread.join().map_err(|_| io::Error::other("a client thread panicked"))??;
        all.confirm.merge(&part.confirm);
        all.end_to_end.merge(&part.end_to_end);
    }
    Ok(all)
}

/// What had been done and spent at one time.
#[derive(Clone, Copy)]
struct Snapshot {
    time: u64,
    own_cpu: f64,
    broker_cpu: f64,
    /// Bytes the broker has had written.
    broker_written: u64,
    published: u64,
    confirmed: u64,
    consumed: u64,
}

impl Snapshot {
    fn now(args: &Args, shared: &Shared) -> Snapshot {
        Snapshot {
            time: process::now(),
            own_cpu: process::own_cpu(),
            broker_cpu: args.broker_pid.map_or(0.0, process::cpu_of),
            broker_written: args.broker_pid.map_or(0, process::written_by),
            published: shared.published.load(Relaxed),
            confirmed: shared.confirmed.load(Relaxed),
            consumed: shared.consumed.load(Relaxed),
        }
    }
}

/// What happened between two times.
struct Measured {
    from: Snapshot,
    to: Snapshot,
    memory: process::Memory,
    resident_max: u64,
}

/// Starts the tasks, waits for the time or the count, and stops them.
fn measure(args: &Args, shared: &Shared) -> Measured {
    let tasks = args.producers + args.consumers;
    while shared.ready.load(Relaxed) < tasks && !shared.is_over() {
        std::thread::sleep(Duration::from_millis(1));
    }
    shared.go.store(true, Relaxed);
    let fixed_count = args.count < u64::MAX || args.drain < u64::MAX;
    if !fixed_count && !shared.is_over() {
        std::thread::sleep(Duration::from_secs_f64(args.warmup));
    }
    let memory = || args.broker_pid.map(process::memory_of).unwrap_or_default();
    let from = Snapshot::now(args, shared);
    shared.measuring.store(true, Relaxed);
    let (mut resident_max, mut last, mut next_line) = (0, from, 1.0);
    while !shared.is_over() {
        std::thread::sleep(if fixed_count { LOOK_AT_COUNT } else { LOOK_AT_TIME });
        let elapsed = (process::now() - from.time) as f64 / 1e9;
        if elapsed >= next_line {
            next_line += 1.0;
            resident_max = resident_max.max(memory().resident);
            if args.progress {
                last = progress(args, shared, last, elapsed, resident_max);
            }
        }
        if if fixed_count { all_done(args, shared) } else { elapsed >= args.duration } {
            break;
        }
    }
    let to = Snapshot::now(args, shared);
    shared.measuring.store(false, Relaxed);
    let memory = memory();
    shared.stop.store(true, Relaxed);
    Measured { from, to, memory, resident_max: resident_max.max(memory.resident) }
}

fn all_done(args: &Args, shared: &Shared) -> bool {
    let published = args.count == u64::MAX || shared.producers_done.load(Relaxed) == args.producers;
    let consumed = args.drain == u64::MAX || shared.consumers_done.load(Relaxed) == args.consumers;
    published && consumed
}

fn progress(args: &Args, shared: &Shared, last: Snapshot, elapsed: f64, resident: u64) -> Snapshot {
    let now = Snapshot::now(args, shared);
    let published = now.published - last.published;
    let confirmed = now.confirmed - last.confirmed;
    let consumed = now.consumed - last.consumed;
    eprintln!(
        "{elapsed:6.1} s  published {published:>9}  confirmed {confirmed:>9}  \
         consumed {consumed:>9}  rss {resident} KiB"
    );
    now
}

impl Measured {
    fn report(&self, args: &Args, shared: &Shared, latencies: &Latencies) -> Report {
        let (from, to) = (&self.from, &self.to);
        let seconds = (to.time - from.time) as f64 / 1e9;
        let published = to.published - from.published;
        let consumed = to.consumed - from.consumed;
        let copies = if args.fanout { args.queues } else { 1 };
        let million = published.max(consumed / copies).max(1) as f64 / 1e6;

        let mut report = Report::default();
        report.real("seconds", seconds);
        report.count("published", published);
        report.count("consumed", consumed);
        report.real("publish_rate", published as f64 / seconds);
        report.real("consume_rate", consumed as f64 / seconds);
        if args.confirm > 0 {
            report.real("confirm_rate", (to.confirmed - from.confirmed) as f64 / seconds);
            report.count("nacked", shared.nacked.load(Relaxed));
        }
        let names = ["confirm_p50_us", "confirm_p99_us", "confirm_p999_us", "confirm_max_us"];
        report.latencies(names, &latencies.confirm);
        let names = ["e2e_p50_us", "e2e_p99_us", "e2e_p999_us", "e2e_max_us"];
        report.latencies(names, &latencies.end_to_end);
        report.real("client_cpu_share", (to.own_cpu - from.own_cpu) / seconds);
        report.real("client_cpu_s_per_million", (to.own_cpu - from.own_cpu) / million);
        if args.broker_pid.is_some() {
            report.real("broker_cpu_share", (to.broker_cpu - from.broker_cpu) / seconds);
            report.real("broker_cpu_s_per_million", (to.broker_cpu - from.broker_cpu) / million);
            let written = (to.broker_written - from.broker_written) as f64;
            let published = (to.published - from.published).max(1) as f64;
            report.real("broker_written_bytes_per_published", written / published);
            report.count("broker_rss_kib", self.memory.resident);
            report.count("broker_rss_anon_kib", self.memory.anonymous);
            report.count("broker_rss_max_kib", self.resident_max);
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        assert_eq!((0..3).map(|index| share(10, index, 3)).collect::<Vec<_>>(), [4, 3, 3]);
        assert_eq!(share(u64::MAX, 1, 3), u64::MAX);
    }
}
