//! What a restart makes of the files it finds.
//!
//! Frames are taken in order as long as each is sound and continues the one before. Where that
//! ends, either a write was cut off (a *torn tail*: nobody was promised what it held, and it is
//! left out), or data that had been confirmed is damaged, and the log is not opened. Confirmed it
//! was if a later frame or a later segment says so; each carries up to where the log was durable
//! when it was sealed or begun. And so was the first frame of the oldest segment, unless the log
//! begins there: those before it are removed only then.
//!
//! The frames after the last such promise may be seen only in the kernel's memory and not be on
//! the disk, namely if their sync failed and the process ended: so they are written again where
//! they lie, byte for byte, and synced, before anything follows them. Nothing else is changed, and
//! nothing is ever appended to an old segment, so recovery may be cut short and begun again at
//! any point. The next frame begins a segment whose header proves the old ones whole.

use std::io;
use std::path::{Path, PathBuf};

use leveret_model::Lsn;

use crate::disk::Disk;
use crate::error::OpenError;
use crate::frame;
use crate::log::Replay;
use crate::scan::{Expected, Scan};
use crate::segment::{self, BadHeader, Uuid};

/// What a log goes on from.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) node: Uuid,
    /// The highest epoch so far.
    pub(crate) epoch: u32,
    /// The address after the last frame.
    pub(crate) end: Lsn,
    /// The checksum of the last frame.
    pub(crate) prev_crc: u32,
    /// The segments with frames in them, oldest first.
    pub(crate) segments: Vec<Lsn>,
    /// Files that can be made into segments.
    pub(crate) spares: Vec<PathBuf>,
}

/// A segment file that bears its own name.
struct Found {
    path: PathBuf,
    header: segment::Header,
}

/// A frame not proven to be on the disk.
struct Unproven {
    segment: usize,
    offset: u64,
    header: frame::Header,
}

/// Reads the log in `wal`, replays it and makes its tail durable.
pub(crate) fn recover(
    disk: &dyn Disk,
    wal: &Path,
    replay: &mut Replay<'_>,
) -> Result<Recovered, OpenError> {
    let (firsts, spares) = list(disk, wal)?;
    let found = headers(disk, wal, &firsts)?;
    let Some(oldest) = found.first() else {
        let node = disk.random().map_err(OpenError::io("draw a random id for", wal))?;
        let (end, segments) = (Lsn(0), Vec::new());
        return Ok(Recovered { node, epoch: 0, end, prev_crc: 0, segments, spares });
    };
    let mut reader = Reader {
        disk,
        found: &found,
        end: oldest.header.first,
        prev_crc: oldest.header.prev_crc,
        proven: oldest.header.first,
        unproven: Vec::new(),
        closed: false,
    };
    for index in 0..found.len() {
        reader.segment(index, replay)?;
    }
    reader.make_durable()?;
    disk.sync_directory(wal).map_err(OpenError::io("sync", wal))?;
    let (end, prev_crc) = (reader.end, reader.prev_crc);
    let epoch = found.iter().map(|segment| segment.header.epoch).max().unwrap_or(0);
    let with_frames = found.iter().map(|segment| segment.header.first).filter(|&first| first < end);
    let segments = with_frames.collect();
    Ok(Recovered { node: oldest.header.node, epoch, end, prev_crc, segments, spares })
}

/// The segments and the spare files of the directory; unfinished files are removed.
fn list(disk: &dyn Disk, wal: &Path) -> Result<(Vec<Lsn>, Vec<PathBuf>), OpenError> {
    let (mut segments, mut spares) = (Vec::new(), Vec::new());
    for path in disk.list(wal).map_err(OpenError::io("list", wal))? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(first) = segment::parse_name(name) {
            segments.push(first);
        } else if name.ends_with(".free") {
            spares.push(path);
        } else if name.ends_with(".tmp") {
            disk.remove(&path).map_err(OpenError::io("remove", &path))?;
        }
    }
    segments.sort_unstable();
    spares.sort_unstable();
    Ok((segments, spares))
}

fn headers(disk: &dyn Disk, wal: &Path, firsts: &[Lsn]) -> Result<Vec<Found>, OpenError> {
    let mut found: Vec<Found> = Vec::with_capacity(firsts.len());
    for &first in firsts {
        let path = segment::path(wal, first);
        let header = match segment::Header::decode(&read_header(disk, &path)?) {
            Ok(header) if header.first == first => header,
            Err(BadHeader::Version(version)) => {
                return Err(OpenError::UnknownVersion { file: path, version });
            }
            Ok(_) | Err(BadHeader::Broken) => {
                let proof = "a file gets such a name only when its header is on the disk".into();
                let what = "the segment's header cannot be read or belongs elsewhere";
                return Err(OpenError::Damaged { file: path, offset: 0, what, proof });
            }
        };
        if let Some(oldest) = found.first()
            && oldest.header.node != header.node
        {
            return Err(OpenError::Foreign { file: path, other: oldest.path.clone() });
        }
        found.push(Found { path, header });
    }
    Ok(found)
}

/// The bytes where a header should be, fewer if the file is shorter.
fn read_header(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, OpenError> {
    let file = disk.open(path).map_err(OpenError::io("open", path))?;
    let there = file.len().map_err(OpenError::io("read", path))?;
    let mut bytes = vec![0; there.min(segment::HEADER_BYTES as u64) as usize];
    file.read_exact_at(&mut bytes, 0).map_err(OpenError::io("read", path))?;
    Ok(bytes)
}

struct Reader<'a> {
    disk: &'a dyn Disk,
    found: &'a [Found],
    /// The address after the last good frame.
    end: Lsn,
    prev_crc: u32,
    /// Everything below was durable once: some frame or segment says so.
    proven: Lsn,
    unproven: Vec<Unproven>,
    /// The last good frame is one that `close` wrote: nothing comes after it in its segment.
    closed: bool,
}

impl Reader<'_> {
    /// Replays the frames of one segment and judges what comes after the last good one.
    fn segment(&mut self, index: usize, replay: &mut Replay<'_>) -> Result<(), OpenError> {
        let Found { path, header } = &self.found[index];
        let next = self.found.get(index + 1);
        // `segment` left the one before only at this very address.
        debug_assert_eq!(self.end, header.first);
        self.prove(header.first);
        self.closed = false;
        let expected = Expected { segment: header.first, seed: header.seed(), epoch: header.epoch };
        let file = self.disk.open(path).map_err(OpenError::io("open", path))?;
        let mut scan = Scan::new(file, expected).map_err(OpenError::io("read", path))?;
        while next.is_none_or(|next| self.end < next.header.first) {
            let frame = scan.frame(self.end).map_err(OpenError::io("read", path))?;
            let Some((frame, crc)) = frame.filter(|(frame, _)| self.continues(frame, next)) else {
                return self.stop(index, &mut scan);
            };
            if frame.len > 0 {
                let payload = scan.payload(&frame).map_err(OpenError::io("read", path))?;
                replay(frame.payload(), payload).map_err(|source| {
                    let (lsn, file) = (frame.payload(), path.clone());
                    OpenError::Replay { lsn, file, source }
                })?;
            }
            self.prove(frame.durable);
            let offset = scan.offset(frame.first);
            self.unproven.push(Unproven { segment: index, offset, header: frame });
            self.end = frame.end();
            self.prev_crc = crc;
            self.closed = frame.len == 0;
        }
        Ok(())
    }

    /// Whether a sound frame follows the last one and leaves the next segment its place.
    fn continues(&self, frame: &frame::Header, next: Option<&Found>) -> bool {
        frame.prev_crc == self.prev_crc
            && frame.durable <= frame.first
            && next.is_none_or(|next| frame.end() <= next.header.first)
    }

    fn prove(&mut self, durable: Lsn) {
        self.proven = self.proven.max(durable);
        let proven = self.proven;
        self.unproven.retain(|frame| frame.header.end() > proven);
    }

    /// No good frame at `end`: a torn tail, or damage.
    fn stop(&self, index: usize, scan: &mut Scan) -> Result<(), OpenError> {
        let path = &self.found[index].path;
        let proof = if let Some(next) = self.found.get(index + 1) {
            let first = next.header.first;
            Some(format!("{} was begun when all before {first} was durable", next.path.display()))
        } else if index == 0 && self.end > Lsn(0) && self.end == self.found[index].header.first {
            Some("older segments were removed only when its first frame was durable".to_owned())
        } else if self.closed {
            None
        } else {
            let later = scan.proof_beyond(self.end).map_err(OpenError::io("read", path))?;
            later.map(|later| {
                let offset = scan.offset(later);
                format!("the frame at byte {offset} was written when this place was durable")
            })
        };
        let (what, offset) = ("there is no sound frame", scan.offset(self.end));
        match proof {
            Some(proof) => Err(OpenError::Damaged { file: path.clone(), offset, what, proof }),
            None => {
                tracing::debug!(file = %path.display(), offset, "the log ends here");
                Ok(())
            }
        }
    }

    /// Writes what may be in the kernel's memory only to the disk, in place.
    fn make_durable(&self) -> Result<(), OpenError> {
        for frame in &self.unproven {
            let path = &self.found[frame.segment].path;
            let rewrite = || -> io::Result<()> {
                let file = self.disk.open(path)?;
                let mut bytes = vec![0; frame.header.frame_bytes() as usize];
                file.read_exact_at(&mut bytes, frame.offset)?;
                file.write_all_at(&bytes, frame.offset)?;
                file.sync_data()
            };
            rewrite().map_err(OpenError::io("make durable", path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
