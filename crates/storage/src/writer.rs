//! The commit thread's hand on the disk: frames into segments, and the segments' beginnings.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use leveret_model::Lsn;

use crate::commit::Sealed;
use crate::error::fatal;
use crate::files::{Spares, sync_directory};
use crate::frame;
use crate::recovery::Recovered;
use crate::segment::{self, Uuid};

/// Writes sealed frames. Every error ends the process.
#[derive(Debug)]
pub(crate) struct Writer {
    wal: PathBuf,
    spares: Arc<Spares>,
    node: Uuid,
    epoch: u32,
    prev_crc: u32,
    segment: Option<Segment>,
}

#[derive(Debug)]
struct Segment {
    file: File,
    path: PathBuf,
    first: Lsn,
    seed: u32,
}

impl Writer {
    /// Goes on where recovery ended, in a segment of its own.
    pub(crate) fn new(wal: &Path, spares: Arc<Spares>, recovered: &Recovered) -> Self {
        Writer {
            wal: wal.to_owned(),
            spares,
            node: recovered.node,
            epoch: recovered.epoch + 1,
            prev_crc: recovered.prev_crc,
            segment: None,
        }
    }

    /// Writes a frame; when this returns it is on stable storage.
    pub(crate) fn write(&mut self, sealed: &mut Sealed) {
        if sealed.new_segment || self.segment.is_none() {
            let segment = begin(self, sealed.header.first)
                .unwrap_or_else(|error| fatal("begin a log segment", &self.wal, &error));
            self.segment = Some(segment);
        }
        let Some(segment) = &self.segment else { return };
        sealed.header.epoch = self.epoch;
        sealed.header.prev_crc = self.prev_crc;
        self.prev_crc = frame::finish(&mut sealed.bytes, &sealed.header, segment.seed);
        let at = segment::HEADER_BYTES as u64 + (sealed.header.first.0 - segment.first.0);
        let written = segment.file.write_all_at(&sealed.bytes, at);
        written.unwrap_or_else(|error| fatal("write log segment", &segment.path, &error));
        let synced = segment.file.sync_data();
        synced.unwrap_or_else(|error| fatal("sync log segment", &segment.path, &error));
    }
}

/// Turns a spare file into the segment that begins at `first`; everything before is durable.
fn begin(writer: &Writer, first: Lsn) -> io::Result<Segment> {
    let header = segment::Header::new(writer.node, writer.epoch, first, writer.prev_crc)?;
    let (file, spare) = writer.spares.take()?;
    file.write_all_at(&header.encode(), 0)?;
    file.sync_data()?;
    let path = segment::path(&writer.wal, first);
    // Replaces a segment that a crash left without a frame.
    fs::rename(&spare, &path)?;
    sync_directory(&writer.wal)?;
    Ok(Segment { file, path, first, seed: header.seed() })
}
