//! Opening, using and closing a broker.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_engine::{Batch, Engine, QueueStatus};
use leveret_model::{Chunk, Lsn, SessionId};
use leveret_storage::{Log, LogOptions, ReplayError};

pub use leveret_storage::OpenError;

use crate::clock::Clock;
use crate::combiner::Combiner;
use crate::core::{Core, TICK};
use crate::memory::{Budget, Memory};
use crate::outbox::Outbox;
use crate::progress::Progress;
use crate::session::Session;
use crate::users::{LoginError, User};
use crate::waiters::Waiters;

/// What a broker needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything durable is kept.
    pub data_dir: PathBuf,
    /// Who may connect.
    pub users: Vec<User>,
    /// How much the messages in it may take before nobody may publish more, in bytes.
    pub memory_max: usize,
}

/// A running broker. Clones are the same one.
#[derive(Clone)]
pub struct Broker {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) combiner: Combiner,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) clock: Arc<Clock>,
    users: Vec<User>,
    next_session: AtomicU64,
}

impl Broker {
    /// Opens the data directory, and restores what it holds.
    ///
    /// # Errors
    /// [`OpenError`] if the directory is in use, cannot be read, or holds damaged data.
    pub fn open(options: Options) -> Result<Broker, OpenError> {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed).map_err(|error| OpenError::Io {
            action: "get random bytes for",
            path: options.data_dir.clone(),
            source: io::Error::other(error.to_string()),
        })?;
        let mut engine = Engine::new(seed);
        let waiters = Arc::new(Waiters::default());
        let progress = Arc::new(Progress::default());
        let on_durable = {
            let (waiters, progress) = (Arc::clone(&waiters), Arc::clone(&progress));
            move |durable: Lsn| {
                progress.became_durable(durable);
                waiters.durable(durable);
                waiters.unpark();
            }
        };
        let log = Log::open(
            &options.data_dir,
            LogOptions::default(),
            &mut |address, records| engine.restore(address, records).map_err(ReplayError::from),
            Box::new(on_durable),
        )?;
        let (clock, budget) = (Arc::<Clock>::default(), Arc::new(Budget::new(options.memory_max)));
        engine.restored(clock.now());
        log.pin(&engine.addresses().collect::<Vec<_>>());
        progress.became_durable(log.durable());
        let core = Core::new(
            engine,
            log,
            Arc::clone(&waiters),
            Arc::clone(&progress),
            Arc::clone(&budget),
            Arc::clone(&clock),
        );
        let shared = Shared {
            combiner: Combiner::new(core),
            waiters,
            progress,
            budget,
            clock,
            users: options.users,
            next_session: AtomicU64::new(TICK.0 + 1),
        };
        let shared = Arc::new(shared);
        shared.start_clock().map_err(|source| OpenError::Io {
            action: "start the clock thread of",
            path: options.data_dir,
            source,
        })?;
        Ok(Broker { shared })
    }

    /// Whether this user may connect with this password, from this machine or from elsewhere.
    ///
    /// # Errors
    /// [`LoginError`] says why not, for the log; a client learns no more than that it may not.
    pub fn authenticate(
        &self,
        name: &[u8],
        password: &[u8],
        loopback: bool,
    ) -> Result<(), LoginError> {
        let user = self.shared.users.iter().find(|user| user.admits(name, password));
        match user {
            None => Err(LoginError::Credentials),
            Some(user) if user.loopback_only && !loopback => Err(LoginError::NotLocal),
            Some(_) => Ok(()),
        }
    }

    /// Starts a session in a virtual host, if there is one of that name.
    #[must_use]
    pub fn connect(&self, vhost: &[u8]) -> Option<Session> {
        let id = SessionId(self.shared.next_session.fetch_add(1, Ordering::Relaxed));
        let outbox = Arc::new(Outbox::default());
        let connected = self.shared.combiner.with(|core| {
            let connected = core.engine.connect(id, vhost);
            if connected {
                core.outboxes.insert(id, Arc::clone(&outbox));
            }
            connected
        });
        connected.then(|| Session::new(id, outbox, Arc::clone(&self.shared)))
    }

    /// Whether there is a virtual host of that name.
    #[must_use]
    pub fn has_vhost(&self, name: &[u8]) -> bool {
        // A session can be started in every one, and nowhere else.
        self.connect(name).is_some()
    }

    /// The queues there are.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueStatus> {
        self.shared.combiner.with(|core| core.engine.queues().collect())
    }

    /// What the messages in it take, and may take.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.shared.budget.memory()
    }

    /// Makes everything durable that was submitted, and gives up the data directory. What is
    /// submitted afterwards is dropped.
    pub fn close(&self) {
        self.shared.clock.close();
        self.shared.clock.join();
        let log = self.shared.combiner.with(Core::take_log);
        if let Some(log) = log {
            log.close();
        }
    }
}

impl Shared {
    /// Has the engine run when its deadline comes, for as long as somebody has the broker.
    fn start_clock(self: &Arc<Self>) -> io::Result<()> {
        let broker = Arc::downgrade(self);
        self.clock.start(move || {
            if let Some(shared) = broker.upgrade() {
                let (chunk, commands) = (Chunk::default(), Vec::new());
                shared.combiner.submit(Batch { session: TICK, chunk, commands });
            }
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Not joined: it may be this very thread.
        self.clock.close();
    }
}
