//! `leveret dead`: messages that consumers could not handle, to be looked at, sent back or thrown
//! away.

mod show;

use crate::{CommandError, Outcome};
use leveret::{Bus, DeadLetters, Filter, Redriven};
use std::io::{ErrorKind, Write, stdout};
use std::time::Duration;

/// How long the broker may take to answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How many dead letters are looked at to count them by their errors.
const GROUPED_MAX: u16 = 10_000;

/// Shows dead letters of the leveret toolkit's consumers, sends them back or throws them away.
/// Those of a queue wait in a queue called like it with .dead behind it. Exits with 0 when that is
/// done, with 1 when there is no such dead letter, with 2 when the broker could not be asked.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Count dead letters by their last errors, and list the first ones; they stay where they are
    List {
        #[command(flatten)]
        place: Place,
        /// How many to list
        #[arg(short = 'n', long, default_value_t = 50, value_name = "COUNT")]
        most: u16,
        /// As a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show all of one dead letter: what it has been through, its headers and its body
    Show {
        #[command(flatten)]
        place: Place,
        /// The message's id
        id: String,
    },
    /// Send dead letters back to the queue they came from, with all their attempts again; all of
    /// them, if nothing says which
    Redrive {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        which: Which,
        /// Send them to this queue instead
        #[arg(long, value_name = "QUEUE")]
        to: Option<String>,
        /// How many a second at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        rate: u32,
    },
    /// Throw dead letters away
    #[command(group = clap::ArgGroup::new("what").args(["id", "subject", "kind", "error", "all"])
        .required(true).multiple(true))]
    Discard {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        which: Which,
        /// All of them
        #[arg(long, conflicts_with_all = ["id", "subject", "kind", "error"])]
        all: bool,
    },
}

/// Whose dead letters.
#[derive(clap::Args)]
struct Place {
    /// The broker, as amqp://user:password@host:port/vhost, or as the toolkit takes it
    #[arg(short, long, env = "LEVERET_URI", hide_env_values = true, default_value = "amqp://")]
    uri: String,
    /// The queue whose consumers could not handle them
    queue: String,
}

/// Which dead letters; those that all of it is true of.
#[derive(clap::Args)]
struct Which {
    /// The one with this id; may be given more than once
    #[arg(long)]
    id: Vec<String>,
    /// Those that were published under this subject
    #[arg(long)]
    subject: Option<String>,
    /// Those whose last error's type contains this
    #[arg(long, value_name = "TYPE")]
    kind: Option<String>,
    /// Those whose last error's text contains this
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
}

impl Which {
    fn filter(&self) -> Filter {
        let mut filter = Filter::all().ids(self.id.iter().map(String::as_str));
        if let Some(subject) = &self.subject {
            filter = filter.subject(subject);
        }
        if let Some(kind) = &self.kind {
            filter = filter.kind(kind);
        }
        if let Some(error) = &self.error {
            filter = filter.error(error);
        }
        filter
    }
}

/// Does what the command says.
pub(crate) async fn run(args: Args) -> Result<Outcome, CommandError> {
    let place = args.command.place();
    let bus = Bus::builder(&place.uri).connect_timeout(CONNECT_TIMEOUT).connect().await?;
    let outcome = args.command.run(&bus).await;
    bus.close().await;
    outcome
}

impl Command {
    fn place(&self) -> &Place {
        match self {
            Command::List { place, .. }
            | Command::Show { place, .. }
            | Command::Redrive { place, .. }
            | Command::Discard { place, .. } => place,
        }
    }

    async fn run(&self, bus: &Bus) -> Result<Outcome, CommandError> {
        let queue = &self.place().queue;
        // Whoever names the queue of the dead letters itself means the same.
        let dead = bus.dead_letters(queue.strip_suffix(".dead").unwrap_or(queue));
        if bus.queue(&dead.queue()).await?.is_none() {
            let no_queue =
                format!("there are no dead letters: no queue is called {:?}", dead.queue());
            return Ok(Outcome::No(no_queue));
        }
        match self {
            Command::List { most, json, .. } => list(&dead, *most, *json).await,
            Command::Show { id, .. } => match dead.find(id).await? {
                None => Ok(Outcome::No(format!("none of them has the id {id:?}"))),
                Some(letter) => print(&show::whole(&letter)),
            },
            Command::Redrive { which, to, rate, .. } => {
                let done = dead.redrive_to(to.as_deref(), &which.filter(), *rate).await?;
                match to {
                    None => told(done, "sent back"),
                    Some(to) => told(done, &format!("sent to {to:?}")),
                }
            }
            Command::Discard { which, .. } => {
                told(dead.discard(&which.filter()).await?, "discarded")
            }
        }
    }
}

async fn list(dead: &DeadLetters, most: u16, json: bool) -> Result<Outcome, CommandError> {
    let count = dead.count().await?;
    let letters = dead.list(most.max(GROUPED_MAX).into()).await?;
    let list = show::List { queue: &dead.queue(), count, letters: &letters, most: most.into() };
    print(&if json { list.json() } else { list.text() })
}

fn told(Redriven { done, kept }: Redriven, what: &str) -> Result<Outcome, CommandError> {
    if done == 0 {
        return Ok(Outcome::No(format!("no dead letter is meant; {kept} are there")));
    }
    print(&format!("{done} {what}, {kept} kept\n"))
}

fn print(text: &str) -> Result<Outcome, CommandError> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A reader that has seen enough, as `head` does, is no error.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(CommandError::Output(error)),
        _ => Ok(Outcome::Done),
    }
}
