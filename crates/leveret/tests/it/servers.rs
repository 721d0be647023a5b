//! A PostgreSQL with connections to it, and a leveret server that can crash.

use std::time::{Duration, Instant};

use leveret::sqlx::PgPool;
use leveret::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use leveret_peers::Leveret;

const PATIENCE: Duration = Duration::from_secs(60);

/// A database server.
pub(crate) struct Postgres {
    server: leveret_peers::Postgres,
}

impl Postgres {
    /// `None` where there is no PostgreSQL: then the test is skipped, but not in CI.
    pub(crate) fn start() -> Option<Postgres> {
        leveret_peers::Postgres::start().map(|server| Postgres { server })
    }

    /// Ends it at once, as a crash does, or as an administrator does, and starts it again.
    pub(crate) fn restart(&mut self, crash: bool) {
        if crash {
            self.server.kill();
        } else {
            self.server.stop();
        }
        self.server.start_again();
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    pub(crate) async fn pool(&self) -> PgPool {
        let options: PgConnectOptions = self.url().parse().expect("a URL");
        let pool = PgPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(options);
        let start = Instant::now();
        while let Err(error) = pool.acquire().await {
            assert!(start.elapsed() < PATIENCE, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        pool
    }
}

/// A leveret server.
pub(crate) struct Server {
    server: Leveret,
}

impl Server {
    pub(crate) fn start() -> Server {
        Server { server: Leveret::start() }
    }

    /// Kills it and starts it again.
    pub(crate) fn crash(&mut self) {
        self.kill();
        self.start_again();
    }

    pub(crate) fn start_again(&mut self) {
        self.server.start_again();
    }

    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }
}
