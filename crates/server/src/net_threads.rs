//! The threads that serve connections: each with a runtime of its own, so that a connection's
//! state never moves between cores and needs no lock.

use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

/// A connection on its way from the acceptor to its thread.
type Accepted = (StdStream, SocketAddr);

/// The threads. Dropping it lets them go on until their connections end.
pub(crate) struct NetThreads {
    threads: Vec<NetThread>,
    next: usize,
    open: Arc<AtomicUsize>,
}

struct NetThread {
    inbox: mpsc::UnboundedSender<Accepted>,
    handle: JoinHandle<()>,
}

impl NetThreads {
    /// Starts `count` threads that run `serve` for each connection.
    ///
    /// # Errors
    /// Where the system gives no thread or no event queue.
    pub(crate) fn start<S, F>(count: usize, serve: &S) -> std::io::Result<NetThreads>
    where
        S: Fn(TcpStream, SocketAddr) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let open = Arc::new(AtomicUsize::new(0));
        let mut threads = Vec::with_capacity(count);
        for index in 0..count {
            let (inbox, accepted) = mpsc::unbounded_channel();
            let (serve, open) = (serve.clone(), open.clone());
            // Made on its thread, since it cannot move; told whether it could be made at all.
            let (report, started) = std::sync::mpsc::channel();
            let handle =
                std::thread::Builder::new().name(format!("net-{index}")).spawn(move || {
                    match local_runtime() {
                        Ok(runtime) => {
                            let _ = report.send(Ok(()));
                            runtime.block_on(serve_all(accepted, serve, &open));
                        }
                        Err(e) => drop(report.send(Err(e))),
                    }
                })?;
            started.recv().unwrap_or_else(|_| Err(std::io::Error::other("the thread ended")))?;
            threads.push(NetThread { inbox, handle });
        }
        Ok(NetThreads { threads, next: 0, open })
    }

    /// Gives a connection to the next thread in turn.
    pub(crate) fn give(&mut self, stream: StdStream, peer: SocketAddr) {
        self.open.fetch_add(1, Ordering::Relaxed);
        let thread = &self.threads[self.next];
        self.next = (self.next + 1) % self.threads.len();
        if thread.inbox.send((stream, peer)).is_err() {
            self.open.fetch_sub(1, Ordering::Relaxed);
            tracing::error!(%peer, "the connection's thread has ended; the connection is closed");
        }
    }

    /// Takes no more connections and waits for those there are, at most for `limit`. Returns how
    /// many are still open then.
    pub(crate) async fn finish(self, limit: Duration) -> usize {
        let handles: Vec<_> = self.threads.into_iter().map(|thread| thread.handle).collect();
        let (done, finished) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            for handle in handles {
                let _ = handle.join();
            }
            let _ = done.send(());
        });
        let _ = tokio::time::timeout(limit, finished).await;
        self.open.load(Ordering::Relaxed)
    }
}

fn local_runtime() -> std::io::Result<LocalRuntime> {
    Builder::new_current_thread()
        // A connection that always has more to do must not keep others waiting: after each task
        // sockets are looked at, and after every second one who was woken by other threads.
        .event_interval(1)
        .global_queue_interval(2)
        .enable_all()
        .build_local(LocalOptions::default())
}

/// Serves connections until no more can come and the last has ended.
async fn serve_all<S, F>(
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    serve: S,
    open: &AtomicUsize,
) where
    S: Fn(TcpStream, SocketAddr) -> F,
    F: Future<Output = ()> + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            next = accepted.recv() => {
                let Some((stream, peer)) = next else { break };
                match TcpStream::from_std(stream) {
                    Ok(stream) => drop(connections.spawn_local(serve(stream, peer))),
                    Err(error) => {
                        open.fetch_sub(1, Ordering::Relaxed);
                        tracing::error!(%peer, %error, "cannot watch the connection; it is closed");
                    }
                }
            }
            Some(ended) = connections.join_next() => count_end(ended, open),
        }
    }
    while let Some(ended) = connections.join_next().await {
        count_end(ended, open);
    }
}

fn count_end(ended: Result<(), JoinError>, open: &AtomicUsize) {
    open.fetch_sub(1, Ordering::Relaxed);
    if let Err(error) = ended {
        // Others go on: what one connection did wrong must not cost them theirs.
        tracing::error!(%error, "a connection ended by a defect in leveret");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;
    use std::sync::mpsc::channel;

    fn pair() -> (StdStream, Accepted) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, peer) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        (client, (stream, peer))
    }

    async fn until_it_closes(stream: TcpStream) {
        let _ = stream.readable().await;
    }

    #[test]
    fn connections_spread_evenly_over_the_threads() {
        let (names, seen) = channel();
        let serve = move |_: TcpStream, _| {
            let names = names.clone();
            async move {
                let name = std::thread::current().name().unwrap_or_default().to_owned();
                names.send(name).unwrap();
            }
        };
        let mut threads = NetThreads::start(3, &serve).unwrap();
        let clients: Vec<_> = (0..9)
            .map(|_| {
                let (client, (stream, peer)) = pair();
                threads.give(stream, peer);
                client
            })
            .collect();
        let mut names: Vec<_> = (0..9).map(|_| seen.recv().unwrap()).collect();
        names.sort();
        assert_eq!(
            names.chunks(3).map(|n| n[0].clone()).collect::<Vec<_>>(),
            ["net-0", "net-1", "net-2"]
        );
        assert!(names.chunks(3).all(|n| n[0] == n[2]));
        drop(clients);
    }

    #[tokio::test]
    async fn finish_waits_for_connections_but_not_for_ever() {
        let mut threads = NetThreads::start(2, &|stream, _| until_it_closes(stream)).unwrap();
        let (stays, (stream, peer)) = pair();
        threads.give(stream, peer);
        let (goes, (stream, peer)) = pair();
        threads.give(stream, peer);
        drop(goes);
        assert_eq!(threads.finish(Duration::from_millis(300)).await, 1);
        drop(stays);
    }

    #[tokio::test]
    async fn a_panic_ends_one_connection_and_no_other() {
        let serve = |stream: TcpStream, peer: SocketAddr| async move {
            until_it_closes(stream).await;
            assert!(peer.port() == 0, "a defect, on purpose");
        };
        let mut threads = NetThreads::start(1, &serve).unwrap();
        for _ in 0..2 {
            let (mut client, (stream, peer)) = pair();
            threads.give(stream, peer);
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
        }
        assert_eq!(threads.finish(Duration::from_secs(10)).await, 0);
    }
}
