//! Questions and answers: [`Bus::call`] asks a service, [`Bus::serve`] is one.
//!
//! A question waits in the service's queue like any other message; the answer goes to a queue that
//! the asking bus has for itself. Both say what they are in the properties that AMQP has for this
//! (`reply-to`, `correlation-id`), so that either side may be a program in any language.

mod call;
mod fault;
mod replies;
mod serve;

pub use self::call::{Call, CallError};
pub use self::fault::Fault;
pub use self::serve::{Answer, ServiceBuilder};

pub(crate) use self::call::{Question, WITHIN};
pub(crate) use self::replies::Replies;
pub(crate) use self::serve::{Reply, is_late};

use crate::bus::Bus;
use crate::message::Message;

/// The header of a question that says until when its answer is of use, in milliseconds since 1970.
pub(crate) const DEADLINE: &str = "leveret-deadline";

impl Bus {
    /// Asks a service. Await it: it returns with the answer, with the fault that the service
    /// answered with, or when the deadline has passed; thirty seconds where nothing is said.
    ///
    /// A service that does not exist is an error at once. One that is down or busy has until the
    /// deadline: its queue keeps the question.
    pub fn call<'a, Q: Message, A: Message>(
        &'a self,
        service: &str,
        question: &'a Q,
    ) -> Call<'a, Q, A> {
        Call::new(self, service, question)
    }

    /// Answers the questions to a service: `service` is the name of the queue they wait in. All
    /// processes that serve it share them.
    pub fn serve<Q: Message, A: Message, H: Answer<Q, A>>(
        &self,
        service: &str,
        handler: H,
    ) -> ServiceBuilder<Q, A, H> {
        ServiceBuilder::new(self, service, handler)
    }
}
