//! Names, ids, limits, messages, properties and field tables: the words every other crate shares.

pub mod ids;
pub mod limits;
pub mod message;
pub mod name;
pub mod positions;
pub mod printable;
pub mod properties;
pub mod table;

pub use ids::{Lsn, PackId, Position, QueueId, SessionId, Time};
pub use message::{Chunk, Message};
pub use name::ShortString;
pub use positions::PositionSet;
pub use printable::Printable;
pub use properties::Properties;
pub use table::{FieldTable, FieldValue};
