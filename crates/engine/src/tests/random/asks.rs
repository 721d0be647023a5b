//! What is asked at random, and of which queues and exchanges.

use proptest::bool::weighted;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::plain::{ExchangeSpec, MATCHES, Outcome, Overflow, QueueSpec, Subscription};
use super::SESSIONS;

pub(super) const QUEUES: [&str; 6] = ["a", "b", "c", "d", "e", "plain"];
pub(super) const EXCHANGES: [&str; 3] = ["x", "y", "z"];

/// The queues and exchanges of a case.
#[derive(Debug, Clone)]
pub(super) struct Specs {
    pub(super) queues: Vec<QueueSpec>,
    pub(super) exchanges: Vec<ExchangeSpec>,
    /// How much may stay in memory that is packed; nothing is packed, or spilled, if there is no
    /// limit.
    pub(super) memory: Option<usize>,
    /// Whether what is asked for of packs comes later.
    pub(super) late: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Ask {
    Open,
    Close,
    Disconnect,
    /// Of a queue, by its index; passive, and answered.
    Declare(usize, bool, bool),
    Delete(&'static str, bool, bool),
    Purge(&'static str),
    DeclareExchange(usize),
    DeleteExchange(&'static str, bool),
    /// Or unbind. The source, whether the far end is a queue, the far end, key and arguments.
    Bind(bool, (&'static str, bool, &'static str), &'static str, usize),
    Publish(Sent),
    Consume(Subscription),
    Cancel(&'static str),
    Get(&'static str, bool),
    /// One of the holder's leases, counted back from the last one; a wild one may not exist.
    Settle {
        back: usize,
        wild: bool,
        multiple: bool,
        outcome: Outcome,
    },
    Recover,
    Prefetch(u16, bool),
    SelectConfirms,
    SelectTransactions,
    Commit,
    RollBack,
    Taken,
}

/// What is published.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) to: (&'static str, &'static str),
    pub(super) count: usize,
    pub(super) persistent: bool,
    pub(super) mandatory: bool,
    pub(super) large: bool,
    pub(super) expiration: Option<u64>,
    pub(super) priority: Option<u8>,
    pub(super) cc: Option<&'static str>,
    pub(super) bcc: Option<&'static str>,
    pub(super) others: &'static [(&'static str, &'static str)],
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A session asks, and may be careful.
    Batch(u64, Vec<(u16, Ask)>, bool),
    /// Some milliseconds pass, and the engine may hear of it at once.
    Wait(u64, bool),
    /// A new segment of the log begins with all definitions.
    Segment,
    Crash,
    /// What is live of the oldest segment, or of all whole ones, is to be packed.
    Survey(bool),
    Adopt,
    /// The oldest adopted part leaves the log.
    Retire,
    /// What is live of the packs that have left the log is to be merged.
    SurveyPacks,
    Merge,
    /// Transient messages of about so many bytes are to be spilled.
    SurveyTransient(u64),
    Spilled,
    /// One of the outstanding loads is answered, with so many messages at the most.
    Answer(usize, usize),
}

/// Headers of a message, as its client sends them.
const HEADERS: [&[(&str, &str)]; 4] = [
    &[("h", "1")],
    &[("g", "2")],
    &[("h", "1"), ("x-g", "9")],
    &[("x-death", "untrue"), ("x-first-death-reason", "expired"), ("x-last-death-queue", "a")],
];

fn key() -> impl Strategy<Value = &'static str> {
    select(&["a", "b", "c"][..])
}

fn any_exchange() -> impl Strategy<Value = &'static str> {
    select(&["amq.direct", "amq.fanout", "amq.headers", "amq.topic", "x", "y", "z"][..])
}

fn queue_spec(name: &'static str) -> impl Strategy<Value = QueueSpec> {
    let dead_letter = prop_oneof![
        4 => (Just(""), option::weighted(0.9, select(&QUEUES[..]))),
        3 => (any_exchange(), option::weighted(0.4, key())),
    ];
    let overflow = select(&[Overflow::DropHead, Overflow::Reject, Overflow::RejectDeadLetter][..]);
    let flags = (weighted(0.3), weighted(0.75), weighted(0.1), weighted(0.15), weighted(0.2));
    let ages = (
        option::weighted(0.3, select(&[0, 40, 150][..])),
        option::weighted(0.1, select(&[90, 400][..])),
    );
    let limits = (
        option::weighted(0.35, 0..4_u64),
        option::weighted(0.15, 0..16_u64),
        option::weighted(0.5, overflow),
        option::weighted(0.3, select(&[0, 1, 3, 255][..])),
        option::weighted(0.6, -1..3_i64),
    );
    (flags, ages, option::weighted(0.7, dead_letter), limits).prop_map(
        move |(flags, (ttl, expires), dead_letter, limits)| {
            let (quorum, lasting, exclusive, auto_delete, single_active) = flags;
            let (max_length, max_bytes, overflow, max_priority, delivery_limit) = limits;
            QueueSpec {
                name,
                quorum,
                lasting: quorum || lasting,
                exclusive: exclusive && !quorum,
                auto_delete: auto_delete && !quorum,
                ttl,
                expires,
                dead_letter,
                max_length,
                max_bytes,
                overflow,
                max_priority: max_priority.filter(|_| !quorum),
                single_active,
                delivery_limit: delivery_limit.filter(|_| quorum),
            }
        },
    )
}

fn exchange_spec(name: &'static str) -> impl Strategy<Value = ExchangeSpec> {
    let kind = select(&["direct", "fanout", "topic", "headers"][..]);
    let flags = (weighted(0.7), weighted(0.3), weighted(0.1));
    (kind, flags, option::weighted(0.4, any_exchange())).prop_map(
        move |(kind, (durable, auto_delete, internal), alternate)| ExchangeSpec {
            name,
            kind,
            durable,
            auto_delete,
            internal,
            alternate,
        },
    )
}

pub(super) fn specs() -> impl Strategy<Value = Specs> {
    let queues: Vec<_> = QUEUES[..5].iter().map(|name| queue_spec(name)).collect();
    let exchanges: Vec<_> = EXCHANGES.iter().map(|name| exchange_spec(name)).collect();
    let memory = select(&[None, Some(0), Some(0), Some(0), Some(2_000), Some(usize::MAX)][..]);
    (queues, exchanges, memory, any::<bool>()).prop_map(|(mut queues, exchanges, memory, late)| {
        if memory.is_some() {
            // After a crash the engine estimates how many bytes packs hold.
            queues.iter_mut().for_each(|queue: &mut QueueSpec| queue.max_bytes = None);
        }
        // The only one that large messages go to: a step does only so much of burying them.
        queues.push(QueueSpec { name: "plain", lasting: true, ..QueueSpec::default() });
        Specs { queues, exchanges, memory, late }
    })
}

fn sent() -> impl Strategy<Value = Sent> {
    let to = prop_oneof![
        4 => select(&QUEUES[..]).prop_map(|queue| ("", queue)),
        3 => (any_exchange(), key()),
    ];
    let flags = (any::<bool>(), weighted(0.2), weighted(0.03));
    let properties = (
        option::weighted(0.15, select(&[0, 30, 200][..])),
        option::weighted(0.25, select(&[0, 1, 2, 9, 40][..])),
        option::weighted(0.08, select(&QUEUES[..])),
        option::weighted(0.05, select(&QUEUES[..])),
        option::weighted(0.3, select(&HEADERS[..])),
    );
    (to, 1..5_usize, flags, properties).prop_map(|(to, count, flags, properties)| {
        let (persistent, mandatory, large) = flags;
        let (expiration, priority, cc, bcc, others) = properties;
        let large = large && cc.is_none() && bcc.is_none() && expiration.is_none();
        Sent {
            to: if large { ("", "plain") } else { to },
            // What comes first of what is returned and what is confirmed is left open.
            count: if mandatory { 1 } else { count },
            persistent,
            mandatory,
            large,
            expiration,
            priority,
            cc,
            bcc,
            others: others.unwrap_or_default(),
        }
    })
}

fn ask() -> impl Strategy<Value = Ask> {
    let queue = || select(&QUEUES[..]);
    let tag = || select(&["s", "t", "u"][..]);
    let outcome = prop_oneof![
        1 => Just(Outcome::Done),
        1 => Just(Outcome::Requeued),
        1 => Just(Outcome::Rejected),
    ];
    let end = || {
        prop_oneof![
            3 => queue().prop_map(|name| (true, name)),
            // What is bound to those goes with them.
            2 => select(&EXCHANGES[..]).prop_map(|name| (false, name)),
        ]
    };
    let bound = (any_exchange(), end()).prop_map(|(source, (queue, end))| (source, queue, end));
    let pattern = select(&["a", "b", "c", "*", "#"][..]);
    let consumer = (queue(), tag(), weighted(0.25), weighted(0.05));
    prop_oneof![
        1 => Just(Ask::Open),
        2 => Just(Ask::Close),
        1 => Just(Ask::Disconnect),
        8 => (0..QUEUES.len(), weighted(0.1), weighted(0.9))
            .prop_map(|(queue, passive, reply)| Ask::Declare(queue, passive, reply)),
        1 => (queue(), weighted(0.2), weighted(0.2)).prop_map(|(q, u, e)| Ask::Delete(q, u, e)),
        1 => queue().prop_map(Ask::Purge),
        4 => (0..EXCHANGES.len()).prop_map(Ask::DeclareExchange),
        1 => (select(&EXCHANGES[..]), any::<bool>())
            .prop_map(|(name, if_unused)| Ask::DeleteExchange(name, if_unused)),
        7 => (weighted(0.85), bound, pattern, 0..MATCHES.len())
            .prop_map(|(bind, bound, key, arguments)| Ask::Bind(bind, bound, key, arguments)),
        20 => sent().prop_map(Ask::Publish),
        10 => (consumer, option::weighted(0.4, -1..2_i64)).prop_map(|(consumer, priority)| {
            let (queue, tag, no_ack, exclusive) = consumer;
            Ask::Consume(Subscription { queue, tag, no_ack, exclusive, priority })
        }),
        2 => tag().prop_map(Ask::Cancel),
        7 => (queue(), weighted(0.3)).prop_map(|(queue, no_ack)| Ask::Get(queue, no_ack)),
        18 => (0..6_usize, weighted(0.02), any::<bool>(), outcome).prop_map(
            |(back, wild, multiple, outcome)| Ask::Settle { back, wild, multiple, outcome }
        ),
        1 => Just(Ask::Recover),
        2 => (0..4_u16, any::<bool>()).prop_map(|(count, shared)| Ask::Prefetch(count, shared)),
        2 => Just(Ask::SelectConfirms),
        2 => Just(Ask::SelectTransactions),
        5 => Just(Ask::Commit),
        1 => Just(Ask::RollBack),
        2 => Just(Ask::Taken),
    ]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => (SESSIONS, vec((1..3_u16, ask()), 1..4), weighted(0.9))
            .prop_map(|(session, asks, careful)| Step::Batch(session, asks, careful)),
        6 => (select(&[1, 10, 29, 30, 40, 100, 300][..]), weighted(0.7))
            .prop_map(|(ms, tick)| Step::Wait(ms, tick)),
        2 => Just(Step::Segment),
        1 => Just(Step::Crash),
        4 => any::<bool>().prop_map(Step::Survey),
        5 => Just(Step::Adopt),
        3 => Just(Step::Retire),
        2 => Just(Step::SurveyPacks),
        2 => Just(Step::Merge),
        4 => select(&[1, 300, u64::MAX][..]).prop_map(Step::SurveyTransient),
        5 => Just(Step::Spilled),
        8 => (0..8_usize, select(&[1, 2, 1_000][..])).prop_map(|(at, most)| Step::Answer(at, most)),
    ]
}
