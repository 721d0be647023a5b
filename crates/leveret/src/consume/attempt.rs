//! One message, from the moment a worker takes it until it is settled.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Handler;
use super::course::Course;
use super::guard::guard;
use crate::claim_check;
use crate::cx::Cx;
use crate::dedup::{Claim, Ours};
use crate::failure::{Failure, Remedy};
use crate::message::{Message, Payload};
use crate::transport::BoxFuture;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is handled, now or before. It is acknowledged.
    Done,
    /// It failed, and what comes next is in the broker's hands. It is acknowledged.
    Failed,
    /// It failed for good, by its own fault, and is a dead letter. It is acknowledged.
    Rejected,
    /// It goes back, as if it had not been looked at.
    Released,
}

/// Handles messages, whatever their type.
pub(crate) trait Run: Send + Sync {
    /// Handles one.
    fn run(&self, cx: Cx) -> BoxFuture<'_, Outcome>;
}

/// A consumer's handler and what is around it.
pub(crate) struct Attempt<M, H> {
    handler: H,
    course: Arc<Course>,
    message: PhantomData<fn(M)>,
}

impl<M: Message, H: Handler<M>> Attempt<M, H> {
    pub(crate) fn new(handler: H, course: Arc<Course>) -> Self {
        Attempt { handler, course, message: PhantomData }
    }

    async fn settle(&self, cx: Cx) -> Outcome {
        let course = &*self.course;
        let claim = match course.claim(&cx).await {
            Ok(claim) => claim,
            Err(outcome) => return outcome,
        };
        let payload = match course.payload(&cx).await {
            Ok(payload) => payload,
            Err(failure) => {
                drop(claim);
                return course.fail(&cx.inbound, failure).await;
            }
        };
        match course.try_at_once(|| self.handle(&payload, &cx)).await {
            Ok(()) => course.done(claim).await,
            Err(failure) => {
                drop(claim);
                course.fail(&cx.inbound, failure).await
            }
        }
    }

    async fn handle(&self, payload: &Payload, cx: &Cx) -> Result<(), Failure> {
        // Nothing of the program's own runs outside, or a panic would take the worker along.
        let handling = async {
            let message = M::decode(payload).map_err(Failure::permanent)?;
            self.handler.handle(message, cx.clone()).await
        };
        guard(self.course.policy.timeout, handling).await
    }
}

impl Course {
    /// Takes a message for oneself, if what was handled is remembered. The error is what became of
    /// it already.
    pub(crate) async fn claim(&self, cx: &Cx) -> Result<Option<Ours>, Outcome> {
        let Some(dedup) = &self.policy.dedup else { return Ok(None) };
        if cx.id().is_empty() {
            return Ok(None);
        }
        // Boxed, as in `payload`: what is rare must not make every message's future large.
        match Box::pin(dedup.claim(self.queue(), cx.id())).await {
            Ok(Claim::Done) => Err(Outcome::Done),
            Ok(Claim::Busy) => Err(Outcome::Released),
            Ok(Claim::Ours(claim)) => Ok(Some(claim)),
            Err(error) => {
                // Without the store nobody knows; the message waits with it.
                let failure = Failure::named("dedup", Remedy::Retry, error.to_string());
                Err(self.fail(&cx.inbound, failure).await)
            }
        }
    }

    /// A message's body, from where it was checked in if it was too large to be sent.
    pub(crate) async fn payload(&self, cx: &Cx) -> Result<Payload, Failure> {
        match claim_check::is_claimed(cx.letter()) {
            true => Box::pin(self.bus.inner.large_bodies.fetch(cx.letter())).await,
            false => Ok(cx.letter().payload.clone()),
        }
    }

    /// Tries as often as a message may be tried at once, until that goes well.
    pub(crate) async fn try_at_once<R>(&self, mut once: impl FnMut() -> R) -> Result<(), Failure>
    where
        R: Future<Output = Result<(), Failure>>,
    {
        let mut result = once().await;
        for _ in 1..self.retry.tries_at_once() {
            match &result {
                Err(failure) if failure.remedy == Remedy::Retry => {
                    self.shared.failed(failure.to_string());
                    result = once().await;
                }
                _ => break,
            }
        }
        result
    }

    /// A message is handled.
    pub(crate) async fn done(&self, claim: Option<Ours>) -> Outcome {
        if let Some(claim) = claim
            && let Err(error) = claim.done().await
        {
            let queue = self.queue();
            tracing::error!(queue, %error, "a handled message cannot be remembered");
        }
        self.shared.handled.fetch_add(1, Ordering::Relaxed);
        Outcome::Done
    }
}

impl<M: Message, H: Handler<M>> Run for Attempt<M, H> {
    fn run(&self, cx: Cx) -> BoxFuture<'_, Outcome> {
        Box::pin(self.settle(cx))
    }
}
