//! The frames of segments, those behind damage too.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_model::Lsn;

use super::{Damage, seed};
use crate::error::OpenError;
use crate::frame;
use crate::scan::{Expected, Scan, read_pages};
use crate::segment::{self, BadHeader, Uuid};

/// A segment file.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Where it is.
    pub path: PathBuf,
    /// The address of its first frame.
    pub first: Lsn,
    /// How large the file is, in bytes.
    pub file_bytes: u64,
    /// The epoch it was written in.
    pub epoch: u32,
    /// When it was begun, in milliseconds since 1970.
    pub begun_ms: u64,
    /// What is wrong with its header.
    pub broken: Option<&'static str>,
    pub(super) uuid: Uuid,
    seed: u32,
    /// Its first frame was durable once: there were older ones, and they are gone.
    successor: bool,
}

/// A sound frame.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Its address.
    pub first: Lsn,
    /// The byte of the file at which it begins.
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// Everything below was durable when it was sealed.
    pub durable: Lsn,
    /// How many records it says it has.
    pub count: u32,
    /// The address of its first record.
    pub address: Lsn,
    /// Its records.
    pub records: &'a [u8],
}

/// What comes next in a segment.
#[derive(Debug)]
pub enum Piece<'a> {
    /// A frame.
    Frame(Frame<'a>),
    /// No frame, where one was.
    Damage(Damage),
}

/// How a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// With the frame before the next segment, or with damage.
    Followed,
    /// With the last frame of a log that was closed.
    Closed,
    /// With a frame behind which nothing was begun.
    Open,
    /// At this byte, with a frame that was not finished: nobody was promised what it held.
    Torn(u64),
}

/// The segments of a data directory, oldest first.
///
/// # Errors
/// [`OpenError`] if the directory cannot be listed, or a file not be opened;
/// [`OpenError::UnknownVersion`] for files of another version of leveret.
pub fn segments(directory: &Path) -> Result<Vec<Segment>, OpenError> {
    let wal = directory.join("wal");
    let mut found = Vec::new();
    let entries = match fs::read_dir(&wal) {
        // Then nothing is left of the log, but there may be packs.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries.map_err(OpenError::io("list", &wal))?,
    };
    for entry in entries {
        let path = entry.map_err(OpenError::io("list", &wal))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if segment::parse_name(name).is_none() {
            continue;
        }
        match segment(&path) {
            Ok(segment) => found.push(segment),
            // A broker that runs may have recycled it.
            Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_by_key(|segment| segment.first);
    if let Some(oldest) = found.first_mut() {
        oldest.successor = oldest.first > Lsn(0);
    }
    Ok(found)
}

/// One segment, which may have become the data file of a pack and then bears another name.
///
/// # Errors
/// [`OpenError`] if the file cannot be opened; [`OpenError::UnknownVersion`] for one of another
/// version of leveret.
pub fn segment(path: &Path) -> Result<Segment, OpenError> {
    let file = File::open(path).map_err(OpenError::io("open", path))?;
    let file_bytes = file.metadata().map_err(OpenError::io("read", path))?.len();
    let mut bytes = vec![0; segment::HEADER_BYTES];
    let there = file_bytes.min(bytes.len() as u64) as usize;
    read_pages(&mut bytes[..there], 0, |page, at| file.read_exact_at(page, at));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let named = segment::parse_name(name);
    let mut segment = Segment {
        path: path.to_owned(),
        first: named.unwrap_or_default(),
        file_bytes,
        epoch: 0,
        begun_ms: 0,
        broken: None,
        uuid: Uuid::default(),
        seed: 0,
        successor: false,
    };
    let problem = match segment::Header::decode(&bytes) {
        Ok(header) if named.is_none_or(|named| named == header.first) => {
            (segment.first, segment.epoch) = (header.first, header.epoch);
            (segment.uuid, segment.seed) = (header.segment, header.seed());
            segment.begun_ms = header.created_ms;
            return Ok(segment);
        }
        Ok(_) => "its header is that of another segment",
        Err(BadHeader::Broken) => "its header is broken",
        // Not damage: only another version of leveret can read it.
        Err(BadHeader::Version(version)) => {
            return Err(OpenError::UnknownVersion { file: path.to_owned(), version });
        }
    };
    segment.broken = Some(problem);
    let guessed = guess(&mut segment, file, named.is_some());
    guessed.map_err(OpenError::io("read", path))?;
    Ok(segment)
}

/// Learns from the frames what the header should have said.
fn guess(segment: &mut Segment, file: File, named: bool) -> io::Result<()> {
    if !named {
        // Where the first frame is, if it is one, its address is too.
        let mut bytes = [0; frame::HEADER_BYTES];
        let _ = file.read_exact_at(&mut bytes, segment::HEADER_BYTES as u64);
        let header = frame::Header::decode(&bytes);
        let first = header.map(|(header, _)| header.first);
        segment.first = first.filter(|first| first.0 <= segment::LSN_MAX).unwrap_or_default();
    }
    let expected = Expected { segment: segment.first, seed: 0, epoch: 0 };
    let mut scan = Scan::lenient(Arc::new(file), expected)?;
    if let Some((seed, epoch)) = seed::find(&mut scan, segment.first)? {
        (segment.seed, segment.epoch) = (seed, epoch);
    }
    Ok(())
}

/// Gives every sound frame to `each`, in order, and what is between them if that is not nothing.
/// `next` is where the next segment begins.
///
/// # Errors
/// If the file cannot be opened. What the disk does not give counts as damaged.
pub fn read(
    segment: &Segment,
    next: Option<Lsn>,
    each: &mut dyn FnMut(Piece<'_>),
) -> io::Result<Tail> {
    if let Some(what) = segment.broken {
        let end = (segment::HEADER_BYTES as u64).min(segment.file_bytes);
        let (file, what) = (segment.path.clone(), what.to_owned());
        each(Piece::Damage(Damage { file, start: 0, end, what }));
    }
    let Segment { first, seed, epoch, .. } = *segment;
    let expected = Expected { segment: first, seed, epoch };
    let mut scan = Scan::lenient(Arc::new(File::open(&segment.path)?), expected)?;
    let mut at = first;
    let mut closed = false;
    while next.is_none_or(|next| at < next) {
        if let Some(frame) = sound(&mut scan, at, next)? {
            let offset = scan.offset(at);
            let records = if frame.len == 0 { &[] } else { scan.payload(&frame)? };
            each(Piece::Frame(Frame {
                first: at,
                offset,
                bytes: frame.frame_bytes(),
                durable: frame.durable,
                count: frame.records,
                address: frame.payload(),
                records,
            }));
            at = frame.end();
            closed = frame.len == 0;
            continue;
        }
        let Some((damage, resume)) = gap(&mut scan, segment, at, next, closed)? else {
            return tail(&mut scan, at, epoch, closed);
        };
        if let Some(damage) = damage {
            each(Piece::Damage(damage));
        }
        match resume {
            Some(later) => (at, closed) = (later, false),
            None => return Ok(Tail::Followed),
        }
    }
    Ok(Tail::Followed)
}

/// The frame at `at`, if it leaves the next segment its place.
fn sound(scan: &mut Scan, at: Lsn, next: Option<Lsn>) -> io::Result<Option<frame::Header>> {
    let fits = |frame: &(frame::Header, u32)| next.is_none_or(|next| frame.0.end() <= next);
    let found = scan.frame(at)?.filter(fits);
    let found = match found {
        Some(found) => Some(found),
        None => {
            // It may have been written since.
            scan.refresh()?;
            scan.frame(at)?.filter(fits)
        }
    };
    Ok(found.map(|(frame, _)| frame))
}

/// What is damaged from `at` on, and where it goes on; nothing if the log may just end here.
fn gap(
    scan: &mut Scan,
    segment: &Segment,
    at: Lsn,
    next: Option<Lsn>,
    closed: bool,
) -> io::Result<Option<(Option<Damage>, Option<Lsn>)>> {
    let start = scan.offset(at);
    let damage =
        |end: u64, what: String| Some(Damage { file: segment.path.clone(), start, end, what });
    let later = if closed { None } else { scan.proof_beyond(at)? };
    if let Some(later) = later.filter(|later| next.is_none_or(|next| *later < next)) {
        // A broker may have written both since.
        if sound(scan, at, next)?.is_some() {
            return Ok(Some((None, Some(at))));
        }
        let what = format!("no sound frame up to the one at byte {}", scan.offset(later));
        return Ok(Some((damage(scan.offset(later), what), Some(later))));
    }
    let bytes = scan.file_bytes();
    match next {
        Some(next) => {
            let missing = next.0 - at.0;
            let what = format!(
                "no sound frame; {missing} bytes are missing before the next segment, which begins \
                 at address {next}"
            );
            Ok(Some((damage(scan.offset(next).min(bytes).max(start), what), None)))
        }
        None if at == segment.first && (segment.broken.is_some() || segment.successor) => {
            Ok(Some((damage(bytes.max(start), "no sound frame".to_owned()), None)))
        }
        None => Ok(None),
    }
}

fn tail(scan: &mut Scan, at: Lsn, epoch: u32, closed: bool) -> io::Result<Tail> {
    if closed {
        return Ok(Tail::Closed);
    }
    let begun = scan.likely(at)?;
    let own = begun.is_some_and(|(header, _)| header.first == at && header.epoch == epoch);
    Ok(if own { Tail::Torn(scan.offset(at)) } else { Tail::Open })
}
