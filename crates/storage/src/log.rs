//! The log's handle, and what it shares with those who write.
//!
//! - `threads`: the threads of a log; `stepper`: what does their work where there are none

mod stepper;
mod threads;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use leveret_model::{Lsn, PackId};

use crate::commit::{Commit, SealedFrame};
use crate::disk::{Disk, Guard, RealDisk};
use crate::error::{OpenError, ReplayError};
use crate::files::{Job, Keeper, Spares};
use crate::pack::Packs;
use crate::pins::{Contents, Pins};
use crate::recovery::{self, Recovered};
use crate::segment::Sealed;
use crate::space::Space;
use crate::writer::{NoRoom, Writer};
pub use stepper::Stepper;

/// Is given the records of each frame and the address of the first of them.
pub type Replay<'a> = dyn FnMut(Lsn, &[u8]) -> Result<(), ReplayError> + 'a;

/// Is told below which address everything is now on stable storage.
pub type OnDurable = Box<dyn Fn(Lsn) + Send>;

/// How a log behaves.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// From which size on a segment is not added to, in bytes. Every segment begins with all
    /// definitions, so much smaller than the default means writing those often.
    pub segment_bytes: u64,
    /// The least time from the beginning of one sync to that of the next while records arrive
    /// faster than they are synced. A record that finds the log idle is synced at once.
    pub pacing: Duration,
    /// Whether the commit thread asks for real-time scheduling. Where that is not allowed it runs
    /// like any other, and a loaded machine makes the slowest confirms much slower.
    pub realtime: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        let pacing = Duration::from_micros(300);
        LogOptions { segment_bytes: 32 * 1024 * 1024, pacing, realtime: true }
    }
}

/// An open log. There is one writer at a time (see [`Log::reserve`]); everything else may be
/// called from any thread.
///
/// Dropping it does what [`Log::close`] does.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    packs: Packs,
    spares: Arc<Spares>,
    threads: Option<(JoinHandle<()>, JoinHandle<()>)>,
    _lock: Guard,
}

/// The right to append, until dropped. While it exists the addresses it tells are certain, and the
/// commit thread takes nothing from the open frame: hold it for one batch, not longer.
#[derive(Debug)]
pub struct Slot<'a> {
    log: &'a Log,
    position: Lsn,
    new_segment: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// Everything below this address is on stable storage.
    durable: AtomicU64,
    /// The address after the last record appended.
    appended: AtomicU64,
    space: Arc<Space>,
}

#[derive(Debug)]
struct State {
    commit: Commit,
    pins: Pins,
    /// Until the commit thread ends.
    keeper: Option<Sender<Job>>,
    /// With how much in the open frame the commit thread wants to be woken: it sleeps, or it
    /// paces itself, or (never) it works.
    wake_bytes: usize,
    closing: bool,
}

const NEVER: usize = usize::MAX;

impl Log {
    /// Locks `directory` (making it if need be) and recovers what it holds: `replay` is given the
    /// records of each frame in order, with the address of the first of them. `on_durable` is
    /// called by the commit thread after each sync, with the address below which everything is
    /// now on stable storage; it must not block.
    ///
    /// Segments are replayed from the oldest that is retained, each of which begins with all
    /// definitions; so definitions come repeatedly, and positions come settled that no retained
    /// record gave.
    ///
    /// # Errors
    /// [`OpenError`]; the directory can be opened again once the cause is gone.
    pub fn open(
        directory: &Path,
        options: LogOptions,
        replay: &mut Replay<'_>,
        on_durable: OnDurable,
    ) -> Result<Log, OpenError> {
        let (mut log, committer, keeper) =
            Log::recover(Arc::new(RealDisk), directory, &options, false, replay, on_durable)?;
        let started = threads::start(committer, keeper, options);
        log.threads = Some(started.map_err(OpenError::io("start the threads of", directory))?);
        Ok(log)
    }

    /// The same without threads, for simulations: nothing is written before the stepper is told to.
    /// Dropping the log waits for nothing then.
    ///
    /// # Errors
    /// As [`Log::open`].
    #[expect(clippy::needless_pass_by_value, reason = "as Log::open")]
    pub fn open_stepped(
        disk: Arc<dyn Disk>,
        directory: &Path,
        options: LogOptions,
        replay: &mut Replay<'_>,
        on_durable: OnDurable,
    ) -> Result<(Log, Stepper), OpenError> {
        let (log, committer, keeper) =
            Log::recover(disk, directory, &options, true, replay, on_durable)?;
        Ok((log, Stepper::new(committer, keeper)))
    }

    fn recover(
        disk: Arc<dyn Disk>,
        directory: &Path,
        options: &LogOptions,
        stepped: bool,
        replay: &mut Replay<'_>,
        on_durable: OnDurable,
    ) -> Result<(Log, Committer, Keeper), OpenError> {
        let wal = directory.join("wal");
        disk.create_directory(directory).map_err(OpenError::io("create", directory))?;
        let lock = disk.lock(directory)?;
        disk.create_directory(&wal).map_err(OpenError::io("create", &wal))?;
        if let Some(parent) = directory.parent().filter(|it| !it.as_os_str().is_empty()) {
            // A new directory has its name there. Who may not read the parent has to do without.
            let _ = disk.sync_directory(parent);
        }
        let packs = Packs::open(Arc::clone(&disk), directory)?;
        disk.sync_directory(directory).map_err(OpenError::io("sync", directory))?;
        let mut recovered = recovery::recover(&*disk, &wal, replay)?;
        if recovered.segments.is_empty() {
            packs.expect_none()?;
        }

        let space = Arc::new(Space::new(Arc::clone(&disk), stepped));
        let bytes = options.segment_bytes;
        let spares =
            Spares::new(Arc::clone(&disk), &wal, bytes, Arc::clone(&space), &mut recovered);
        let spares = Arc::new(spares.map_err(OpenError::io("tidy", &wal))?);
        let (jobs, inbox) = mpsc::channel();
        let _ = jobs.send(Job::Prepare);
        let writer = Writer::new(disk, &wal, Arc::clone(&spares), Arc::clone(&space), &recovered);
        let shared = Arc::new(Shared::new(&recovered, bytes, space, jobs));
        let keeper = Keeper::new(Arc::clone(&spares), packs.clone(), inbox);
        let committer = Committer { shared: Arc::clone(&shared), writer, on_durable };
        Ok((Log { shared, packs, spares, threads: None, _lock: lock }, committer, keeper))
    }

    /// Takes the right to append.
    ///
    /// # Panics
    /// If another slot exists: the engine is the one writer.
    #[must_use]
    pub fn reserve(&self) -> Slot<'_> {
        let mut state = self.shared.lock();
        state.commit.reserve();
        let position = state.commit.position();
        let new_segment = state.commit.pending() == 0 && state.commit.opens_segment();
        Slot { log: self, position, new_segment }
    }

    /// Everything below this address is on stable storage.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        Lsn(self.shared.durable.load(Ordering::Acquire))
    }

    /// How many bytes are appended and not yet durable, headers of frames included.
    #[must_use]
    pub fn backlog(&self) -> usize {
        let durable = self.shared.durable.load(Ordering::Relaxed);
        let appended = self.shared.appended.load(Ordering::Relaxed);
        appended.saturating_sub(durable) as usize
    }

    /// One live thing at each of these addresses: for what was found by replaying. Nothing is
    /// recycled before the first append, so pin everything before that.
    pub fn pin(&self, lsns: &[Lsn]) {
        self.shared.lock().pins.pin(lsns);
    }

    /// One live thing fewer at each of these addresses. Append the records that make it so first:
    /// a segment is recycled only when everything appended before its last release is durable.
    /// Those in a segment that is retired are ignored.
    pub fn release(&self, lsns: &[Lsn]) {
        let mut state = self.shared.lock();
        let end = Lsn(self.shared.appended.load(Ordering::Relaxed));
        state.pins.release(lsns, end);
    }

    /// The packs of this directory. Not to be used after the log is closed.
    ///
    /// After a replay, and before the first append, tell them which ids the log knows
    /// ([`Packs::reserve_above`]) and which packs hold messages ([`Packs::settle`]).
    #[must_use]
    pub fn packs(&self) -> Packs {
        self.packs.clone()
    }

    /// The segments that are sealed, durable and not retired, the oldest first. All that were
    /// found by opening are among them. Unless it is pinned, the oldest may be recycled at any
    /// moment: hold a pin at its first address from before it is made a pack until it is retired.
    #[must_use]
    pub fn sealed(&self) -> Vec<Sealed> {
        let state = self.shared.lock();
        state.pins.sealed(self.durable())
    }

    /// Ends the part the oldest segment plays in the log, once everything appended so far is
    /// durable: it becomes the data file of a pack ([`Packs::adopt`]), or is recycled. Its pins
    /// count no more. That happens later, by a thread of the log; if packs have its messages, when
    /// another segment has begun behind all that was appended so far ([`Log::begin_early`]), which
    /// proves the records that say so. A segment behind one that stays waits for that.
    ///
    /// A segment that the log does not have any more is ignored.
    pub fn retire(&self, segment: Sealed, contents: Contents) {
        let mut state = self.shared.lock();
        let end = Lsn(self.shared.appended.load(Ordering::Relaxed));
        if !state.pins.retire(segment.first, contents, end) {
            tracing::warn!(segment = %segment.first, "no such log segment to retire");
        }
        state.let_go(self.durable());
    }

    /// For a disk that is nearly full: has the next append begin a segment, if others wait for that
    /// and it gives the disk something back. If true, something should be appended. Not while
    /// there is a slot.
    #[must_use]
    pub fn begin_early(&self) -> bool {
        let mut state = self.shared.lock();
        // One takes the place of the new one, for which no room must be looked for now.
        let worth = state.pins.freed_by_next(self.durable()) > 1 && self.spares.count() > 0;
        worth && state.commit.end_segment()
    }

    /// Where the oldest segment begins that a restart would find: nothing before it is replayed.
    #[must_use]
    pub fn oldest(&self) -> Lsn {
        self.spares.oldest()
    }

    /// Deletes packs once everything appended so far is durable ([`Packs::remove`]).
    pub fn remove_packs(&self, packs: Vec<PackId>) {
        let mut state = self.shared.lock();
        let end = Lsn(self.shared.appended.load(Ordering::Relaxed));
        state.pins.remove_packs(packs, end);
        state.let_go(self.durable());
    }

    /// Whether the log waits for room on its disk: what is appended now is durable when there is
    /// some again, and not before.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        self.shared.space.is_out()
    }

    /// Returns when everything appended is durable, the threads have ended and the directory is
    /// free for another. If there is no room on the disk for five seconds it returns all the same;
    /// what was not durable is lost then, and a log message says how much that is.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.close();
        let Some((commit, keeper)) = self.threads.take() else { return };
        for thread in [commit, keeper] {
            if thread.join().is_err() {
                tracing::error!("a thread of the log panicked; not everything may be durable");
            }
        }
    }
}

impl Slot<'_> {
    /// The address the next record appended gets.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Whether what is appended first begins a new segment. Then it must be all durable
    /// definitions, since every older segment may be recycled after this.
    #[must_use]
    pub fn new_segment(&self) -> bool {
        self.new_segment
    }

    /// Appends `count` records, which hold `live` things that need them ([`Log::release`] undoes
    /// one). Returns the address after them: they are durable when [`Log::durable`] has reached it.
    ///
    /// # Panics
    /// If 4 GiB are appended and not written: the caller must heed [`Log::backlog`].
    pub fn append(&mut self, records: &[u8], count: u32, live: u32) -> Lsn {
        if records.is_empty() {
            return self.position;
        }
        let shared = &self.log.shared;
        let mut state = shared.lock();
        if self.new_segment {
            let first = state.commit.start();
            state.pins.begin(first);
            self.new_segment = false;
        }
        state.pins.pin_newest(live);
        self.position = state.commit.append(records, count);
        shared.appended.store(self.position.0, Ordering::Relaxed);
        self.position
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let shared = &self.log.shared;
        let mut state = shared.lock();
        let sealed = state.commit.unreserve();
        let wake = sealed || state.commit.pending() >= state.wake_bytes;
        if wake {
            state.wake_bytes = NEVER;
        }
        drop(state);
        if wake {
            shared.wake.notify_one();
        }
    }
}

impl Shared {
    fn new(
        recovered: &Recovered,
        segment_bytes: u64,
        space: Arc<Space>,
        keeper: Sender<Job>,
    ) -> Self {
        let pins = Pins::found(&recovered.segments, recovered.end);
        let commit = Commit::new(recovered.end, segment_bytes);
        let keeper = Some(keeper);
        Shared {
            state: Mutex::new(State { commit, pins, keeper, wake_bytes: NEVER, closing: false }),
            wake: Condvar::new(),
            durable: AtomicU64::new(recovered.end.0),
            appended: AtomicU64::new(recovered.end.0),
            space,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the log is being closed.
    fn close(&self) {
        self.space.close();
        self.lock().closing = true;
        self.wake.notify_all();
    }
}

impl State {
    /// Tells the keeper what is needed no more. Two threads do this, and the order matters: hence
    /// under the lock.
    fn let_go(&mut self, durable: Lsn) {
        let packs = self.pins.reclaim_packs(durable);
        let segments = self.pins.reclaim(durable);
        let Some(keeper) = &self.keeper else { return };
        if !packs.is_empty() {
            let _ = keeper.send(Job::Remove(packs));
        }
        if !segments.is_empty() {
            let _ = keeper.send(Job::Retire(segments));
        }
    }
}

/// Carries frames to the disk: what the commit thread has, or a stepper.
struct Committer {
    shared: Arc<Shared>,
    writer: Writer,
    on_durable: OnDurable,
}

impl Committer {
    /// Writes and syncs a frame, and tells of it. Returns whether there is more to write by now;
    /// or the frame, if there was no room.
    fn commit(&mut self, mut frame: SealedFrame) -> Result<bool, SealedFrame> {
        if let Err(NoRoom) = self.writer.write(&mut frame) {
            return Err(frame);
        }
        let new_segment = frame.new_segment;
        let mut state = self.shared.lock();
        let durable = state.commit.complete(frame);
        let more = state.commit.pending() > 0;
        if new_segment && let Some(keeper) = &state.keeper {
            let _ = keeper.send(Job::Prepare);
        }
        state.let_go(durable);
        drop(state);
        self.shared.durable.store(durable.0, Ordering::Release);
        (self.on_durable)(durable);
        Ok(more)
    }

    /// Says that the log is closed without this frame and what is behind it.
    fn lose(&self, frame: &SealedFrame) {
        let bytes = frame.bytes.len() + self.shared.lock().commit.pending();
        tracing::error!(
            bytes,
            "closed without room on the disk: the log's last bytes are \
            lost; nothing of them was confirmed"
        );
    }
}

#[cfg(test)]
mod retire_tests;
#[cfg(test)]
mod space_tests;
#[cfg(test)]
mod tests;
