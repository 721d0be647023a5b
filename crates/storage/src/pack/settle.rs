//! Tidying up after a replay, which has found out which packs hold messages.

use std::io;

use leveret_model::PackId;

use super::data::Data;
use super::index::Index;
use super::{PackError, Packs, parse_name};
use crate::error::OpenError;

/// As [`Packs::settle`].
pub(super) fn settle(packs: &Packs, live: &[PackId]) -> Result<(), OpenError> {
    for &id in live {
        check(packs, id).map_err(|error| refuse(id, error))?;
    }
    let mut live = live.to_vec();
    live.sort_unstable();
    let directory = packs.directory();
    let mut changed = false;
    let disk = packs.disk();
    for path in disk.list(directory).map_err(OpenError::io("list", directory))? {
        let Some((id, kind)) = parse_name(&path) else { continue };
        if kind == super::UNFINISHED || live.binary_search(&id).is_err() {
            disk.remove(&path).map_err(OpenError::io("remove", &path))?;
            changed = true;
        }
    }
    if changed {
        disk.sync_directory(directory).map_err(OpenError::io("sync", directory))?;
    }
    Ok(())
}

/// Whether a pack has its two files. A segment that is still in `wal/` does not do: the replay
/// has found its messages there.
fn check(packs: &Packs, id: PackId) -> Result<(), PackError> {
    let index = Index::open(packs.disk(), &packs.index_path(id), id)?;
    Data::open(packs.disk(), &[packs.data_path(id)], &index.header).map(|_| ())
}

fn refuse(id: PackId, error: PackError) -> OpenError {
    let proof = format!("the log says that pack {id} holds messages");
    match error {
        PackError::Io { path, source, .. } if source.kind() == io::ErrorKind::NotFound => {
            OpenError::Damaged { file: path, offset: 0, what: "the file is missing", proof }
        }
        PackError::Io { action, path, source } => OpenError::Io { action, path, source },
        PackError::UnknownVersion { file, version } => OpenError::UnknownVersion { file, version },
        PackError::Damaged { file, offset, what, .. } => {
            OpenError::Damaged { file, offset, what, proof }
        }
        PackError::Missing { file, .. } | PackError::TooLarge { file, .. } => {
            let what = "the pack cannot be used";
            OpenError::Damaged { file, offset: 0, what, proof }
        }
    }
}
