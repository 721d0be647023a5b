//! Agents: programs with a name that talk to each other.
//!
//! An agent has an inbox, which is a durable queue: "Agent A" has `agent_agent_a_queue`, bound to
//! the topic exchange `agents` by `agent.agent_a` and, for what is for everyone, `agent.all`. What
//! is sent to it is a [`Note`]; it may be sent by any program that can write JSON.

mod agent;
mod ask;
mod cx;
mod desk;
mod errand;
mod name;
mod note;
mod report;
mod roll_call;
mod slot;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

pub use self::agent::{Agent, AgentBuilder};
pub use self::ask::Ask;
pub use self::cx::AgentCx;
pub use self::desk::AgentHandler;
pub use self::note::{Note, Turn};
pub use self::report::{AgentInbox, AgentQueue, AgentStatus, AgentsHealth};
pub use self::roll_call::Presence;

use self::desk::Work;
use self::errand::Errand;
use self::name::{AgentName, EVERYONE, EXCHANGE};
use crate::bus::Bus;
use crate::consume::Consumer;
use crate::error::{Error, PublishError, Result};
use crate::publish::Receipt;

/// Agents that talk over a bus: those of this process, and, by their names, all others. Clones are
/// the same.
#[derive(Clone)]
pub struct Agents {
    inner: Arc<Inner>,
}

struct Inner {
    bus: Bus,
    /// Those that were registered or started here, by their slugs.
    known: Mutex<BTreeMap<String, Known>>,
    /// What answers roll calls; started with the first agent.
    attendance: OnceCell<Consumer>,
}

/// An agent that was registered or started here.
struct Known {
    name: AgentName,
    /// While it is started.
    work: Option<Arc<Work>>,
}

impl Bus {
    /// Agents that talk over this bus. Each call gives new ones, which know of none yet.
    #[must_use]
    pub fn agents(&self) -> Agents {
        Agents::new(self)
    }
}

impl Agents {
    /// Agents that talk over that bus.
    #[must_use]
    pub fn new(bus: &Bus) -> Agents {
        let (known, attendance) = (Mutex::default(), OnceCell::new());
        Agents { inner: Arc::new(Inner { bus: bus.clone(), known, attendance }) }
    }

    /// An agent that is to be started. Its name may have up to 200 bytes, and differs from those of
    /// all others by more than case.
    pub fn agent(&self, name: &str) -> AgentBuilder<()> {
        AgentBuilder::new(self, name)
    }

    /// Makes an agent's inbox without starting it, so that notes can wait there for one that comes
    /// later or is started elsewhere. One that is there already is taken as it is.
    ///
    /// # Errors
    /// [`Error::Invalid`] if nothing can be called that; [`Error::Topology`] if the broker refuses.
    pub async fn register(&self, name: &str, role: &str) -> Result<()> {
        self.agent(name).role(role).register().await
    }

    /// Takes an agent of another process into [`Agents::debug_queues`] and [`Agents::health`],
    /// without touching its inbox.
    ///
    /// # Errors
    /// [`Error::Invalid`] if nothing can be called that.
    pub fn watch(&self, name: &str) -> Result<()> {
        self.remember(&AgentName::new(name).map_err(Error::Invalid)?, None)
    }

    /// Sends a note to an agent. It returns when the broker has it in the agent's inbox. The note
    /// begins a conversation, unless it says which one it belongs to.
    ///
    /// # Errors
    /// [`PublishError::Unroutable`] if there is no such agent, [`PublishError::Refused`] if its
    /// inbox is full.
    pub async fn send(
        &self,
        to: &str,
        note: impl Into<Note>,
    ) -> std::result::Result<Receipt, PublishError> {
        let name = AgentName::new(to).map_err(PublishError::Invalid)?;
        let note = self.outside(note.into(), to);
        Errand::default().send(&self.inner.bus, name.routing_key(), &note).await
    }

    /// Sends a note to all agents there are, registered ones included; one that sent it itself does
    /// not get it.
    ///
    /// # Errors
    /// [`PublishError::Unroutable`] if there is none; [`PublishError::Refused`] if the inbox of one
    /// is full: the others may have it.
    pub async fn broadcast(
        &self,
        note: impl Into<Note>,
    ) -> std::result::Result<Receipt, PublishError> {
        let note = self.outside(note.into(), "");
        Errand::default().send(&self.inner.bus, EVERYONE.to_owned(), &note).await
    }

    /// Asks an agent. Await it: it returns with the content of what that agent, or one that it
    /// handed the question to, replies; or with its fault, or when the deadline has passed.
    pub fn ask<A: DeserializeOwned>(&self, to: &str, note: impl Into<Note>) -> Ask<'_, A> {
        Ask::new(self, None, to, note.into())
    }

    /// A note from somebody who is no agent.
    fn outside(&self, mut note: Note, to: &str) -> Note {
        if note.conversation.is_empty() {
            note.conversation = self.inner.bus.inner.names.next();
        }
        note.complete(to, "user");
        note.record();
        note
    }

    fn bus(&self) -> &Bus {
        &self.inner.bus
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers an agent, and that it is started.
    fn remember(&self, name: &AgentName, work: Option<Arc<Work>>) -> Result<()> {
        let mut known = self.known();
        if let Some(other) = known.get(&name.slug) {
            if other.name != *name {
                let text = format!("{name:?} and {:?} would share an inbox", other.name);
                return Err(Error::Invalid(text));
            }
            if work.is_some() && other.work.is_some() {
                return Err(Error::Invalid(format!("the agent {name:?} is started here already")));
            }
            if work.is_none() {
                return Ok(());
            }
        }
        known.insert(name.slug.clone(), Known { name: name.clone(), work });
        Ok(())
    }

    /// The agents known here.
    fn names(&self) -> Vec<AgentName> {
        self.known().values().map(|known| known.name.clone()).collect()
    }

    /// The agents started here.
    fn at_work(&self) -> Vec<Arc<Work>> {
        self.known().values().filter_map(|known| known.work.clone()).collect()
    }
}

impl fmt::Debug for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Agents").field(&self.names()).finish()
    }
}

/// The exchange that notes go to.
fn exchange() -> crate::topology::Exchange {
    crate::topology::Exchange::topic(EXCHANGE)
}
