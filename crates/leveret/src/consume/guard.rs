//! A handler that panics or takes too long has failed, and nothing else happens.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::timeout;

use crate::failure::{Failure, Remedy};

/// Runs a handler, for as long as `limit` allows.
pub(crate) async fn guard<T, E: From<Failure>>(
    limit: Option<Duration>,
    handling: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let handling = AssertUnwindSafe(handling).catch_unwind();
    let done = match limit {
        None => handling.await,
        Some(limit) => match timeout(limit, handling).await {
            Ok(done) => done,
            Err(_) => {
                let text = format!("not handled within {limit:?}");
                return Err(Failure::named("timeout", Remedy::Retry, text).into());
            }
        },
    };
    done.unwrap_or_else(|panic| Err(Failure::named("panic", Remedy::Retry, words(&*panic)).into()))
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "the handler panicked".to_owned())
}
