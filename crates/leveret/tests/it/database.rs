//! A PostgreSQL with connections to it.

use std::time::{Duration, Instant};

use leveret::sqlx::PgPool;
use leveret::sqlx::postgres::{PgConnectOptions, PgPoolOptions};

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
