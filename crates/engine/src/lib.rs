//! The broker's rules as a pure state machine: exchanges, bindings, queues, consumers, leases.
//!
//! [`Engine::step`] takes a batch of [`Command`]s of one session and answers with [`Effects`]:
//! what to write to the log and what to tell which session. It has no clock, does no I/O and
//! takes its randomness as a seed, so the same commands always have the same effects.
//!
//! # Layout
//! - [`command`], [`effect`], [`refusal`]: what goes in, what comes out, why something is refused.
//! - `engine`: the state and its sessions; `step`: the step under way; `topology`: declaring,
//!   binding, deleting; `publish`: a message's way in; `dispatch`: its way out to consumers;
//!   `settle`: leases and their end.
//! - `exchange`: routing; `queue`: one queue; `holder`: who holds leases; `chunks`: message bodies.
//! - `packing`: messages from the log into packs, out of memory, and back; `cold`: what packs hold
//!   of a queue; `packs`: how much each holds; `stall`: sessions that wait for one from disk.
//! - `spill`: transient messages out of memory.
//! - `recovery`: the same state from the log's records, and a snapshot of the definitions.

mod bindings;
mod bound;
mod chunks;
mod cold;
pub mod command;
mod consumers;
mod dead_letter;
mod declare;
mod dispatch;
pub mod effect;
mod engine;
mod exchange;
mod exchanges;
mod expiry;
mod growth;
mod headers;
mod holder;
mod merging;
pub mod packing;
mod packs;
mod publish;
mod queue;
mod queues;
mod recovery;
pub mod refusal;
mod replies;
mod rotation;
mod routing;
mod session;
mod settings;
mod settle;
mod special;
pub mod spill;
mod stall;
mod step;
mod text;
mod topic;
mod transaction;
mod vhost;

pub use command::{Batch, Command, Operation, Outcome, Token};
pub use effect::{Confirmed, DurableConfirm, Effects, Item, Outbound, Reply};
pub use engine::{Engine, QueueStatus};
pub use merging::PackUse;
pub use packing::{Load, Loaded, Survey};
pub use recovery::RestoreError;
pub use refusal::Refusal;
pub use spill::{Spill, Spilled};

pub(crate) use dead_letter::Reason;

#[cfg(test)]
mod tests;
