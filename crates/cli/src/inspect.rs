//! `leveret inspect`: what a data directory holds.

use crate::{CommandError, Outcome};
use leveret_repair::Inspect;
use std::io::{BufWriter, Write, stdout};
use std::path::PathBuf;

/// Shows what a data directory holds, also when it is damaged. Takes no lock and writes nothing: if
/// a broker runs there, what is shown may change meanwhile. Exits with 0 if all is sound, with 1 if
/// something is damaged, with 2 if the directory cannot be read.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The data directory
    #[arg(long, env = "LEVERET_DATA_DIR", default_value = "./leveret-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// List the frames of segments
    #[arg(long)]
    frames: bool,
    /// List records
    #[arg(long)]
    records: bool,
    /// Show the bodies of messages, too; control characters are escaped
    #[arg(long, requires = "records")]
    bodies: bool,
    /// List only the records of queues of this name
    #[arg(long, requires = "records")]
    queue: Option<String>,
    /// Only these files: segments (.wal), or packs (.pack or .idx)
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Prints it.
pub(crate) fn run(args: Args) -> Result<Outcome, CommandError> {
    let Args { data_dir, frames, records, bodies, queue, files } = args;
    let what = Inspect { data_dir, files, frames, records, bodies, queue };
    let mut out = BufWriter::new(stdout().lock());
    let sound = leveret_repair::inspect(&what, &mut out)?;
    out.flush().map_err(CommandError::Output)?;
    match sound {
        true => Ok(Outcome::Done),
        false => Ok(Outcome::No("there is damage; leveret repair saves what is not".to_owned())),
    }
}
