//! What an agent is told besides the note, and what it can do in the conversation.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Agents;
use super::ask::Ask;
use super::desk::{PATIENCE, Work};
use super::errand::Errand;
use super::name::{AgentName, EVERYONE};
use super::note::{HAND_OFF, Note, Turn, record};
use super::slot::Slot;
use crate::cx::Cx;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::publish::Receipt;
use crate::rpc::{CallError, Reply};

/// The conversation that an agent's handler is in. Clones are the same.
///
/// What is sent through it belongs to the conversation: it carries the context variables and the
/// transcript along.
#[derive(Clone)]
pub struct AgentCx {
    inner: Arc<Inner>,
}

struct Inner {
    agents: Agents,
    work: Arc<Work>,
    cx: Cx,
    note: Note,
    errand: Errand,
    slot: Arc<Slot>,
    thread: Mutex<Thread>,
}

/// What has become of the conversation since the note came.
struct Thread {
    context: Map<String, Value>,
    transcript: Vec<Turn>,
}

impl AgentCx {
    pub(super) fn new(
        agents: &Agents,
        work: &Arc<Work>,
        cx: &Cx,
        note: &Note,
        slot: Arc<Slot>,
    ) -> AgentCx {
        let (context, transcript) = (note.context.clone(), note.transcript.clone());
        AgentCx {
            inner: Arc::new(Inner {
                agents: agents.clone(),
                work: Arc::clone(work),
                errand: Errand::of(cx),
                cx: cx.clone(),
                note: note.clone(),
                slot,
                thread: Mutex::new(Thread { context, transcript }),
            }),
        }
    }

    /// The agent's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.work.name.name
    }

    /// The agent's role.
    #[must_use]
    pub fn role(&self) -> &str {
        &self.inner.work.role
    }

    /// The agents.
    #[must_use]
    pub fn agents(&self) -> &Agents {
        &self.inner.agents
    }

    /// The message that the note came in: its id, its attempt, its headers and the bus.
    #[must_use]
    pub fn message(&self) -> &Cx {
        &self.inner.cx
    }

    /// Whether somebody waits for an answer.
    #[must_use]
    pub fn is_question(&self) -> bool {
        self.inner.cx.reply_to().is_some()
    }

    /// A context variable, as it is now.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Value> {
        self.thread().context.get(name).cloned()
    }

    /// Sets a context variable, for all that is said in the conversation from now on.
    pub fn set(&self, name: impl Into<String>, value: impl Into<Value>) {
        self.thread().context.insert(name.into(), value.into());
    }

    /// All that was said in the conversation so far, what this handler said included.
    #[must_use]
    pub fn transcript(&self) -> Vec<Turn> {
        self.thread().transcript.clone()
    }

    /// Replies: to who asked, and waits for an answer; or else into the inbox of the agent that
    /// sent the note. That the one who asked waits no more is no error; it is counted.
    ///
    /// # Errors
    /// [`Error::Publish`] if the agent that sent the note cannot get the reply;
    /// [`Error::Invalid`] if the note does not say who sent it.
    pub async fn reply(&self, note: impl Into<Note>) -> Result<()> {
        let inner = &self.inner;
        let to = inner.note.from.clone();
        match Reply::to(inner.cx.letter()) {
            Some(reply) => {
                let note = self.compose(note.into(), &to);
                let payload = note.encode().map_err(crate::error::PublishError::from)?;
                let patience = inner.cx.time_left().unwrap_or(PATIENCE).min(PATIENCE);
                let sending = reply.send(&inner.cx.bus().inner, Ok(payload), patience);
                inner.slot.outside(sending).await;
                Ok(())
            }
            None if to.is_empty() => {
                let text = "nobody waits for a reply to this note, and it does not say who sent it";
                Err(Error::Invalid(text.to_owned()))
            }
            None => self.send(&to, note).await.map(drop),
        }
    }

    /// Sends a note to another agent. Nobody waits for an answer to it.
    ///
    /// # Errors
    /// [`Error::Publish`], as [`Agents::send`].
    pub async fn send(&self, to: &str, note: impl Into<Note>) -> Result<Receipt> {
        let name = AgentName::new(to).map_err(Error::Invalid)?;
        let note = self.compose(note.into(), to);
        Ok(self.inner.errand.aside().send(self.inner.cx.bus(), name.routing_key(), &note).await?)
    }

    /// Sends a note to all agents but this one.
    ///
    /// # Errors
    /// [`Error::Publish`], as [`Agents::broadcast`].
    pub async fn broadcast(&self, note: impl Into<Note>) -> Result<Receipt> {
        let note = self.compose(note.into(), "");
        let (errand, bus) = (self.inner.errand.aside(), self.inner.cx.bus());
        Ok(errand.send(bus, EVERYONE.to_owned(), &note).await?)
    }

    /// Hands the conversation to another agent: the note as it came, with the context variables and
    /// the transcript as they are now. If somebody waits for an answer, it is the other agent's to
    /// give.
    ///
    /// # Errors
    /// [`Error::Publish`] if the other agent does not get it; [`Error::Invalid`] if it waits for
    /// the answer itself, or the note was handed off 32 times already.
    pub async fn hand_off(&self, to: &str) -> Result<()> {
        let name = AgentName::new(to).map_err(Error::Invalid)?;
        let errand = self.inner.errand.handed_to(&name);
        let errand = errand.map_err(|error| Error::Invalid(error.to_string()))?;
        let mut note = self.inner.note.clone();
        to.clone_into(&mut note.to);
        {
            let mut thread = self.thread();
            let role = HAND_OFF.to_owned();
            let (from, to) = (self.name().to_owned(), to.to_owned());
            record(&mut thread.transcript, Turn { from, to, role, content: Value::Null });
            note.context = thread.context.clone();
            note.transcript = thread.transcript.clone();
        }
        errand.send(self.inner.cx.bus(), name.routing_key(), &note).await?;
        Ok(())
    }

    /// Asks another agent, as [`Agents::ask`]. While it waits, the agent handles notes of other
    /// conversations. Question and answer are in the transcript from then on.
    ///
    /// An agent cannot be asked that waits for this one's answer itself ([`CallError::Circle`]).
    pub fn ask<A: DeserializeOwned>(&self, to: &str, note: impl Into<Note>) -> Ask<'_, A> {
        Ask::new(&self.inner.agents, Some(self), to, note.into())
    }

    pub(super) async fn put(
        &self,
        to: &AgentName,
        note: Note,
        within: std::time::Duration,
    ) -> std::result::Result<Note, CallError> {
        let inner = &self.inner;
        let errand = inner.errand.asked_by(&inner.work.name, to)?;
        let note = self.compose(note, &to.name);
        let asking = errand.ask(inner.cx.bus(), to, &note, within);
        let answer = inner.slot.outside(asking).await?;
        if answer.conversation == inner.note.conversation {
            record(&mut self.thread().transcript, answer.turn());
        }
        Ok(answer)
    }

    /// A note from this agent, in this conversation where it does not say another one.
    fn compose(&self, mut note: Note, to: &str) -> Note {
        let here = &self.inner.note.conversation;
        self.name().clone_into(&mut note.from);
        note.complete(to, "assistant");
        if note.conversation.is_empty() {
            note.conversation.clone_from(here);
        }
        if note.conversation != *here {
            note.record();
            return note;
        }
        let mut thread = self.thread();
        record(&mut thread.transcript, note.turn());
        note.transcript = thread.transcript.clone();
        let own = std::mem::replace(&mut note.context, thread.context.clone());
        note.context.extend(own);
        note
    }

    fn thread(&self) -> MutexGuard<'_, Thread> {
        self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for AgentCx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentCx")
            .field("agent", &self.name())
            .field("conversation", &self.inner.note.conversation)
            .finish_non_exhaustive()
    }
}
