//! One by one, or in batches.

use std::marker::PhantomData;
use std::sync::Arc;

use super::attempt::{Attempt, Run};
use super::batch::{Batch, BatchHandler, BatchWork};
use super::course::Course;
use super::intake::{Singly, Work};
use super::{Handler, PREFETCH_EACH};
use crate::message::Message;

/// How messages are handed out: [`Each`] or [`Batches`].
pub trait Way: sealed::Sealed {
    /// How many messages a worker takes at a time.
    #[doc(hidden)]
    fn most(&self) -> usize;

    /// How many messages are fetched ahead for so many workers.
    #[doc(hidden)]
    fn prefetch(&self, workers: usize) -> usize;

    /// What workers do.
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "nobody else implements or calls it")]
    fn work(self, course: Arc<Course>) -> Arc<dyn Work>;
}

mod sealed {
    pub trait Sealed {}
    impl<M, H> Sealed for super::Each<M, H> {}
    impl<M, H> Sealed for super::Batches<M, H> {}
}

/// Something around all that is done with a message.
type OuterLayer = Box<dyn FnOnce(Arc<dyn Run>) -> Arc<dyn Run> + Send>;

/// One by one.
pub struct Each<M, H> {
    pub(super) handler: H,
    pub(super) layers: Vec<OuterLayer>,
    pub(super) message: PhantomData<fn(M)>,
}

/// Several at a time.
pub struct Batches<M, H> {
    pub(super) handler: H,
    pub(super) batch: Batch,
    pub(super) message: PhantomData<fn(M)>,
}

impl<M: Message, H: Handler<M>> Way for Each<M, H> {
    fn most(&self) -> usize {
        1
    }

    fn prefetch(&self, workers: usize) -> usize {
        workers.saturating_mul(PREFETCH_EACH)
    }

    #[expect(private_interfaces, reason = "nobody else calls it")]
    fn work(self, course: Arc<Course>) -> Arc<dyn Work> {
        let attempt: Arc<dyn Run> = Arc::new(Attempt::new(self.handler, Arc::clone(&course)));
        let run = self.layers.into_iter().fold(attempt, |run, layer| layer(run));
        Arc::new(Singly { run, course })
    }
}

impl<M: Message, H: BatchHandler<M>> Way for Batches<M, H> {
    fn most(&self) -> usize {
        self.batch.most
    }

    /// One batch is gathered while each worker handles another.
    fn prefetch(&self, workers: usize) -> usize {
        workers.saturating_add(1).saturating_mul(self.batch.most)
    }

    #[expect(private_interfaces, reason = "nobody else calls it")]
    fn work(self, course: Arc<Course>) -> Arc<dyn Work> {
        Arc::new(BatchWork::new(self.handler, self.batch, course))
    }
}
