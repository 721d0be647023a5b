//! The life of a thread that sleeps until there may be something to do.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// A thread: not started yet, at work, or ended.
#[derive(Default)]
pub(crate) struct Worker {
    closed: AtomicBool,
    thread: OnceLock<Thread>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// Starts the thread. Call this once, before others have the worker. `run` is to park where it
    /// has nothing to do, and to return when the worker is closed.
    pub(crate) fn start(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let handle = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        // Nobody sets it but here.
        let _ = self.thread.set(handle.thread().clone());
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
        Ok(())
    }

    /// There may be something to do: the thread does not park now, or not the next time.
    pub(crate) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Whether the thread is to end.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends the thread when it has done what it is doing.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake();
    }

    /// Waits until the thread has ended, unless this is it.
    pub(crate) fn join(&self) {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle
            && handle.thread().id() != thread::current().id()
        {
            // A panic of it was told by the panic itself.
            let _ = handle.join();
        }
    }
}
