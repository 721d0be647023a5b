//! What the test knows to have happened, kept outside the broker.

use super::body::{Id, id_of};
use super::fault::{Fault, Kind, tally};
use super::history::{at_first, deaths};
use super::moves::Moves;
use super::plan::{FLOWS, Flow, QUEUES};
use lapin::types::FieldTable;

/// A set of queues, a bit for each.
type Queues = u32;

/// What is known of a message.
#[derive(Default, Clone, Debug)]
pub(super) struct Fate {
    /// The broker has confirmed it.
    pub(super) confirmed: bool,
    /// It was there after a restart.
    pub(super) seen: bool,
    /// It was nowhere after a restart, or must never come.
    pub(super) ended: bool,
    /// How often it had died at the last inspection.
    pub(super) deaths: u64,
    /// Where we have sent an acknowledgement since. It may have been lost on its way.
    pub(super) settled: Queues,
    /// Where it was missing at the last inspection, of the queues it should have been in.
    missing: Queues,
    /// How many rejections we have sent.
    pub(super) rejections: u64,
}

impl Fate {
    /// Whether it must be somewhere, or we have acknowledged it.
    pub(super) fn known(&self) -> bool {
        self.confirmed || self.seen
    }

    /// Whether it may be missing in a queue after so many deaths.
    fn excused(&self, queue: usize, deaths: u64) -> bool {
        let missing = if deaths == self.deaths { self.missing } else { 0 };
        (self.settled | missing) & bit(queue) != 0
    }

    /// Whether it may be nowhere: it has been acknowledged wherever it was at some time.
    fn may_end(&self, flow: &Flow) -> bool {
        let excused = |deaths: u64| {
            let (queues, _) = flow.stage(deaths)?;
            Some(queues.iter().all(|queue| self.excused(*queue, deaths)))
        };
        (0..flow.stages.len() as u64).any(|more| excused(self.deaths + more) == Some(true))
    }
}

/// A message in a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) id: Id,
    pub(super) deaths: u64,
}

/// Where a message is.
#[derive(Clone, Copy, Default)]
pub(super) struct There {
    pub(super) deaths: u64,
    queues: Queues,
}

impl There {
    pub(super) fn anywhere(self) -> bool {
        self.queues != 0
    }
}

pub(super) struct Ledger {
    seed: u64,
    /// By producer and number.
    fates: Vec<Vec<Fate>>,
    pub(super) moves: Moves,
    /// Why messages have died that were there after a restart, and how many of them.
    dead: [(&'static str, usize); 3],
    faults: Vec<Fault>,
}

impl Ledger {
    pub(super) fn new(seed: u64) -> Ledger {
        let fates = vec![Vec::new(); FLOWS.len()];
        let dead = [("rejected", 0), ("expired", 0), ("maxlen", 0)];
        Ledger { seed, fates, moves: Moves::default(), dead, faults: Vec::new() }
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// A message is about to be published.
    pub(super) fn attempt(&mut self, producer: usize) -> Id {
        let fates = &mut self.fates[producer];
        fates.push(Fate::default());
        Id { producer, number: fates.len() - 1 }
    }

    /// The broker has confirmed the message.
    pub(super) fn confirm(&mut self, id: Id) {
        self.fate(id).confirmed = true;
    }

    /// An acknowledgement is about to be sent.
    pub(super) fn settle(&mut self, queue: usize, id: Id) {
        self.fate(id).settled |= bit(queue);
    }

    /// A rejection is about to be sent.
    pub(super) fn reject(&mut self, id: Id) {
        self.fate(id).rejections += 1;
    }

    pub(super) fn fate(&mut self, id: Id) -> &mut Fate {
        &mut self.fates[id.producer][id.number]
    }

    /// A delivery has come; gives its message if it may be there.
    pub(super) fn receive(
        &mut self,
        queue: usize,
        body: &[u8],
        headers: Option<&FieldTable>,
    ) -> Option<Found> {
        let Some(id) = id_of(body, self.seed) else {
            self.fault(Kind::Damaged, queue, None);
            return None;
        };
        match self.check(queue, id, headers) {
            Ok(found) => Some(found),
            Err(kind) => {
                self.fault(kind, queue, Some(id));
                None
            }
        }
    }

    fn check(&self, queue: usize, id: Id, headers: Option<&FieldTable>) -> Result<Found, Kind> {
        let flow = FLOWS.get(id.producer).filter(|flow| flow.contains(queue));
        let flow = flow.ok_or(Kind::Phantom)?;
        let fate = self.fates[id.producer].get(id.number).ok_or(Kind::Phantom)?;
        let deaths = deaths(headers, flow).ok_or(Kind::Mislabelled)?;
        let (queues, _) = flow.stage(deaths).ok_or(Kind::Mislabelled)?;
        let rejected = flow.stages[0].1 == "rejected";
        if !queues.contains(&queue) || rejected && at_first(deaths, flow) > fate.rejections {
            return Err(Kind::Mislabelled);
        }
        let missing = deaths == fate.deaths && fate.missing & bit(queue) != 0;
        if fate.ended || deaths < fate.deaths || missing {
            return Err(Kind::Phantom);
        }
        Ok(Found { id, deaths })
    }

    /// Compares what the queues hold after a restart, each in its order, with what they must.
    pub(super) fn compare(&mut self, contents: &[Vec<Found>; QUEUES.len()]) {
        // Looking each message up in a list would take ages.
        let count = |fates: &Vec<Fate>| vec![There::default(); fates.len()];
        let mut there: Vec<Vec<There>> = self.fates.iter().map(count).collect();
        for (queue, found) in contents.iter().enumerate() {
            self.compare_order(queue, found);
            for &Found { id, deaths } in found {
                let there = &mut there[id.producer][id.number];
                let elsewhere = there.anywhere() && there.deaths != deaths;
                if elsewhere || there.queues & bit(queue) != 0 {
                    self.fault(Kind::Phantom, queue, Some(id));
                }
                *there = There { deaths, queues: there.queues | bit(queue) };
            }
        }
        for (producer, there) in there.iter().enumerate() {
            for (number, there) in there.iter().enumerate() {
                self.compare_fate(Id { producer, number }, *there);
            }
        }
        self.compare_moves(&|id: Id| there[id.producer][id.number]);
    }

    /// What has never died is in the order in which it was published, but for circles.
    fn compare_order(&mut self, queue: usize, found: &[Found]) {
        let mut last = [None; FLOWS.len()];
        for Found { id, .. } in found.iter().filter(|found| found.deaths == 0) {
            let before = &mut last[id.producer];
            if *before > Some(id.number) {
                self.fault(Kind::Misordered, queue, Some(*id));
            } else {
                *before = Some(id.number);
            }
        }
    }

    fn compare_fate(&mut self, id: Id, there: There) {
        let flow = &FLOWS[id.producer];
        let fate = &mut self.fates[id.producer][id.number];
        if fate.ended {
            return;
        }
        let known = fate.known();
        if !there.anywhere() {
            let lost = known && !fate.may_end(flow);
            fate.ended = true;
            if lost && let Some((queues, _)) = flow.stage(fate.deaths) {
                self.fault(Kind::Lost, queues[0], Some(id));
            }
            return;
        }
        let (queues, _) = flow.stage(there.deaths).expect("checked when it came");
        let absent = || queues.iter().filter(|queue| there.queues & bit(**queue) == 0);
        let unexcused: Vec<usize> =
            absent().filter(|queue| !fate.excused(**queue, there.deaths)).copied().collect();
        let missing = absent().fold(0, |set, queue| set | bit(*queue));
        let died = fate.deaths..there.deaths;
        // An acknowledgement that has had no effect by now never will.
        *fate = Fate { seen: true, deaths: there.deaths, settled: 0, missing, ..fate.clone() };
        for reason in died.filter_map(|deaths| flow.stage(deaths)).map(|(_, reason)| *reason) {
            self.dead.iter_mut().filter(|dead| dead.0 == reason).for_each(|dead| dead.1 += 1);
        }
        for queue in unexcused {
            self.fault(if known { Kind::Lost } else { Kind::Torn }, queue, Some(id));
        }
    }

    pub(super) fn fault(&mut self, kind: Kind, queue: usize, id: Option<Id>) {
        let fate = id.and_then(|id| self.fates.get(id.producer)?.get(id.number));
        let note = fate.map(|fate| format!("{fate:?}")).unwrap_or_default();
        self.faults.push(Fault { kind, queue, id, note });
    }

    pub(super) fn faults(&self) -> &[Fault] {
        &self.faults
    }

    pub(super) fn published(&self) -> usize {
        self.fates.iter().map(Vec::len).sum()
    }

    pub(super) fn confirmed(&self) -> usize {
        self.fates.iter().flatten().filter(|fate| fate.confirmed).count()
    }

    /// Whether there was some of all that the test is for.
    pub(super) fn is_broad(&self) -> bool {
        self.moves.committed > 0 && self.dead.iter().all(|(_, count)| *count > 0)
    }

    pub(super) fn summary(&self) -> String {
        let [rejected, expired, maxlen] = self.dead.map(|(_, count)| count);
        format!(
            "{} messages, {} confirmed, {}, dead letters there after a restart: \
             {rejected} rejected, {expired} expired, {maxlen} too many; {}",
            self.published(),
            self.confirmed(),
            self.moves,
            tally(&self.faults),
        )
    }
}

fn bit(queue: usize) -> Queues {
    1 << queue
}
