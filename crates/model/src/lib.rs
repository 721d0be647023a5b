//! Names, ids, limits, messages, properties and field tables: the words every other crate shares.

pub mod ids;
pub mod limits;
pub mod message;
pub mod name;
pub mod properties;
pub mod table;

pub use ids::{Lsn, Position, QueueId, SessionId, Time};
pub use message::{Chunk, Message};
pub use name::ShortString;
pub use properties::Properties;
pub use table::{FieldTable, FieldValue};
