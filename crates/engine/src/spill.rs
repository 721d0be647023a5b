//! Transient messages on their way out of memory, into packs that the log does not know.
//!
//! They go as durable ones do, but for where they come from, which is memory alone: the runtime
//! asks which there are ([`Engine::survey_transient`]), writes them into a pack, and says so
//! ([`Engine::spilled`]). They come back as all others do. After a restart nobody asks for them.

use std::cmp::Reverse;
use std::sync::Arc;

use leveret_model::{Chunk, Message, PackId, Position, Properties, QueueId, Time};
use leveret_record::Origin;
use rustc_hash::FxHashMap;

use crate::cold::{Extent, Found};
use crate::effect::Effects;
use crate::engine::Engine;
use crate::packing::WINDOW_BYTES;
use crate::queue::{Entry, Lane, Queue};
use crate::special::time_to_live;

/// How often there is as much free in a ring as there is in use before that is given back.
const FREE_FACTOR: usize = 4;

/// Transient messages that wait in memory, for a pack.
#[derive(Debug, Default)]
pub struct Spill {
    /// How many bytes they take; what waits in several queues counts for each.
    pub bytes: u64,
    chunks: Vec<Arc<Chunk>>,
    lanes: Vec<OfLane>,
}

/// Those of one lane of a queue.
#[derive(Debug)]
struct OfLane {
    queue: QueueId,
    lane: usize,
    /// The queue's time to live.
    ttl: Option<u64>,
    /// In order of position.
    waiting: Vec<Waiting>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    position: Position,
    expires: Time,
    /// Index into [`Spill::chunks`].
    chunk: u32,
    message: u32,
}

/// What was published, how, and where it waits.
pub type Spilled<'a> = (Message<'a>, Origin, Vec<(QueueId, Position)>);

impl Spill {
    /// The messages, each once, in about the order of their queues and positions.
    pub fn messages(&self) -> impl Iterator<Item = Spilled<'_>> {
        let lanes = self.lanes.iter();
        let mut all: Vec<(&OfLane, Waiting)> =
            lanes.flat_map(|own| own.waiting.iter().map(move |each| (own, *each))).collect();
        let content = |each: &Waiting| (each.chunk, each.message);
        // Chunks are numbered as they come, so that this is nearly in order.
        all.sort_by_key(|(_, each)| content(each));
        let mut rest = 0;
        std::iter::from_fn(move || {
            let (_, first) = *all.get(rest)?;
            let same = all[rest..].iter().take_while(|(_, each)| content(each) == content(&first));
            let same = &all[rest..rest + same.count()];
            rest += same.len();
            let chunk = &self.chunks[first.chunk as usize];
            let message = chunk.get(first.message);
            let time = same.iter().find_map(|(own, each)| each.published(message, own.ttl));
            let targets = same.iter().map(|(own, each)| (own.queue, each.position)).collect();
            let origin = Origin { time, past: chunk.past(first.message) };
            Some((message, origin, targets))
        })
    }
}

impl Waiting {
    /// When it was published, if that is needed to know how long it may wait. A message goes to
    /// all its queues at the same moment.
    fn published(&self, message: Message<'_>, ttl: Option<u64>) -> Option<Time> {
        if self.expires == Time::NEVER {
            return None;
        }
        let own = Properties::decode(message.properties).ok();
        let own = own.as_ref().and_then(time_to_live);
        let ttl = [ttl, own].into_iter().flatten().min()?;
        Some(Time(self.expires.0.saturating_sub(ttl)))
    }
}

impl Engine {
    /// Transient messages that wait in memory, those of the largest queues first: about
    /// `bytes_max` bytes of them.
    #[must_use]
    pub fn survey_transient(&self, bytes_max: u64) -> Spill {
        // Direct replies are waited for.
        let queues = self.queues.values().filter(|it| it.ready_bytes > 0 && !it.replies);
        let mut queues: Vec<&Queue> = queues.collect();
        queues.sort_unstable_by_key(|queue| (Reverse(queue.ready_bytes), queue.id));
        let mut survey = Survey { engine: self, spill: Spill::default(), slots: Slots::default() };
        for queue in queues {
            for (index, lane) in queue.each_lane().enumerate() {
                survey.lane(queue, index, lane, bytes_max);
            }
            if survey.spill.bytes >= bytes_max {
                break;
            }
        }
        survey.spill
    }

    /// Messages that a survey has named are in this pack. Those that wait still leave memory;
    /// `false` if there are none: the engine has no use for the pack. The effects are those of a
    /// step that writes nothing.
    pub fn spilled(&mut self, pack: PackId, spill: &Spill, effects: &mut Effects) -> bool {
        self.chunks.packs.spill(pack);
        let mut used = false;
        for own in &spill.lanes {
            let Some(queue) = self.queues.get_mut(&own.queue) else { continue };
            let Some(lane) = queue.lanes().get_mut(own.lane) else { continue };
            let gone = lane.take_waiting(&own.waiting);
            if gone.is_empty() {
                continue;
            }
            used = true;
            let chunks = &self.chunks;
            let found: Vec<Found> = gone.iter().map(|it| it.found(chunks.body_len(it))).collect();
            let cold = lane.spilled.get_or_insert_default();
            for extent in Extent::of_messages(pack, &found) {
                self.chunks.packs.gain(pack, extent.live.len());
                cold.add(extent);
            }
            gone.iter().for_each(|entry| cold.evict(entry.position));
            queue.ready_bytes -= gone.iter().map(|entry| u64::from(entry.bytes)).sum::<u64>();
            for entry in gone {
                self.chunks.release(entry.chunk, &mut effects.released);
            }
        }
        if !used {
            self.chunks.packs.forget(pack);
        }
        used
    }
}

/// The index in [`Spill::chunks`] of the chunk in a slot.
type Slots = FxHashMap<u32, u32>;

/// A survey under way.
struct Survey<'a> {
    engine: &'a Engine,
    spill: Spill,
    slots: Slots,
}

impl Survey<'_> {
    /// Adds what waits in a lane; if the queue is being consumed, without what is delivered next.
    fn lane(&mut self, queue: &Queue, index: usize, lane: &Lane, bytes_max: u64) {
        let consumed = !queue.consumers.is_empty() && lane.colds().all(|it| it.head().is_none());
        let mut window = if consumed { WINDOW_BYTES } else { 0 };
        let mut waiting = Vec::new();
        for entry in lane.fresh.range(lane.spillable_from()..) {
            if self.spill.bytes >= bytes_max {
                break;
            }
            if window > 0 {
                window = window.saturating_sub(u64::from(entry.bytes));
            } else if !entry.durable {
                self.spill.bytes += u64::from(entry.bytes);
                waiting.push(self.waiting(entry));
            }
        }
        if !waiting.is_empty() {
            let ttl = queue.settings.ttl;
            self.spill.lanes.push(OfLane { queue: queue.id, lane: index, ttl, waiting });
        }
    }

    fn waiting(&mut self, entry: &Entry) -> Waiting {
        let Entry { position, expires, chunk: slot, message, .. } = *entry;
        let chunks = &mut self.spill.chunks;
        let chunk = *self.slots.entry(slot).or_insert_with(|| {
            chunks.push(Arc::clone(self.engine.chunks.get(slot)));
            chunks.len() as u32 - 1
        });
        Waiting { position, expires, chunk, message }
    }
}

impl Lane {
    /// The first of `fresh` that may be spilled: behind all that were, so that they stay in order.
    fn spillable_from(&self) -> usize {
        let last = self.spilled.as_ref().and_then(|spilled| spilled.last());
        last.map_or(0, |last| self.fresh.partition_point(|entry| entry.position <= last))
    }

    /// Takes out of `fresh` what is there of these, and may be spilled.
    fn take_waiting(&mut self, waiting: &[Waiting]) -> Vec<Entry> {
        let Some(last) = waiting.last().map(|each| each.position) else { return Vec::new() };
        let start = self.spillable_from();
        let end = self.fresh.partition_point(|entry| entry.position <= last);
        let (mut gone, mut kept) = (Vec::with_capacity(waiting.len()), Vec::new());
        let mut waiting = waiting.iter().map(|each| each.position).peekable();
        for (index, entry) in self.fresh.drain(..end).enumerate() {
            while waiting.next_if(|position| *position < entry.position).is_some() {}
            let named = index >= start && waiting.peek() == Some(&entry.position);
            if named { gone.push(entry) } else { kept.push(entry) }
        }
        for entry in kept.into_iter().rev() {
            self.fresh.push_front(entry);
        }
        if self.fresh.capacity() > FREE_FACTOR * self.fresh.len() {
            self.fresh.shrink_to(self.fresh.len() * 2);
        }
        gone
    }
}

impl Entry {
    fn found(&self, body_bytes: u64) -> Found {
        Found { position: self.position, expires: self.expires, body_bytes }
    }
}
