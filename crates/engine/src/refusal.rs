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
    /// Something RabbitMQ has and leveret has not yet.
    #[error("{0} is not supported by this version of leveret")]
    NotBuilt(String),
    /// A holder opened twice.
    #[error("second 'channel.open' seen")]
    AlreadyOpen,
}
