//! `leveret get`: one message, if there is one.

use crate::client::{CHANNEL, Client, ClientError, QUIET_BYTES};
use crate::uri::Uri;
use crate::{CommandError, Outcome};
use leveret_amqp_wire::Method;
use leveret_amqp_wire::method::*;
use leveret_model::ShortString;
use std::io::{IsTerminal, Write, stdout};

/// Takes one message and writes its body to the standard output, as it is. Exits with 0 when
/// there was one, with 1 when the queue is empty, with 2 when the broker could not be asked.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The broker, as amqp://user:password@host:port/vhost
    #[arg(short, long, env = "LEVERET_URI", hide_env_values = true, default_value = "amqp://")]
    uri: Uri,
    /// The queue
    #[arg(short, long)]
    queue: String,
}

/// Takes one message.
pub(crate) async fn run(args: Args) -> Result<Outcome, CommandError> {
    let queue = ShortString::try_from(args.queue.as_str()).map_err(ClientError::from)?;
    let mut client = Client::open(&args.uri, QUIET_BYTES).await?;
    client.tell(CHANNEL, BasicGet { queue, ..Default::default() }).await?;
    loop {
        let incoming = client.next().await?;
        match incoming.method {
            Method::BasicGetOk(got) => {
                write(&incoming.body).map_err(CommandError::Output)?;
                // Only now: what could not be written stays in the queue.
                let ack = BasicAck { delivery_tag: got.delivery_tag, multiple: false };
                client.tell(CHANNEL, ack).await?;
                client.close().await?;
                return Ok(Outcome::Done);
            }
            Method::BasicGetEmpty(_) => {
                client.close().await?;
                return Ok(Outcome::No(format!("the queue {:?} is empty", args.queue)));
            }
            _ => {}
        }
    }
}

fn write(body: &[u8]) -> std::io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(body)?;
    if out.is_terminal() && !body.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    out.flush()
}
