//! What was saved, and what was lost.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use leveret_model::{PackId, QueueId};
use leveret_storage::salvage::Damage;

use crate::runs::Runs;

/// How many places are told one by one.
const SHOWN_MAX: usize = 100;

/// What became of a data directory.
#[derive(Debug, Default)]
pub struct Report {
    /// How many queues there are in the new directory.
    pub queues: u64,
    /// How many messages: what goes to several queues counts for each.
    pub saved: u64,
    /// How many packs were looked at.
    pub packs: u64,
    /// Headers of segments that are broken; their frames are a matter of their own.
    pub headers: Vec<Damage>,
    /// Parts of the log that cannot be read. What they said is unknown.
    pub log: Vec<Damage>,
    /// What is wrong with the files of packs, whether messages are lost by that or not.
    pub pack_files: Vec<Damage>,
    /// Messages of packs that cannot be read.
    pub messages: Vec<Damage>,
    /// Names given to queues whose definitions are lost.
    pub nameless: Vec<String>,
    /// Packs that nothing in the log names but that have messages the rest has not.
    pub unnamed: Vec<PackId>,
    /// How many messages of those were taken over.
    pub unnamed_messages: u64,
    /// Packs with messages that no checksum vouches for.
    pub unchecked: Vec<PackId>,
    pub(crate) of_queues: Vec<OfQueue>,
    pub(crate) lost: BTreeMap<QueueId, Runs>,
}

/// What became of a queue.
#[derive(Debug)]
pub(crate) struct OfQueue {
    pub(crate) name: String,
    pub(crate) saved: u64,
    /// Messages that were there and cannot be read.
    pub(crate) lost: Runs,
    /// Positions that may have been those of messages.
    pub(crate) gaps: Runs,
    /// How many messages may have been settled.
    pub(crate) doubtful: u64,
}

impl Report {
    /// Whether nothing of what was confirmed is lost.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let no_message = self.of_queues.iter().all(|queue| queue.lost.is_empty());
        self.log.is_empty() && no_message && self.unnamed.is_empty() && self.unchecked.is_empty()
    }

    /// The positions of messages that are lost for certain, by what their queues are called, as
    /// text.
    #[must_use]
    pub fn lost_messages(&self) -> Vec<(String, String)> {
        let lost = self.of_queues.iter().filter(|queue| !queue.lost.is_empty());
        lost.map(|queue| (queue.name.clone(), queue.lost.to_string())).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "saved: {} queues with {} messages", self.queues, self.saved)?;
        places(f, "headers of segments that were replaced", &self.headers)?;
        places(f, "parts of the log that cannot be read; what they said is lost", &self.log)?;
        places(f, "damaged files of packs", &self.pack_files)?;
        places(f, "messages in packs that cannot be read", &self.messages)?;
        for queue in &self.of_queues {
            writeln!(f, "\n{}: {} messages saved", queue.name, queue.saved)?;
            if !queue.lost.is_empty() {
                writeln!(f, "  lost: {} messages, at positions {}", queue.lost.len(), queue.lost)?;
            }
            if !queue.gaps.is_empty() {
                let count = queue.gaps.len();
                writeln!(f, "  perhaps lost: up to {count}, at positions {}", queue.gaps)?;
            }
            if queue.doubtful > 0 {
                writeln!(
                    f,
                    "  perhaps back: up to {}, if they were acknowledged in what is lost",
                    queue.doubtful
                )?;
            }
        }
        for name in &self.nameless {
            writeln!(f, "\nthe definition of a queue is lost; its messages are in {name}")?;
        }
        let ids = |ids: &[PackId]| {
            let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
            ids.join(", ")
        };
        if !self.unchecked.is_empty() {
            writeln!(
                f,
                "\nthe checksums of packs are lost: {}. Messages of theirs were saved unchecked",
                ids(&self.unchecked)
            )?;
        }
        if !self.unnamed.is_empty() {
            writeln!(
                f,
                "\npacks that only the lost part of the log can have named: {}. Their {} messages \
                 were saved; some may have been acknowledged",
                ids(&self.unnamed),
                self.unnamed_messages
            )?;
        }
        if !self.log.is_empty() {
            writeln!(
                f,
                "\nDeclarations, deletions and bindings made in the lost part of the log are lost: \
                 compare the queues and bindings with what should be there"
            )?;
        }
        match self.is_whole() {
            true => writeln!(f, "\nnothing was lost"),
            false => writeln!(f, "\nSOMETHING WAS LOST"),
        }
    }
}

fn places(f: &mut fmt::Formatter<'_>, what: &str, damage: &[Damage]) -> fmt::Result {
    if damage.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{what}:")?;
    for damage in damage.iter().take(SHOWN_MAX) {
        writeln!(f, "  {damage}")?;
    }
    if damage.len() > SHOWN_MAX {
        writeln!(f, "  and {} more", damage.len() - SHOWN_MAX)?;
    }
    Ok(())
}

/// There is no log in a data directory with packs.
pub(crate) fn no_log(directory: &Path) -> Damage {
    let what = "there is no frame of the log, which named these packs".to_owned();
    Damage { file: directory.join("wal"), start: 0, end: 0, what }
}

/// Adds damage to a list, to the last of it where both are one.
pub(crate) fn add(all: &mut Vec<Damage>, damage: Damage) {
    match all.last_mut() {
        Some(last)
            if last.file == damage.file
                && last.what == damage.what
                && last.end == damage.start
                && damage.end >= damage.start =>
        {
            last.end = damage.end;
        }
        _ => all.push(damage),
    }
}
