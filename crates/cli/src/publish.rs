//! `leveret publish`: one message, or one for each line of the input.

use crate::client::{BUSY_BYTES, CHANNEL, Client, ClientError};
use crate::uri::Uri;
use crate::{CommandError, Outcome};
use leveret_amqp_wire::method::*;
use leveret_amqp_wire::publish::{write_envelope, write_publish};
use leveret_amqp_wire::{Method, write_content};
use leveret_model::properties::PERSISTENT;
use leveret_model::{FieldTable, Properties, ShortString};
use std::io::{BufRead, Read, stdin};
use tokio::sync::mpsc;

/// Messages sent and not yet confirmed, at most.
const WINDOW: u64 = 1000;
/// Lines read ahead of what is sent, and sent in one write, at most.
const LINES_AHEAD: usize = 256;

/// Publishes with confirms. Exits with 0 when every message is in a queue, with 1 when one was
/// refused or reached no queue, with 2 when the broker could not be asked.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The broker, as amqp://user:password@host:port/vhost
    #[arg(short, long, env = "LEVERET_URI", hide_env_values = true, default_value = "amqp://")]
    uri: Uri,
    /// The exchange; the default exchange if there is none
    #[arg(short, long, default_value = "", hide_default_value = true)]
    exchange: String,
    /// The routing key; with the default exchange the name of the queue
    #[arg(short, long, default_value = "", hide_default_value = true)]
    routing_key: String,
    /// Keep the message over a restart of the broker
    #[arg(short, long)]
    persistent: bool,
    /// Publish each line of the standard input as a message
    #[arg(long, conflicts_with = "body")]
    lines: bool,
    /// The MIME type of the body
    #[arg(short = 'C', long, value_name = "TYPE")]
    content_type: Option<String>,
    /// A header; may be given more than once
    #[arg(short = 'H', long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Where to send a reply
    #[arg(long, value_name = "QUEUE")]
    reply_to: Option<String>,
    /// What a reply will be known by
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Time to live in milliseconds
    #[arg(long, value_name = "MS")]
    expiration: Option<u64>,
    /// From 0, for queues with priorities
    #[arg(long)]
    priority: Option<u8>,
    /// The message; without one it is what the standard input holds
    body: Option<String>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a header is written NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Publishes what the arguments say.
pub(crate) async fn run(args: Args) -> Result<Outcome, CommandError> {
    let (exchange, key) = (args.exchange.as_str(), args.routing_key.as_str());
    let mut envelope = Vec::new();
    let names = (ShortString::try_from(exchange), ShortString::try_from(key));
    write_envelope(
        &mut envelope,
        &names.0.map_err(ClientError::from)?,
        &names.1.map_err(ClientError::from)?,
    );
    let mut properties = Vec::new();
    args.properties()?.encode(&mut properties);
    // Read before connecting: what it is made of may take its time.
    let single = if args.lines { None } else { Some(args.body()?) };

    let mut client = Client::open(&args.uri, BUSY_BYTES).await?;
    client.call(ConfirmSelect::default(), ConfirmSelectOk::ID).await?;
    let mut publisher = Publisher { client, envelope, properties, tally: Tally::default() };
    match single {
        Some(body) => publisher.send(&[body]).await?,
        None => publisher.send_lines().await?,
    }
    while publisher.tally.open() > 0 {
        publisher.hear().await?;
    }
    publisher.client.close().await?;
    Ok(publisher.tally.outcome(exchange, key))
}

impl Args {
    fn properties(&self) -> Result<Properties, ClientError> {
        let short = |text: &Option<String>| text.as_deref().map(ShortString::try_from).transpose();
        let mut headers = FieldTable::new();
        for (name, value) in &self.header {
            headers.insert(ShortString::try_from(name.as_str())?, value.as_str());
        }
        Ok(Properties {
            content_type: short(&self.content_type)?,
            headers: (!headers.is_empty()).then_some(headers),
            delivery_mode: self.persistent.then_some(PERSISTENT),
            priority: self.priority,
            correlation_id: short(&self.correlation_id)?,
            reply_to: short(&self.reply_to)?,
            expiration: short(&self.expiration.map(|ms| ms.to_string()))?,
            ..Properties::default()
        })
    }

    fn body(&self) -> Result<Vec<u8>, CommandError> {
        if let Some(body) = &self.body {
            return Ok(body.clone().into_bytes());
        }
        let mut body = Vec::new();
        stdin().read_to_end(&mut body).map_err(CommandError::Input)?;
        Ok(body)
    }
}

struct Publisher {
    client: Client,
    envelope: Vec<u8>,
    properties: Vec<u8>,
    tally: Tally,
}

impl Publisher {
    async fn send(&mut self, bodies: &[Vec<u8>]) -> Result<(), ClientError> {
        let mut bytes = Vec::new();
        for body in bodies {
            write_publish(&mut bytes, CHANNEL, &self.envelope, true);
            write_content(&mut bytes, CHANNEL, &self.properties, body, self.client.frame_max);
        }
        self.tally.sent += bodies.len() as u64;
        self.client.send(&bytes).await
    }

    /// Sends each line as soon as it comes, as far as the window allows.
    async fn send_lines(&mut self) -> Result<(), CommandError> {
        let mut lines = read_lines();
        let mut bodies = Vec::new();
        loop {
            let room = WINDOW.saturating_sub(self.tally.open()) as usize;
            tokio::select! {
                count = lines.recv_many(&mut bodies, room.min(LINES_AHEAD)), if room > 0 => {
                    if count == 0 {
                        return Ok(());
                    }
                    let lines: Result<Vec<_>, _> = bodies.drain(..).collect();
                    self.send(&lines.map_err(CommandError::Input)?).await?;
                }
                heard = self.client.next() => self.tally.count(&heard?.method),
            }
        }
    }

    async fn hear(&mut self) -> Result<(), ClientError> {
        let incoming = self.client.next().await?;
        self.tally.count(&incoming.method);
        Ok(())
    }
}

/// Reads the lines of the standard input on a thread of its own, where waiting disturbs nobody.
fn read_lines() -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (sender, lines) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        for line in stdin().lock().split(b'\n') {
            let line = line.map(|mut line| {
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                line
            });
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// What became of the messages.
#[derive(Default)]
struct Tally {
    sent: u64,
    /// Delivery tags up to this one are settled, all of them.
    settled: u64,
    /// Settled tags above that.
    ahead: std::collections::BTreeSet<u64>,
    refused: u64,
    returned: u64,
    /// The broker's words for the first that it returned.
    why: String,
}

impl Tally {
    fn open(&self) -> u64 {
        self.sent - self.settled - self.ahead.len() as u64
    }

    fn count(&mut self, method: &Method) {
        match method {
            Method::BasicAck(ack) => {
                self.settle(ack.delivery_tag, ack.multiple);
            }
            Method::BasicNack(nack) => {
                self.refused += self.settle(nack.delivery_tag, nack.multiple);
            }
            Method::BasicReturn(returned) => {
                if self.returned == 0 {
                    self.why = format!("{} {}", returned.reply_code, returned.reply_text);
                }
                self.returned += 1;
            }
            _ => {}
        }
    }

    /// Notes a confirm; how many messages it settled.
    fn settle(&mut self, tag: u64, multiple: bool) -> u64 {
        let before = self.open();
        // A multiple of 0 means all there are.
        let tag = if tag == 0 { self.sent } else { tag };
        if multiple {
            self.settled = self.settled.max(tag);
            self.ahead = self.ahead.split_off(&(tag + 1));
        } else if tag > self.settled {
            self.ahead.insert(tag);
        }
        while self.ahead.remove(&(self.settled + 1)) {
            self.settled += 1;
        }
        before - self.open()
    }

    fn outcome(&self, exchange: &str, key: &str) -> Outcome {
        let of = |count: u64| match self.sent {
            1 => "the message".to_owned(),
            sent => format!("{count} of {sent} messages"),
        };
        let mut answers = Vec::new();
        if self.returned > 0 {
            answers.push(format!(
                "{} reached no queue: {} (exchange {exchange:?}, routing key {key:?})",
                of(self.returned),
                self.why
            ));
        }
        if self.refused > 0 {
            answers.push(format!("the broker refused {}", of(self.refused)));
        }
        if answers.is_empty() { Outcome::Done } else { Outcome::No(answers.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(delivery_tag: u64, multiple: bool) -> Method {
        BasicAck { delivery_tag, multiple }.into()
    }

    #[test]
    fn confirms_count_in_any_order_and_once() {
        let mut tally = Tally { sent: 6, ..Tally::default() };
        for (tag, multiple, open) in
            [(2, false, 5), (2, false, 5), (3, true, 3), (5, false, 2), (0, true, 0)]
        {
            tally.count(&ack(tag, multiple));
            assert_eq!(tally.open(), open, "after {tag} {multiple}");
        }
        assert_eq!(tally.outcome("", ""), Outcome::Done);
    }

    #[test]
    fn what_was_not_taken_is_told() {
        let mut tally = Tally { sent: 3, ..Tally::default() };
        let reply_text = ShortString::from_static("NO_ROUTE");
        tally.count(&BasicReturn { reply_code: 312, reply_text, ..Default::default() }.into());
        tally.count(&ack(1, false));
        tally.count(&BasicNack { delivery_tag: 3, multiple: true, requeue: false }.into());
        assert_eq!(tally.open(), 0);
        let why = "1 of 3 messages reached no queue: 312 NO_ROUTE (exchange \"e\", routing key \
                   \"k\"); the broker refused 2 of 3 messages";
        assert_eq!(tally.outcome("e", "k"), Outcome::No(why.into()));
    }

    #[test]
    fn a_header_needs_a_name_and_a_value() {
        assert_eq!(header("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(header("a").is_err());
    }
}
