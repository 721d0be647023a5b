//! Topology as AMQP declarations, made now and at each connect.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use leveret_client::method::*;
use leveret_client::model::{FieldTable, ShortString};
use leveret_client::{Channel, Connection, Error};
use tokio::time::timeout;

use super::delay;
use crate::dead_letters::{LOOKS_MAX, dead_name, is_dead};
use crate::error::{ConnectError, TopologyError};
use crate::topology::{
    Binding, DelayTarget, Exchange, ExchangeKind, Match, Queue, QueueKind, Topology,
};

/// What was declared, to be declared again at each connect.
#[derive(Debug)]
pub(crate) struct Declared {
    topology: Mutex<Topology>,
    kind: QueueKind,
    /// How long a broker may take to answer.
    within: Duration,
}

/// One declaration.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// What it is, for people.
    what: String,
    method: Method,
}

impl Step {
    pub(crate) fn new(what: String, method: impl Into<Method>) -> Step {
        Step { what, method: method.into() }
    }

    pub(crate) fn bind_queue(
        exchange: &str,
        queue: &str,
        subject: &str,
        arguments: FieldTable,
    ) -> Result<Step, TopologyError> {
        let what = format!("binding of queue {queue:?} to exchange {exchange:?}");
        let bind = QueueBind {
            queue: name("queue", queue)?,
            exchange: name("exchange", exchange)?,
            routing_key: name("subject", subject)?,
            arguments,
            ..Default::default()
        };
        Ok(Step::new(what, bind))
    }

    pub(crate) fn bind_exchange(
        source: &str,
        destination: &str,
        arguments: FieldTable,
    ) -> Result<Step, TopologyError> {
        let what = format!("binding of exchange {destination:?} to exchange {source:?}");
        let bind = ExchangeBind {
            destination: name("exchange", destination)?,
            source: name("exchange", source)?,
            arguments,
            ..Default::default()
        };
        Ok(Step::new(what, bind))
    }
}

impl Declared {
    pub(crate) fn new(kind: QueueKind, within: Duration) -> Self {
        Declared { topology: Mutex::default(), kind, within }
    }

    /// The kind of queues that say nothing of their own.
    pub(crate) fn kind(&self) -> QueueKind {
        self.kind
    }

    fn lock(&self) -> MutexGuard<'_, Topology> {
        self.topology.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares, for now.
    pub(crate) async fn declare_now(
        &self,
        connection: &Connection,
        topology: &Topology,
    ) -> Result<(), TopologyError> {
        let steps = steps(topology, self.kind)?;
        let made = self.make_dead_letter_queues(connection, &topology.queues).await;
        made.map_err(|(what, error)| explain(&what, &error))?;
        let declared = self.declare(connection, &steps).await;
        declared.map_err(|(index, error)| explain(&steps[index].what, &error))
    }

    /// Makes the queues that dead letters of these go to where there are none: a broker would drop
    /// them. Whoever made one in another way knows better what it is to be like.
    pub(crate) async fn make_dead_letter_queues(
        &self,
        connection: &Connection,
        queues: &[Queue],
    ) -> Result<(), (String, Error)> {
        for name in dead_letter_queues(queues, self.kind) {
            let what = format!("queue {name:?} for dead letters");
            let step = |queue: &Queue| {
                let step = declare_queue(queue, self.kind);
                step.map_err(|error| (what.clone(), Error::TooLong(error.to_string())))
            };
            // To see that it is there one needs no permission to make it.
            let (there, make) = (step(&Queue::new(&*name).existing())?, step(&Queue::new(&*name))?);
            if self.declare(connection, &[there]).await.is_ok() {
                continue;
            }
            match self.declare(connection, &[make]).await {
                Err((_, error)) if !differs(&error) => return Err((what, error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Will declare that again at each connect.
    pub(crate) fn remember(&self, topology: &Topology) {
        self.lock().merge(topology);
    }

    /// Declares everything again. What the broker refuses is left out: who needs it will be told.
    pub(crate) async fn declare_again(&self, connection: &Connection) -> Result<(), Error> {
        let topology = self.lock().clone();
        self.declare_all_that_can_be(connection, &topology).await
    }

    /// Declares one queue again, and what is bound to it. What the broker refuses is left out: who
    /// needs it will be told.
    pub(crate) async fn declare_queue_again(&self, connection: &Connection, queue: &str) {
        let topology = self.lock().clone();
        let topology = Topology {
            exchanges: Vec::new(),
            queues: topology.queues.iter().filter(|it| it.name == queue).cloned().collect(),
            bindings: topology.bindings.into_iter().filter(|it| it.queue == queue).collect(),
            delays: topology
                .delays
                .into_iter()
                .filter(|it| it.target == DelayTarget::Queue(queue.to_owned()))
                .collect(),
        };
        if let Err(error) = self.declare_all_that_can_be(connection, &topology).await {
            tracing::warn!(%error, queue, "cannot be declared again");
        }
    }

    /// Leaves out what the broker refuses. The error is the connection's end.
    async fn declare_all_that_can_be(
        &self,
        connection: &Connection,
        topology: &Topology,
    ) -> Result<(), Error> {
        let made = self.make_dead_letter_queues(connection, &topology.queues).await;
        if let Err((what, error)) = made {
            if error.ends_connection() {
                return Err(error);
            }
            tracing::warn!(%error, "{what} cannot be declared again");
        }
        // It was translated before.
        let steps = steps(topology, self.kind).unwrap_or_default();
        let mut steps = steps.as_slice();
        while let Err((index, error)) = self.declare(connection, steps).await {
            if error.ends_connection() {
                return Err(error);
            }
            tracing::warn!(%error, "{} cannot be declared again", steps[index].what);
            steps = &steps[index + 1..];
        }
        Ok(())
    }

    /// Declares on a channel of its own, without waiting for one answer before the next step. The
    /// error is that of the first step that failed; those behind it are not done.
    async fn declare(&self, connection: &Connection, steps: &[Step]) -> Result<(), (usize, Error)> {
        if steps.is_empty() {
            return Ok(());
        }
        let opened = self.soon(connection.channel()).await;
        let (channel, _events) = opened.map_err(|error| (0, error))?;
        let answers: Vec<_> = steps.iter().map(|step| channel.call(step.method.clone())).collect();
        for (index, answer) in answers.into_iter().enumerate() {
            self.soon(answer).await.map_err(|error| (index, error))?;
        }
        Ok(())
    }

    /// What the broker answers, if it does so in time.
    async fn soon<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        timeout(self.within, answer).await.unwrap_or(Err(Error::Silent(self.within)))
    }
}

/// Whether something is there already, but otherwise. The code stands for other refusals, too.
fn differs(error: &Error) -> bool {
    error.code() == Some(406) && error.to_string().contains("inequivalent arg")
}

/// What a broker's refusal of a declaration means.
pub(crate) fn explain(what: &str, error: &Error) -> TopologyError {
    let (what, text) = (what.to_owned(), error.to_string());
    match error.code() {
        _ if differs(error) => TopologyError::Differs { what, text },
        Some(404) => TopologyError::Missing { what, text },
        _ if error.ends_connection() => TopologyError::Connect(ConnectError::Unreachable {
            address: "the broker".to_owned(),
            within: Duration::ZERO,
            text,
        }),
        _ => TopologyError::Refused { what, text },
    }
}

/// A name, if the protocol has room for it.
pub(crate) fn name(kind: &str, text: &str) -> Result<ShortString, TopologyError> {
    ShortString::try_from(text).map_err(|error| TopologyError::Refused {
        what: format!("a name of {kind}"),
        text: error.to_string(),
    })
}

fn steps(topology: &Topology, kind: QueueKind) -> Result<Vec<Step>, TopologyError> {
    let mut steps = Vec::new();
    for exchange in &topology.exchanges {
        steps.push(declare_exchange(exchange)?);
    }
    for queue in &topology.queues {
        steps.push(declare_queue(queue, kind)?);
    }
    for binding in &topology.bindings {
        steps.push(bind(binding)?);
    }
    steps.extend(delay::declarations(&topology.delays)?);
    Ok(steps)
}

pub(crate) fn bind(binding: &Binding) -> Result<Step, TopologyError> {
    let arguments = match &binding.headers {
        Some(headers) => match_arguments(headers)?,
        None => FieldTable::new(),
    };
    Step::bind_queue(&binding.exchange, &binding.queue, &binding.subject, arguments)
}

fn match_arguments(headers: &Match) -> Result<FieldTable, TopologyError> {
    let (rule, headers) = match headers {
        Match::All(headers) => ("all", headers),
        Match::Any(headers) => ("any", headers),
    };
    let rule = Ok((ShortString::from_static("x-match"), rule.into()));
    let headers = headers.iter().map(|(header, value)| Ok((name("header", header)?, value.into())));
    headers.chain([rule]).collect()
}

fn declare_exchange(exchange: &Exchange) -> Result<Step, TopologyError> {
    let kind = match exchange.kind {
        ExchangeKind::Topic => "topic",
        ExchangeKind::Direct => "direct",
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Headers => "headers",
    };
    let declare = ExchangeDeclare {
        exchange: name("exchange", &exchange.name)?,
        kind: ShortString::from_static(kind),
        passive: exchange.existing,
        durable: !exchange.transient,
        ..Default::default()
    };
    Ok(Step::new(format!("exchange {:?}", exchange.name), declare))
}

/// Where a queue's dead letters go.
fn dead_letter_queue(queue: &Queue, kind: QueueKind) -> Option<String> {
    // A quorum queue gives messages up itself after too many deliveries; it would drop them.
    let counts = queue.kind.unwrap_or(kind) == QueueKind::Quorum && !is_dead(&queue.name);
    let own = || counts.then(|| dead_name(&queue.name));
    queue.dead_letter_queue.clone().or_else(own)
}

/// The queues that dead letters of these go to, and dead letters of theirs, without those that are
/// among them.
fn dead_letter_queues(queues: &[Queue], kind: QueueKind) -> Vec<String> {
    let ours = queues.iter().filter(|queue| !queue.existing);
    let mut next: Vec<String> = ours.filter_map(|queue| dead_letter_queue(queue, kind)).collect();
    let mut names = Vec::new();
    while let Some(name) = next.pop() {
        next.extend(dead_letter_queue(&Queue::new(&*name), kind));
        if queues.iter().all(|queue| queue.name != name) && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// What a queue is like that is of that kind where it says nothing of its own.
fn arguments(queue: &Queue, kind: QueueKind) -> FieldTable {
    let mut arguments = FieldTable::new();
    let mut set = |name: &'static str, value: leveret_client::model::FieldValue| {
        arguments.insert(ShortString::from_static(name), value);
    };
    let quorum = queue.kind.unwrap_or(kind) == QueueKind::Quorum;
    let dead_letter_queue = dead_letter_queue(queue, kind);
    if quorum {
        set("x-queue-type", "quorum".into());
    }
    if let Some(messages) = queue.messages_max {
        set("x-max-length", (messages as i64).into());
    }
    let looks_max = (quorum && is_dead(&queue.name)).then_some(LOOKS_MAX);
    if let Some(limit) = queue.delivery_limit.or(looks_max) {
        set("x-delivery-limit", (limit as i64).into());
    }
    let dead_letters_count = quorum && dead_letter_queue.is_some();
    if dead_letters_count {
        set("x-dead-letter-strategy", "at-least-once".into());
    }
    if dead_letters_count || queue.messages_max.is_some() {
        set("x-overflow", "reject-publish".into());
    }
    if let Some(ttl) = queue.message_ttl {
        set("x-message-ttl", (ttl.as_millis() as i64).into());
    }
    if let Some(dead) = dead_letter_queue {
        set("x-dead-letter-exchange", "".into());
        set("x-dead-letter-routing-key", dead.into());
    }
    if queue.priorities > 0 {
        set("x-max-priority", i64::from(queue.priorities).into());
    }
    if queue.single_active_consumer {
        set("x-single-active-consumer", true.into());
    }
    arguments
}

fn declare_queue(queue: &Queue, kind: QueueKind) -> Result<Step, TopologyError> {
    let passive = queue.existing;
    let declare = QueueDeclare {
        queue: name("queue", &queue.name)?,
        passive,
        durable: true,
        arguments: if passive { FieldTable::new() } else { arguments(queue, kind) },
        ..Default::default()
    };
    Ok(Step::new(format!("queue {:?}", queue.name), declare))
}

/// A queue of a consumer's own: it goes with its connection, which no quorum queue does.
pub(crate) fn declare_own(queue: &Queue) -> Result<Step, TopologyError> {
    let declare = QueueDeclare {
        queue: name("queue", &queue.name)?,
        exclusive: true,
        auto_delete: true,
        arguments: arguments(queue, QueueKind::Classic),
        ..Default::default()
    };
    Ok(Step::new(format!("queue {:?}", queue.name), declare))
}

impl Step {
    /// Declares it on that channel.
    pub(crate) async fn on(&self, channel: &Channel) -> Result<(), Error> {
        channel.call(self.method.clone()).await.map(drop)
    }
}
