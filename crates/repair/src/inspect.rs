//! Shows what a data directory holds.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use leveret_model::{Printable, QueueId};
use leveret_record::Records;
use leveret_storage::salvage::{self, Damage, Frame, Pack, PackFiles, Piece, Segment, Tail};

use crate::Error;
use crate::describe;
use crate::model::{Model, offset_of};
use crate::report;
use crate::runs::Runs;

/// What to show.
#[derive(Debug, Clone, Default)]
pub struct Inspect {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Files of it; all, if there are none.
    pub files: Vec<PathBuf>,
    /// Each frame.
    pub frames: bool,
    /// Each record.
    pub records: bool,
    /// The bodies of messages.
    pub bodies: bool,
    /// Only records of queues of this name.
    pub queue: Option<String>,
}

struct Inspector<'a> {
    what: &'a Inspect,
    out: &'a mut dyn Write,
    /// The end of the log, for names that its beginning does not know yet.
    model: Model,
    /// Whose records to show; all, if there are none.
    queues: Option<Vec<QueueId>>,
    damage: u64,
    records: u64,
    frames: u64,
    bytes: u64,
    /// What could not be printed.
    failed: Option<io::Error>,
}

/// Prints what a data directory holds; `true` if all of it is sound.
///
/// # Errors
/// [`Error`] if it cannot be read at all, or the output not be written.
pub fn inspect(what: &Inspect, out: &mut dyn Write) -> Result<bool, Error> {
    let (segments, packs, directory) = choose(what)?;
    let model = learn(&segments)?;
    let queues = what.queue.as_ref().map(|name| named(&model, name));
    let mut inspector = Inspector {
        what,
        out,
        model,
        queues,
        damage: 0,
        records: 0,
        frames: 0,
        bytes: 0,
        failed: None,
    };
    inspector.all(&segments, &packs, &directory)?;
    Ok(inspector.damage == 0)
}

/// What the log says.
fn learn(segments: &[Segment]) -> io::Result<Model> {
    let mut model = Model::default();
    for (index, segment) in segments.iter().enumerate() {
        let next = segments.get(index + 1).map(|next| next.first);
        let mut first = true;
        let read = salvage::read(segment, next, &mut |piece| match piece {
            Piece::Frame(frame) => {
                model.frame(frame.records, std::mem::take(&mut first));
            }
            // The header alone: all frames may be there.
            Piece::Damage(damage) if damage.start == 0 => {}
            Piece::Damage(_) => {
                first = false;
                model.damage();
            }
        });
        tolerate_absence(read)?;
    }
    Ok(model)
}

/// The packs that are needed and have no file at all.
fn missing(model: &Model, directory: &Path) -> Result<Vec<PackFiles>, Error> {
    let absent = |model: &Model| -> Result<Vec<PackFiles>, Error> {
        let there = salvage::packs(directory)?;
        let named = model.packs.keys().filter(|id| there.iter().all(|files| files.id != **id));
        let named = named.filter(|id| model.needs(**id));
        Ok(named.map(|id| PackFiles { id: *id, index: None, data: None }).collect())
    };
    if absent(model)?.is_empty() {
        return Ok(Vec::new());
    }
    // A broker may have emptied and removed them since the log was read.
    absent(&learn(&salvage::segments(directory)?)?)
}

/// The segments and packs to show, and where packs are.
fn choose(what: &Inspect) -> Result<(Vec<Segment>, Vec<PackFiles>, PathBuf), Error> {
    let directory = what.data_dir.clone();
    if what.files.is_empty() {
        if !["wal", "pack"].iter().any(|folder| directory.join(folder).is_dir()) {
            return Err(Error::NoData(directory));
        }
        // Packs first: what leaves the log meanwhile is then seen twice rather than not at all.
        let packs = salvage::packs(&directory)?;
        return Ok((salvage::segments(&directory)?, packs, directory));
    }
    let (mut segments, mut packs, mut home) = (Vec::new(), BTreeMap::new(), directory);
    for file in &what.files {
        if let Some(id) = salvage::pack_of(file) {
            let above = file.parent().map(|folder| folder.join(".."));
            home = above.unwrap_or_default();
            packs.insert(id, PackFiles { id, index: None, data: None });
        } else if file.extension().is_some_and(|ending| ending == "wal") {
            segments.push(salvage::segment(file)?);
        } else {
            return Err(Error::NoFile(file.clone()));
        }
    }
    segments.sort_by_key(|segment: &Segment| segment.first);
    Ok((segments, packs.into_values().collect(), home))
}

/// Queues of a name, or with that number.
fn named(model: &Model, name: &str) -> Vec<QueueId> {
    let mut found: Vec<_> = model
        .queues
        .iter()
        .filter(|(_, queue)| queue.definition.as_ref().is_some_and(|known| known.name == *name))
        .map(|(id, _)| *id)
        .collect();
    if found.is_empty() {
        found.extend(name.parse().ok().map(QueueId));
    }
    found
}

/// A broker that runs may have removed a file.
fn tolerate_absence<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Inspector<'_> {
    fn all(
        &mut self,
        segments: &[Segment],
        packs: &[PackFiles],
        directory: &Path,
    ) -> Result<(), Error> {
        writeln!(self.out, "read without a lock: if a broker runs, this changes meanwhile")?;
        writeln!(self.out, "\n{} segments", segments.len())?;
        for (index, segment) in segments.iter().enumerate() {
            // Files that were named need not be neighbours.
            let next = segments.get(index + 1).map(|next| next.first);
            self.segment(segment, next.filter(|_| self.what.files.is_empty()))?;
        }
        let missing = match self.what.files.is_empty() {
            true => missing(&self.model, directory)?,
            false => Vec::new(),
        };
        writeln!(self.out, "\n{} packs", packs.len())?;
        for files in packs.iter().chain(&missing) {
            self.pack(files, directory)?;
        }
        if self.what.files.is_empty() {
            if self.frames == 0 && !packs.is_empty() {
                self.tell(&[report::no_log(directory)])?;
            }
            self.queues()?;
        }
        let Inspector { damage, frames, records, bytes, .. } = *self;
        writeln!(
            self.out,
            "\ntotal: {} segments with {frames} frames, {records} records, {bytes} bytes; \
             {} packs",
            segments.len(),
            packs.len()
        )?;
        match damage {
            0 => writeln!(self.out, "no damage found")?,
            1 => writeln!(self.out, "DAMAGED in 1 place")?,
            _ => writeln!(self.out, "DAMAGED in {damage} places")?,
        }
        Ok(())
    }

    fn segment(
        &mut self,
        segment: &Segment,
        next: Option<leveret_model::Lsn>,
    ) -> Result<(), Error> {
        let name = segment.path.file_name().unwrap_or_default().to_string_lossy();
        writeln!(
            self.out,
            "  {}: {} bytes, first address {}, epoch {}",
            Printable(name),
            segment.file_bytes,
            segment.first,
            segment.epoch
        )?;
        let (mut frames, mut records, mut bytes) = (0_u64, 0_u64, 0);
        let mut found = Vec::new();
        let read = salvage::read(segment, next, &mut |piece| match piece {
            Piece::Frame(frame) => {
                frames += 1;
                bytes += frame.bytes;
                records += u64::from(frame.count);
                self.frame(segment, &frame, &mut found);
            }
            Piece::Damage(damage) => found.push(damage),
        });
        if let Some(error) = self.failed.take() {
            return Err(error.into());
        }
        // One that is recycled while it is being read looks damaged.
        let there = found.is_empty() || segment.path.exists();
        let Some(tail) = tolerate_absence(read)?.filter(|_| there) else {
            writeln!(self.out, "    it is gone by now")?;
            return Ok(());
        };
        let tail = match tail {
            Tail::Followed => String::new(),
            Tail::Closed => "; closed in order".to_owned(),
            Tail::Open => "; not closed".to_owned(),
            Tail::Torn(at) => {
                format!("; TORN at byte {at}: the last write was cut off, and never confirmed")
            }
        };
        writeln!(self.out, "    {frames} frames, {records} records, {bytes} bytes{tail}")?;
        self.frames += frames;
        self.records += records;
        self.bytes += bytes;
        self.tell(&found)
    }

    fn frame(&mut self, segment: &Segment, frame: &Frame<'_>, damage: &mut Vec<Damage>) {
        if self.what.frames {
            let kind = if frame.records.is_empty() { ", closes the log" } else { "" };
            self.line(&format!(
                "    frame at byte {}, address {}: {} bytes, {} records, durable before {}{kind}",
                frame.offset, frame.first, frame.bytes, frame.count, frame.durable
            ));
        }
        for record in Records::new(frame.records) {
            let (at, record) = match record {
                Ok(found) => found,
                Err(error) => {
                    let start = frame.offset + (frame.address.0 - frame.first.0);
                    damage.push(Damage {
                        file: segment.path.clone(),
                        start: start + offset_of(error) as u64,
                        end: frame.offset + frame.bytes,
                        what: "a sound frame holds something that is no record".to_owned(),
                    });
                    continue;
                }
            };
            let wanted = self
                .queues
                .as_ref()
                .is_none_or(|queues| queues.iter().any(|id| describe::concerns(&record, *id)));
            if self.what.records && wanted {
                let line = describe::record(&self.model, &record);
                self.line(&format!("    {} {line}", frame.address.advance(at as u64)));
                if let leveret_record::Record::Publish { message, .. } = record {
                    self.body(message.body);
                }
            }
        }
    }

    fn pack(&mut self, files: &PackFiles, directory: &Path) -> Result<(), Error> {
        let pack = Pack::open(directory, files.id)?;
        let listed = files.index.iter().chain(&files.data);
        if !pack.damage.is_empty() && listed.into_iter().any(|path| !path.exists()) {
            writeln!(self.out, "  {}: it is gone by now", files.id)?;
            return Ok(());
        }
        writeln!(self.out, "  pack {}: {} bytes", pack.id, pack.data_bytes)?;
        let named = self.model.packs.contains_key(&pack.id);
        if !named && self.frames > 0 && self.what.files.is_empty() {
            writeln!(self.out, "    the log does not name it; a sound start removes it")?;
        }
        let (mut damage, mut places) = (pack.damage.clone(), BTreeSet::new());
        let ids: Vec<_> = pack.queues().collect();
        for (id, count) in ids {
            let wanted = self.queues.as_ref().is_none_or(|queues| queues.contains(&id));
            let all = self.what.files.is_empty();
            let needed = all.then(|| self.model.needed(pack.id, id));
            let (mut lost, mut unneeded) = (Runs::default(), Runs::default());
            pack.read(id, pack.positions(id), &mut |position, found| match found {
                Ok(found) if self.what.records && wanted => {
                    let salvage::Found { message, origin, targets, .. } = found;
                    let line = describe::message(&self.model, message, origin, targets);
                    self.line(&format!("    byte {} {line}", found.offset));
                    self.body(message.body);
                }
                Ok(_) => {}
                Err(_) if needed.as_ref().is_some_and(|needed| !needed.contains(position)) => {
                    unneeded.add(position.0, 1);
                }
                Err(found) => {
                    lost.add(position.0, 1);
                    // A message of several queues is there once.
                    if places.insert(found.start) {
                        report::add(&mut damage, found);
                    }
                }
            });
            if let Some(needed) = needed {
                let mut there = Runs::default();
                pack.positions(id).for_each(|position| there.add(position.0, 1));
                needed.without(&there).iter().for_each(|(first, end)| lost.add(first, end - first));
            }
            if let Some(error) = self.failed.take() {
                return Err(error.into());
            }
            let line = describe::queue(&self.model, id);
            writeln!(self.out, "    {line}: {count} messages")?;
            if !lost.is_empty() {
                writeln!(self.out, "    UNREADABLE of it: positions {lost}")?;
            }
            if !unneeded.is_empty() {
                writeln!(self.out, "    unreadable, but not needed any more: {unneeded}")?;
            }
        }
        if self.model.needs(pack.id) || !self.what.files.is_empty() {
            self.tell(&damage)?;
        }
        Ok(())
    }

    fn queues(&mut self) -> Result<(), Error> {
        let mut packed: BTreeMap<QueueId, Runs> = BTreeMap::new();
        for extent in self.model.packs.values().flat_map(|named| &named.extents) {
            let runs = packed.entry(extent.queue).or_default();
            extent.runs.iter().for_each(|(first, count)| runs.add(first.0, *count));
        }
        let shown = self.model.queues.iter().filter(|(_, queue)| !queue.gone);
        writeln!(self.out, "\nqueues")?;
        for (id, queue) in shown {
            let live = queue.live();
            let packed = packed.remove(id).unwrap_or_default();
            let packed = packed.without(&queue.settled).without(&queue.published);
            writeln!(
                self.out,
                "  {}: {} live messages, {} of them in packs",
                describe::queue(&self.model, *id),
                live.len() + packed.len(),
                packed.len()
            )?;
        }
        Ok(())
    }

    fn tell(&mut self, found: &[Damage]) -> Result<(), Error> {
        self.damage += found.len() as u64;
        for damage in found {
            writeln!(self.out, "    DAMAGED: {damage}")?;
        }
        Ok(())
    }

    fn body(&mut self, body: &[u8]) {
        if self.what.bodies {
            self.line(&format!("      {}", describe::body(body)));
        }
    }

    /// Prints a line where an error cannot be returned.
    fn line(&mut self, line: &str) {
        if self.failed.is_none() {
            self.failed = writeln!(self.out, "{line}").err();
        }
    }
}
