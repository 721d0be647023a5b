//! `leveret agents`: which agents are started, wherever they are, and how they are.

use crate::{CommandError, Outcome};
use leveret::{AgentQueue, AgentStatus, Agents, Bus, Exchange, Presence};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write, stdout};
use std::time::Duration;
use tokio::time::sleep;

/// How long a broker may take to answer before it is given up.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Clears a terminal, and begins at its top.
const CLEAR: &str = "\x1b[2J\x1b[H";
const TITLES: [&str; 8] =
    ["AGENT", "ROLE", "QUEUE", "MESSAGES", "CONSUMERS", "HANDLED", "FAILED", "LAST ERROR"];

/// Calls the roll: a line for each started agent, and for those of the names given that do not
/// answer. Exits with 0 when there is one and all that were named answer, with 1 otherwise, with 2
/// when the broker could not be asked.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The broker, as amqp://user:password@host:port/vhost
    #[arg(short, long, env = "LEVERET_URI", hide_env_values = true, default_value = "amqp://")]
    uri: String,
    /// Again and again, until interrupted
    #[arg(short, long)]
    watch: bool,
    /// How long to wait for answers, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(10..=60_000))]
    wait: u64,
    /// Agents that should be there
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Shows them once, or until nobody reads any more.
pub(crate) async fn run(args: Args) -> Result<Outcome, CommandError> {
    // Notes go there anyway; a bus wants some exchange.
    let exchange = Exchange::topic("agents");
    let bus = Bus::builder(&args.uri).exchange(exchange).connect_timeout(CONNECT_LIMIT);
    let bus = bus.connect().await?;
    let agents = bus.agents();
    for name in &args.names {
        agents.watch(name)?;
    }
    let wait = Duration::from_millis(args.wait);
    let outcome = loop {
        let clear = if args.watch { CLEAR } else { "" };
        let (text, outcome) = match View::take(&agents, wait).await {
            Ok(view) => (view.table(), view.outcome(&args.names)),
            // The broker may come back.
            Err(error) if args.watch => {
                sleep(wait).await;
                (format!("{error}\n"), Outcome::No(error.to_string()))
            }
            Err(error) => return Err(error),
        };
        let wrote = write!(stdout().lock(), "{clear}{text}");
        match wrote.and_then(|()| stdout().flush()) {
            Ok(()) if args.watch => {}
            // A reader that has seen enough is no error.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                return Err(CommandError::Output(error));
            }
            _ => break outcome,
        }
    };
    bus.close().await;
    Ok(outcome)
}

/// The agents at one moment.
struct View {
    present: Vec<Presence>,
    queues: BTreeMap<String, AgentQueue>,
}

impl View {
    async fn take(agents: &Agents, wait: Duration) -> Result<View, CommandError> {
        let present = agents.roll_call(wait).await?;
        for presence in &present {
            // One whose name is none has no queue that we know of.
            let _ = agents.watch(&presence.name);
        }
        Ok(View { queues: agents.debug_queues().await?, present })
    }

    fn answers(&self, name: &str) -> bool {
        self.present.iter().any(|presence| presence.name == name)
    }

    fn outcome(&self, names: &[String]) -> Outcome {
        let absent: Vec<&str> =
            names.iter().filter(|name| !self.answers(name)).map(String::as_str).collect();
        if !absent.is_empty() {
            return Outcome::No(format!("no answer from {}", absent.join(", ")));
        }
        match self.present.is_empty() {
            true => Outcome::No("no agent answers".to_owned()),
            false => Outcome::Done,
        }
    }

    fn table(&self) -> String {
        let mut rows = vec![TITLES.map(str::to_owned)];
        rows.extend(self.present.iter().map(|presence| self.present_row(presence)));
        let absent = self.queues.iter().filter(|(name, _)| !self.answers(name));
        rows.extend(absent.map(|(name, queue)| absent_row(name, queue)));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
        let widths: Vec<usize> = (0..TITLES.len()).filter_map(width).collect();
        let mut table = String::new();
        for row in &rows {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            table.push_str(cells.join("  ").trim_end());
            table.push('\n');
        }
        table
    }

    fn present_row(&self, presence: &Presence) -> [String; 8] {
        let queue = self.queues.get(&presence.name);
        let number = |of: fn(&AgentQueue) -> u64| {
            queue.map_or_else(|| "?".to_owned(), |queue| of(queue).to_string())
        };
        [
            plain(&presence.name),
            plain(&presence.role),
            plain(&presence.queue()),
            number(|queue| queue.message_count),
            number(|queue| queue.consumer_count),
            presence.handled.to_string(),
            presence.failed.to_string(),
            plain(presence.last_error.as_deref().unwrap_or_default()),
        ]
    }
}

/// An agent of which only the inbox is known.
fn absent_row(name: &str, queue: &AgentQueue) -> [String; 8] {
    let state = match queue.status {
        AgentStatus::Active => "does not answer",
        AgentStatus::Idle => "no live consumer",
        AgentStatus::Missing => "no such queue",
    };
    let unknown = || "-".to_owned();
    [
        plain(name),
        unknown(),
        plain(&queue.queue_name),
        queue.message_count.to_string(),
        queue.consumer_count.to_string(),
        unknown(),
        unknown(),
        state.to_owned(),
    ]
}

/// Without what a terminal would take for more than text.
fn plain(text: &str) -> String {
    text.chars()
        .flat_map(|char| {
            let escaped = char.is_control().then(|| char.escape_default());
            let as_it_is = if escaped.is_none() { Some(char) } else { None };
            escaped.into_iter().flatten().chain(as_it_is)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str, waiting: u64, consumers: u64, status: AgentStatus) -> AgentQueue {
        AgentQueue {
            queue_name: format!("agent_{name}_queue"),
            message_count: waiting,
            consumer_count: consumers,
            routing_key: format!("agent.{name}"),
            status,
        }
    }

    #[test]
    fn a_table_has_those_that_answer_and_those_that_do_not() {
        let present = Presence {
            name: "Stock".to_owned(),
            role: "counts".to_owned(),
            slug: "stock".to_owned(),
            handled: 12,
            failed: 1,
            last_error: Some("no \x1bcarrots".to_owned()),
            ..Presence::default()
        };
        let queues = BTreeMap::from([
            ("Ann".to_owned(), queue("ann", 7, 0, AgentStatus::Idle)),
            ("Stock".to_owned(), queue("stock", 3, 2, AgentStatus::Active)),
        ]);
        let view = View { present: vec![present], queues };
        let table = [
            "AGENT  ROLE    QUEUE              MESSAGES  CONSUMERS  HANDLED  FAILED  LAST ERROR",
            "Stock  counts  agent_stock_queue  3         2          12       1       \
             no \\u{1b}carrots",
            "Ann    -       agent_ann_queue    7         0          -        -       \
             no live consumer",
            "",
        ];
        assert_eq!(view.table(), table.join("\n"));
        assert_eq!(view.outcome(&["Stock".to_owned()]), Outcome::Done);
        let absent = Outcome::No("no answer from Ann".to_owned());
        assert_eq!(view.outcome(&["Ann".to_owned(), "Stock".to_owned()]), absent);
    }
}
