//! A message on its way: its bytes, and what is written on the outside.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use crate::message::Payload;

/// A message as transports see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Letter {
    /// Its name, which stays the same when it is sent again: what deduplication goes by.
    pub id: String,
    /// The [`crate::Message::NAME`] of its type; empty if it has none.
    pub name: Cow<'static, str>,
    /// What it is ordered by.
    pub key: Option<String>,
    /// The program's headers, and the toolkit's, which begin with `leveret-`.
    pub headers: Headers,
    /// Where an answer goes.
    pub reply_to: Option<String>,
    /// What it is an answer to.
    pub correlation_id: Option<String>,
    /// When it was first sent, in milliseconds since 1970. Transports may keep seconds only.
    pub sent_at: Option<u64>,
    /// How important it is, in a queue with priorities.
    pub priority: Option<u8>,
    /// How long it may wait in a queue.
    pub expires: Option<Duration>,
    /// Not to be kept on disk.
    pub transient: bool,
    /// The body.
    pub payload: Payload,
}

/// Named texts. Names may come in any case and order; one that is set twice has its last value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Cow<'static, str>, String)>);

impl Headers {
    /// The value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rfind(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Sets a value.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().rfind(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// Sets a value without a look at those before, which it hides if they have its name: what
    /// comes over a network may be many.
    pub(crate) fn push(&mut self, name: String, value: String) {
        self.0.push((Cow::Owned(name), value));
    }

    /// Takes a value out.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let removed = self.0.extract_if(.., |(known, _)| known == name);
        removed.last().map(|(_, value)| value)
    }

    /// All of them, in the order in which they were set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_str()))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps those that `keep` wants, by name and value.
    pub(crate) fn retain(&mut self, keep: impl Fn(&str, &str) -> bool) {
        self.0.retain(|(name, value)| keep(name, value));
    }

    /// A number of that name.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}

impl<N: Into<Cow<'static, str>>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(headers: I) -> Self {
        let mut all = Headers::default();
        headers.into_iter().for_each(|(name, value)| all.set(name, value));
        all
    }
}

impl Letter {
    /// The body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.payload.body
    }

    /// About how much memory it takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.payload.body.len() + headers + 256
    }
}
