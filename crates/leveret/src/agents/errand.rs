//! What is written on the outside of a note.

use std::sync::Arc;
use std::time::Duration;

use super::exchange;
use super::name::{AgentName, EXCHANGE};
use super::note::Note;
use crate::bus::{Bus, Inner};
use crate::cx::{Cx, TRACE};
use crate::error::PublishError;
use crate::letter::{Headers, Letter};
use crate::message::Message;
use crate::publish::Receipt;
use crate::rpc::{CallError, DEADLINE, Question};
use crate::topology::Topology;
use crate::transport::Target;

/// The agents that wait for an answer while this question is handled, as a JSON list of slugs.
const WAITING: &str = "leveret-agents-waiting";
/// How often a note was handed off.
const HAND_OFFS: &str = "leveret-hand-offs";
/// How often a note may be handed off: agents that each think it is for another one end here.
const HAND_OFFS_MAX: u64 = 32;
/// How many agents may wait for each other in a row.
const WAITING_MAX: usize = 32;

/// Why a note goes somewhere: whether somebody waits for an answer, and until when.
#[derive(Debug, Clone, Default)]
pub(super) struct Errand {
    reply_to: Option<String>,
    correlation_id: Option<String>,
    headers: Headers,
}

impl Errand {
    /// That of a note that has come: who handles it instead answers instead.
    pub(super) fn of(cx: &Cx) -> Errand {
        let letter = cx.letter();
        let mut headers = letter.headers.clone();
        headers.retain(|name, _| [WAITING, HAND_OFFS, DEADLINE, TRACE].contains(&name));
        Errand {
            reply_to: letter.reply_to.clone(),
            correlation_id: letter.correlation_id.clone(),
            headers,
        }
    }

    /// One in the course of this: nobody waits for an answer to it.
    pub(super) fn aside(&self) -> Errand {
        let mut headers = self.headers.clone();
        headers.retain(|name, _| name == TRACE);
        Errand { headers, ..Errand::default() }
    }

    /// This one, handed to another agent.
    pub(super) fn handed_to(&self, to: &AgentName) -> Result<Errand, CallError> {
        self.refuse_circle(to)?;
        let mut errand = self.clone();
        let hand_offs = self.headers.number(HAND_OFFS).unwrap_or(0) + 1;
        if hand_offs > HAND_OFFS_MAX {
            let text = format!(
                "handed off {HAND_OFFS_MAX} times already: do agents hand it to each other?"
            );
            return Err(PublishError::Invalid(text).into());
        }
        errand.headers.set(HAND_OFFS, hand_offs.to_string());
        Ok(errand)
    }

    /// A question in the course of this, during which `asker` waits.
    pub(super) fn asked_by(&self, asker: &AgentName, to: &AgentName) -> Result<Errand, CallError> {
        let mut errand = self.aside();
        let mut waiting = if self.reply_to.is_some() { self.waiting() } else { Vec::new() };
        waiting.push(asker.slug.clone());
        if waiting.len() > WAITING_MAX {
            let text = format!("more than {WAITING_MAX} agents would wait for each other");
            return Err(PublishError::Invalid(text).into());
        }
        // Texts can be written.
        errand.headers.set(WAITING, serde_json::to_string(&waiting).unwrap_or_default());
        errand.refuse_circle(to)?;
        Ok(errand)
    }

    fn waiting(&self) -> Vec<String> {
        // What is not ours is as good as nothing.
        let text = self.headers.get(WAITING).unwrap_or("[]");
        serde_json::from_str(text).unwrap_or_default()
    }

    fn refuse_circle(&self, to: &AgentName) -> Result<(), CallError> {
        match self.waiting().contains(&to.slug) {
            true => Err(CallError::Circle { agent: to.name.clone() }),
            false => Ok(()),
        }
    }

    fn letter(self, note: &Note) -> Result<Letter, PublishError> {
        Ok(Letter {
            key: note.key(),
            headers: self.headers,
            reply_to: self.reply_to,
            correlation_id: self.correlation_id,
            payload: note.encode()?,
            ..Letter::default()
        })
    }

    /// Sends a note under that routing key.
    pub(super) async fn send(
        self,
        bus: &Bus,
        routing_key: String,
        note: &Note,
    ) -> Result<Receipt, PublishError> {
        ensure_exchange(&bus.inner).await?;
        let letter = self.letter(note)?;
        let sent = bus.inner.dispatch(target(routing_key), true, None, letter).await?.await;
        sent.map_err(|error| match error {
            PublishError::Unroutable { target, .. } => {
                let text = "there is no such agent; start() or register() it".to_owned();
                PublishError::Unroutable { target, text }
            }
            other => other,
        })
    }

    /// Sends a note to an agent as a question, and waits for the note that answers it.
    pub(super) async fn ask(
        self,
        bus: &Bus,
        to: &AgentName,
        note: &Note,
        within: Duration,
    ) -> Result<Note, CallError> {
        ensure_exchange(&bus.inner).await?;
        let question = Question {
            service: to.name.clone(),
            target: target(to.routing_key()),
            letter: self.letter(note)?,
            within,
            // What agents do is too much to be done twice by chance.
            fleeting: false,
        };
        let answer = bus.inner.ask(question).await?;
        Note::decode(&answer.payload)
            .map_err(|source| CallError::Codec { service: to.name.clone(), source })
    }
}

fn target(routing_key: String) -> Target {
    Target::Subject { exchange: EXCHANGE.into(), subject: routing_key.into() }
}

async fn ensure_exchange(inner: &Arc<Inner>) -> Result<(), PublishError> {
    let topology = || Topology::new().exchange(exchange());
    Ok(inner.ensure_once(EXCHANGE.into(), topology).await?)
}
