//! What cannot be had is refused when a consumer is started, before anything is declared.

use super::{ConsumerBuilder, Way};
use crate::error::{Error, Result};
use crate::topology::{ExchangeKind, QueueKind};
use crate::transport::Capabilities;

impl<W: Way> ConsumerBuilder<W> {
    /// Refuses what the transport cannot do, and what does not go together. What its queue is to
    /// be like is looked at where that is declared.
    pub(super) fn check(&self) -> Result<()> {
        let can = self.bus.capabilities();
        self.check_retry(&can)?;
        self.check_batches()?;
        self.check_headers(&can)?;
        if self.own {
            return self.check_own(&can);
        }
        if self.alone && !can.single_active_consumer {
            return Err(
                can.unsupported("keep order across processes", "leave ordered_by_key() out")
            );
        }
        if self.alone && self.queue.existing && !self.queue.single_active_consumer {
            let what =
                format!("see whether one consumer at a time has queue {:?}", self.queue.name);
            let hint = "if it is so, say queue(|it| it.existing().single_active_consumer()); \
                        otherwise there is no order across processes: leave ordered_by_key() out";
            return Err(can.unsupported(what, hint));
        }
        Ok(())
    }

    fn check_retry(&self, can: &Capabilities) -> Result<()> {
        let Some(longest) = self.retry_policy().longest() else { return Ok(()) };
        if self.own {
            return Err(can.unsupported(
                "send a message again to a queue of the consumer's own",
                "say own_queue() without retry(), or with Retry::none().at_once(N)",
            ));
        }
        if longest > can.delay_max.unwrap_or_default() {
            let hint = match can.delay_max {
                Some(_) => "use a Retry with shorter delays",
                None => "say retry(Retry::none().at_once(N))",
            };
            return Err(can.unsupported(format!("put off a message for {longest:?}"), hint));
        }
        Ok(())
    }

    fn check_headers(&self, can: &Capabilities) -> Result<()> {
        let Some(headers) = &self.headers else { return Ok(()) };
        can.check_headers(headers)?;
        if self.subjects != [""] {
            let text = "headers() takes the place of subjects() and sent_only(): say one of them";
            return Err(Error::Invalid(text.to_owned()));
        }
        let exchange = self.exchange.as_ref().unwrap_or(&self.bus.inner.exchange);
        if exchange.kind != ExchangeKind::Headers {
            let name = &exchange.name;
            let text = format!("{name:?} is no exchange for headers(): say Exchange::headers()");
            return Err(Error::Invalid(text));
        }
        Ok(())
    }

    fn check_batches(&self) -> Result<()> {
        let most = self.way.most();
        if most > 1 && self.ordered && self.concurrency > 1 {
            let text = "batches are handled one after the other where order counts: say \
                        ordered_by_key() without concurrency()";
            return Err(Error::Invalid(text.to_owned()));
        }
        match self.prefetch {
            Some(prefetch) if usize::from(prefetch) < most => Err(Error::Invalid(format!(
                "a batch of {most} is never full where {prefetch} are fetched ahead: say a \
                 prefetch() of {most} or more, or smaller batches"
            ))),
            _ => Ok(()),
        }
    }

    fn check_own(&self, can: &Capabilities) -> Result<()> {
        let queue = &self.queue;
        if self.subjects.is_empty() {
            let name = &queue.name;
            let text = format!("nothing would come to {name:?}: say subjects() with own_queue()");
            return Err(Error::Invalid(text));
        }
        if queue.existing {
            let text = "own_queue() makes a queue, and existing() takes one that is there: say one \
                        of them";
            return Err(Error::Invalid(text.to_owned()));
        }
        if queue.kind == Some(QueueKind::Quorum) {
            let what = "have a quorum queue that goes with its consumer";
            return Err(can.unsupported(what, "leave kind() out with own_queue()"));
        }
        if queue.delivery_limit.is_some() {
            let what = "count deliveries in a queue that goes with its consumer";
            return Err(can.unsupported(what, "leave delivery_limit out with own_queue()"));
        }
        can.check_queue(&self.queue_of_its_own(queue.name.clone()))
    }
}
