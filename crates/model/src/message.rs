//! Messages in memory.
//!
//! Messages that arrive together live together: one [`Chunk`] holds the content of every message
//! of a batch, contiguous, and is shared by one reference count. A message is the chunk and an
//! index into it, so routing a message to a queue copies eight bytes.

use std::fmt;

/// The content of a batch of messages, as the publisher sent it, byte for byte.
///
/// Each message lies as `envelope ‖ properties ‖ body`. The envelope is the exchange and the
/// routing key as two AMQP short strings (a length byte, then that many bytes), the form in which
/// they came and in which they will be delivered.
#[derive(Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    offset: u32,
    body_len: u32,
    properties_len: u32,
    envelope_len: u16,
    persistent: bool,
    past: Past,
}

/// Whether a message was dead-lettered: then what its headers say of that is the broker's word, not
/// a client's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Past {
    /// It was not.
    #[default]
    None,
    /// It was.
    Died,
    /// It was, and got another routing key: those that its header `CC` names count no more.
    Rekeyed,
}

/// A borrowed message of a [`Chunk`], or one about to be put into one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Exchange and routing key, each a length byte and its bytes.
    pub envelope: &'a [u8],
    /// The property flags and property list of an AMQP content header.
    pub properties: &'a [u8],
    /// The body.
    pub body: &'a [u8],
    /// Whether the publisher asked for it to survive a restart (delivery mode 2).
    pub persistent: bool,
}

/// An envelope or a content too large for a chunk's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the batch's content exceeds 4 GiB")]
pub struct ChunkFull;

impl Chunk {
    /// An empty chunk with room for `bytes` of content.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Chunk { bytes: Vec::with_capacity(bytes), entries: Vec::new() }
    }

    /// Copies a message in and returns its index.
    ///
    /// # Errors
    /// [`ChunkFull`] if the chunk would exceed 4 GiB.
    pub fn push(&mut self, message: Message<'_>) -> Result<u32, ChunkFull> {
        let offset = u32::try_from(self.bytes.len()).map_err(|_| ChunkFull)?;
        let entry = Entry {
            offset,
            body_len: u32::try_from(message.body.len()).map_err(|_| ChunkFull)?,
            properties_len: u32::try_from(message.properties.len()).map_err(|_| ChunkFull)?,
            envelope_len: u16::try_from(message.envelope.len()).map_err(|_| ChunkFull)?,
            persistent: message.persistent,
            past: Past::None,
        };
        let index = u32::try_from(self.entries.len()).map_err(|_| ChunkFull)?;
        self.bytes.extend_from_slice(message.envelope);
        self.bytes.extend_from_slice(message.properties);
        self.bytes.extend_from_slice(message.body);
        self.entries.push(entry);
        Ok(index)
    }

    /// The message at `index`.
    ///
    /// # Panics
    /// If there is none: an index comes from [`Chunk::push`] of the same chunk.
    #[must_use]
    pub fn get(&self, index: u32) -> Message<'_> {
        let entry = self.entries[index as usize];
        let content = &self.bytes[entry.offset as usize..];
        let (envelope, content) = content.split_at(entry.envelope_len as usize);
        let (properties, content) = content.split_at(entry.properties_len as usize);
        let body = &content[..entry.body_len as usize];
        Message { envelope, properties, body, persistent: entry.persistent }
    }

    /// The bytes of content of the message at `index`: envelope, properties and body.
    ///
    /// # Panics
    /// As [`Chunk::get`].
    #[must_use]
    pub fn message_len(&self, index: u32) -> usize {
        let entry = &self.entries[index as usize];
        entry.envelope_len as usize + entry.properties_len as usize + entry.body_len as usize
    }

    /// Whether the message at `index` asks to survive a restart.
    ///
    /// # Panics
    /// As [`Chunk::get`].
    #[must_use]
    pub fn is_persistent(&self, index: u32) -> bool {
        self.entries[index as usize].persistent
    }

    /// The bytes of body of the message at `index`.
    ///
    /// # Panics
    /// As [`Chunk::get`].
    #[must_use]
    pub fn body_len(&self, index: u32) -> usize {
        self.entries[index as usize].body_len as usize
    }

    /// Notes whether the message at `index` was dead-lettered.
    ///
    /// # Panics
    /// As [`Chunk::get`].
    pub fn set_past(&mut self, index: u32, past: Past) {
        self.entries[index as usize].past = past;
    }

    /// Whether the message at `index` was dead-lettered.
    ///
    /// # Panics
    /// As [`Chunk::get`].
    #[must_use]
    pub fn past(&self, index: u32) -> Past {
        self.entries[index as usize].past
    }

    /// How many messages it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The bytes of content it holds.
    #[must_use]
    pub fn content_len(&self) -> usize {
        self.bytes.len()
    }

    /// What it takes in memory, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Gives back memory reserved and not used, where that is worth a copy.
    pub fn shrink(&mut self) {
        if self.bytes.len() < self.bytes.capacity() / 2 {
            self.bytes.shrink_to_fit();
        }
        if self.entries.len() < self.entries.capacity() / 2 {
            self.entries.shrink_to_fit();
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("messages", &self.entries.len())
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

impl<'a> Message<'a> {
    /// The exchange it was published to; empty for the default exchange.
    #[must_use]
    pub fn exchange(&self) -> &'a [u8] {
        split_short(self.envelope).0
    }

    /// The routing key it was published with.
    #[must_use]
    pub fn routing_key(&self) -> &'a [u8] {
        split_short(split_short(self.envelope).1).0
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("exchange", &String::from_utf8_lossy(self.exchange()))
            .field("routing_key", &String::from_utf8_lossy(self.routing_key()))
            .field("properties", &self.properties.len())
            .field("body", &self.body.len())
            .field("persistent", &self.persistent)
            .finish()
    }
}

/// The first short string of `bytes` and what follows; empty where there is none.
fn split_short(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.split_first() {
        Some((&len, rest)) if rest.len() >= len as usize => rest.split_at(len as usize),
        _ => (&[], &[]),
    }
}
