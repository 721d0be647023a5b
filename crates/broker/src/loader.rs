//! Brings messages from packs into memory when the engine asks for them.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Weak;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use leveret_engine::{Batch, Command, Load, Loaded, Operation, Token};
use leveret_model::{Chunk, PackId};
use leveret_storage::{Loaded as Found, PackError, Packs};

use crate::broker::Shared;
use crate::core::TICK;

/// How long it waits before it tries again to read what could not be read.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// What the engine's loads are sent to.
pub(crate) type Loads = Sender<Load>;

/// A channel for loads, and the thread at its other end.
pub(crate) fn channel() -> (Loads, Receiver<Load>) {
    mpsc::channel()
}

pub(crate) fn start(shared: Weak<Shared>, packs: Packs, loads: Receiver<Load>) -> io::Result<()> {
    let builder = thread::Builder::new().name("loader".to_owned());
    builder.spawn(move || Loader::new(shared, packs).run(&loads))?;
    Ok(())
}

/// What reads packs, on a thread of its own.
pub(crate) struct Loader {
    shared: Weak<Shared>,
    packs: Packs,
    /// Packs that could not be read the last time, and will be tried again.
    unreadable: BTreeSet<PackId>,
}

impl Loader {
    pub(crate) fn new(shared: Weak<Shared>, packs: Packs) -> Loader {
        Loader { shared, packs, unreadable: BTreeSet::new() }
    }

    /// Until the engine is gone. What cannot be read keeps nothing else waiting.
    fn run(mut self, loads: &Receiver<Load>) {
        // In the order in which they are tried again.
        let mut later: VecDeque<(Instant, Load)> = VecDeque::new();
        loop {
            let mut next = Vec::new();
            let received = match later.front() {
                None => loads.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some((at, _)) => {
                    let pause = at.saturating_duration_since(Instant::now());
                    loads.recv_timeout(pause)
                }
            };
            match received {
                Ok(load) => next.push(load),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if later.front().is_some_and(|(at, _)| *at <= Instant::now()) {
                next.extend(later.pop_front().map(|(_, load)| load));
            }
            for load in next {
                if let Err(load) = self.bring(load) {
                    later.push_back((Instant::now() + PAUSE_AFTER_ERROR, load));
                }
            }
        }
    }

    /// Brings messages, or says that the first is lost (then `false`). Returns what was asked for
    /// if that may work later.
    pub(crate) fn bring(&mut self, load: Load) -> Result<bool, Load> {
        let pack = load.pack;
        match read(&self.packs, &load) {
            Ok(found) => {
                if self.unreadable.remove(&pack) {
                    tracing::info!(pack = pack.0, "a pack can be read again");
                }
                let damaged = found.is_none();
                let found = found.map(|Found { chunk, messages }| (chunk, messages));
                let (chunk, messages) = found.unwrap_or_default();
                self.answer(Loaded { load, messages, damaged }, chunk);
                Ok(!damaged)
            }
            Err(error) if self.needs(&load) => {
                // Once, not ten times a second for as long as it lasts.
                if self.unreadable.insert(pack) {
                    tracing::error!(
                        pack = pack.0, %error,
                        "a pack cannot be read: its messages wait until it can"
                    );
                }
                Err(load)
            }
            Err(_) => {
                // The pack was given up, or merged with others. If the messages are needed still,
                // they are asked for anew.
                self.unreadable.remove(&pack);
                self.answer(
                    Loaded { load, messages: Vec::new(), damaged: false },
                    Chunk::default(),
                );
                Ok(true)
            }
        }
    }

    fn needs(&self, load: &Load) -> bool {
        let broker = self.shared.upgrade();
        broker.is_some_and(|broker| broker.combiner.with(|core| core.engine.needs(load)))
    }

    fn answer(&self, loaded: Loaded, chunk: Chunk) {
        let Some(broker) = self.shared.upgrade() else { return };
        let operation = Operation::Loaded(Box::new(loaded));
        let commands = vec![Command { holder: 0, token: Token(0), operation }];
        broker.combiner.submit(Batch { session: TICK, chunk, commands });
    }
}

/// Reads what was asked for, or as much of it as is sound. Nothing if the first message is lost.
fn read(packs: &Packs, load: &Load) -> Result<Option<Found>, PackError> {
    // A file that is not there may come back, as a disk does that is not mounted.
    let may_pass = |error: &PackError| error.passes() || error.is_gone();
    match packs.load(load.pack, load.queue, &load.runs, load.bytes_max) {
        Ok(found) => return Ok(Some(found)),
        Err(error) if may_pass(&error) => return Err(error),
        Err(_) => {}
    }
    // The first one may be sound; the others come with the next load.
    let first: Vec<_> = load.runs.iter().take(1).map(|(first, _)| (*first, 1)).collect();
    match packs.load(load.pack, load.queue, &first, load.bytes_max) {
        Ok(found) => Ok(Some(found)),
        Err(error) if may_pass(&error) => Err(error),
        Err(error) => {
            tracing::error!(%error, "a message is lost; its queue goes on without it");
            Ok(None)
        }
    }
}
