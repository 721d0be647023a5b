//! Tower layers around a handler, in two places.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use super::Handler;
use super::attempt::{Outcome, Run};
use crate::cx::Cx;
use crate::failure::Failure;
use crate::transport::BoxFuture;

/// A handler as a tower service of messages and their [`Cx`].
#[derive(Debug)]
pub struct HandlerService<H> {
    handler: Arc<H>,
}

impl<H> HandlerService<H> {
    pub(crate) fn new(handler: H) -> Self {
        HandlerService { handler: Arc::new(handler) }
    }
}

impl<H> Clone for HandlerService<H> {
    fn clone(&self) -> Self {
        HandlerService { handler: Arc::clone(&self.handler) }
    }
}

impl<M: Send + 'static, H: Handler<M>> Service<(M, Cx)> for HandlerService<H> {
    type Response = ();
    type Error = Failure;
    type Future = BoxFuture<'static, Result<(), Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (message, cx): (M, Cx)) -> Self::Future {
        let handler = Arc::clone(&self.handler);
        Box::pin(async move { handler.handle(message, cx).await })
    }
}

/// A handler with layers around it.
#[derive(Debug, Clone)]
pub struct Layered<S> {
    pub(crate) service: S,
}

impl<M, S> Handler<M> for Layered<S>
where
    M: Send + 'static,
    S: Service<(M, Cx), Response = ()> + Clone + Send + Sync + 'static,
    S::Error: Into<Failure>,
    S::Future: Send,
{
    fn handle(&self, message: M, cx: Cx) -> impl Future<Output = Result<(), Failure>> + Send {
        let mut service = self.service.clone();
        async move {
            poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
            service.call((message, cx)).await.map_err(Into::into)
        }
    }
}

/// All that is done with a message, retries and dead letters included, as a tower service.
#[derive(Clone)]
pub struct Deliveries {
    pub(crate) run: Arc<dyn Run>,
}

impl Service<Cx> for Deliveries {
    type Response = Outcome;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Outcome, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, cx: Cx) -> Self::Future {
        let run = Arc::clone(&self.run);
        Box::pin(async move { Ok(run.run(cx).await) })
    }
}

impl std::fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deliveries").finish_non_exhaustive()
    }
}

impl<S> Run for Layered<S>
where
    S: Service<Cx, Response = Outcome, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    fn run(&self, cx: Cx) -> BoxFuture<'_, Outcome> {
        let mut service = self.service.clone();
        Box::pin(async move {
            let Ok(()) = poll_fn(|cx| service.poll_ready(cx)).await;
            let Ok(outcome) = service.call(cx).await;
            outcome
        })
    }
}
