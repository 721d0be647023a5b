//! How the agents' inboxes are.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Agents;
use crate::dead_letters::dead_name;
use crate::error::Result;

/// An agent's inbox, for people who look for what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentQueue {
    /// The queue's name.
    pub queue_name: String,
    /// How many notes wait; those that an agent has fetched are not counted.
    pub message_count: u64,
    /// How many processes consume it, those included that wait to take another one's place.
    pub consumer_count: u64,
    /// What is sent under this goes there.
    pub routing_key: String,
    /// Whether somebody handles what comes.
    pub status: AgentStatus,
}

/// Whether somebody handles what comes to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentStatus {
    /// The inbox is there, and has a consumer.
    Active,
    /// The inbox is there, and no process consumes it: notes wait.
    Idle,
    /// There is no such queue. What is sent there is refused.
    Missing,
}

/// How the agents are that were registered or started here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AgentsHealth {
    /// Those that no process runs.
    pub without_consumer: Vec<String>,
    /// Their inboxes, the deepest first.
    pub inboxes: Vec<AgentInbox>,
    /// The last error of each that was started here and has had one, by its name.
    pub last_errors: BTreeMap<String, String>,
}

/// How full an agent's inbox is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AgentInbox {
    /// The agent.
    pub agent: String,
    /// How many notes wait.
    pub waiting: u64,
    /// How many could not be handled, and are kept in the queue beside it.
    pub dead_letters: u64,
}

impl AgentsHealth {
    /// Whether every agent is run by some process, and none has dead letters.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.without_consumer.is_empty() && self.inboxes.iter().all(|it| it.dead_letters == 0)
    }
}

impl Agents {
    /// The inboxes of all agents that were registered or started here, by the agents' names.
    ///
    /// # Errors
    /// [`crate::Error::Connect`] if there is no connection.
    pub async fn debug_queues(&self) -> Result<BTreeMap<String, AgentQueue>> {
        let mut queues = BTreeMap::new();
        for name in self.names() {
            let queue_name = name.queue();
            let status = self.bus().queue(&queue_name).await?;
            let (message_count, consumer_count) =
                status.map_or((0, 0), |status| (status.messages, status.consumers));
            let status = match status {
                None => AgentStatus::Missing,
                Some(_) if consumer_count == 0 => AgentStatus::Idle,
                Some(_) => AgentStatus::Active,
            };
            let routing_key = name.routing_key();
            let queue =
                AgentQueue { queue_name, message_count, consumer_count, routing_key, status };
            queues.insert(name.name, queue);
        }
        Ok(queues)
    }

    /// Which of these agents nobody runs, how full their inboxes are, and what failed here.
    ///
    /// # Errors
    /// [`crate::Error::Connect`] if there is no connection.
    pub async fn health(&self) -> Result<AgentsHealth> {
        let mut health = AgentsHealth::default();
        for (agent, queue) in self.debug_queues().await? {
            if queue.status != AgentStatus::Active {
                health.without_consumer.push(agent.clone());
            }
            let dead = self.bus().queue(&dead_name(&queue.queue_name)).await?;
            let dead_letters = dead.map_or(0, |status| status.messages);
            let waiting = queue.message_count;
            health.inboxes.push(AgentInbox { agent, waiting, dead_letters });
        }
        // Equally deep ones stay in the order of their names.
        health.inboxes.sort_by_key(|inbox| std::cmp::Reverse(inbox.waiting));
        let errors = self.at_work().into_iter();
        health.last_errors =
            errors.filter_map(|work| Some((work.name.name.clone(), work.last_error()?))).collect();
        Ok(health)
    }
}
