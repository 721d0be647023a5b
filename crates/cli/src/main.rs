//! The `leveret` command: the broker, and what a person wants beside it in a shell.

mod agents;
mod bench;
mod client;
mod consume;
mod dead;
mod get;
mod inspect;
mod publish;
mod repair;
mod serve;
mod uri;

use clap::{Parser, Subcommand};
use client::ClientError;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A RabbitMQ-compatible message broker.
///
/// Without a command it serves: `leveret` is `leveret serve`.
#[derive(Parser)]
#[command(name = "leveret", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Args,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker
    Serve(serve::Args),
    /// Publish messages to a broker, and wait until it has taken them
    Publish(publish::Args),
    /// Consume messages, to standard output or by a command for each
    Consume(consume::Args),
    /// Take one message from a queue
    Get(get::Args),
    /// Look at dead letters, send them back or throw them away
    Dead(dead::Args),
    /// Show which agents are started, and how they are
    Agents(agents::Args),
    /// Show what a data directory holds
    Inspect(inspect::Args),
    /// Save what can be read of a damaged data directory
    Repair(repair::Args),
    /// Load a broker and measure what it does
    Bench(bench::Args),
}

/// Why a client command could not do what it was told to.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot read the message: {0}")]
    Input(#[source] std::io::Error),
    #[error("cannot write the message: {0}")]
    Output(#[source] std::io::Error),
    #[error("cannot run {command:?}: {source}")]
    Run { command: String, source: std::io::Error },
    #[error("the system refuses what this takes: {0}")]
    System(#[from] std::io::Error),
    #[error(transparent)]
    Repair(#[from] leveret_repair::Error),
    #[error(transparent)]
    Bus(#[from] leveret::Error),
    #[error("the broker cancelled the consumer; its queue is gone")]
    Cancelled,
}

/// What a client command came to, apart from errors.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// The broker was asked and the answer is no, in these words.
    No(String),
}

/// The exit code for [`Outcome::No`] and for a server that failed.
const NO: u8 = 1;
/// The exit code of a client command that could not do its work, as of a wrong command line.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => return serve::run(args),
        Command::Publish(args) => block_on(publish::run(args)),
        Command::Consume(args) => block_on(consume::run(args)),
        Command::Get(args) => block_on(get::run(args)),
        Command::Dead(args) => block_on(dead::run(args)),
        Command::Agents(args) => block_on(agents::run(args)),
        Command::Inspect(args) => inspect::run(args),
        Command::Repair(args) => repair::run(args),
        Command::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No(why)) => {
            eprintln!("leveret: {why}");
            ExitCode::from(NO)
        }
        Err(error) => {
            eprintln!("leveret: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn block_on(
    command: impl Future<Output = Result<Outcome, CommandError>>,
) -> Result<Outcome, CommandError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_is_serve() {
        let alone = Cli::parse_from(["leveret", "--amqp-port", "1"]);
        assert!(alone.command.is_none());
        let named = Cli::parse_from(["leveret", "serve", "--amqp-port", "1"]);
        assert!(matches!(named.command, Some(Command::Serve(args)) if args == alone.serve));
    }

    #[test]
    fn help_has_every_setting_with_its_variable_and_default() {
        let help = Cli::command().render_long_help().to_string();
        for setting in leveret_server::SETTINGS {
            for part in [format!("--{} ", setting.name), setting.env(), setting.default.into()] {
                assert!(help.contains(&part), "{part}");
            }
        }
    }
}
