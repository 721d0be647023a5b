//! Asking an agent.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::Agents;
use super::cx::AgentCx;
use super::errand::Errand;
use super::name::AgentName;
use super::note::Note;
use crate::error::PublishError;
use crate::rpc::{CallError, WITHIN};
use crate::transport::BoxFuture;

/// A question to an agent. Nothing happens before it is awaited.
///
/// Unlike that of [`crate::Bus::call`], the question is kept on disk and not asked again: an
/// agent that is down answers when it is back, if the deadline has not passed by then.
#[must_use = "nothing is asked unless it is awaited"]
pub struct Ask<'a, A> {
    agents: &'a Agents,
    asker: Option<&'a AgentCx>,
    to: String,
    note: Note,
    within: Duration,
    answer: PhantomData<fn() -> A>,
}

impl<'a, A: DeserializeOwned> Ask<'a, A> {
    pub(super) fn new(
        agents: &'a Agents,
        asker: Option<&'a AgentCx>,
        to: &str,
        note: Note,
    ) -> Self {
        let to = to.to_owned();
        Ask { agents, asker, to, note, within: WITHIN, answer: PhantomData }
    }

    /// How long to wait for the answer; thirty seconds where nothing is said, thirty days at most.
    /// An agent that gets the question later does not handle it.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// The whole note that answers, with who wrote it, the context variables and the transcript.
    ///
    /// # Errors
    /// [`CallError`] if there is no answer.
    pub async fn note(self) -> Result<Note, CallError> {
        let to = AgentName::new(&self.to).map_err(PublishError::Invalid)?;
        match self.asker {
            Some(asker) => asker.put(&to, self.note, self.within).await,
            None => {
                let note = self.agents.outside(self.note, &self.to);
                Errand::default().ask(self.agents.bus(), &to, &note, self.within).await
            }
        }
    }

    async fn read(self) -> Result<A, CallError> {
        let service = self.to.clone();
        let note = self.note().await?;
        note.read().map_err(|source| CallError::Codec { service, source })
    }
}

impl<'a, A: DeserializeOwned + 'a> IntoFuture for Ask<'a, A> {
    type Output = Result<A, CallError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.read())
    }
}

impl<A> fmt::Debug for Ask<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("to", &self.to).finish_non_exhaustive()
    }
}
