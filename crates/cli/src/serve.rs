//! `leveret serve`: the broker. Its flags are the server's table of settings.

use crate::NO;
use clap::{Arg, ArgMatches, Command, FromArgMatches, value_parser};
use leveret_server::config::CONFIG_ENV;
use leveret_server::{Config, Flags, SETTINGS};
use std::path::PathBuf;
use std::process::ExitCode;

/// The flags that were given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    config: Option<PathBuf>,
    settings: Vec<(&'static str, String)>,
}

const CONFIG: &str = "config";

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help(format!("A TOML file with settings, named as the flags are [env: {CONFIG_ENV}]"));
        SETTINGS.iter().fold(command.arg(config), |command, setting| {
            let (help, env, default) = (setting.help.trim(), setting.env(), setting.default);
            command.arg(
                Arg::new(setting.name)
                    .long(setting.name)
                    .value_name(setting.value_name)
                    .allow_hyphen_values(true)
                    .help(format!("{help} [env: {env}] [default: {default}]")),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Args::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one(CONFIG).cloned();
        self.settings = SETTINGS
            .iter()
            .filter_map(|s| Some((s.name, matches.get_one::<String>(s.name)?.clone())))
            .collect();
        Ok(())
    }
}

/// Runs the broker until it is told to stop.
pub(crate) fn run(args: Args) -> ExitCode {
    decline_huge_pages();
    let flags = Flags { config: args.config, settings: args.settings };
    let config = match Config::load(flags, &|variable| std::env::var_os(variable)) {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    match leveret_server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Huge pages double what an idle broker takes, and gain no speed that could be measured.
fn decline_huge_pages() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("leveret: {error}");
    ExitCode::from(NO)
}
