//! Numbers that name things. Newtypes, so that none is taken for another.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A log sequence number: the address of a byte in the endless log, frame headers included.
    /// It says where a record is, never in which order messages are consumed.
    Lsn(u64)
}
id! {
    /// A message's place in one queue: dense, given by the engine, never reused.
    Position(u64)
}
id! {
    /// A queue for as long as it exists; a queue declared again under the same name is another.
    QueueId(u64)
}
id! {
    /// A pack: a file of messages that are kept out of the log. Never given twice in a data
    /// directory.
    PackId(u64)
}
id! {
    /// One client connection, unique for the life of the process.
    SessionId(u64)
}

id! {
    /// A moment: milliseconds since 1970 began, by the runtime's clock, which never goes back.
    Time(u64)
}

impl Time {
    /// Later than every moment there will be.
    pub const NEVER: Time = Time(u64::MAX);

    /// The moment `milliseconds` later.
    #[must_use]
    pub fn after(self, milliseconds: u64) -> Time {
        Time(self.0.saturating_add(milliseconds))
    }
}

impl Lsn {
    /// The address `bytes` further on.
    #[must_use]
    pub fn advance(self, bytes: u64) -> Lsn {
        Lsn(self.0 + bytes)
    }
}

impl Position {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Position {
        Position(self.0 + 1)
    }
}
