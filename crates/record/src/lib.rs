//! The records of the write-ahead log and their encoding.
//!
//! A record is `[u8 type][varint length][body]`, little endian, varints in LEB128. The engine
//! writes records and reads them back on a restart; the log carries them without looking inside.
//! The version of the format stands in the header of each log segment, so a type this build does
//! not know is an error, never something to skip.
//!
//! - `record`: what the records are
//! - `write`: one function for each
//! - `read`: [`Records`], which takes a run of them apart
//! - `varint`: numbers

mod read;
mod record;
#[cfg(test)]
mod tests;
mod varint;
mod write;

pub use read::{RecordError, Records, Targets};
pub use record::{
    BindingDefinition, Destination, ExchangeDefinition, ExtentDefinition, Origin, PackDefinition,
    QueueDefinition, Record,
};
pub use write::{
    write_bind, write_declare_exchange, write_declare_queue, write_delete_exchange,
    write_delete_queue, write_delivered, write_extent, write_pack, write_publish, write_settle,
    write_unbind,
};
