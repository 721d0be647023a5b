//! The log's handle and its commit thread.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use leveret_model::{Lsn, PackId};

use crate::commit::{Commit, SealedFrame};
use crate::error::{OpenError, ReplayError};
use crate::files::{self, Job, Spares, sync_directory};
use crate::lock::DirectoryLock;
use crate::pack::Packs;
use crate::pins::Pins;
use crate::recovery::{self, Recovered};
use crate::segment::Sealed;
use crate::space::Space;
use crate::writer::{NoRoom, Writer};

/// So much in the open frame is worth a sync at once, whatever the pacing.
const PACED_BYTES_MAX: usize = 256 * 1024;
/// Just above the lowest real-time priority: enough to run before everything ordinary.
const REALTIME_PRIORITY: u8 = 10;

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
    _lock: DirectoryLock,
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
        let wal = directory.join("wal");
        fs::create_dir_all(directory).map_err(OpenError::io("create", directory))?;
        let lock = DirectoryLock::take(directory)?;
        fs::create_dir_all(&wal).map_err(OpenError::io("create", &wal))?;
        let packs = Packs::open(directory)?;
        sync_directory(directory).map_err(OpenError::io("sync", directory))?;
        let mut recovered = recovery::recover(&wal, replay)?;

        let space = Arc::new(Space::default());
        let spares = Spares::new(&wal, options.segment_bytes, Arc::clone(&space), &mut recovered);
        let spares = Arc::new(spares.map_err(OpenError::io("tidy", &wal))?);
        let (keeper, jobs) = mpsc::channel();
        let _ = keeper.send(Job::Prepare);
        let writer = Writer::new(&wal, Arc::clone(&spares), Arc::clone(&space), &recovered);
        let shared = Arc::new(Shared::new(&recovered, options.segment_bytes, space, keeper));
        let keep = thread::Builder::new().name("log-keeper".to_owned());
        let keep = keep
            .spawn({
                let (spares, packs) = (Arc::clone(&spares), packs.clone());
                move || files::keep(&spares, &packs, &jobs)
            })
            .map_err(OpenError::io("start the keeper thread of", &wal))?;
        let thread = CommitThread { shared: Arc::clone(&shared), writer, on_durable };
        let commit = thread::Builder::new().name("log-commit".to_owned());
        let commit = commit
            .spawn(move || thread.run(&options))
            .map_err(OpenError::io("start the commit thread of", &wal))?;
        Ok(Log { shared, packs, spares, threads: Some((commit, keep)), _lock: lock })
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
    /// count no more. That happens later, by a thread of the log, and not before something was
    /// appended behind the segment; a segment behind one that stays waits for that.
    ///
    /// A segment that the log does not have any more is ignored.
    pub fn retire(&self, segment: Sealed, pack: Option<PackId>) {
        let mut state = self.shared.lock();
        let end = Lsn(self.shared.appended.load(Ordering::Relaxed));
        if !state.pins.retire(segment.first, pack, end) {
            tracing::warn!(segment = %segment.first, "no such log segment to retire");
        }
        state.let_go(self.durable());
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
        self.shared.space.close();
        self.shared.lock().closing = true;
        self.shared.wake.notify_all();
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

    /// Waits for the next frame: for records, then until `not_before` unless there are many. None
    /// when the log is closed and everything is written.
    fn next_frame(&self, not_before: Option<Instant>) -> Option<SealedFrame> {
        let mut state = self.lock();
        loop {
            let pending = state.commit.pending();
            let pause = not_before.and_then(|then| then.checked_duration_since(Instant::now()));
            let paced = pause.is_some() && pending < PACED_BYTES_MAX && !state.closing;
            state = if pending > 0 && paced {
                state.wake_bytes = PACED_BYTES_MAX;
                let pause = pause.unwrap_or_default();
                let woken = self.wake.wait_timeout(state, pause);
                woken.unwrap_or_else(PoisonError::into_inner).0
            } else if let Some(sealed) = state.commit.take() {
                state.wake_bytes = NEVER;
                return Some(sealed);
            } else if pending == 0 && state.closing {
                return state.commit.take_closing();
            } else {
                // Idle, or a writer holds the frame and will seal it.
                state.wake_bytes = if pending == 0 { 1 } else { NEVER };
                self.wake.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
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

/// What the commit thread owns.
struct CommitThread {
    shared: Arc<Shared>,
    writer: Writer,
    on_durable: OnDurable,
}

/// Without its commit thread a broker would take messages and confirm none, for ever.
impl Drop for CommitThread {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("the log's commit thread panicked: the broker stops here");
            std::process::abort();
        }
    }
}

impl CommitThread {
    fn run(mut self, options: &LogOptions) {
        if options.realtime {
            ask_for_realtime();
        }
        let mut not_before = None;
        while let Some(mut frame) = self.shared.next_frame(not_before) {
            let began = Instant::now();
            if let Err(NoRoom) = self.writer.write(&mut frame) {
                let bytes = frame.bytes.len() + self.shared.lock().commit.pending();
                tracing::error!(
                    bytes,
                    "closed without room on the disk: the log's last bytes are \
                    lost; nothing of them was confirmed"
                );
                break;
            }
            let new_segment = frame.new_segment;
            let closing = frame.header.len == 0;
            let mut state = self.shared.lock();
            let durable = state.commit.complete(frame);
            // Records that came during the sync mean that more will come while waiting a little.
            not_before = (state.commit.pending() > 0).then(|| began + options.pacing);
            if new_segment && let Some(keeper) = &state.keeper {
                let _ = keeper.send(Job::Prepare);
            }
            state.let_go(durable);
            drop(state);
            self.shared.durable.store(durable.0, Ordering::Release);
            (self.on_durable)(durable);
            if closing {
                break;
            }
        }
        // The keeper ends when it has done what it was told.
        self.shared.lock().keeper = None;
    }
}

/// Puts the calling thread before all ordinary ones; it sleeps in the kernel most of its time.
fn ask_for_realtime() {
    use thread_priority::{
        RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
        set_thread_priority_and_policy, thread_native_id,
    };
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    let result = ThreadPriorityValue::try_from(REALTIME_PRIORITY).map(|priority| {
        let priority = ThreadPriority::Crossplatform(priority);
        set_thread_priority_and_policy(thread_native_id(), priority, policy)
    });
    if !matches!(result, Ok(Ok(()))) {
        tracing::debug!(?result, "the log's commit thread runs without real-time scheduling");
    }
}

#[cfg(test)]
mod retire_tests;
#[cfg(test)]
mod space_tests;
#[cfg(test)]
mod tests;
