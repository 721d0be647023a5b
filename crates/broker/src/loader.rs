//! Brings messages from packs into memory when the engine asks for them.

use std::collections::VecDeque;
use std::io;
use std::sync::Weak;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread;
use std::time::Duration;

use leveret_engine::{Batch, Command, Load, Loaded, Operation, Token};
use leveret_model::Chunk;

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
    builder.spawn(move || run(&shared, &packs, &loads))?;
    Ok(())
}

/// Until the engine is gone.
fn run(shared: &Weak<Shared>, packs: &Packs, loads: &Receiver<Load>) {
    let mut waiting: VecDeque<Load> = VecDeque::new();
    loop {
        match loads.try_recv() {
            Ok(load) => waiting.push_back(load),
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) if waiting.is_empty() => match loads.recv() {
                Ok(load) => waiting.push_back(load),
                Err(_) => return,
            },
            Err(TryRecvError::Empty) => {}
        }
        let Some(load) = waiting.pop_front() else { continue };
        if let Err(load) = bring(shared, packs, load) {
            waiting.push_back(load);
            thread::sleep(PAUSE_AFTER_ERROR);
        }
    }
}

/// Brings messages, or says that the first is lost (then `false`). Returns what was asked for if
/// that may work later.
pub(crate) fn bring(shared: &Weak<Shared>, packs: &Packs, load: Load) -> Result<bool, Load> {
    match read(packs, &load) {
        Ok(Some(Found { chunk, messages })) => {
            answer(shared, Loaded { load, messages, damaged: false }, chunk);
            Ok(true)
        }
        Ok(None) => {
            let messages = Vec::new();
            answer(shared, Loaded { load, messages, damaged: true }, Chunk::default());
            Ok(false)
        }
        Err(error) => {
            // Most likely there are too many open files: that passes.
            tracing::error!(%error, "cannot read messages; their queue waits");
            Err(load)
        }
    }
}

fn answer(shared: &Weak<Shared>, loaded: Loaded, chunk: Chunk) {
    let Some(broker) = shared.upgrade() else { return };
    let operation = Operation::Loaded(Box::new(loaded));
    let commands = vec![Command { holder: 0, token: Token(0), operation }];
    broker.combiner.submit(Batch { session: TICK, chunk, commands });
}

/// Reads what was asked for, or as much of it as is sound. Nothing if the first message is lost.
fn read(packs: &Packs, load: &Load) -> Result<Option<Found>, PackError> {
    match packs.load(load.pack, load.queue, &load.runs, load.bytes_max) {
        Ok(found) => return Ok(Some(found)),
        Err(error) if error.passes() => return Err(error),
        Err(_) => {}
    }
    // The first one may be sound; the others come with the next load.
    let first: Vec<_> = load.runs.iter().take(1).map(|(first, _)| (*first, 1)).collect();
    match packs.load(load.pack, load.queue, &first, load.bytes_max) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.passes() => Err(error),
        Err(error) if error.is_gone() => {
            // Most likely the engine has no more need of it, or has it elsewhere.
            tracing::warn!(%error, "messages are not looked for any more where they were");
            Ok(None)
        }
        Err(error) => {
            tracing::error!(%error, "a message is lost; its queue goes on without it");
            Ok(None)
        }
    }
}
