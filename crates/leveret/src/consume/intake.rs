//! From the inlet to the workers.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::poll_immediate;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::attempt::{Outcome, Run};
use super::course::Course;
use super::guard::guard;
use super::lanes::{Lanes, Order};
use super::shared::{Busy, ConsumerShared, Phase};
use crate::breaker::Gate;
use crate::failure::Failure;
use crate::rate::Pace;
use crate::transport::{BoxFuture, Inbound, Inlet, Settler};

/// After so many messages their acknowledgements are sent, even if more wait.
const FLUSH_EVERY: u32 = 64;

/// Takes messages from the inlet and hands them to workers.
pub(crate) struct Intake {
    inlet: Box<dyn Inlet>,
    lanes: Arc<Lanes>,
    workers: JoinSet<()>,
    shared: Arc<ConsumerShared>,
    pace: Option<Pace>,
}

impl Intake {
    /// Starts the consumer's tasks.
    pub(crate) fn start(
        inlet: Box<dyn Inlet>,
        work: &Arc<dyn Work>,
        course: &Course,
        order: Order,
        workers: usize,
    ) {
        let shared = Arc::clone(&course.shared);
        let gate = |breaker| Arc::new(Gate::new(breaker, shared.paused.clone()));
        let gate = course.policy.breaker.clone().map(gate);
        let mut intake = Intake {
            pace: course.policy.rate.map(Pace::new),
            lanes: Arc::new(Lanes::new(order)),
            workers: JoinSet::new(),
            shared: Arc::clone(&shared),
            inlet,
        };
        for _ in 0..workers {
            let outlet = Outlet {
                lanes: Arc::clone(&intake.lanes),
                settler: intake.inlet.settler(),
                gate: gate.clone(),
                shared: Arc::clone(&shared),
            };
            intake.workers.spawn(Arc::clone(work).work(outlet));
        }
        tokio::spawn(intake.run());
    }

    async fn run(mut self) {
        let phase = self.shared.phase();
        tokio::select! {
            biased;
            () = until(phase.clone(), Phase::Stopping) => {}
            () = self.take_messages() => {}
        }
        // What comes from now on is not looked at, and goes back when the inlet is dropped.
        self.shared.proceed(Phase::Stopping);
        let ending = async {
            // Where order counts, no other consumer may begin before this one is done.
            if !self.lanes.keep_order() {
                self.inlet.stop().await;
            }
            self.lanes.close();
            while self.workers.join_next().await.is_some() {}
        };
        tokio::select! {
            biased;
            () = until(phase, Phase::Aborting) => {}
            () = ending => {}
        }
        self.workers.shutdown().await;
        self.inlet.settler().flush();
        drop(self.inlet);
        self.shared.proceed(Phase::Stopped);
    }

    async fn take_messages(&mut self) {
        let mut batch = Vec::new();
        loop {
            if let Err(error) = self.inlet.next(&mut batch).await {
                tracing::info!(queue = self.shared.queue, %error, "no more messages");
                return;
            }
            for inbound in batch.drain(..) {
                if let Some(pace) = &mut self.pace {
                    pace.wait().await;
                }
                if !self.lanes.put(inbound) {
                    // The workers have ended, which they do only when they are told to.
                    return;
                }
            }
        }
    }
}

/// What a worker does with messages, until there will be no more.
pub(crate) trait Work: Send + Sync {
    fn work(self: Arc<Self>, outlet: Outlet) -> BoxFuture<'static, ()>;
}

/// Where a worker gets messages, and where it gives them back.
pub(crate) struct Outlet {
    lanes: Arc<Lanes>,
    settler: Arc<dyn Settler>,
    gate: Option<Arc<Gate>>,
    shared: Arc<ConsumerShared>,
}

impl Outlet {
    /// The next message to be begun, when the breaker lets one through; `None` when there will be
    /// no more. A message is lost if this is dropped.
    pub(crate) async fn next(&self) -> Option<Arc<Inbound>> {
        self.take(self.gate.as_deref()).await
    }

    /// One more to be begun along with the last; `None` also while the breaker lets through only
    /// one at a time. This may be dropped.
    pub(crate) async fn more(&self) -> Option<Arc<Inbound>> {
        if self.gate.as_ref().is_some_and(|gate| gate.is_closed()) {
            return None;
        }
        self.take(None).await
    }

    async fn take(&self, gate: Option<&Gate>) -> Option<Arc<Inbound>> {
        let inbox = self.lanes.ready();
        loop {
            let inbound = inbox.recv().await.ok()?;
            if let Some(gate) = gate {
                let mut entering = pin!(gate.enter());
                if poll_immediate(entering.as_mut()).await.is_none() {
                    // What is done must not wait for this to be acknowledged.
                    self.flush();
                    tokio::select! {
                        biased;
                        () = entering => {}
                        () = until(self.shared.phase(), Phase::Stopping) => {}
                    }
                }
            }
            if self.comes_again(&inbound, gate) {
                continue;
            }
            if self.shared.is_running() {
                self.shared.handling.fetch_add(1, Ordering::Relaxed);
                return Some(inbound);
            }
            self.settler.release(inbound.token);
        }
    }

    /// Whether a message was brought by a connection that is lost. It comes again, maybe to another
    /// consumer, which must not meet this one at it.
    fn comes_again(&self, inbound: &Inbound, gate: Option<&Gate>) -> bool {
        let again = self.lanes.come_again() && !self.settler.is_current(inbound.token);
        if again {
            self.lanes.done(self.lanes.key(inbound));
            if let Some(gate) = gate {
                // If it was the one to be tried, another one must be.
                gate.report(Outcome::Released);
            }
        }
        again
    }

    /// Takes those out that were begun and come again, after some time has passed.
    pub(crate) fn leave_out_stale(&self, batch: &mut Vec<Arc<Inbound>>) {
        let before = batch.len();
        batch.retain(|inbound| !self.comes_again(inbound, self.gate.as_deref()));
        self.shared.handling.fetch_sub(before - batch.len(), Ordering::Relaxed);
    }

    /// A message that was begun is done with.
    pub(crate) fn settle(&self, inbound: &Inbound, outcome: Outcome) {
        self.shared.handling.fetch_sub(1, Ordering::Relaxed);
        if let Some(gate) = &self.gate {
            gate.report(outcome);
        }
        match outcome {
            Outcome::Released => self.settler.release(inbound.token),
            Outcome::Done | Outcome::Failed | Outcome::Rejected => {
                self.settler.ack(inbound.token);
            }
        }
        self.lanes.done(self.lanes.key(inbound));
    }

    /// Whether nothing waits to be begun.
    fn is_empty(&self) -> bool {
        self.lanes.ready().is_empty()
    }

    /// To be kept while something is handled that is not done at once.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.shared.busy()
    }

    /// Tells the broker what is settled.
    pub(crate) fn flush(&self) {
        self.settler.flush();
    }
}

/// Handles messages one by one.
pub(crate) struct Singly {
    pub(crate) run: Arc<dyn Run>,
    pub(crate) course: Arc<Course>,
}

impl Singly {
    /// A panic in a layer or a store is the message's failure, not the worker's end.
    async fn handle(&self, inbound: &Arc<Inbound>) -> Outcome {
        let run = self.run.run(self.course.cx(Arc::clone(inbound)));
        match guard(None, async { Ok::<_, Failure>(run.await) }).await {
            Ok(outcome) => outcome,
            Err(failure) => self.course.fail(inbound, failure).await,
        }
    }
}

impl Work for Singly {
    fn work(self: Arc<Self>, outlet: Outlet) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut unflushed = 0;
            while let Some(inbound) = outlet.next().await {
                let mut handling = pin!(self.handle(&inbound));
                let outcome = match poll_immediate(handling.as_mut()).await {
                    Some(outcome) => outcome,
                    None => {
                        // What is done must not wait for a slow one to be acknowledged.
                        unflushed = 0;
                        outlet.flush();
                        let _busy = outlet.busy();
                        handling.await
                    }
                };
                outlet.settle(&inbound, outcome);
                unflushed += 1;
                if unflushed >= FLUSH_EVERY || outlet.is_empty() {
                    unflushed = 0;
                    outlet.flush();
                }
            }
            outlet.flush();
        })
    }
}

/// Waits for a phase; used where a wait must not outlast the consumer.
pub(crate) async fn until(mut phase: watch::Receiver<Phase>, least: Phase) {
    // The sender lives as long as the consumer.
    let _ = phase.wait_for(|phase| *phase >= least).await;
}
