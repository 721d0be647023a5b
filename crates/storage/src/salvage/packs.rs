//! The messages of packs, each on its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_model::{Lsn, Message, PackId, Position, QueueId};
use leveret_record::{Origin, Targets};

use super::Damage;
use super::segments::{self, Piece};
use super::unindexed;
use crate::disk::{Disk, RealDisk};
use crate::error::OpenError;
use crate::pack::data::{self, Data, HEADER_BYTES};
use crate::pack::{self, Entries, Entry, PackError, Place, index};
use crate::scan::read_pages;
use crate::segment::{self, Uuid};

/// How much is copied at once, in bytes.
const COPY_BYTES: u64 = 1024 * 1024;

/// The files of a pack, as their names tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackFiles {
    /// What it is called.
    pub id: PackId,
    /// Its index.
    pub index: Option<PathBuf>,
    /// Its data file; none if that is still in `wal/`, too.
    pub data: Option<PathBuf>,
}

/// A pack as far as it can be read.
#[derive(Debug)]
pub struct Pack {
    /// What it is called.
    pub id: PackId,
    /// How many bytes its data file has; 0 if there is none.
    pub data_bytes: u64,
    /// What is wrong with its files as a whole.
    pub damage: Vec<Damage>,
    /// Whether there are messages without a checksum: what they say may be anything.
    pub unchecked: bool,
    data: Option<Data>,
    /// Whether the data file is a former segment that lies in `wal/`.
    in_wal: bool,
    /// Whether it is a segment at all.
    segment: Option<Lsn>,
    uuid: Uuid,
    /// Whether the data file needs a new header.
    headless: bool,
    /// The index, if all of it is sound and fits the data.
    index: Option<PathBuf>,
    entries: BTreeMap<QueueId, Vec<Entry>>,
}

/// A message found in a pack.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// The byte of the data file at which its record begins.
    pub offset: u64,
    /// How many bytes the record has.
    pub bytes: usize,
    /// The message.
    pub message: Message<'a>,
    /// How it came to be there.
    pub origin: Origin,
    /// All queues and positions it went to.
    pub targets: Targets<'a>,
}

/// The packs of a data directory, by their numbers.
///
/// # Errors
/// [`OpenError`] if the directory cannot be listed.
pub fn packs(directory: &Path) -> Result<Vec<PackFiles>, OpenError> {
    let folder = directory.join("pack");
    let mut found: BTreeMap<PackId, PackFiles> = BTreeMap::new();
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(OpenError::io("list", &folder))?,
    };
    for entry in entries {
        let path = entry.map_err(OpenError::io("list", &folder))?.path();
        let Some((id, kind)) = pack::parse_name(&path) else { continue };
        let files = || PackFiles { id, index: None, data: None };
        match kind {
            "idx" => found.entry(id).or_insert_with(files).index = Some(path.clone()),
            "pack" => found.entry(id).or_insert_with(files).data = Some(path.clone()),
            _ => {}
        }
    }
    Ok(found.into_values().collect())
}

/// The pack that a file belongs to, by its name.
#[must_use]
pub fn pack_of(path: &Path) -> Option<PackId> {
    pack::parse_name(path).filter(|(_, kind)| ["idx", "pack"].contains(kind)).map(|(id, _)| id)
}

impl Pack {
    /// Opens what there is of a pack. What is missing or damaged is noted.
    ///
    /// # Errors
    /// [`OpenError::UnknownVersion`] for files of another version of leveret.
    pub fn open(directory: &Path, id: PackId) -> Result<Pack, OpenError> {
        let named = |kind: &str| directory.join("pack").join(format!("{:020}.{kind}", id.0));
        let mut pack = Pack {
            id,
            data_bytes: 0,
            damage: Vec::new(),
            unchecked: false,
            data: None,
            in_wal: false,
            segment: None,
            uuid: Uuid::default(),
            headless: false,
            index: None,
            entries: BTreeMap::new(),
        };
        let said = pack.open_index(&named("idx"), id)?;
        let mut names = vec![(named("pack"), false)];
        if let Some(first) = said.and_then(|said| said.segment) {
            let in_wal = segment::path(&directory.join("wal"), first);
            names.extend([(in_wal, true), (named("pack"), false)]);
        }
        let Some((file, path, in_wal)) = names.iter().find_map(|(path, in_wal)| {
            File::open(path).ok().map(|file| (file, path.clone(), *in_wal))
        }) else {
            let what = "its data file is missing".to_owned();
            pack.damage.push(Damage { file: named("pack"), start: 0, end: 0, what });
            pack.index = None;
            return Ok(pack);
        };
        pack.in_wal = in_wal;
        pack.open_data(file, path, said)?;
        let wanting = pack.index.is_none();
        if wanting {
            pack.search().map_err(OpenError::io("read", &named("pack")))?;
        }
        Ok(pack)
    }

    /// How many messages of each queue it has, as far as can be told, live or not.
    pub fn queues(&self) -> impl Iterator<Item = (QueueId, u64)> {
        self.entries.iter().map(|(queue, entries)| (*queue, entries.len() as u64))
    }

    /// The positions of a queue's messages in it, as far as can be told, in order.
    pub fn positions(&self, queue: QueueId) -> impl Iterator<Item = Position> {
        self.entries.get(&queue).into_iter().flatten().map(|entry| entry.position)
    }

    /// Reads messages of a queue, by positions in order, each as if it were alone.
    pub fn read(
        &self,
        queue: QueueId,
        positions: impl IntoIterator<Item = Position>,
        each: &mut dyn FnMut(Position, Result<Found<'_>, Damage>),
    ) {
        let known = self.entries.get(&queue).map_or(&[][..], Vec::as_slice);
        let Some(data) = &self.data else {
            positions.into_iter().for_each(|position| each(position, Err(self.unknown())));
            return;
        };
        let mut batch: Vec<Entry> = Vec::new();
        let mut next = 0;
        for position in positions {
            next += known[next..].partition_point(|entry| entry.position < position);
            match known.get(next).filter(|entry| entry.position == position) {
                Some(entry) if entry.place.end() <= data.bytes() => batch.push(*entry),
                Some(entry) => {
                    read_batch(data, queue, &mut batch, each);
                    each(position, Err(at(data, entry, "the file ends before its record")));
                }
                None => {
                    read_batch(data, queue, &mut batch, each);
                    each(position, Err(self.unknown()));
                }
            }
            if batch.len() >= 4096 {
                read_batch(data, queue, &mut batch, each);
            }
        }
        read_batch(data, queue, &mut batch, each);
    }

    /// Makes the files of this pack in another data directory. The data file is linked where that
    /// is safe and possible, else copied. `false` if there is nothing to take over.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn take_over(&self, to: &Path) -> Result<bool, OpenError> {
        let Some(data) = &self.data else { return Ok(false) };
        let folder = to.join("pack");
        fs::create_dir_all(&folder).map_err(OpenError::io("create", &folder))?;
        let named = |kind: &str| folder.join(format!("{:020}.{kind}", self.id.0));
        let target = named("pack");
        let linked = !self.in_wal && !self.headless && fs::hard_link(data.path(), &target).is_ok();
        if !linked {
            self.copy(data, &target).map_err(OpenError::io("write", &target))?;
        }
        let target = named("idx");
        match &self.index {
            Some(index) if fs::hard_link(index, &target).is_ok() => {}
            Some(index) => {
                fs::copy(index, &target)
                    .and_then(|_| File::open(&target)?.sync_all())
                    .map_err(OpenError::io("write", &target))?;
            }
            None => {
                let header = index::Header {
                    pack: self.id,
                    data: self.uuid,
                    segment: self.segment.filter(|_| !self.headless),
                    data_bytes: data.bytes(),
                };
                // Entries beyond the end of the data are in no extent.
                let entries: Entries =
                    self.entries.iter().map(|(queue, all)| (*queue, all.clone())).collect();
                index::write(&RealDisk, &target, &header, &entries)
                    .map_err(OpenError::io("write", &target))?;
            }
        }
        RealDisk.sync_directory(&folder).map_err(OpenError::io("sync", &folder))?;
        Ok(true)
    }

    fn copy(&self, data: &Data, target: &Path) -> io::Result<()> {
        let from = File::open(data.path())?;
        let to = File::create(target)?;
        let mut buffer = vec![0; COPY_BYTES as usize];
        let mut at = 0;
        while at < data.bytes() {
            let len = (data.bytes() - at).min(COPY_BYTES) as usize;
            let piece = &mut buffer[..len];
            read_pages(piece, at, |page, at| from.read_exact_at(page, at));
            to.write_all_at(piece, at)?;
            at += len as u64;
        }
        if self.headless {
            // Whatever it was, its records are where its index says.
            to.write_all_at(&data::header(self.id, self.uuid), 0)?;
        }
        to.sync_all()
    }

    fn unknown(&self) -> Damage {
        let file = match (self.damage.first(), &self.data) {
            (Some(damage), _) => damage.file.clone(),
            (None, Some(data)) => data.path().to_owned(),
            (None, None) => PathBuf::new(),
        };
        Damage { file, start: 0, end: 0, what: "the message is not found in the pack".to_owned() }
    }

    /// Reads the index; what is not sound of it is noted.
    fn open_index(&mut self, path: &Path, id: PackId) -> Result<Option<index::Header>, OpenError> {
        // Without asking for the right to write.
        let index = File::open(path).map_err(PackError::io("open", path));
        let index = match index.and_then(|file| index::Index::read(Arc::new(file), path, id)) {
            Ok(index) => index,
            Err(PackError::UnknownVersion { file, version }) => {
                return Err(OpenError::UnknownVersion { file, version });
            }
            Err(error) => {
                self.damage.push(damage_of(error, path));
                return Ok(None);
            }
        };
        let (sections, damaged) = index.all();
        for (queue, entries) in sections {
            self.entries.entry(queue).or_default().extend(entries);
        }
        let whole = damaged.is_empty();
        for (error, bytes) in damaged {
            let damage = damage_of(error, path);
            self.damage.push(Damage { end: damage.start + bytes, ..damage });
        }
        self.index = whole.then(|| path.to_owned());
        Ok(Some(index.header))
    }

    /// Looks at the header of the data file.
    fn open_data(
        &mut self,
        file: File,
        path: PathBuf,
        said: Option<index::Header>,
    ) -> Result<(), OpenError> {
        let len = file.metadata().map_err(OpenError::io("read", &path))?.len();
        let mut head = vec![0; HEADER_BYTES];
        let there = len.min(HEADER_BYTES as u64) as usize;
        read_pages(&mut head[..there], 0, |page, at| file.read_exact_at(page, at));
        self.data_bytes = len;
        let mut broken = None;
        let found = match (segment::Header::decode(&head), data::decode(&head)) {
            (Ok(header), _) => Some((header.segment, Some(header.first))),
            (_, Ok((uuid, _))) => Some((uuid, None)),
            (Err(segment::BadHeader::Version(version)), _)
            | (_, Err(segment::BadHeader::Version(version))) => {
                return Err(OpenError::UnknownVersion { file: path, version });
            }
            _ => None,
        };
        match (found, said) {
            (Some(found), Some(said)) if found != (said.data, said.segment) => {
                broken = Some("it does not belong to the pack's index");
            }
            (Some((uuid, segment)), _) => (self.uuid, self.segment) = (uuid, segment),
            (None, _) => broken = Some("its header is broken"),
        }
        let bytes = said.map_or(len, |said| said.data_bytes);
        if let Some(what) = broken {
            self.headless = true;
            self.uuid = RealDisk.random().map_err(OpenError::io("get a random id for", &path))?;
            self.segment = said.and_then(|said| said.segment);
            let end = (HEADER_BYTES as u64).min(len);
            self.damage.push(Damage { file: path.clone(), start: 0, end, what: what.to_owned() });
        }
        if bytes > len {
            let what = "the file is cut off".to_owned();
            self.damage.push(Damage { file: path.clone(), start: len, end: bytes, what });
        }
        if broken.is_some() || bytes > len {
            // The index does not fit any more; what it says of records does.
            self.index = None;
        }
        self.data = Some(Data::of_segment(Arc::new(file), path, bytes.min(len)));
        Ok(())
    }

    /// Adds what the index does not tell, from the data file itself.
    fn search(&mut self) -> io::Result<()> {
        let Some(data) = &self.data else { return Ok(()) };
        let mut found: BTreeMap<QueueId, Vec<Entry>> = BTreeMap::new();
        let mut add = |offset: u64, record: &[u8], targets: Targets<'_>| {
            let (Ok(offset), Ok(len)) = (u32::try_from(offset), u32::try_from(record.len())) else {
                return;
            };
            let place = Place { offset, len, crc: crc32c::crc32c(record) };
            for (queue, position) in targets {
                found.entry(queue).or_default().push(Entry { position, place });
            }
        };
        let headless = self.headless && self.segment.is_none();
        let looks_like_segment = headless && {
            let segment = segments::segment(data.path()).map_err(io::Error::other)?;
            segment.epoch > 0
        };
        if self.segment.is_some() || looks_like_segment {
            let segment = segments::segment(data.path()).map_err(io::Error::other)?;
            let damage = &mut self.damage;
            segments::read(&segment, None, &mut |piece| match piece {
                Piece::Frame(frame) => {
                    let offset = frame.offset + (frame.address.0 - frame.first.0);
                    unindexed::publishes(frame.records, offset, &mut add);
                }
                // The header is known to be broken.
                Piece::Damage(found) if found.start > 0 => damage.push(found),
                Piece::Damage(_) => {}
            })?;
        } else {
            unindexed::scan(data, &mut add, &mut self.damage);
            self.unchecked = true;
        }
        let mut added = 0;
        for (queue, mut entries) in found {
            let known = self.entries.entry(queue).or_default();
            // The index knows better: it has checksums that are not of today.
            known.sort_by_key(|entry| entry.position);
            entries.retain(|entry| {
                known.binary_search_by_key(&entry.position, |known| known.position).is_err()
            });
            added += entries.len();
            known.extend(entries);
            known.sort_by_key(|entry| entry.position);
            known.dedup_by_key(|entry| entry.position);
        }
        self.unchecked &= added > 0;
        Ok(())
    }
}

/// Reads entries whose places the file has, and empties the batch.
fn read_batch(
    data: &Data,
    queue: QueueId,
    batch: &mut Vec<Entry>,
    each: &mut dyn FnMut(Position, Result<Found<'_>, Damage>),
) {
    let mut rest = &batch[..];
    let mut alone = false;
    while let Some(first) = rest.first() {
        let now = if alone { &rest[..1] } else { rest };
        let mut done = 0;
        let result = data.read(queue, now, |entry, publish, record| {
            done += 1;
            let data::Publish { message, origin, targets } = publish;
            let (offset, bytes) = (u64::from(entry.place.offset), record.len());
            each(entry.position, Ok(Found { offset, bytes, message, origin, targets }));
            Ok(())
        });
        match result {
            Ok(()) => {}
            // What was read together may be readable one by one.
            Err(PackError::Io { .. }) if !alone => {
                alone = true;
                rest = &rest[done..];
                continue;
            }
            Err(error) => {
                let entry = now.get(done).unwrap_or(first);
                let what = match error {
                    PackError::Damaged { what, .. } => what.to_owned(),
                    error => error.to_string(),
                };
                each(entry.position, Err(at(data, entry, &what)));
                done += 1;
            }
        }
        rest = &rest[done.min(rest.len())..];
    }
    batch.clear();
}

fn at(data: &Data, entry: &Entry, what: &str) -> Damage {
    let (start, end) = (u64::from(entry.place.offset), entry.place.end());
    Damage { file: data.path().to_owned(), start, end, what: what.to_owned() }
}

fn damage_of(error: PackError, path: &Path) -> Damage {
    let (start, what) = match error {
        PackError::Damaged { offset, what, .. } => (offset, what.to_owned()),
        PackError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            (0, "the file is missing".to_owned())
        }
        error => (0, error.to_string()),
    };
    Damage { file: path.to_owned(), start, end: start, what }
}
