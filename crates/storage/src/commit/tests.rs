use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SEGMENT_BYTES: u64 = 500;

fn record(bytes: usize) -> Vec<u8> {
    vec![7; bytes]
}

#[test]
fn a_frame_is_sealed_when_the_writer_lets_go() {
    let mut commit = Commit::new(Lsn(0), SEGMENT_BYTES);
    commit.reserve();
    let position = commit.position();
    assert_eq!(position, Lsn(40));
    commit.append(&record(3), 1);
    assert!(commit.take().is_none(), "the writer holds the frame");
    assert_eq!(commit.position(), Lsn(43));
    assert!(commit.unreserve(), "the commit thread waits");
    // The next batch is in the next frame already.
    commit.reserve();
    assert_eq!(commit.position(), Lsn(48 + 40));
    let sealed = commit.take().unwrap();
    assert_eq!((sealed.header.first, sealed.header.end()), (Lsn(0), Lsn(48)));
    assert_eq!(commit.complete(sealed), Lsn(48));
    assert!(!commit.unreserve(), "nothing to seal");
    assert!(commit.take().is_none());
}

#[test]
fn buffers_are_used_again() {
    let mut commit = Commit::new(Lsn(0), u64::MAX);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..50 {
        commit.append(&record(1000), 1);
        let sealed = commit.take().unwrap();
        seen.insert(sealed.bytes.as_ptr());
        commit.append(&record(1), 1);
        commit.complete(sealed);
        let sealed = commit.take().unwrap();
        seen.insert(sealed.bytes.as_ptr());
        commit.complete(sealed);
    }
    assert!(seen.len() <= 4, "{} buffers", seen.len());
}

#[test]
fn a_segment_is_several_times_as_large_as_its_definitions() {
    let mut commit = Commit::new(Lsn(0), SEGMENT_BYTES);
    let mut segments = 0;
    for frame in 0..100 {
        // Many definitions, then little else.
        let bytes = if commit.opens_segment() { 2_000 } else { 60 };
        commit.append(&record(bytes), 1);
        let sealed = commit.take().unwrap();
        segments += usize::from(sealed.new_segment);
        commit.complete(sealed);
        assert!(frame > 0 || segments == 1);
    }
    // Frames of 104 bytes: a segment holds its 2,040 and 60 of them.
    assert_eq!(segments, 2);
}

#[test]
fn a_closing_frame_needs_a_segment_with_room() {
    let mut commit = Commit::new(Lsn(0), SEGMENT_BYTES);
    assert!(commit.take_closing().is_none(), "nothing was written");
    commit.append(&record(10), 1);
    let sealed = commit.take().unwrap();
    commit.complete(sealed);
    let closing = commit.take_closing().unwrap();
    assert_eq!((closing.header.len, closing.header.durable), (0, Lsn(56)));
    commit.complete(closing);
    commit.append(&record(500), 1);
    let sealed = commit.take().unwrap();
    commit.complete(sealed);
    assert!(commit.take_closing().is_none(), "the segment is full");
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<u8>),
    Reserve,
    Unreserve,
    Take,
    Complete,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => vec(any::<u8>(), 1..200).prop_map(Step::Append),
        2 => Just(Step::Reserve),
        2 => Just(Step::Unreserve),
        2 => Just(Step::Take),
        2 => Just(Step::Complete),
    ]
}

/// What a simulated log has seen.
#[derive(Default)]
struct World {
    reserved: bool,
    seal_wanted: bool,
    in_flight: Option<SealedFrame>,
    /// The address a record was promised, and the record.
    promised: Vec<(Lsn, Vec<u8>)>,
    /// Bytes on the disk by address, as if segments had no headers.
    disk: Vec<u8>,
    segment_used: u64,
    segments: usize,
    /// Bytes of what the newest segment begins with.
    snapshot: u64,
}

impl World {
    fn apply(&mut self, commit: &mut Commit, step: Step) {
        match step {
            Step::Reserve if !self.reserved => {
                commit.reserve();
                self.reserved = true;
            }
            Step::Append(record) if self.reserved => {
                let at = commit.position();
                let end = commit.append(&record, 1);
                assert_eq!(end, at.advance(record.len() as u64));
                self.promised.push((at, record));
            }
            Step::Unreserve if self.reserved => {
                self.reserved = false;
                let wake = commit.unreserve();
                assert!(!wake || self.seal_wanted);
                if wake {
                    self.seal_wanted = false;
                    self.begin(commit.take().unwrap());
                }
            }
            Step::Take if self.in_flight.is_none() && !self.seal_wanted => {
                let pending = commit.pending();
                match commit.take() {
                    Some(sealed) => self.begin(sealed),
                    None => self.seal_wanted = pending > 0,
                }
            }
            Step::Complete => {
                if let Some(sealed) = self.in_flight.take() {
                    self.write(&sealed);
                    assert_eq!(commit.complete(sealed).0, self.disk.len() as u64);
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, sealed: SealedFrame) {
        assert!(self.in_flight.is_none() && sealed.header.len > 0);
        // Only what is on the disk may be called durable.
        assert_eq!(sealed.header.durable.0, self.disk.len() as u64);
        self.in_flight = Some(sealed);
    }

    fn write(&mut self, sealed: &SealedFrame) {
        assert_eq!(sealed.header.first.0, self.disk.len() as u64);
        assert_eq!(sealed.bytes.len() as u64, sealed.header.frame_bytes());
        let enough = SEGMENT_BYTES.max(SNAPSHOT_SHARE * self.snapshot);
        let full = self.segments == 0 || self.segment_used >= enough;
        assert_eq!(sealed.new_segment, full, "rolls exactly when the segment is full");
        if full {
            (self.segments, self.segment_used) = (self.segments + 1, 0);
            let first = sealed.header.first.advance(frame::HEADER_BYTES as u64);
            let snapshot = self.promised.iter().find(|(at, _)| *at == first);
            self.snapshot = snapshot.map_or(0, |(_, record)| record.len() as u64);
        }
        self.segment_used += sealed.bytes.len() as u64;
        self.disk.extend_from_slice(&sealed.bytes);
    }
}

proptest! {
    #[test]
    fn every_record_is_where_it_was_promised(steps in vec(step(), 0..200)) {
        let mut commit = Commit::new(Lsn(0), SEGMENT_BYTES);
        let mut world = World::default();
        for step in steps {
            world.apply(&mut commit, step);
            let durable = world.disk.len() as u64;
            // A crash here keeps every record below the durable address, whole.
            for (at, record) in &world.promised {
                let end = at.0 + record.len() as u64;
                if end <= durable {
                    prop_assert_eq!(&world.disk[at.0 as usize..end as usize], &record[..]);
                } else {
                    prop_assert!(at.0 >= durable, "a record is half durable");
                }
            }
        }
        let end = [Step::Unreserve, Step::Complete, Step::Take, Step::Complete];
        end.into_iter().for_each(|step| world.apply(&mut commit, step));
        let last = world.promised.last().map_or(0, |(at, record)| at.0 + record.len() as u64);
        prop_assert!(world.disk.len() as u64 >= last, "the end is never reached");
    }
}
