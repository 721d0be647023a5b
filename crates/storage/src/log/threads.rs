//! The threads of a log: one that commits and one that keeps its files.

use std::io;
use std::sync::PoisonError;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::{Committer, LogOptions, NEVER, Shared};
use crate::commit::SealedFrame;
use crate::files::Keeper;

/// So much in the open frame is worth a sync at once, whatever the pacing.
const PACED_BYTES_MAX: usize = 256 * 1024;
/// Just above the lowest real-time priority: enough to run before everything ordinary.
const REALTIME_PRIORITY: u8 = 10;

/// Starts the commit thread and the keeper.
pub(super) fn start(
    committer: Committer,
    keeper: Keeper,
    options: LogOptions,
) -> io::Result<(JoinHandle<()>, JoinHandle<()>)> {
    let named = |name: &str| thread::Builder::new().name(name.to_owned());
    let keep = named("log-keeper").spawn(|| keeper.run())?;
    let thread = CommitThread { committer };
    let commit = named("log-commit").spawn(move || thread.run(&options))?;
    Ok((commit, keep))
}

struct CommitThread {
    committer: Committer,
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
        while let Some(frame) = next_frame(&self.committer.shared, not_before) {
            let began = Instant::now();
            let closing = frame.header.len == 0;
            match self.committer.commit(frame) {
                // Records that came during the sync mean that more will come while waiting a
                // little.
                Ok(more) => not_before = more.then(|| began + options.pacing),
                Err(frame) => {
                    self.committer.lose(&frame);
                    break;
                }
            }
            if closing {
                break;
            }
        }
        // The keeper ends when it has done what it was told.
        self.committer.shared.lock().keeper = None;
    }
}

/// Waits for the next frame: for records, then until `not_before` unless there are many. None when
/// the log is closed and everything is written.
fn next_frame(shared: &Shared, not_before: Option<Instant>) -> Option<SealedFrame> {
    let mut state = shared.lock();
    loop {
        let pending = state.commit.pending();
        let pause = not_before.and_then(|then| then.checked_duration_since(Instant::now()));
        let paced = pause.is_some() && pending < PACED_BYTES_MAX && !state.closing;
        state = if pending > 0 && paced {
            state.wake_bytes = PACED_BYTES_MAX;
            let pause = pause.unwrap_or_default();
            let woken = shared.wake.wait_timeout(state, pause);
            woken.unwrap_or_else(PoisonError::into_inner).0
        } else if let Some(sealed) = state.commit.take() {
            state.wake_bytes = NEVER;
            return Some(sealed);
        } else if pending == 0 && state.closing {
            return state.commit.take_closing();
        } else {
            // Idle, or a writer holds the frame and will seal it.
            state.wake_bytes = if pending == 0 { 1 } else { NEVER };
            shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner)
        };
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
