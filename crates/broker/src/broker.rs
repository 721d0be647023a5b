//! Opening, using and closing a broker.

use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::task::Waker;

use leveret_engine::{Batch, Engine, Load, QueueStatus};
use leveret_model::{Chunk, Lsn, SessionId, Time};
use leveret_storage::{Log, LogOptions, OnDurable, Packs, Replay, ReplayError};

pub use leveret_storage::OpenError;

use crate::clock::Clock;
use crate::combiner::Combiner;
use crate::core::{Around, Core, TICK};
use crate::disk::{Disk, DiskOptions, Watch};
use crate::loader;
use crate::memory::{Budget, Memory};
use crate::merger::Merger;
use crate::outbox::Outbox;
use crate::packer::Packer;
use crate::progress::Progress;
use crate::session::Session;
use crate::ticker::Ticker;
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
    /// How much they should take: what is beyond that leaves memory for the disk, in bytes.
    pub memory_target: usize,
    /// How large the files of the log are, in bytes.
    pub segment_bytes: u64,
    /// When too little of the disk is free.
    pub disk: DiskOptions,
}

/// A running broker. Clones are the same one.
#[derive(Clone)]
pub struct Broker {
    pub(crate) shared: Arc<Handle>,
}

/// What brokers and their sessions hold. Threads of the broker hold [`Shared`] for moments: they
/// must not be the ones who give it up last.
pub(crate) struct Handle {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) combiner: Combiner,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) packer: Arc<Packer>,
    watch: Watch,
    users: Vec<User>,
    next_session: AtomicU64,
}

impl Broker {
    /// Opens the data directory, and restores what it holds.
    ///
    /// # Errors
    /// [`OpenError`] if the directory is in use, cannot be read, or holds damaged data.
    pub fn open(options: Options) -> Result<Broker, OpenError> {
        let seed = seed().map_err(|source| OpenError::Io {
            action: "get random bytes for",
            path: options.data_dir.clone(),
            source,
        })?;
        let parts = Parts::open(&options, seed, Clock::default(), |log, replay, on_durable| {
            Log::open(&options.data_dir, log, replay, on_durable)
        })?;
        let broker = parts.broker();
        parts.start_threads().map_err(|source| OpenError::Io {
            action: "start the threads of",
            path: options.data_dir,
            source,
        })?;
        Ok(broker)
    }

    /// A broker that keeps everything in memory, what is confirmed too, and has neither files nor
    /// threads. What is submitted to it is done, and its sessions are told of it, when
    /// [`Session::submit`] returns. What only time brings about is up to the [`Ticker`].
    ///
    /// `now` says what time it is; the broker's time stands still while that goes back. It is asked
    /// while the engine is held: it must not use the broker.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn in_memory(
        users: Vec<User>,
        memory_max: usize,
        now: impl Fn() -> Time + Send + Sync + 'static,
    ) -> io::Result<(Broker, Ticker)> {
        let (around, _) = Around::new(Clock::given(now), memory_max, usize::MAX);
        let watch = Watch::new(&DiskOptions::none(), Path::new(""), &around.budget, &around.packer);
        let shared = Arc::new(Shared::new(Engine::new(seed()?), None, around, watch, users));
        let ticker = Ticker::new(&shared);
        Ok((Broker { shared: Arc::new(Handle { shared }) }, ticker))
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

    /// How much of the disk is free, and how much must be.
    #[must_use]
    pub fn disk(&self) -> Disk {
        self.shared.watch.disk()
    }

    /// Makes everything durable that was submitted, and gives up the data directory. What is
    /// submitted afterwards is dropped.
    pub fn close(&self) {
        self.shared.end_threads();
        self.shared.watch.close();
        let log = self.shared.combiner.with(Core::close);
        if let Some(log) = log {
            log.close();
        }
    }
}

impl Shared {
    fn new(
        engine: Engine,
        log: Option<Log>,
        around: Around,
        watch: Watch,
        users: Vec<User>,
    ) -> Shared {
        let Around { waiters, progress, budget, clock, packer, .. } = around.clone();
        let combiner = Combiner::new(Core::new(engine, log, around));
        let next_session = AtomicU64::new(TICK.0 + 1);
        Shared { combiner, waiters, progress, budget, clock, packer, watch, users, next_session }
    }

    /// Has the engine see what time it is.
    pub(crate) fn tick(&self) {
        let (chunk, commands) = (Chunk::default(), Vec::new());
        self.combiner.submit(Batch { session: TICK, chunk, commands });
    }

    /// Ends what works on the data directory.
    fn end_threads(&self) {
        self.clock.close();
        self.packer.worker.close();
        self.clock.worker.join();
        self.packer.worker.join();
    }
}

/// What the engine makes names of that nobody can guess.
fn seed() -> io::Result<[u8; 16]> {
    let mut seed = [0; 16];
    getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(seed)
}

/// A broker without what runs beside its engine.
pub(crate) struct Parts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) packs: Packs,
    pub(crate) merger: Merger,
    /// What the engine needs from packs.
    pub(crate) wanted: Receiver<Load>,
}

impl Parts {
    /// Restores what the data directory holds, through a log that `open_log` opens.
    pub(crate) fn open(
        options: &Options,
        seed: [u8; 16],
        clock: Clock,
        open_log: impl FnOnce(LogOptions, &mut Replay<'_>, OnDurable) -> Result<Log, OpenError>,
    ) -> Result<Parts, OpenError> {
        let mut engine = Engine::new(seed);
        let (around, wanted) = Around::new(clock, options.memory_max, options.memory_target);
        let on_durable = {
            let (waiters, progress) = (Arc::clone(&around.waiters), Arc::clone(&around.progress));
            move |durable: Lsn| {
                progress.became_durable(durable);
                waiters.durable(durable).into_iter().for_each(Waker::wake);
                waiters.unpark();
            }
        };
        let log = open_log(
            LogOptions { segment_bytes: options.segment_bytes, ..LogOptions::default() },
            &mut |address, records| engine.restore(address, records).map_err(ReplayError::from),
            Box::new(on_durable),
        )?;
        engine.restored(around.clock.now());
        engine.set_memory_target(options.memory_target);
        engine.set_memory_max(options.memory_max);
        let packs = log.packs();
        packs.reserve_above(engine.last_pack());
        packs.settle(&engine.packs().collect::<Vec<_>>())?;
        log.pin(&engine.addresses().collect::<Vec<_>>());
        around.progress.became_durable(log.durable());
        let (disk, directory) = (&options.disk, &options.data_dir);
        let watch = Watch::new(disk, directory, &around.budget, &around.packer);
        let shared = Shared::new(engine, Some(log), around, watch, options.users.clone());
        let merger = Merger::new(packs.clone(), options.segment_bytes);
        Ok(Parts { shared: Arc::new(shared), packs, merger, wanted })
    }

    pub(crate) fn broker(&self) -> Broker {
        Broker { shared: Arc::new(Handle { shared: Arc::clone(&self.shared) }) }
    }

    /// Starts what runs beside the engine, for as long as somebody has the broker.
    fn start_threads(self) -> io::Result<()> {
        let Parts { shared, packs, merger, wanted } = self;
        let broker = Arc::downgrade(&shared);
        shared.watch.start()?;
        loader::start(broker.clone(), packs.clone(), wanted)?;
        shared.packer.start(broker.clone(), packs, merger)?;
        shared.clock.start(move || {
            if let Some(shared) = broker.upgrade() {
                shared.tick();
            }
        })
    }
}

impl Deref for Handle {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.end_threads();
    }
}
