//! The commit thread's hand on the disk: frames into segments, and the segments' beginnings.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_model::Lsn;

use crate::commit::SealedFrame;
use crate::disk::{Disk, DiskFile};
use crate::files::Spares;
use crate::frame;
use crate::recovery::Recovered;
use crate::segment::{self, Uuid};
use crate::space::Space;

/// By how much a segment grows that turns out too small, in bytes.
const GROWTH_BYTES: u64 = 64 * 1024;

/// Writes sealed frames. Waits where there is no room; every other error ends the process.
#[derive(Debug)]
pub(crate) struct Writer {
    disk: Arc<dyn Disk>,
    wal: PathBuf,
    spares: Arc<Spares>,
    space: Arc<Space>,
    node: Uuid,
    epoch: u32,
    prev_crc: u32,
    segment: Option<Segment>,
}

/// There was no room, and there is no waiting for it; nothing of the frame was written.
#[derive(Debug)]
pub(crate) struct NoRoom;

#[derive(Debug)]
struct Segment {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    first: Lsn,
    seed: u32,
    /// Up to where the file can be written without asking for room, in bytes.
    reserved: u64,
}

impl Writer {
    /// Goes on where recovery ended, in a segment of its own.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        wal: &Path,
        spares: Arc<Spares>,
        space: Arc<Space>,
        recovered: &Recovered,
    ) -> Self {
        Writer {
            disk,
            wal: wal.to_owned(),
            spares,
            space,
            node: recovered.node,
            epoch: recovered.epoch + 1,
            prev_crc: recovered.prev_crc,
            segment: None,
        }
    }

    /// Writes a frame; when this returns it is on stable storage. If there was no room the same
    /// frame may be tried again.
    pub(crate) fn write(&mut self, sealed: &mut SealedFrame) -> Result<(), NoRoom> {
        let first = sealed.header.first;
        let begun = match self.segment.take() {
            // It may have been begun for this very frame, and then there was no room for more.
            Some(segment) if !sealed.new_segment || segment.first == first => segment,
            _ => self.begin(first)?,
        };
        let segment = self.segment.insert(begun);
        let at = segment::HEADER_BYTES as u64 + (first.0 - segment.first.0);
        segment.reserve(&self.space, at + sealed.bytes.len() as u64)?;
        sealed.header.epoch = self.epoch;
        sealed.header.prev_crc = self.prev_crc;
        self.prev_crc = frame::finish(&mut sealed.bytes, &sealed.header, segment.seed);
        let fatal = |action, error| self.disk.fatal(action, &segment.path, &error);
        let written = segment.file.write_all_at(&sealed.bytes, at);
        written.unwrap_or_else(|error| fatal("write log segment", error));
        let synced = segment.file.sync_data();
        synced.unwrap_or_else(|error| fatal("sync log segment", error));
        Ok(())
    }

    /// The segment that begins at `first`; everything before is durable.
    fn begin(&self, first: Lsn) -> Result<Segment, NoRoom> {
        let attempt = || self.try_begin(first);
        let begun = self.space.wait_for("begin a log segment", &self.wal, attempt);
        let segment = begun.ok_or(NoRoom)?;
        let synced = self.space.open(|| self.disk.sync_directory(&self.wal));
        let fatal = |error| self.disk.fatal("sync log directory", &self.wal, &error);
        synced.unwrap_or_else(fatal);
        Ok(segment)
    }

    /// Turns a spare file into a segment.
    fn try_begin(&self, first: Lsn) -> io::Result<Segment> {
        let disk = &*self.disk;
        let header = segment::Header::new(disk, self.node, self.epoch, first, self.prev_crc)?;
        let (file, spare) = self.spares.take()?;
        let path = segment::path(&self.wal, first);
        let named = file
            .write_all_at(&header.encode(), 0)
            .and_then(|()| file.sync_data())
            // Replaces a segment that a crash left without a frame.
            .and_then(|()| disk.rename(&spare, &path));
        if let Err(error) = named {
            // Nobody knows what a failed sync has left in it.
            let _ = disk.remove(&spare);
            return Err(error);
        }
        let reserved = file.len()?;
        Ok(Segment { file, path, first, seed: header.seed(), reserved })
    }
}

impl Segment {
    /// Sees to it that the file can be written up to byte `end`: the last frame of a segment, or a
    /// large one, goes beyond what was reserved for it.
    fn reserve(&mut self, space: &Space, end: u64) -> Result<(), NoRoom> {
        if end > self.reserved {
            let bytes = end.next_multiple_of(GROWTH_BYTES);
            let attempt = || space.reserve(&*self.file, bytes);
            let promised = space.wait_for("make a log segment longer", &self.path, attempt);
            self.reserved = if promised.ok_or(NoRoom)? { bytes } else { u64::MAX };
        }
        Ok(())
    }
}
