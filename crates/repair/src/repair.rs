//! Saves what can be read of a damaged data directory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use leveret_model::{PackId, Position, QueueId, ShortString};
use leveret_record::{ExtentDefinition, QueueDefinition, Record, Records};
use leveret_storage::salvage::{self, Damage, Pack, PackFiles, Piece, Segment};
use leveret_storage::{Hold, OpenError};

use crate::Error;
use crate::describe;
use crate::model::Model;
use crate::output::Output;
use crate::report::{self, Report};
use crate::runs::Runs;

/// What to repair.
#[derive(Debug, Clone)]
pub struct Repair {
    /// The data directory; nothing is written to it.
    pub data_dir: PathBuf,
    /// Where the new one is made.
    pub to: PathBuf,
}

/// The work as far as it has come.
struct Work<'a> {
    from: &'a Path,
    segments: Vec<Segment>,
    model: Model,
    report: Report,
    /// What the new directory has of each queue.
    saved: BTreeMap<QueueId, Runs>,
    /// Queues whose packs have to go to the log, because other messages come between theirs: a
    /// broker expects those in packs before all others.
    mixed: BTreeSet<QueueId>,
    /// Whether packs that the log does not name may hold what is in no other place.
    doubt: bool,
}

/// Makes a new data directory of what can be read of another.
///
/// # Errors
/// [`Error`] if a broker runs on the old directory, or the new one cannot be written.
pub fn repair(what: &Repair) -> Result<Report, Error> {
    let from = &what.data_dir;
    if !["wal", "pack"].iter().any(|folder| from.join(folder).is_dir()) {
        return Err(Error::NoData(from.clone()));
    }
    let _hold = Hold::take(from)?;
    // Until it is whole it has another name: half a directory would be a sound one.
    let mut unfinished = OsString::from(&what.to);
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    for path in [&what.to, &unfinished] {
        if fs::symlink_metadata(path).is_ok() {
            return Err(Error::Exists(path.clone()));
        }
    }
    let segments = salvage::segments(from)?;
    let (model, report, saved) = (Model::default(), Report::default(), BTreeMap::new());
    let (mixed, doubt) = (BTreeSet::new(), false);
    let mut work = Work { from, segments, model, report, saved, mixed, doubt };
    let packs = salvage::packs(from)?;
    work.read_log(&packs)?;
    work.doubt = !work.report.log.is_empty() || work.is_any_gone(&packs);
    work.name_the_nameless(&packs)?;
    work.find_mixed(&packs)?;
    let mut output = Output::create(&unfinished)?;
    let extents = work.save_packs(&unfinished)?;
    output.begin(&work.model, &extents)?;
    work.save_mixed(&mut output)?;
    work.save_log(&mut output)?;
    work.save_unnamed_packs(&packs, &mut output)?;
    work.count();
    output.finish()?;
    fs::rename(&unfinished, &what.to).map_err(io("rename to", &what.to))?;
    let above = what.to.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new("."));
    fs::File::open(above).and_then(|above| above.sync_all()).map_err(io("sync", above))?;
    Ok(work.report)
}

impl Work<'_> {
    /// Learns all there is to know but what messages say.
    fn read_log(&mut self, files: &[PackFiles]) -> Result<(), Error> {
        let mut frames = 0_u64;
        for (index, segment) in self.segments.iter().enumerate() {
            let next = self.segments.get(index + 1).map(|next| next.first);
            let (model, report) = (&mut self.model, &mut self.report);
            let mut first = true;
            salvage::read(segment, next, &mut |piece| match piece {
                Piece::Frame(frame) => {
                    frames += 1;
                    let start = frame.offset + (frame.address.0 - frame.first.0);
                    if let Some(at) = model.frame(frame.records, std::mem::take(&mut first)) {
                        model.damage();
                        report.log.push(Damage {
                            file: segment.path.clone(),
                            start: start + at as u64,
                            end: frame.offset + frame.bytes,
                            what: "a sound frame holds something that is no record".to_owned(),
                        });
                    }
                }
                // The header alone: all frames may be there.
                Piece::Damage(damage) if damage.start == 0 => report.headers.push(damage),
                Piece::Damage(damage) => {
                    first = false;
                    model.damage();
                    report.log.push(damage);
                }
            })
            .map_err(io("read", &segment.path))?;
        }
        if frames == 0 && self.report.log.is_empty() && !files.is_empty() {
            self.model.damage();
            self.report.log.push(report::no_log(self.from));
        }
        Ok(())
    }

    /// Whether a pack is gone that the log needs: others may have been merged from it, by a write
    /// that is lost.
    fn is_any_gone(&self, files: &[PackFiles]) -> bool {
        let there: BTreeSet<PackId> =
            files.iter().filter(|it| it.data.is_some()).map(|it| it.id).collect();
        let mut ids = self.model.packs.keys();
        ids.any(|id| !there.contains(id) && !self.wanted(*id).is_empty())
    }

    /// The packs that the log does not name and that may be needed.
    fn doubtful<'b>(&self, files: &'b [PackFiles]) -> Vec<&'b PackFiles> {
        let unnamed = |it: &&PackFiles| self.doubt && !self.model.packs.contains_key(&it.id);
        files.iter().filter(unnamed).collect()
    }

    /// Queues whose definitions are lost get names, so that their messages are not.
    fn name_the_nameless(&mut self, files: &[PackFiles]) -> Result<(), Error> {
        let named = self.model.packs.values().flat_map(|named| &named.extents);
        let mut held: BTreeSet<QueueId> = named.map(|extent| extent.queue).collect();
        for files in self.doubtful(files).into_iter().filter(|_| self.model.incomplete) {
            held.extend(Pack::open(self.from, files.id)?.queues().map(|(id, _)| id));
        }
        for id in &held {
            self.model.queues.entry(*id).or_default();
        }
        for (id, queue) in &mut self.model.queues {
            if queue.gone || queue.definition.is_some() {
                continue;
            }
            if queue.live().is_empty() && !held.contains(id) {
                queue.gone = true;
                continue;
            }
            let name = format!("leveret.recovered.{id}");
            let Ok(short) = ShortString::try_from(name.as_str()) else { continue };
            queue.definition = Some(QueueDefinition {
                id: *id,
                vhost: ShortString::from_static("/"),
                name: short,
                auto_delete: false,
                arguments: leveret_model::FieldTable::new(),
                next: Position(0),
            });
            self.report.nameless.push(name);
        }
        Ok(())
    }

    /// Looks which messages that go to the new log come between those of packs.
    fn find_mixed(&mut self, files: &[PackFiles]) -> Result<(), Error> {
        let mut ends: BTreeMap<QueueId, u64> = BTreeMap::new();
        for id in self.newest_first() {
            for (extent, runs) in self.wanted(id) {
                let end = ends.entry(extent.queue).or_default();
                *end = runs.end().max(*end);
            }
        }
        let between = |queue: QueueId, first: Option<Position>| {
            first.zip(ends.get(&queue)).is_some_and(|(first, end)| first.0 < *end)
        };
        for (id, queue) in &self.model.queues {
            if between(*id, queue.live().positions().next()) {
                self.mixed.insert(*id);
            }
        }
        for files in self.doubtful(files) {
            let pack = Pack::open(self.from, files.id)?;
            let queues = pack.queues().map(|(id, _)| id);
            self.mixed.extend(queues.filter(|id| between(*id, pack.positions(*id).next())));
        }
        Ok(())
    }

    /// The packs that the log names. Where two name the same message, the newer is right.
    fn newest_first(&self) -> Vec<PackId> {
        let mut ids: Vec<_> =
            self.model.packs.iter().map(|(id, named)| (named.mention, *id)).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Takes over the packs that the log names. Returns what the new log is to say of them.
    fn save_packs(&mut self, to: &Path) -> Result<BTreeMap<PackId, Vec<ExtentDefinition>>, Error> {
        let mut saved = BTreeMap::new();
        for id in self.newest_first() {
            let extents = self.wanted(id);
            if extents.is_empty() {
                continue;
            }
            let pack = Pack::open(self.from, id)?;
            self.report.packs += 1;
            self.report.pack_files.extend(pack.damage.iter().cloned());
            if pack.unchecked {
                self.report.unchecked.push(id);
            }
            let mut kept = Vec::new();
            for (extent, runs) in extents {
                if !self.mixed.contains(&extent.queue) {
                    kept.extend(self.read_extent(&pack, &extent, &runs, None));
                }
            }
            if !kept.is_empty() && pack.take_over(to)? {
                saved.insert(id, kept);
            }
        }
        Ok(saved)
    }

    /// Writes what packs hold of mixed queues to the new log.
    fn save_mixed(&mut self, output: &mut Output) -> Result<(), Error> {
        for id in self.newest_first() {
            let mut extents = self.wanted(id);
            extents.retain(|(extent, _)| self.mixed.contains(&extent.queue));
            if extents.is_empty() {
                continue;
            }
            let pack = Pack::open(self.from, id)?;
            for (extent, runs) in extents {
                self.read_extent(&pack, &extent, &runs, Some(output));
            }
        }
        Ok(())
    }

    /// What is live of a pack's extents and not in the log or in another pack.
    fn wanted(&self, id: PackId) -> Vec<(ExtentDefinition, Runs)> {
        let Some(named) = self.model.packs.get(&id) else { return Vec::new() };
        let mut wanted: Vec<(ExtentDefinition, Runs)> = Vec::new();
        let mut taken: BTreeMap<QueueId, Runs> = BTreeMap::new();
        for extent in &named.extents {
            let Some(queue) = self.model.queues.get(&extent.queue) else { continue };
            if queue.gone {
                continue;
            }
            let mut runs = Runs::default();
            extent.runs.iter().for_each(|(first, count)| runs.add(first.0, *count));
            let mut runs = runs.without(&queue.settled).without(&queue.published);
            if let Some(saved) = self.saved.get(&extent.queue) {
                runs = runs.without(saved);
            }
            let taken = taken.entry(extent.queue).or_default();
            runs = runs.without(taken);
            runs.iter().for_each(|(first, end)| taken.add(first, end - first));
            if !runs.is_empty() {
                wanted.push((extent.clone(), runs));
            }
        }
        wanted
    }

    /// Reads an extent's messages, and writes them to `copy` if they are to be copied. Returns what
    /// is left of it.
    fn read_extent(
        &mut self,
        pack: &Pack,
        extent: &ExtentDefinition,
        runs: &Runs,
        mut copy: Option<&mut Output>,
    ) -> Option<ExtentDefinition> {
        let (mut kept, mut body_bytes) = (Runs::default(), 0);
        let lost = self.report.lost.entry(extent.queue).or_default();
        let damage = &mut self.report.messages;
        pack.read(extent.queue, runs.positions(), &mut |position, found| match found {
            Ok(found) => {
                kept.add(position.0, 1);
                body_bytes += found.message.body.len() as u64;
                if let Some(output) = &mut copy {
                    output.publish(found.message, found.origin, &[(extent.queue, position)]);
                }
            }
            Err(found) => {
                lost.add(position.0, 1);
                report::add(damage, found);
            }
        });
        if kept.is_empty() {
            return None;
        }
        let saved = self.saved.entry(extent.queue).or_default();
        kept.iter().for_each(|(first, end)| saved.add(first, end - first));
        let runs = kept.iter().map(|(first, end)| (Position(first), end - first)).collect();
        Some(ExtentDefinition { body_bytes, runs, ..*extent })
    }

    /// Writes the live messages of the log to the new one.
    fn save_log(&mut self, output: &mut Output) -> Result<(), Error> {
        let segments = std::mem::take(&mut self.segments);
        for (index, segment) in segments.iter().enumerate() {
            let next = segments.get(index + 1).map(|next| next.first);
            salvage::read(segment, next, &mut |piece| {
                let Piece::Frame(frame) = piece else { return };
                for (_, record) in Records::new(frame.records).map_while(Result::ok) {
                    let Record::Publish { message, origin, targets } = record else { continue };
                    let live: Vec<_> = targets.filter(|target| self.claim(*target)).collect();
                    if !live.is_empty() {
                        output.publish(message, origin, &live);
                    }
                }
            })
            .map_err(io("read", &segment.path))?;
        }
        self.segments = segments;
        Ok(())
    }

    /// Whether a message is live and not saved yet; from now on it is.
    fn claim(&mut self, (id, position): (QueueId, Position)) -> bool {
        let Some(queue) = self.model.queues.get(&id) else { return false };
        let saved = self.saved.entry(id).or_default();
        let live = !queue.gone && !queue.settled.contains(position) && !saved.contains(position);
        if live {
            saved.add(position.0, 1);
        }
        live
    }

    /// What the log may have named where it is lost: better a message twice than not at all.
    fn save_unnamed_packs(
        &mut self,
        files: &[PackFiles],
        output: &mut Output,
    ) -> Result<(), Error> {
        let doubtful = self.doubtful(files);
        self.report.unnamed = doubtful.iter().map(|files| files.id).collect();
        for files in doubtful {
            let pack = Pack::open(self.from, files.id)?;
            let before = self.report.unnamed_messages;
            let queues: Vec<_> = pack.queues().map(|(id, _)| id).collect();
            for id in queues {
                pack.read(id, pack.positions(id), &mut |position, found| {
                    if let Ok(found) = found
                        && self.claim((id, position))
                    {
                        self.report.unnamed_messages += 1;
                        output.publish(found.message, found.origin, &[(id, position)]);
                    }
                });
            }
            if self.report.unnamed_messages == before {
                self.report.unnamed.retain(|id| *id != files.id);
            } else if pack.unchecked {
                self.report.unchecked.push(files.id);
            }
        }
        Ok(())
    }

    /// Sums up.
    fn count(&mut self) {
        for (id, queue) in &self.model.queues {
            if queue.gone {
                continue;
            }
            let saved = self.saved.remove(id).unwrap_or_default();
            let lost = self.report.lost.remove(id).unwrap_or_default().without(&saved);
            let known = queue.gaps.without(&queue.settled).without(&queue.published);
            let gaps = known.without(&saved).without(&lost);
            let doubtful = saved.below(queue.doubt_below);
            self.report.saved += saved.len();
            self.report.queues += 1;
            if !lost.is_empty() || !gaps.is_empty() || doubtful > 0 {
                let name = describe::queue(&self.model, *id);
                let saved = saved.len();
                self.report.of_queues.push(report::OfQueue { name, saved, lost, gaps, doubtful });
            }
        }
        self.report.lost.clear();
    }
}

pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { action, path, source }
}
