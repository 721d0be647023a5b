//! Why a command is refused. The texts are RabbitMQ's (rabbit_misc, rabbit_amqqueue,
//! rabbit_exchange, rabbit_channel), because clients match on them.

use leveret_model::ShortString;

/// Why the engine refused a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No exchange of that name.
    #[error("no exchange '{0}' in vhost '{1}'")]
    NoExchange(ShortString, ShortString),
    /// No queue of that name.
    #[error("no queue '{0}' in vhost '{1}'")]
    NoQueue(ShortString, ShortString),
    /// An empty queue name, and the holder has declared none.
    #[error("no previously declared queue")]
    NoDeclaredQueue,
    /// Another session's exclusive queue.
    #[error(
        "cannot obtain exclusive access to locked queue '{0}' in vhost '{1}'. It could be \
         originally declared on another connection or the exclusive property value does not \
         match that of the original declaration."
    )]
    Locked(ShortString, ShortString),
    /// Declared again, differently.
    #[error(
        "inequivalent arg '{argument}' for {object} in vhost '{vhost}': received {received} but \
         current is {current}"
    )]
    Inequivalent {
        /// Which property.
        argument: String,
        /// What was declared, such as `queue 'q'`.
        object: String,
        /// Where.
        vhost: ShortString,
        /// What the client says.
        received: String,
        /// What is.
        current: String,
    },
    /// An argument whose value makes no sense.
    #[error("invalid arg '{argument}' for {object} in vhost '{vhost}': {problem}")]
    InvalidArgument {
        /// Which.
        argument: String,
        /// Of what.
        object: String,
        /// Where.
        vhost: ShortString,
        /// What is wrong.
        problem: String,
    },
    /// The name of an exchange that is no string.
    #[error("invalid type '{kind}' for arg '{argument}' in {object} in vhost '{vhost}'")]
    ArgumentType {
        /// What it is.
        kind: &'static str,
        /// Which argument.
        argument: String,
        /// Of what.
        object: String,
        /// Where.
        vhost: ShortString,
    },
    /// A name that clients may not take.
    #[error("{object} name '{name}' contains reserved prefix 'amq.*'")]
    ReservedName {
        /// `queue` or `exchange`.
        object: &'static str,
        /// The name.
        name: ShortString,
    },
    /// A type of exchange that does not exist.
    #[error("unknown exchange type '{0}'")]
    UnknownExchangeType(ShortString),
    /// The default exchange cannot be changed.
    #[error("operation not permitted on the default exchange")]
    DefaultExchange,
    /// An exchange that every virtual host has.
    #[error("deletion of system exchange '{0}' in vhost '{1}' not allowed")]
    SystemExchange(ShortString, ShortString),
    /// Clients may not publish to an internal exchange.
    #[error("cannot publish to internal exchange '{0}' in vhost '{1}'")]
    InternalExchange(ShortString, ShortString),
    /// Deletion if unused of something in use.
    #[error("{0} in vhost '{1}' in use")]
    InUse(String, ShortString),
    /// Deletion if empty of a queue that is not.
    #[error("queue '{0}' in vhost '{1}' not empty")]
    NotEmpty(ShortString, ShortString),
    /// An exclusive consumer keeps others out, or others keep it out.
    #[error("queue '{0}' in vhost '{1}' in exclusive use")]
    ExclusiveUse(ShortString, ShortString),
    /// A lease that is not out.
    #[error("unknown delivery tag {0}")]
    UnknownLease(u64),
    /// Two consumers of one name.
    #[error("attempt to reuse consumer tag '{0}'")]
    ReusedTag(ShortString),
    /// An argument that only queues of another type have.
    #[error("invalid arg '{argument}' for queue '{name}' in vhost '{vhost}' of queue type {kind}")]
    ForeignArgument {
        /// Which.
        argument: String,
        /// The queue's name.
        name: ShortString,
        /// Where.
        vhost: ShortString,
        /// The queue's type, as RabbitMQ calls it.
        kind: &'static str,
    },
    /// A property that queues of its type cannot have.
    #[error("invalid property '{property}' for queue '{name}' in vhost '{vhost}'")]
    InvalidProperty {
        /// Which.
        property: &'static str,
        /// The queue's name.
        name: ShortString,
        /// Where.
        vhost: ShortString,
    },
    /// An `x-match` that means nothing.
    #[error("{0}")]
    InvalidMatch(String),
    /// A queue of a type that must be named.
    #[error("Cannot declare a server-named queue for type {0}")]
    ServerNamed(&'static str),
    /// Header `CC` or `BCC` is no list of routing keys.
    #[error("invalid message: {{unacceptable_type_in_header,\"{0}\",{1}}}")]
    InvalidHeader(&'static str, &'static str),
    /// Headers `CC` and `BCC` name more routing keys than one message may have.
    #[error("invalid message: headers CC and BCC name more than {0} routing keys")]
    TooManyKeys(usize),
    /// Only the consumer that has its turn may have messages.
    #[error(
        "cannot obtain access to locked queue '{0}' in vhost '{1}'. basic.get operations are not \
         supported by <<\"quorum\">> queues with single active consumer"
    )]
    SingleActive(ShortString, ShortString),
    /// Confirms are selected already.
    #[error("cannot switch from confirm to tx mode")]
    ConfirmsSelected,
    /// Transactions are selected already.
    #[error("cannot switch from tx to confirm mode")]
    TransactionsSelected,
    /// Commit or rollback of no transaction.
    #[error("channel is not transactional")]
    NoTransaction,
    /// More in one transaction than is kept.
    #[error("the transaction exceeds {0} bytes")]
    TransactionTooLarge(usize),
    /// A queue that refuses what is too much would refuse some of a transaction.
    #[error("the transaction is refused as a whole: queue '{0}' in vhost '{1}' is full")]
    TransactionRejected(ShortString, ShortString),
    /// A direct reply is asked for, and nobody listens.
    #[error("fast reply consumer does not exist")]
    NoReplyConsumer,
    /// A second consumer of direct replies.
    #[error("reply consumer already set")]
    ReplyConsumerSet,
    /// A consumer of direct replies that would acknowledge them.
    #[error("reply consumer cannot acknowledge")]
    ReplyConsumerAcks,
    /// Direct replies cannot be bound.
    #[error("cannot bind or unbind to a volatile (direct reply-to) queue")]
    ReplyBinding,
    /// Something that RabbitMQ refuses as not implemented too, or leveret does not have.
    #[error("{0}")]
    NotImplemented(String),
    /// A holder opened twice.
    #[error("second 'channel.open' seen")]
    AlreadyOpen,
}

/// What kind of refusal it is, for protocols to find their code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The thing does not exist.
    NotFound,
    /// The thing is another's.
    Locked,
    /// The thing is not as asked for, or the request makes no sense.
    Precondition,
    /// Not allowed, to anyone.
    Refused,
    /// Against the rules of the protocol.
    NotAllowed,
    /// Not to be had.
    NotImplemented,
    /// A holder used out of order.
    Sequence,
}

impl Refusal {
    /// What kind of refusal it is.
    #[must_use]
    pub fn class(&self) -> Class {
        use Refusal::*;
        match self {
            NoExchange(..) | NoQueue(..) | NoDeclaredQueue => Class::NotFound,
            Locked(..) | SingleActive(..) => Class::Locked,
            Inequivalent { .. }
            | InvalidArgument { .. }
            | ForeignArgument { .. }
            | ArgumentType { .. }
            | InvalidMatch(..)
            | ServerNamed(..)
            | InvalidProperty { .. }
            | InvalidHeader(..)
            | TooManyKeys(..)
            | UnknownExchangeType(..)
            | InUse(..)
            | NotEmpty(..)
            | UnknownLease(..)
            | ConfirmsSelected
            | TransactionsSelected
            | NoTransaction
            | TransactionTooLarge(..)
            | TransactionRejected(..)
            | NoReplyConsumer
            | ReplyConsumerSet
            | ReplyConsumerAcks => Class::Precondition,
            ReservedName { .. }
            | DefaultExchange
            | SystemExchange(..)
            | InternalExchange(..)
            | ReplyBinding
            | ExclusiveUse(..) => Class::Refused,
            ReusedTag(..) => Class::NotAllowed,
            NotImplemented(..) => Class::NotImplemented,
            AlreadyOpen => Class::Sequence,
        }
    }
}
