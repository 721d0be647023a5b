//! A transport around that of a broker in memory, which may be told to do less.

use leveret::transport::{
    BoxFuture, Capabilities, Inlet, Outgoing, Source, Subscription, Transport,
};
use leveret::{
    Bus, BusBuilder, ConnectError, ConnectionHealth, Queue, QueueStatus, SubscribeError, Topology,
    TopologyError,
};
use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What was asked of transports that they cannot do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    pub(crate) fn what(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn unless(&self, can: bool, what: &str) {
        if !can {
            self.0.lock().unwrap().push(what.to_owned());
        }
    }
}

/// Makes buses in memory by a transport that can do less, and notes what is asked of it though.
pub(crate) fn wrapped(
    asked: &Asked,
    less: impl Fn(&mut Capabilities) + Send + Sync + 'static,
) -> impl Fn() -> BusBuilder + Send + Sync + 'static {
    let (asked, less) = (asked.clone(), Arc::new(less));
    move || {
        let (asked, less) = (asked.clone(), Arc::clone(&less));
        Bus::builder("memory:").wrap(move |inner| {
            let mut can = inner.capabilities();
            can.name = "a lesser transport";
            less(&mut can);
            Arc::new(Wrapped { inner, can, asked: asked.clone() })
        })
    }
}

#[derive(Debug)]
struct Wrapped {
    inner: Arc<dyn Transport>,
    can: Capabilities,
    asked: Asked,
}

impl Wrapped {
    fn look_at(&self, topology: &Topology) {
        for queue in &topology.queues {
            self.look_at_queue(queue);
        }
        let by_headers = topology.bindings.iter().any(|binding| binding.headers.is_some());
        self.asked.unless(!by_headers || self.can.headers, "headers");
        for delay in &topology.delays {
            self.look_at_delay(Some(delay.longest));
        }
    }

    fn look_at_queue(&self, queue: &Queue) {
        if queue.existing {
            return;
        }
        let Capabilities { messages_max, single_active_consumer, .. } = self.can;
        let priorities = self.can.priorities_of(queue);
        self.asked.unless(queue.messages_max.is_none() || messages_max, "messages_max");
        let alone = queue.single_active_consumer;
        self.asked.unless(!alone || single_active_consumer, "single_active_consumer");
        self.asked.unless(queue.priorities <= priorities, "priorities");
    }

    fn look_at_delay(&self, delay: Option<Duration>) {
        self.asked.unless(delay <= self.can.delay_max, "a delay");
    }
}

impl Transport for Wrapped {
    fn capabilities(&self) -> Capabilities {
        self.can.clone()
    }

    fn connected(&self, within: Duration) -> BoxFuture<'_, Result<(), ConnectError>> {
        self.inner.connected(within)
    }

    fn ensure(&self, topology: Topology) -> BoxFuture<'_, Result<(), TopologyError>> {
        self.look_at(&topology);
        self.inner.ensure(topology)
    }

    fn declare(&self, topology: Topology) -> BoxFuture<'_, Result<(), TopologyError>> {
        self.look_at(&topology);
        self.inner.declare(topology)
    }

    fn send(&self, mut outgoing: Outgoing) {
        self.look_at_delay(outgoing.delay);
        // Without this nobody is told that it went nowhere.
        outgoing.mandatory &= self.can.unroutable;
        self.inner.send(outgoing);
    }

    fn subscribe(
        &self,
        subscription: Subscription,
    ) -> BoxFuture<'_, Result<Box<dyn Inlet>, SubscribeError>> {
        if let Source::Own { queue, .. } = &subscription.source {
            self.look_at_queue(queue);
        }
        self.inner.subscribe(subscription)
    }

    fn queue<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<QueueStatus>, ConnectError>> {
        self.inner.queue(name)
    }

    fn unconfirmed(&self) -> usize {
        self.inner.unconfirmed()
    }

    fn health(&self) -> Vec<ConnectionHealth> {
        self.inner.health()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }

    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.inner.native()
    }
}
