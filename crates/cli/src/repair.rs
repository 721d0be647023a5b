//! `leveret repair`: saves what can be read of a damaged data directory.

use crate::{CommandError, Outcome};
use leveret_repair::Repair;
use std::ffi::OsString;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Saves what can be read of a data directory that a broker refuses to start on, into a new one on
/// which it starts, and says what is lost. Writes nothing to the old directory. Exits with 0 if
/// nothing was lost, with 1 if something was, with 2 if nothing could be done.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The damaged data directory; no broker may run on it
    #[arg(long, env = "LEVERET_DATA_DIR", default_value = "./leveret-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// The directory to make [default: the old name and .repaired]
    #[arg(long, value_name = "NEWDIR")]
    to: Option<PathBuf>,
}

/// Does it, and reports.
pub(crate) fn run(args: Args) -> Result<Outcome, CommandError> {
    let Args { data_dir, to } = args;
    let to = to.unwrap_or_else(|| {
        // "data/" and "data" are the same.
        let mut name: OsString = data_dir.components().collect::<PathBuf>().into();
        name.push(".repaired");
        name.into()
    });
    let report = leveret_repair::repair(&Repair { data_dir, to: to.clone() })?;
    let text = format!("{report}\nthe repaired directory is {}\n", to.display());
    stdout().write_all(text.as_bytes()).map_err(CommandError::Output)?;
    match report.is_whole() {
        true => Ok(Outcome::Done),
        false => Ok(Outcome::No("something was lost; see the report above".to_owned())),
    }
}
