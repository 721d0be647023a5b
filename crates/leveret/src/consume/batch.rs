//! Several messages at a time, for what is cheaper done together.

use std::future::Future;
use std::marker::PhantomData;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout_at;

use super::attempt::Outcome;
use super::course::Course;
use super::guard::guard;
use super::intake::{Outlet, Work};
use crate::backoff::later;
use crate::cx::Cx;
use crate::dedup::Ours;
use crate::failure::{Failure, Remedy};
use crate::message::{Message, Payload};
use crate::transport::{BoxFuture, Inbound};

/// What handles batches: an async function or closure of messages, each with its [`Cx`].
///
/// All of a batch is done when it returns `Ok`. If it fails, each message is given to it alone, as
/// often as its [`crate::Retry`] has it tried at once, so that only those fail that are at fault:
/// what a failed batch has done must not matter, or be undone.
pub trait BatchHandler<M>: Send + Sync + 'static {
    /// Handles a batch, which is never empty.
    fn handle(&self, batch: Vec<(M, Cx)>) -> impl Future<Output = Result<(), Failure>> + Send;
}

impl<M, F, R> BatchHandler<M> for F
where
    F: Fn(Vec<(M, Cx)>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), Failure>> + Send,
{
    fn handle(&self, batch: Vec<(M, Cx)>) -> impl Future<Output = Result<(), Failure>> + Send {
        self(batch)
    }
}

/// How large batches are, and how long they are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) most: usize,
    pub(crate) within: Duration,
}

/// A worker that handles batches.
pub(crate) struct BatchWork<M, H> {
    handler: H,
    batch: Batch,
    course: Arc<Course>,
    message: PhantomData<fn(M)>,
}

impl<M: Message, H: BatchHandler<M>> BatchWork<M, H> {
    pub(crate) fn new(handler: H, batch: Batch, course: Arc<Course>) -> Self {
        BatchWork { handler, batch, course, message: PhantomData }
    }

    async fn work(&self, outlet: Outlet) {
        while let Some(first) = outlet.next().await {
            let mut batch = self.gather(first, &outlet).await;
            outlet.leave_out_stale(&mut batch);
            if batch.is_empty() {
                continue;
            }
            let _busy = outlet.busy();
            for (inbound, outcome) in self.settle_or_fail(batch).await {
                outlet.settle(&inbound, outcome);
            }
            outlet.flush();
        }
    }

    /// Waits until the batch is full, or its first message has waited long enough.
    async fn gather(&self, first: Arc<Inbound>, outlet: &Outlet) -> Vec<Arc<Inbound>> {
        let until = later(self.batch.within);
        let mut batch = vec![first];
        while batch.len() < self.batch.most {
            match timeout_at(until, outlet.more()).await {
                Ok(Some(next)) => batch.push(next),
                _ => break,
            }
        }
        batch
    }

    /// A panic in a store is the messages' failure, not the worker's end.
    async fn settle_or_fail(&self, batch: Vec<Arc<Inbound>>) -> Vec<(Arc<Inbound>, Outcome)> {
        let settling = async { Ok::<_, Failure>(self.settle(batch.clone()).await) };
        let panic = match guard(None, settling).await {
            Ok(settled) => return settled,
            Err(failure) => failure.to_string(),
        };
        let mut settled = Vec::with_capacity(batch.len());
        for inbound in batch {
            let failure = Failure::named("panic", Remedy::Retry, panic.clone());
            let outcome = self.course.fail(&inbound, failure).await;
            settled.push((inbound, outcome));
        }
        settled
    }

    async fn settle(&self, batch: Vec<Arc<Inbound>>) -> Vec<(Arc<Inbound>, Outcome)> {
        let mut settled = Vec::with_capacity(batch.len());
        let open = self.open(batch, &mut settled).await;
        let together = open.len() > 1 && self.handle(&open).await.is_ok();
        for message in open {
            let result = match together {
                true => Ok(()),
                false => {
                    let alone = slice::from_ref(&message);
                    self.course.try_at_once(|| self.handle(alone)).await
                }
            };
            let Open { cx, claim, .. } = message;
            let outcome = match result {
                Ok(()) => self.course.done(claim).await,
                Err(failure) => {
                    drop(claim);
                    self.course.fail(&cx.inbound, failure).await
                }
            };
            settled.push((Arc::clone(&cx.inbound), outcome));
        }
        settled
    }

    /// Makes messages ready to be handled. Those that are not to be are settled.
    async fn open(
        &self,
        mut batch: Vec<Arc<Inbound>>,
        settled: &mut Vec<(Arc<Inbound>, Outcome)>,
    ) -> Vec<Open> {
        let mut open: Vec<Open> = Vec::with_capacity(batch.len());
        let dedup = self.course.policy.dedup.is_some();
        if dedup {
            batch.sort_by(|one, other| one.letter.id.cmp(&other.letter.id));
        }
        for inbound in batch {
            // The same message twice in a batch would wait for itself.
            let twice = |it: &Open| !it.cx.id().is_empty() && it.cx.id() == inbound.letter.id;
            if dedup && open.iter().any(twice) {
                settled.push((inbound, Outcome::Released));
                continue;
            }
            let cx = self.course.cx(Arc::clone(&inbound));
            let claim = match self.course.claim(&cx).await {
                Ok(claim) => claim,
                Err(outcome) => {
                    settled.push((inbound, outcome));
                    continue;
                }
            };
            match self.course.payload(&cx).await {
                Ok(payload) => open.push(Open { cx, payload, claim }),
                Err(failure) => {
                    drop(claim);
                    let outcome = self.course.fail(&inbound, failure).await;
                    settled.push((inbound, outcome));
                }
            }
        }
        if dedup {
            // They are handled in the order in which they came.
            open.sort_by_key(|it| (it.cx.inbound.token.epoch, it.cx.inbound.token.tag));
        }
        open
    }

    async fn handle(&self, batch: &[Open]) -> Result<(), Failure> {
        // Nothing of the program's own runs outside, or a panic would take the worker along.
        let handling = async {
            let decode = |it: &Open| Ok((M::decode(&it.payload)?, it.cx.clone()));
            let batch: Result<Vec<_>, crate::CodecError> = batch.iter().map(decode).collect();
            self.handler.handle(batch.map_err(Failure::permanent)?).await
        };
        guard(self.course.policy.timeout, handling).await
    }
}

/// A message that is to be handled.
struct Open {
    cx: Cx,
    payload: Payload,
    claim: Option<Ours>,
}

impl<M: Message, H: BatchHandler<M>> Work for BatchWork<M, H> {
    fn work(self: Arc<Self>, outlet: Outlet) -> BoxFuture<'static, ()> {
        Box::pin(async move { BatchWork::work(&self, outlet).await })
    }
}
