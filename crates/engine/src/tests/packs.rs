//! Packs in memory, for the tests of the engine: what was live of a part of the log, or transient.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use leveret_model::{Chunk, Lsn, Message, PackId, Position, QueueId};
use leveret_record::{Origin, Record, Records};

use super::world::*;
use crate::{Effects, Load, Loaded, Operation, Spill, Survey};

/// A message as the log tells it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Written {
    envelope: Vec<u8>,
    properties: Vec<u8>,
    body: Vec<u8>,
    persistent: bool,
    pub(super) origin: Origin,
}

/// The messages of a pack.
#[derive(Debug, Clone)]
pub(super) struct Pack {
    /// Where the part of the log ended that it was made of, if the log knows it.
    pub(super) end: Option<Lsn>,
    pub(super) messages: BTreeMap<(QueueId, Position), Written>,
}

impl Written {
    fn of(message: Message<'_>, origin: Origin) -> Written {
        let Message { envelope, properties, body, persistent } = message;
        Written {
            envelope: envelope.to_vec(),
            properties: properties.to_vec(),
            body: body.to_vec(),
            persistent,
            origin,
        }
    }

    pub(super) fn message(&self) -> Message<'_> {
        let Written { envelope, properties, body, persistent, .. } = self;
        Message { envelope, properties, body, persistent: *persistent }
    }
}

impl World {
    /// What was published in a part of the log.
    pub(super) fn written(&self, part: &Range<Lsn>) -> BTreeMap<(QueueId, Position), Written> {
        let mut written = BTreeMap::new();
        let steps = self.log.iter().filter(|(address, _)| part.contains(address));
        for record in steps.flat_map(|(_, records)| Records::new(records)) {
            if let Record::Publish { message, origin, targets } = record.unwrap().1 {
                for target in targets {
                    let own = Written::of(message, origin);
                    assert!(written.insert(target, own).is_none(), "{target:?} is written once");
                }
            }
        }
        written
    }

    /// Has a pack of what was live of a part of the log take its place.
    pub(super) fn adopt(&mut self, pack: PackId, part: &Range<Lsn>, survey: &Survey) -> bool {
        let live = |(queue, position): &(QueueId, Position)| {
            let sets = survey.live.get(queue);
            sets.is_some_and(|sets| sets.iter().any(|set| set.contains(*position)))
        };
        let mut messages = self.written(part);
        messages.retain(|target, _| live(target));
        let mut effects = Effects::default();
        let used = self.engine.adopt(pack, part, &mut effects);
        assert!(effects.outbound.is_empty() && effects.emptied.is_empty());
        assert_eq!(Records::new(&effects.log).count(), effects.records as usize);
        let address = self.end;
        self.end = address.advance(effects.log.len() as u64 + 16);
        self.log.push((address, effects.log));
        self.pins.retain(|pin| !part.contains(pin));
        if used {
            self.packs.insert(pack, Pack { end: Some(part.end), messages });
        }
        used
    }

    /// Has transient messages that were surveyed leave memory.
    pub(super) fn spilled(&mut self, pack: PackId, spill: &Spill) -> bool {
        let mut messages = BTreeMap::new();
        for (message, origin, targets) in spill.messages() {
            for target in targets {
                let own = Written::of(message, origin);
                assert!(messages.insert(target, own).is_none(), "{target:?} is spilled once");
            }
        }
        let mut effects = Effects::default();
        let used = self.engine.spilled(pack, spill, &mut effects);
        assert!(effects.outbound.is_empty() && effects.emptied.is_empty());
        assert!(effects.log.is_empty() && effects.loads.is_empty(), "nobody else hears of it");
        self.carry_out(0, effects);
        let queues = self.engine.queues.values();
        let extents = queues.flat_map(|queue| queue.spilled().map(move |each| (queue.id, each)));
        let own: Vec<_> = extents.filter(|(_, extent)| extent.pack == pack).collect();
        messages.retain(|(queue, position), _| {
            own.iter().any(|(id, extent)| id == queue && extent.live.contains(*position))
        });
        assert_eq!(used, !messages.is_empty());
        if used {
            self.packs.insert(pack, Pack { end: None, messages });
        }
        used
    }

    /// Has a pack of what was live of others take their place.
    pub(super) fn merge(
        &mut self,
        merged: PackId,
        packs: &[PackId],
        live: &BTreeSet<(QueueId, Position)>,
    ) -> bool {
        let old: Vec<Pack> =
            packs.iter().filter_map(|pack| self.packs.get(pack).cloned()).collect();
        let mut messages: BTreeMap<_, _> = old.into_iter().flat_map(|it| it.messages).collect();
        messages.retain(|target, _| live.contains(target));
        let mut effects = Effects::default();
        let used = self.engine.merge(merged, packs, &mut effects);
        assert!(effects.outbound.is_empty() && effects.loads.is_empty());
        for pack in &effects.emptied {
            assert!(packs.contains(pack) && self.packs.remove(pack).is_some());
        }
        assert_eq!(Records::new(&effects.log).count(), effects.records as usize);
        let address = self.end;
        self.end = address.advance(effects.log.len() as u64 + 16);
        self.log.push((address, effects.log));
        if used {
            self.packs.insert(merged, Pack { end: Some(Lsn(0)), messages });
        }
        used
    }

    /// Answers a load with so many messages at the most. Says for which queue it was, and which
    /// positions it brings.
    pub(super) fn answer(&mut self, index: usize, most: usize) -> (QueueId, Vec<Position>) {
        let load = self.loads.remove(index);
        let mut chunk = Chunk::default();
        let mut messages = Vec::new();
        let positions = load.runs.iter().flat_map(|(first, count)| first.0..first.0 + count);
        let pack = self.packs.get(&load.pack);
        // The files of a pack that is emptied are gone.
        assert!(pack.is_some() || !self.engine.needs(&load), "nothing is needed of what is gone");
        for position in positions.map(Position).take(most) {
            let Some(pack) = pack else { break };
            let written = &pack.messages[&(load.queue, position)];
            let message = chunk.push(written.message()).unwrap();
            chunk.set_past(message, written.origin.past);
            messages.push((position, written.origin));
            if chunk.content_len() >= load.bytes_max {
                break;
            }
        }
        let (queue, brought) = (load.queue, messages.iter().map(|(at, _)| *at).collect());
        self.step(0, chunk, vec![(0, loaded(load, messages, false))]);
        (queue, brought)
    }

    /// Answers all loads and goes on with all sessions, until there is nothing left to do.
    pub(super) fn settle_loads(&mut self) {
        for _ in 0..10_000 {
            if self.engine.can_resume() {
                self.resume();
            } else if self.loads.is_empty() {
                return;
            } else {
                self.answer(0, usize::MAX);
            }
        }
        panic!("it never ends");
    }
}

fn loaded(load: Load, messages: Vec<(Position, Origin)>, damaged: bool) -> Operation {
    Operation::Loaded(Box::new(Loaded { load, messages, damaged }))
}

#[test]
fn a_pack_that_is_given_up_while_it_is_read_takes_no_other_message_with_it() {
    let mut world = World::new();
    world.engine.set_memory_target(0);
    world.asks(1, queue("q"));
    for (id, body) in [(1, "m1"), (2, "m2")] {
        let from = world.end;
        world.publish("", "q", &[body]);
        let part = from..world.end;
        let survey = world.engine.survey(&part);
        assert!(world.adopt(PackId(id), &part, &survey));
        if id == 1 {
            assert!(world.asks(2, get("q")).is_empty(), "it waits");
            assert_eq!(world.asks(3, purge("q")), ["purged 1"]);
            assert!(world.packs.is_empty());
        }
    }
    // What was asked for is gone, and the next message has not been asked for.
    world.answer(0, 1);
    assert_eq!(world.ready("q"), 1);
    world.settle_loads();
    assert_eq!(world.last_got.as_deref(), Some("m2"));
    world.asks(2, ack(1));
    assert!(world.packs.is_empty());
    world.assert_nothing_left();
}
