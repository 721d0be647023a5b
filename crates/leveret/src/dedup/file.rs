//! What was handled, in a file that outlives the process.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use redb::{Builder, Database, DatabaseError, ReadableDatabase, TableDefinition, TableError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use super::{Dedup, Store};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::failure::BoxError;
use crate::transport::BoxFuture;

/// What was handled, by queue and id, and when, in milliseconds since 1970.
const HANDLED: TableDefinition<(&str, &str), u64> = TableDefinition::new("handled");
/// The same by time, for what is to be forgotten.
const BY_TIME: TableDefinition<(u64, &str, &str), ()> = TableDefinition::new("by-time");

/// How much of the file is kept in memory, in bytes.
const CACHE_BYTES: usize = 64 * 1024 * 1024;
/// How many ids one commit may write, and how many may wait for it.
const BATCH_MAX: usize = 4096;
/// How many ids one commit may forget.
const SWEEP_MAX: usize = 10_000;
/// How often there is a look for what is to be forgotten, at least and at most.
const SWEEP_EVERY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// The store.
struct File {
    shared: Arc<Shared>,
    writer: mpsc::Sender<Insert>,
}

struct Shared {
    path: PathBuf,
    keep: Duration,
    clock: Clock,
    /// `None` after a failure, until it is opened again: a database that has seen one refuses all.
    database: RwLock<Option<Database>>,
}

/// An id that waits for its commit.
struct Insert {
    queue: String,
    id: String,
    done: oneshot::Sender<Result<(), String>>,
}

impl Dedup {
    /// Remembers in a file, for so long. What was handled before the process ended, in whatever
    /// way, is known to the next one.
    ///
    /// The file is there at once, and is a [redb](https://www.redb.org) database. It belongs to one
    /// process at a time. An id takes about 250 bytes in it; what is forgotten makes room for
    /// others, and the file does not become smaller. After a crash, opening it reads all of it.
    ///
    /// Ids that are remembered at the same time share one write to the disk.
    ///
    /// # Errors
    /// [`Error::Store`] if the file is in use, cannot be opened, or is something else.
    pub async fn in_file(path: impl Into<PathBuf>, keep: Duration) -> Result<Dedup> {
        Dedup::in_file_by(Clock::Wall, path.into(), keep).await
    }

    async fn in_file_by(clock: Clock, path: PathBuf, keep: Duration) -> Result<Dedup> {
        let opened = {
            let path = path.clone();
            blocking(move || open(&path)).await
        };
        let what = || format!("the file {path:?} for what was handled");
        let database = opened.map_err(|source| Error::Store { what: what(), source })?;
        let database = RwLock::new(Some(database));
        let shared = Arc::new(Shared { path, keep, clock, database });
        let (writer, inserts) = mpsc::channel(BATCH_MAX);
        tokio::spawn(write(Arc::downgrade(&shared), inserts, keep));
        Ok(Dedup::new(File { shared, writer }))
    }
}

impl Store for File {
    fn contains<'a>(
        &'a self,
        queue: &'a str,
        id: &'a str,
    ) -> BoxFuture<'a, Result<bool, BoxError>> {
        let (shared, queue, id) = (Arc::clone(&self.shared), queue.to_owned(), id.to_owned());
        // It may have to read from the disk.
        Box::pin(blocking(move || shared.with(|database| shared.find(database, &queue, &id))))
    }

    fn insert<'a>(&'a self, queue: &'a str, id: &'a str) -> BoxFuture<'a, Result<(), BoxError>> {
        let (done, told) = oneshot::channel();
        let insert = Insert { queue: queue.to_owned(), id: id.to_owned(), done };
        Box::pin(async move {
            let ended = || BoxError::from("the task that writes the file has ended");
            self.writer.send(insert).await.map_err(|_| ended())?;
            told.await.map_err(|_| ended())?.map_err(BoxError::from)
        })
    }
}

/// Does what may take the disk's time, or panic since a file is damaged, where neither does harm.
async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, BoxError> + Send + 'static,
) -> Result<T, BoxError> {
    spawn_blocking(act).await?
}

fn open(path: &Path) -> Result<Database, BoxError> {
    let database = Builder::new().set_cache_size(CACHE_BYTES).create(path);
    let database = database.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => {
            BoxError::from("it is in use; each process needs a file of its own")
        }
        error => error.into(),
    })?;
    Ok(database)
}

/// Commits what comes, all that waits at a time, until the store is dropped.
async fn write(shared: Weak<Shared>, mut inserts: mpsc::Receiver<Insert>, keep: Duration) {
    let every = (keep / 16).clamp(SWEEP_EVERY[0], SWEEP_EVERY[1]);
    let mut sweep_at = Instant::now();
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            count = inserts.recv_many(&mut batch, BATCH_MAX) => if count == 0 { return },
            () = sleep_until(sweep_at) => {}
        }
        // Held only now and then, so that the file is closed when the store is dropped.
        let Some(shared) = shared.upgrade() else { return };
        let sweep = Instant::now() >= sweep_at;
        let inserted = std::mem::take(&mut batch);
        let (dones, ids): (Vec<_>, Vec<_>) =
            inserted.into_iter().map(|it| (it.done, (it.queue, it.id))).unzip();
        let path = shared.path.clone();
        let committed =
            blocking(move || shared.with(|database| shared.commit(database, &ids, sweep))).await;
        if sweep {
            let more = committed.as_ref().is_ok_and(|&swept| swept == SWEEP_MAX);
            sweep_at = Instant::now() + if more { Duration::ZERO } else { every };
        }
        let told = committed.map(drop).map_err(|error| error.to_string());
        if let Err(error) = &told {
            tracing::error!(?path, error, "what was handled cannot be written down");
        }
        for done in dones {
            // Whoever waited may have given up.
            let _ = done.send(told.clone());
        }
    }
}

impl Shared {
    /// Does something with the database, and opens it first if it had failed.
    fn with<T>(
        &self,
        act: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, BoxError> {
        let failed = self.database.read().unwrap_or_else(PoisonError::into_inner).is_none();
        if failed {
            let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
            if database.is_none() {
                *database = Some(open(&self.path)?);
            }
        }
        let done = match &*self.database.read().unwrap_or_else(PoisonError::into_inner) {
            Some(database) => act(database),
            None => Err(redb::Error::DatabaseClosed),
        };
        if done.is_err() {
            *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(done?)
    }

    /// What was handled no later than this is forgotten.
    fn horizon(&self) -> u64 {
        let keep = u64::try_from(self.keep.as_millis()).unwrap_or(u64::MAX);
        self.clock.milliseconds().saturating_sub(keep)
    }

    fn find(&self, database: &Database, queue: &str, id: &str) -> Result<bool, redb::Error> {
        let reading = database.begin_read()?;
        let handled = match reading.open_table(HANDLED) {
            // Nothing was ever written.
            Err(TableError::TableDoesNotExist(_)) => return Ok(false),
            table => table?,
        };
        Ok(handled.get((queue, id))?.is_some_and(|at| at.value() > self.horizon()))
    }

    /// Writes these down, forgets what is too old if that is asked for, and says how much that was.
    fn commit(
        &self,
        database: &Database,
        ids: &[(String, String)],
        sweep: bool,
    ) -> Result<usize, redb::Error> {
        let writing = database.begin_write()?;
        let mut swept = 0;
        {
            let mut handled = writing.open_table(HANDLED)?;
            let mut by_time = writing.open_table(BY_TIME)?;
            let now = self.clock.milliseconds();
            for (queue, id) in ids {
                let key = (queue.as_str(), id.as_str());
                if let Some(before) = handled.insert(key, now)? {
                    by_time.remove((before.value(), key.0, key.1))?;
                }
                by_time.insert((now, key.0, key.1), ())?;
            }
            if sweep {
                let old = (0, "", "")..(self.horizon() + 1, "", "");
                for entry in by_time.extract_from_if(old, |_, ()| true)?.take(SWEEP_MAX) {
                    let (key, _) = entry?;
                    let (_, queue, id) = key.value();
                    handled.remove((queue, id))?;
                    swept += 1;
                }
            }
        }
        if ids.is_empty() && swept == 0 {
            writing.abort()?;
        } else {
            writing.commit()?;
        }
        Ok(swept)
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("File").field(&self.shared.path).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::dedup::Claim;

    const HOUR: Duration = Duration::from_secs(3600);

    async fn handle(dedup: &Dedup, queue: &str, id: &str) -> bool {
        match dedup.claim(queue, id).await.unwrap() {
            Claim::Done | Claim::Busy => false,
            Claim::Ours(ours) => {
                ours.done().await.unwrap();
                true
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_queue_has_a_memory_of_its_own_that_fades() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handled");
        let dedup = Dedup::in_file_by(Clock::of_runtime(), path, HOUR).await.unwrap();
        assert!(handle(&dedup, "billing", "a").await);
        assert!(handle(&dedup, "shipping", "a").await);
        assert!(!handle(&dedup, "billing", "a").await);
        tokio::time::sleep(HOUR / 2).await;
        assert!(handle(&dedup, "billing", "b").await);
        tokio::time::sleep(HOUR / 2).await;
        assert!(handle(&dedup, "billing", "a").await, "an hour has passed");
        assert!(!handle(&dedup, "billing", "b").await);
        assert!(!handle(&dedup, "billing", "a").await);
        tokio::time::sleep(HOUR / 2 + Duration::from_secs(1)).await;
        assert!(!handle(&dedup, "billing", "a").await);
        assert!(handle(&dedup, "billing", "b").await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handled");
        let clock = Clock::of_runtime();
        let dedup = Dedup::in_file_by(clock, path.clone(), HOUR).await.unwrap();
        let mut sizes = Vec::new();
        for round in 0..6 {
            let ids: Vec<String> = (0..2_000).map(|n| format!("{round}-{n}")).collect();
            let all = ids.iter().map(|id| handle(&dedup, "billing", id));
            assert!(futures_util::future::join_all(all).await.into_iter().all(|new| new));
            tokio::time::sleep(HOUR * 2).await;
            sizes.push(std::fs::metadata(&path).unwrap().len());
        }
        assert!(sizes[5] <= sizes[1], "{sizes:?}");
    }

    #[tokio::test]
    async fn a_file_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handled");
        let dedup = Dedup::in_file(&path, HOUR).await.unwrap();
        let text = Dedup::in_file(&path, HOUR).await.unwrap_err().to_string();
        assert!(text.contains("is in use"), "{text}");
        assert!(handle(&dedup, "billing", "a").await);
        drop(dedup);
        let dedup = Dedup::in_file(&path, HOUR).await.unwrap();
        assert!(!handle(&dedup, "billing", "a").await);
        let foreign = folder.path().join("foreign");
        std::fs::write(&foreign, "something else, and not short either").unwrap();
        assert!(Dedup::in_file(&foreign, HOUR).await.is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_at_a_time_share_commits() {
        let folder = tempfile::tempdir().unwrap();
        let dedup = Dedup::in_file(folder.path().join("handled"), HOUR).await.unwrap();
        for (tasks, count) in [(64, 10_000), (1, 200)] {
            let start = std::time::Instant::now();
            let each = (0..tasks).map(|task| {
                let dedup = dedup.clone();
                tokio::spawn(async move {
                    for n in (task..count).step_by(tasks) {
                        assert!(handle(&dedup, "billing", &format!("{tasks}-{n}")).await);
                    }
                })
            });
            futures_util::future::try_join_all(each).await.unwrap();
            let taken = start.elapsed();
            println!("{count} ids by {tasks} tasks: {taken:?}, {:?} each", taken / count as u32);
        }
        let bytes = std::fs::metadata(folder.path().join("handled")).unwrap().len();
        println!("{bytes} bytes");
    }

    /// Run as a process of its own by the tests below: handles ids and says which are remembered.
    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "another test starts it"]
    async fn child() {
        let Some(path) = std::env::var_os("LEVERET_TEST_FILE") else { return };
        let dedup = Dedup::in_file(PathBuf::from(path), HOUR).await.unwrap();
        let tasks = (0..16).map(|task| {
            let dedup = dedup.clone();
            tokio::spawn(async move {
                for n in 0.. {
                    let id = format!("{}-{task}-{n}", std::process::id());
                    match dedup.claim("billing", &id).await {
                        Ok(Claim::Ours(ours)) => match ours.done().await {
                            Ok(()) => println!("handled {id}"),
                            Err(error) => println!("failed {error}"),
                        },
                        Ok(Claim::Done | Claim::Busy) => println!("failed: {id} is not new"),
                        Err(error) => println!("failed {error}"),
                    }
                }
            })
        });
        futures_util::future::join_all(tasks).await;
    }

    /// Runs the child until it has said so many lines, then kills it.
    fn run_child(path: &Path, shell: &str, lines: usize) -> Vec<String> {
        let program = std::env::current_exe().unwrap();
        let name = "dedup::file::tests::child";
        let mut child = Command::new("sh")
            .args(["-c", &format!("{shell} exec \"$0\" \"$@\"")])
            .arg(program)
            .args([name, "--exact", "--ignored", "--nocapture"])
            .env("LEVERET_TEST_FILE", path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut said: Vec<String> = output.by_ref().take(lines).collect();
        child.kill().unwrap();
        // What it said last may be half a line.
        said.extend(output);
        said.pop();
        child.wait().unwrap();
        said
    }

    #[tokio::test]
    async fn what_was_said_to_be_remembered_survives_kill_9() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handled");
        let mut said = Vec::new();
        for round in 1..=5 {
            said.extend(run_child(&path, "", 150 * round));
        }
        let dedup = Dedup::in_file(&path, HOUR).await.unwrap();
        let handled: Vec<&str> =
            said.iter().filter_map(|line| line.strip_prefix("handled ")).collect();
        assert!(handled.len() > 1_000, "{}", handled.len());
        for id in handled {
            assert!(!handle(&dedup, "billing", id).await, "{id} is forgotten");
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_an_error_and_passes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handled");
        // Files may have half a mebibyte more than the smallest database.
        drop(Dedup::in_file(&path, HOUR).await.unwrap());
        let blocks = std::fs::metadata(&path).unwrap().len() / 512 + 1024;
        let said = run_child(&path, &format!("trap '' XFSZ; ulimit -f {blocks};"), 10_000);
        let failed = said.iter().position(|line| line.starts_with("failed"));
        let failed = failed.expect("no room at some time");
        let mut causes = std::collections::HashMap::new();
        for line in said.iter().filter(|line| line.starts_with("failed")) {
            *causes.entry(line).or_insert(0) += 1;
        }
        println!("{failed} of {} are handled: {causes:?}", said.len());
        let too_large = causes.iter().find(|(line, _)| line.contains("too large"));
        let opened_again = too_large.is_some_and(|(_, count)| *count > 100);
        assert!(opened_again, "it tells what is the matter now, not that it failed before");
        let dedup = Dedup::in_file(&path, HOUR).await.unwrap();
        for id in said.iter().filter_map(|line| line.strip_prefix("handled ")) {
            assert!(!handle(&dedup, "billing", id).await, "{id} is forgotten");
        }
    }
}
