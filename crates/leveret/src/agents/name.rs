//! What agents are called, and what their queues are called after them.

use std::fmt;

/// The exchange that notes go to.
pub(super) const EXCHANGE: &str = "agents";
/// What is published under this goes to every agent.
pub(super) const EVERYONE: &str = "agent.all";
/// How long a name may be, in bytes: a queue's name has 255, and some of them are not the agent's.
const NAME_BYTES_MAX: usize = 200;

/// An agent's name, and what programs call it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct AgentName {
    pub(super) name: String,
    /// In lower case, with underscores for blanks.
    pub(super) slug: String,
}

impl AgentName {
    /// That name, or why nothing can be called so.
    pub(super) fn new(name: &str) -> Result<AgentName, String> {
        let slug: String = name
            .chars()
            .flat_map(char::to_lowercase)
            .map(|char| if char.is_whitespace() { '_' } else { char })
            .collect();
        let wrong = |text: &str| Err(format!("no agent can be called {name:?}: {text}"));
        if slug.is_empty() {
            return wrong("a name has at least one character");
        }
        if slug.len() > NAME_BYTES_MAX {
            return wrong(&format!("a name has at most {NAME_BYTES_MAX} bytes"));
        }
        if slug.contains(|char: char| matches!(char, '*' | '#') || char.is_control()) {
            return wrong("neither * nor # nor control characters are in a name");
        }
        if slug == "all" {
            return wrong("that means every agent");
        }
        Ok(AgentName { name: name.to_owned(), slug })
    }

    /// Its inbox.
    pub(super) fn queue(&self) -> String {
        format!("agent_{}_queue", self.slug)
    }

    /// What is published under this goes there.
    pub(super) fn routing_key(&self) -> String {
        format!("agent.{}", self.slug)
    }
}

impl fmt::Debug for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_called_after_its_agent() {
        let name = AgentName::new("Agent A").unwrap();
        assert_eq!(name.slug, "agent_a");
        assert_eq!(name.queue(), "agent_agent_a_queue");
        assert_eq!(name.routing_key(), "agent.agent_a");
        assert_eq!(AgentName::new("Größe\t2.b").unwrap().slug, "größe_2.b");
        assert!(AgentName::new(&"x".repeat(NAME_BYTES_MAX)).unwrap().queue().len() < 250);
    }

    #[test]
    fn names_that_would_be_somebody_elses_are_refused() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for name in ["", "All", "a*", "#", "a\0b", &long] {
            assert!(AgentName::new(name).is_err(), "{name}");
        }
    }
}
