//! `leveret consume`: messages as they come, to the standard output or to a command for each.

use crate::client::{BUSY_BYTES, CHANNEL, Client, ClientError, Incoming};
use crate::uri::Uri;
use crate::{CommandError, Outcome};
use leveret_amqp_wire::Method;
use leveret_amqp_wire::method::*;
use leveret_model::ShortString;
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write, stdout};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Messages that may be on their way to the standard output.
const PREFETCH_TO_OUTPUT: u16 = 100;
/// Messages that may be on their way to a command: one, so that other consumers get theirs.
const PREFETCH_TO_COMMAND: u16 = 1;

/// Writes each message to the standard output, on a line of its own, or runs a command for each,
/// with the message as its standard input; a command that fails gives the message back.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("source").args(["queue", "exchange"]).required(true)
    .multiple(true))]
pub(crate) struct Args {
    /// The broker, as amqp://user:password@host:port/vhost
    #[arg(short, long, env = "LEVERET_URI", hide_env_values = true, default_value = "amqp://")]
    uri: Uri,
    /// The queue; without one a queue of its own is made and bound to the exchange
    #[arg(short, long)]
    queue: Option<String>,
    /// The exchange to bind the queue to
    #[arg(short, long)]
    exchange: Option<String>,
    /// The key to bind it with
    #[arg(short, long, default_value = "", hide_default_value = true, requires = "exchange")]
    routing_key: String,
    /// End after this many messages
    #[arg(short, long)]
    count: Option<u64>,
    /// Let the broker forget each message as it sends it
    #[arg(short = 'A', long)]
    no_ack: bool,
    /// How many messages the broker sends ahead; 0 is no limit
    #[arg(short, long)]
    prefetch: Option<u16>,
    /// The command and its arguments; when it ends with 0 the message is settled, otherwise it goes
    /// back to the queue after a pause that grows
    #[arg(last = true)]
    command: Vec<String>,
}

/// Consumes until the count is reached, or for ever.
pub(crate) async fn run(args: Args) -> Result<Outcome, CommandError> {
    let mut client = Client::open(&args.uri, BUSY_BYTES).await?;
    let queue = prepare_queue(&args, &mut client).await?;
    let prefetch_count = args.prefetch();
    let qos = BasicQos { prefetch_count, ..Default::default() };
    client.call(qos, BasicQosOk::ID).await?;
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut sink = Sink::new(&args.command);
    let mut failures = 0;
    if left > 0 {
        let consume = BasicConsume { queue, no_ack: args.no_ack, ..Default::default() };
        client.call(consume, BasicConsumeOk::ID).await?;
    }
    while left > 0 {
        let mut settle = None;
        let mut next = Some(client.next().await?);
        // What came in one read goes out in one write and is settled by one ack.
        while let Some(incoming) = next {
            if matches!(incoming.method, Method::BasicCancel(_)) {
                return Err(CommandError::Cancelled);
            }
            if let Method::BasicDeliver(delivery) = &incoming.method {
                left -= 1;
                settle = Some((delivery.delivery_tag, sink.take(&incoming)?));
            }
            let stop = left == 0 || !sink.batches();
            next = if stop { None } else { client.next_buffered()? };
        }
        if !sink.flush()? {
            return Ok(Outcome::Done);
        }
        if let Some((tag, taken)) = settle
            && !args.no_ack
        {
            failures = if taken { 0 } else { failures + 1 };
            if !taken {
                tokio::time::sleep(pause_after(failures)).await;
            }
            client.tell(CHANNEL, settlement(tag, taken)).await?;
        }
    }
    client.close().await?;
    Ok(Outcome::Done)
}

impl Args {
    fn prefetch(&self) -> u16 {
        let usual = if self.command.is_empty() { PREFETCH_TO_OUTPUT } else { PREFETCH_TO_COMMAND };
        // No more than will be taken, so that none has to go back to the queue.
        let wanted = self.count.and_then(|count| u16::try_from(count).ok()).unwrap_or(u16::MAX);
        self.prefetch.unwrap_or(usual.min(wanted))
    }
}

/// The queue to consume from, made and bound as far as the arguments say so.
async fn prepare_queue(args: &Args, client: &mut Client) -> Result<ShortString, ClientError> {
    let mut queue = ShortString::try_from(args.queue.as_deref().unwrap_or_default())?;
    if queue.is_empty() {
        let declare = QueueDeclare { exclusive: true, auto_delete: true, ..Default::default() };
        let reply = client.call(declare, QueueDeclareOk::ID).await?;
        if let Method::QueueDeclareOk(made) = reply.method {
            queue = made.queue;
        }
    }
    if let Some(exchange) = &args.exchange {
        let bind = QueueBind {
            queue: queue.clone(),
            exchange: ShortString::try_from(exchange.as_str())?,
            routing_key: ShortString::try_from(args.routing_key.as_str())?,
            ..Default::default()
        };
        client.call(bind, QueueBindOk::ID).await?;
    }
    Ok(queue)
}

/// How long to wait before a message that the command could not handle goes back, after so many
/// failures in a row: it comes again at once, and the reason may take a while to pass.
fn pause_after(failures: u32) -> Duration {
    Duration::from_millis(100).saturating_mul(1 << failures.min(7)).min(Duration::from_secs(10))
}

fn settlement(delivery_tag: u64, taken: bool) -> Method {
    if taken {
        BasicAck { delivery_tag, multiple: true }.into()
    } else {
        BasicReject { delivery_tag, requeue: true }.into()
    }
}

/// Where messages go.
enum Sink<'a> {
    Output { out: BufWriter<StdoutLock<'static>>, open: bool },
    Command { program: &'a str, arguments: &'a [String] },
}

impl Sink<'_> {
    fn new(command: &[String]) -> Sink<'_> {
        match command.split_first() {
            Some((program, arguments)) => Sink::Command { program, arguments },
            None => Sink::Output { out: BufWriter::new(stdout().lock()), open: true },
        }
    }

    /// Whether one settlement may stand for several messages.
    fn batches(&self) -> bool {
        matches!(self, Sink::Output { .. })
    }

    /// Takes a message; whether it need not come again.
    fn take(&mut self, message: &Incoming) -> Result<bool, CommandError> {
        match self {
            Sink::Output { out, open } => {
                let wrote = out.write_all(&message.body).and_then(|()| out.write_all(b"\n"));
                *open = still_open(wrote)?;
                Ok(*open)
            }
            Sink::Command { program, arguments } => feed(program, arguments, &message.body)
                .map_err(|source| CommandError::Run { command: (*program).to_owned(), source }),
        }
    }

    /// Lets go of what was taken; whether more can be.
    fn flush(&mut self) -> Result<bool, CommandError> {
        match self {
            Sink::Output { out, open } => Ok(*open && still_open(out.flush())?),
            Sink::Command { .. } => Ok(true),
        }
    }
}

/// A reader that has seen enough, as `head` does, is no error.
fn still_open(wrote: io::Result<()>) -> Result<bool, CommandError> {
    match wrote {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CommandError::Output(error)),
    }
}

/// Runs a command with `body` as its standard input; whether it succeeded.
fn feed(program: &str, arguments: &[String], body: &[u8]) -> io::Result<bool> {
    let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command need not read its message; its exit code says whether it is content.
        let _ = stdin.write_all(body);
    }
    let status = child.wait()?;
    if !status.success() {
        eprintln!("leveret: {program:?} ended with {status}; the message goes back to the queue");
    }
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commands_exit_code_decides() {
        let shell = |script: &str| feed("sh", &["-c".into(), script.into()], b"carrot");
        assert!(shell("test $(cat) = carrot").unwrap());
        assert!(!shell("test $(cat) = lettuce").unwrap());
        assert!(shell("exec true").unwrap(), "it need not read");
        assert!(feed("/no/such/command", &[], b"").is_err());
    }

    #[test]
    fn a_command_gets_one_message_at_a_time() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let prefetch = |line: &[&str]| {
            let words = ["consume", "-q", "x"].iter().chain(line);
            <Line as clap::Parser>::parse_from(words).args.prefetch()
        };
        assert_eq!(prefetch(&["--", "cat"]), 1);
        assert_eq!(prefetch(&["-p", "5", "--", "cat"]), 5);
        assert_eq!(prefetch(&[]), 100);
        assert_eq!(prefetch(&["-c", "7"]), 7);
        assert_eq!(prefetch(&["-c", "100000"]), 100);
    }
}
