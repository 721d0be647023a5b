//! What may become of a damaged directory: judged by which bytes differ from the sound one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use leveret_model::{Lsn, PackId, QueueId};

use crate::making::{Files, Sound, Waiting, segments};

/// Bytes before the frames of a segment, or the records of a pack.
const HEADER: usize = 4096;

/// Whether a broker has to refuse a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It has no reason to.
    Never,
    /// It may notice.
    May,
    /// Something that was promised cannot be read.
    Must,
}

/// What is allowed.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) refusal: Refusal,
    /// What has to come out of the queues.
    pub(crate) must: Waiting,
    /// What may come out: those, and what was settled in a part of the log that is lost.
    pub(crate) may: Waiting,
    /// What cannot be read of packs, and has to be reported.
    pub(crate) lost: BTreeSet<(QueueId, u64)>,
    /// Whether nothing that matters was touched.
    pub(crate) untouched: bool,
    /// Where what is left of the log ends.
    end: Lsn,
    /// Whether there is a segment more: if it is a former one in its place, no pack is needed that
    /// was made of it, since all is in the log.
    former: bool,
}

/// Judges what the log still proves, then what the packs still have.
pub(crate) fn judge(sound: &Sound, damaged: &Files) -> Verdict {
    let mut verdict = Verdict {
        refusal: Refusal::Never,
        must: sound.waiting().clone(),
        may: sound.waiting().clone(),
        lost: BTreeSet::new(),
        untouched: true,
        end: Lsn(u64::MAX),
        former: false,
    };
    verdict.log(sound, damaged);
    for (pack, named) in &sound.packs {
        if *named >= verdict.end && sound.merged == Some(*pack) {
            // The log names those it was made of, and they are gone.
            verdict.needs(Refusal::Must);
            continue;
        }
        // Its segment left the log only when a later one proved what names the pack.
        assert!(verdict.refusal == Refusal::Must || *named < verdict.end, "{pack:?} is forgotten");
        verdict.pack(sound, damaged, *pack);
    }
    verdict
}

impl Verdict {
    fn needs(&mut self, refusal: Refusal) {
        self.untouched = false;
        if self.refusal != Refusal::Must {
            self.refusal = if self.former { Refusal::May } else { refusal };
        }
    }

    fn log(&mut self, sound: &Sound, damaged: &Files) {
        let all = segments(&sound.files);
        let strange = |(name, _): &(String, Lsn)| !sound.files.contains_key(name);
        if segments(damaged).iter().any(strange) {
            // Else its header says that it is another one.
            self.former = true;
            self.needs(Refusal::May);
        }
        let there: Vec<_> =
            (0..all.len()).filter(|index| damaged.contains_key(&all[*index].0)).collect();
        let (Some(&oldest), Some(&newest)) = (there.first(), there.last()) else {
            self.ends(sound, Lsn(0));
            self.begins(sound, Lsn(u64::MAX));
            // Without packs nobody can tell this from a directory that is new.
            let packs = damaged.keys().any(|name| name.starts_with("pack/"));
            return self.needs(if packs { Refusal::Must } else { Refusal::May });
        };
        if newest - oldest + 1 != there.len() {
            self.needs(Refusal::Must);
        }
        if oldest > 0 {
            self.begins(sound, all[oldest].1);
        }
        if newest + 1 < all.len() {
            self.ends(sound, all[newest + 1].1);
        }
        for &index in &there {
            let (name, first) = &all[index];
            let (before, after) = (&sound.files[name], &damaged[name]);
            let next = all.get(index + 1).map(|(_, next)| next.0);
            let end = next.unwrap_or_else(|| sound.history.last().expect("a beginning").0.0);
            let bytes = |range: Range<u64>| {
                HEADER + (range.start - first.0) as usize..HEADER + (range.end - first.0) as usize
            };
            if !same(before, after, 0..HEADER) {
                self.needs(Refusal::Must);
            }
            if index < newest {
                if !same(before, after, bytes(first.0..end)) {
                    self.needs(Refusal::Must);
                }
                continue;
            }
            let last = index > oldest || first.0 == 0;
            self.tail(sound, *first, end, last, |range| same(before, after, bytes(range)));
        }
    }

    /// The newest segment: a frame is proven by each that comes behind it, and the first one by the
    /// absence of older segments, unless it may be the `last` thing that was written after them.
    fn tail(
        &mut self,
        sound: &Sound,
        first: Lsn,
        end: u64,
        last: bool,
        same: impl Fn(Range<u64>) -> bool,
    ) {
        let ends = sound.history.iter().map(|(end, _)| end.0);
        let mut ends: Vec<_> = ends.filter(|at| (first.0 + 1..=end).contains(at)).collect();
        // The frame that closes the log, if there is one: it is a frame like others.
        ends.push(end + 40);
        let starts = std::iter::once(first.0).chain(ends.iter().copied());
        let frames: Vec<_> = starts.zip(ends.iter().copied()).collect();
        let closed = sound.closed;
        let frames = &frames[..frames.len() - usize::from(!closed)];
        let sound_frame = |(start, end): &(u64, u64)| same(*start..*end);
        let Some(broken) = frames.iter().position(|frame| !sound_frame(frame)) else { return };
        if frames[broken..].iter().any(sound_frame) || broken == 0 && !last {
            self.needs(Refusal::Must);
        } else {
            self.ends(sound, Lsn(frames[broken].0));
        }
    }

    /// Nothing is left of the log from an address on, and nothing tells that there was more.
    fn ends(&mut self, sound: &Sound, end: Lsn) {
        // What was settled behind it may be back, or its segment or pack may be gone: that may be
        // noticed.
        self.needs(Refusal::May);
        self.end = end;
        let index = sound.history.partition_point(|(at, _)| *at <= end);
        let then = &sound.history[index.max(1) - 1].1;
        for (queue, must) in &mut self.must {
            let none = Vec::new();
            let then = then.get(queue).unwrap_or(&none);
            must.retain(|number| then.contains(number));
            self.may.insert(*queue, then.clone());
        }
    }

    /// Nothing is left of the log before an address, and nothing tells that there was more.
    fn begins(&mut self, sound: &Sound, begin: Lsn) {
        self.needs(Refusal::May);
        for (queue, must) in &mut self.must {
            let published = &sound.published[queue];
            let known = |number: &u64| published.iter().any(|(n, at)| n == number && *at >= begin);
            must.retain(known);
        }
    }

    fn pack(&mut self, sound: &Sound, damaged: &Files, pack: PackId) {
        let [index, data] = ["idx", "pack"].map(|kind| format!("pack/{:020}.{kind}", pack.0));
        let before = &sound.files[&index];
        let (Some(after), Some(bytes)) = (damaged.get(&index), damaged.get(&data)) else {
            return self.needs(Refusal::Must);
        };
        let (directory, sections) = sections(before);
        let original = &sound.files[&data];
        let whole = before.len() == after.len() && same(before, after, 0..directory);
        if !whole || !same(original, bytes, 0..HEADER) || bytes.len() < original.len() {
            return self.needs(Refusal::Must);
        }
        for section in sections {
            let listed = same(before, after, section.place.clone());
            for (position, place) in section.messages(before) {
                if listed && same(original, bytes, place) {
                    continue;
                }
                let number = sound.published[&section.queue][position].0;
                self.lost.insert((section.queue, number));
                self.untouched = false;
            }
        }
    }
}

/// Whether these bytes are there and as they were.
fn same(before: &[u8], after: &[u8], range: Range<usize>) -> bool {
    before.get(range.clone()).is_some_and(|bytes| after.get(range) == Some(bytes))
}

/// A part of an index.
struct Section {
    queue: QueueId,
    first: usize,
    place: Range<usize>,
}

impl Section {
    /// The positions of its messages, and where their records are in the data file.
    fn messages<'a>(&'a self, index: &'a [u8]) -> impl Iterator<Item = (usize, Range<usize>)> + 'a {
        index[self.place.clone()].chunks_exact(16).map(|entry| {
            let [position, offset, len, _] = [0, 4, 8, 12].map(|at| number(entry, at, 4));
            (self.first + position, offset..offset + len)
        })
    }
}

/// Where the entries of an index begin, and its sections.
fn sections(index: &[u8]) -> (usize, Vec<Section>) {
    let count = number(index, 12, 4);
    let sections = index[64..64 + count * 32].chunks_exact(32).map(|section| {
        let (start, entries) = (number(section, 16, 8), number(section, 24, 4));
        Section {
            queue: QueueId(number(section, 0, 8) as u64),
            first: number(section, 8, 8),
            place: start..start + entries * 16,
        }
    });
    (64 + count * 32 + 4, sections.collect())
}

fn number(bytes: &[u8], at: usize, len: usize) -> usize {
    bytes[at..at + len].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// Checks what came out of the queues, and what was reported lost.
pub(crate) fn check(
    verdict: &Verdict,
    found: &BTreeMap<QueueId, (Vec<u64>, u64)>,
) -> Result<(), String> {
    for (queue, must) in &verdict.must {
        let none = (Vec::new(), 0);
        let (found, damaged) = found.get(queue).unwrap_or(&none);
        let may = &verdict.may[queue];
        let mut rest = may.iter();
        if !found.iter().all(|number| rest.any(|next| next == number)) {
            return Err(format!("queue {queue}: {found:?} came out, of {may:?} in order"));
        }
        let is_lost = |number: &&u64| verdict.lost.contains(&(*queue, **number));
        let wrong = found.iter().find(is_lost);
        if let Some(wrong) = wrong
            && !verdict.former
        {
            return Err(format!("queue {queue}: {wrong} cannot have been read"));
        }
        let missing: Vec<_> = must.iter().filter(|number| !found.contains(number)).collect();
        if let Some(silent) = missing.iter().find(|number| !is_lost(number)) {
            return Err(format!("queue {queue}: {silent} is lost, and {missing:?} are missing"));
        }
        let most = may.iter().filter(is_lost).count();
        if (*damaged as usize) < missing.len() || *damaged as usize > most {
            return Err(format!("queue {queue}: {damaged} reported lost, {missing:?} are"));
        }
    }
    Ok(())
}
