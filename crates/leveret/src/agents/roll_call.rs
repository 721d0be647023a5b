//! Roll calls: which agents are started, wherever that is.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::Agents;
use super::desk::Work;
use crate::consume::ConsumerBuilder;
use crate::cx::Cx;
use crate::error::{PublishError, Result};
use crate::failure::Failure;
use crate::json;
use crate::letter::Letter;
use crate::message::Raw;
use crate::retry::Retry;
use crate::rpc::{DEADLINE, Reply, is_late};
use crate::topology::{Exchange, Topology};
use crate::transport::Target;

/// The exchange that roll calls go to: each process with agents has a queue of its own there.
const ROLL_CALL: &str = "agents.roll_call";
/// How many answers may wait to be read.
const ANSWERS_MAX: usize = 4096;

/// A started agent's answer to a roll call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Presence {
    /// Its name.
    pub name: String,
    /// What it does.
    pub role: String,
    /// What programs call it.
    pub slug: String,
    /// The process that runs it.
    pub process: u32,
    /// The machine that this process is on.
    pub host: String,
    /// When it was started, in milliseconds since 1970.
    pub since: u64,
    /// How many notes it has handled.
    pub handled: u64,
    /// How many tries failed.
    pub failed: u64,
    /// How many notes it is handling.
    pub handling: u64,
    /// What failed last.
    pub last_error: Option<String>,
}

impl Presence {
    /// The name of its inbox.
    #[must_use]
    pub fn queue(&self) -> String {
        format!("agent_{}_queue", self.slug)
    }

    fn of(work: &Work) -> Presence {
        Presence {
            name: work.name.name.clone(),
            role: work.role.clone(),
            slug: work.name.slug.clone(),
            process: std::process::id(),
            host: host(),
            since: work.since,
            handled: work.handled.load(Ordering::Relaxed),
            failed: work.failed.load(Ordering::Relaxed),
            handling: work.handling.load(Ordering::Relaxed),
            last_error: work.last_error(),
        }
    }
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    String::new()
}

impl Agents {
    /// Asks all agents there are, in whatever process, who they are; those that are started answer.
    /// Takes all of `within`, as nobody knows how many there are.
    ///
    /// # Errors
    /// [`crate::Error`] if nothing can be asked.
    pub async fn roll_call(&self, within: Duration) -> Result<Vec<Presence>> {
        let inner = &self.bus().inner;
        let deadline = Instant::now() + within;
        let topology = || Topology::new().exchange(Exchange::fanout(ROLL_CALL));
        inner.ensure_once(ROLL_CALL.into(), topology).await?;
        let replies = inner.replies().await?;
        let id = inner.names.next();
        let mut expected = replies.expect(&id, ANSWERS_MAX);
        let mut letter = Letter {
            reply_to: Some(replies.queue().to_owned()),
            correlation_id: Some(id.clone()),
            id,
            transient: true,
            payload: json::encode(&json::Value::Null).map_err(PublishError::from)?,
            ..Letter::default()
        };
        letter.headers.set(DEADLINE, inner.clock.after(within).to_string());
        let target = Target::Subject { exchange: ROLL_CALL.into(), subject: "".into() };
        inner.dispatch(target, false, None, letter).await?.await?;
        let mut present = Vec::new();
        while let Ok(Some(answer)) = timeout_at(deadline, expected.next()).await {
            let Ok(whole) = timeout_at(deadline, inner.whole(answer)).await else { break };
            let presence = whole.and_then(|answer| {
                json::decode::<Presence>(&answer.payload).map_err(Failure::permanent)
            });
            match presence {
                Ok(presence) => present.push(presence),
                Err(error) => tracing::warn!(%error, "an answer to a roll call cannot be read"),
            }
        }
        let place = |one: &Presence| (one.name.clone(), one.host.clone(), one.process);
        present.sort_by_cached_key(place);
        Ok(present)
    }

    /// Answers roll calls from now on.
    pub(super) async fn attend(&self) -> Result<()> {
        let attendance = &self.inner.attendance;
        attendance
            .get_or_try_init(|| {
                let agents = self.clone();
                let answer = move |_: Raw, cx: Cx| {
                    let agents = agents.clone();
                    async move { agents.answer(&cx).await }
                };
                ConsumerBuilder::each(self.bus(), ROLL_CALL, answer)
                    .exchange(Exchange::fanout(ROLL_CALL))
                    .subjects([""])
                    .own_queue()
                    .without_dead_letters()
                    .retry(Retry::none())
                    .start()
            })
            .await
            .map(drop)
    }

    async fn answer(&self, cx: &Cx) -> Result<(), Failure> {
        let Some(reply) = Reply::to(cx.letter()).filter(|_| !is_late(cx)) else { return Ok(()) };
        for work in self.at_work() {
            let payload = json::encode(&Presence::of(&work)).map_err(Failure::permanent)?;
            reply.send(&cx.bus().inner, Ok(payload), Duration::ZERO).await;
        }
        Ok(())
    }
}
