//! What must be there before messages can flow: exchanges, queues, and what is bound to what.

use std::borrow::Cow;
use std::time::Duration;

use crate::letter::Headers;

/// Declarations. They are idempotent, and made again whenever a connection is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// Exchanges.
    pub exchanges: Vec<Exchange>,
    /// Queues.
    pub queues: Vec<Queue>,
    /// What goes from where to where.
    pub bindings: Vec<Binding>,
    /// Where messages are to be put off on their way.
    pub delays: Vec<Delay>,
}

/// Messages to this target may be put off, by at most so much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delay {
    /// Where the messages go in the end.
    pub target: DelayTarget,
    /// The longest delay.
    pub longest: Duration,
}

/// Where messages go when they have been put off.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DelayTarget {
    /// To this exchange, with the subject they had.
    Exchange(String),
    /// To this queue.
    Queue(String),
}

/// A place that messages are published to, and go to queues from, by their subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub name: Cow<'static, str>,
    /// How it routes.
    pub kind: ExchangeKind,
    /// It is somebody else's: it must be there, whatever it is like.
    pub existing: bool,
    /// It goes when the broker restarts, as exchanges of many small programs do.
    pub transient: bool,
}

/// How an exchange routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By patterns of words: `*` is one word, `#` any number of them.
    #[default]
    Topic,
    /// By the subject as it is.
    Direct,
    /// To every queue, whatever the subject.
    Fanout,
    /// By headers, see [`Match`].
    Headers,
}

/// A queue. All but its name has a safe default: it outlives restarts, and is bounded by nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// What kind of queue; `None` is the bus's kind.
    pub kind: Option<QueueKind>,
    /// How many messages it may hold; a publisher of more is refused.
    pub messages_max: Option<u64>,
    /// How long a message may wait in it before it is a dead letter.
    pub message_ttl: Option<Duration>,
    /// The queue that its dead letters go to, those that the broker makes: messages that expired,
    /// or were delivered too often without an answer. It is made with this queue, if it is not
    /// there; what it is to be like is said by declaring it as well, or before. A quorum queue has
    /// one where nothing is said, called like it with `.dead` behind it.
    pub dead_letter_queue: Option<String>,
    /// How often a message may be delivered without being settled before the broker makes it a dead
    /// letter; `None` for as often as the broker thinks right. Only quorum queues count.
    pub delivery_limit: Option<u64>,
    /// How many priorities it tells apart, 0 for none.
    pub priorities: u8,
    /// One consumer at a time gets messages; the others wait to take its place. Of a queue that is
    /// there already this says that it is so, which nobody can see from outside.
    pub single_active_consumer: bool,
    /// It is somebody else's: it must be there, whatever it is like.
    pub existing: bool,
}

/// What kind of queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum QueueKind {
    /// On one node.
    #[default]
    Classic,
    /// On several nodes of a cluster, so that the loss of one loses nothing.
    Quorum,
}

/// Messages of a subject, or with some headers, go from an exchange to a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The exchange's name.
    pub exchange: Cow<'static, str>,
    /// The queue's name.
    pub queue: String,
    /// The subject, or a pattern, as the exchange's kind takes it.
    pub subject: String,
    /// The headers, where the exchange routes by them; without any, every message goes there.
    pub headers: Option<Match>,
}

/// Which headers a message must have to go from an exchange that routes by headers to a queue.
/// Values are texts: a header that another program sets as a number matches none. Names that begin
/// with `x-` are the broker's, which does not look at them: they are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// All of these, with these values.
    All(Headers),
    /// One of these at least, with its value.
    Any(Headers),
}

impl Match {
    /// All of these, with these values: `Match::all([("format", "pdf"), ("signed", "yes")])`.
    pub fn all<N, V>(headers: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<Cow<'static, str>>,
        V: Into<String>,
    {
        Match::All(headers.into_iter().collect())
    }

    /// One of these at least, with its value.
    pub fn any<N, V>(headers: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<Cow<'static, str>>,
        V: Into<String>,
    {
        Match::Any(headers.into_iter().collect())
    }
}

impl Topology {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Topology::default()
    }

    /// With an exchange.
    #[must_use]
    pub fn exchange(mut self, exchange: Exchange) -> Self {
        self.exchanges.push(exchange);
        self
    }

    /// With a queue.
    #[must_use]
    pub fn queue(mut self, queue: Queue) -> Self {
        self.queues.push(queue);
        self
    }

    /// With a binding.
    #[must_use]
    pub fn bind(
        mut self,
        exchange: impl Into<Cow<'static, str>>,
        queue: impl Into<String>,
        subject: impl Into<String>,
    ) -> Self {
        let (exchange, queue, subject) = (exchange.into(), queue.into(), subject.into());
        self.bindings.push(Binding { exchange, queue, subject, headers: None });
        self
    }

    /// With a binding by headers, from an exchange that routes by them.
    #[must_use]
    pub fn bind_where(
        mut self,
        exchange: impl Into<Cow<'static, str>>,
        queue: impl Into<String>,
        headers: Match,
    ) -> Self {
        let (exchange, queue, subject) = (exchange.into(), queue.into(), String::new());
        self.bindings.push(Binding { exchange, queue, subject, headers: Some(headers) });
        self
    }

    /// With messages to that target put off by at most so much.
    #[must_use]
    pub fn delay(mut self, target: DelayTarget, longest: Duration) -> Self {
        self.delays.push(Delay { target, longest });
        self
    }

    /// Takes in another one. A queue or exchange declared again counts as it was declared last.
    pub(crate) fn merge(&mut self, other: &Topology) {
        for exchange in &other.exchanges {
            self.exchanges.retain(|known| known.name != exchange.name);
            self.exchanges.push(exchange.clone());
        }
        for queue in &other.queues {
            self.queues.retain(|known| known.name != queue.name);
            self.queues.push(queue.clone());
        }
        for binding in &other.bindings {
            if !self.bindings.contains(binding) {
                self.bindings.push(binding.clone());
            }
        }
        for delay in &other.delays {
            match self.delays.iter_mut().find(|known| known.target == delay.target) {
                Some(known) => known.longest = known.longest.max(delay.longest),
                None => self.delays.push(delay.clone()),
            }
        }
    }
}

impl Exchange {
    /// An exchange of that kind, which outlives restarts.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>, kind: ExchangeKind) -> Self {
        Exchange { name: name.into(), kind, existing: false, transient: false }
    }

    /// One that routes by patterns of words.
    #[must_use]
    pub fn topic(name: impl Into<Cow<'static, str>>) -> Self {
        Exchange::new(name, ExchangeKind::Topic)
    }

    /// One that routes by the subject as it is.
    #[must_use]
    pub fn direct(name: impl Into<Cow<'static, str>>) -> Self {
        Exchange::new(name, ExchangeKind::Direct)
    }

    /// One that routes to every queue.
    #[must_use]
    pub fn fanout(name: impl Into<Cow<'static, str>>) -> Self {
        Exchange::new(name, ExchangeKind::Fanout)
    }

    /// One that routes by headers.
    #[must_use]
    pub fn headers(name: impl Into<Cow<'static, str>>) -> Self {
        Exchange::new(name, ExchangeKind::Headers)
    }

    /// It is somebody else's, and must be there already.
    #[must_use]
    pub fn existing(mut self) -> Self {
        self.existing = true;
        self
    }

    /// It goes when the broker restarts, and is declared again then.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.transient = true;
        self
    }
}

impl Queue {
    /// A queue that outlives restarts.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Queue { name: name.into(), ..Queue::default() }
    }

    /// Of this kind, whatever the bus's is.
    #[must_use]
    pub fn kind(mut self, kind: QueueKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// With room for so many messages; a publisher of more is refused.
    #[must_use]
    pub fn messages_max(mut self, messages: u64) -> Self {
        self.messages_max = Some(messages);
        self
    }

    /// Where messages wait no longer than this.
    #[must_use]
    pub fn message_ttl(mut self, ttl: Duration) -> Self {
        self.message_ttl = Some(ttl);
        self
    }

    /// With dead letters in that queue, which is made if it is not there.
    #[must_use]
    pub fn dead_letter_queue(mut self, queue: impl Into<String>) -> Self {
        self.dead_letter_queue = Some(queue.into());
        self
    }

    /// That tells so many priorities apart.
    #[must_use]
    pub fn priorities(mut self, priorities: u8) -> Self {
        self.priorities = priorities;
        self
    }

    /// Of which one consumer at a time gets messages.
    #[must_use]
    pub fn single_active_consumer(mut self) -> Self {
        self.single_active_consumer = true;
        self
    }

    /// It is somebody else's, and must be there already.
    #[must_use]
    pub fn existing(mut self) -> Self {
        self.existing = true;
        self
    }
}
