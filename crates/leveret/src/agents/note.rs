//! What agents say to each other.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::json;
use crate::letter::Letter;
use crate::message::{CodecError, Message, Payload};

/// How many turns of a conversation are passed on: the first, and the last ones.
const TURNS_MAX: usize = 256;
/// The role of a turn that handed the conversation over.
pub(super) const HAND_OFF: &str = "hand_off";

/// A message from one agent to another: some content, and the conversation it belongs to. It is
/// sent as JSON with these names; all of them may be missing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// What is said: any JSON.
    pub content: Value,
    /// Who says it, as language models have it: `user`, `assistant`, `system`, `tool`.
    pub role: String,
    /// What the agents of this conversation know, by name. It is passed on with all they say.
    pub context: Map<String, Value>,
    /// Which conversation it belongs to. An agent handles one note of a conversation at a time.
    pub conversation: String,
    /// Which agent said it; empty, or any name, for somebody who is no agent.
    pub from: String,
    /// Which agent it is for; empty for everyone.
    pub to: String,
    /// All that was said in the conversation so far, this note included. Of more than 256 turns,
    /// the first and the last 255.
    pub transcript: Vec<Turn>,
}

/// Something that was said in a conversation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Turn {
    /// Who said it.
    pub from: String,
    /// To whom.
    pub to: String,
    /// As what; `hand_off` where it was no word, but one agent that handed over to another.
    pub role: String,
    /// What.
    pub content: Value,
}

impl Note {
    /// A note of that content. All else is filled in when it is sent.
    #[must_use]
    pub fn new(content: impl Into<Value>) -> Note {
        Note { content: content.into(), ..Note::default() }
    }

    /// Said as this: where nothing is said, agents are `assistant` and others `user`.
    #[must_use]
    pub fn role(mut self, role: impl Into<String>) -> Note {
        self.role = role.into();
        self
    }

    /// With a context variable.
    #[must_use]
    pub fn context(mut self, name: impl Into<String>, value: impl Into<Value>) -> Note {
        self.context.insert(name.into(), value.into());
        self
    }

    /// In this conversation. Where nothing is said, what an agent says belongs to the one it is in,
    /// and all else begins one.
    #[must_use]
    pub fn conversation(mut self, id: impl Into<String>) -> Note {
        self.conversation = id.into();
        self
    }

    /// From somebody of this name, who gets the reply if it is an agent.
    #[must_use]
    pub fn sender(mut self, name: impl Into<String>) -> Note {
        self.from = name.into();
        self
    }

    /// Its content as a type.
    ///
    /// # Errors
    /// [`CodecError`] if it is none.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, CodecError> {
        Ok(T::deserialize(&self.content)?)
    }

    /// Fills in whom it is for, and the role.
    pub(super) fn complete(&mut self, to: &str, role: &str) {
        self.to = to.to_owned();
        if self.role.is_empty() {
            self.role = role.to_owned();
        }
    }

    /// It has been said.
    pub(super) fn record(&mut self) {
        let turn = self.turn();
        record(&mut self.transcript, turn);
    }

    pub(super) fn turn(&self) -> Turn {
        Turn {
            from: self.from.clone(),
            to: self.to.clone(),
            role: self.role.clone(),
            content: self.content.clone(),
        }
    }
}

/// Writes down what was said. What is in the middle of a very long conversation is left out.
pub(super) fn record(transcript: &mut Vec<Turn>, turn: Turn) {
    transcript.push(turn);
    if transcript.len() > TURNS_MAX {
        let more = transcript.len() - TURNS_MAX;
        transcript.drain(1..=more);
    }
}

impl Message for Note {
    const NAME: &'static str = "";
    const CONTENT_TYPE: Option<&'static str> = Some(json::CONTENT_TYPE);

    fn key(&self) -> Option<String> {
        Some(self.conversation.clone())
    }

    fn encode(&self) -> Result<Payload, CodecError> {
        json::encode(self)
    }

    fn decode(payload: &Payload) -> Result<Self, CodecError> {
        json::decode(payload)
    }
}

/// The conversation of a note that somebody sent who knows nothing of headers.
pub(super) fn conversation(letter: &Letter) -> Option<String> {
    #[derive(Deserialize)]
    struct Belongs {
        conversation: String,
    }
    let belongs: Belongs = json::decode(&letter.payload).ok()?;
    Some(belongs.conversation).filter(|id| !id.is_empty())
}

impl<T: Into<Value>> From<T> for Note {
    fn from(content: T) -> Note {
        Note::new(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_of_another_program_may_lack_anything() {
        let payload = |text: &str| Payload {
            content_type: "application/json".into(),
            body: bytes::Bytes::copy_from_slice(text.as_bytes()),
        };
        let note = Note::decode(&payload(r#"{"content": {"n": 1}, "else": 2}"#)).unwrap();
        assert_eq!(note.content["n"], 1);
        assert_eq!(note, Note::decode(&note.encode().unwrap()).unwrap());
        assert!(Note::decode(&payload("hello")).is_err());
    }

    #[test]
    fn of_a_long_conversation_the_first_and_the_last_turns_are_kept() {
        let mut note = Note::default();
        for number in 0..TURNS_MAX + 10 {
            note.content = number.into();
            note.record();
        }
        assert_eq!(note.transcript.len(), TURNS_MAX);
        assert_eq!(note.transcript[0].content, 0);
        assert_eq!(note.transcript[1].content, 11);
        assert_eq!(note.transcript[TURNS_MAX - 1].content, TURNS_MAX + 9);
    }
}
