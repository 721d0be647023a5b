//! What an outbox keeps of a message besides its body, as JSON.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::letter::{Headers, Letter};
use crate::message::Payload;
use crate::publish::{Address, Sealed};
use crate::topology::{Exchange, ExchangeKind};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Envelope {
    /// Where to: a queue, or an exchange and a subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exchange: Option<Route>,
    #[serde(skip_serializing_if = "String::is_empty")]
    subject: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
    #[serde(skip_serializing_if = "String::is_empty")]
    content_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    /// When it was written, and before when it must not be delivered: milliseconds since 1970.
    sent_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<u64>,
    /// It is no error if nobody gets it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    optional: bool,
}

/// An exchange.
#[derive(Debug, Serialize, Deserialize)]
struct Route {
    name: String,
    kind: Kind,
    existing: bool,
    transient: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Topic,
    Direct,
    Fanout,
    Headers,
}

impl Envelope {
    /// The envelope of a message that is written now. The body is left out.
    pub(super) fn seal(sealed: &Sealed, now: u64) -> Self {
        let Sealed { to, mandatory, delay, letter } = sealed;
        let (queue, exchange, subject) = match to {
            Address::Queue(queue) => (Some(queue.clone()), None, String::new()),
            Address::Subject { exchange, subject } => {
                (None, Some(Route::from(exchange)), subject.to_string())
            }
        };
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let later = |delay: Duration| {
            now.saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
        };
        Envelope {
            queue,
            exchange,
            subject,
            name: letter.name.to_string(),
            key: letter.key.clone(),
            headers: letter.headers.iter().map(owned).collect(),
            content_type: letter.payload.content_type.to_string(),
            correlation_id: letter.correlation_id.clone(),
            priority: letter.priority,
            sent_at: letter.sent_at,
            not_before: delay.map(later),
            optional: !mandatory,
        }
    }

    /// The message again, to be sent now; `None` if the envelope says nothing of where to.
    pub(super) fn open(self, id: String, body: Vec<u8>, now: u64) -> Option<Sealed> {
        let to = match (self.queue, self.exchange) {
            (Some(queue), _) => Address::Queue(queue),
            (None, Some(exchange)) => {
                Address::Subject { exchange: exchange.into(), subject: Cow::Owned(self.subject) }
            }
            (None, None) => return None,
        };
        let mut headers = Headers::default();
        for (name, value) in self.headers {
            headers.set(name, value);
        }
        let letter = Letter {
            id,
            name: Cow::Owned(self.name),
            key: self.key,
            headers,
            correlation_id: self.correlation_id,
            priority: self.priority,
            sent_at: self.sent_at,
            payload: Payload { content_type: Cow::Owned(self.content_type), body: body.into() },
            ..Letter::default()
        };
        let until = |at: u64| Duration::from_millis(at.saturating_sub(now));
        Some(Sealed {
            to,
            mandatory: !self.optional,
            delay: self.not_before.map(until),
            letter: Box::new(letter),
        })
    }
}

impl From<&Exchange> for Route {
    fn from(exchange: &Exchange) -> Self {
        let kind = match exchange.kind {
            ExchangeKind::Topic => Kind::Topic,
            ExchangeKind::Direct => Kind::Direct,
            ExchangeKind::Fanout => Kind::Fanout,
            ExchangeKind::Headers => Kind::Headers,
        };
        let (existing, transient) = (exchange.existing, exchange.transient);
        Route { name: exchange.name.to_string(), kind, existing, transient }
    }
}

impl From<Route> for Exchange {
    fn from(route: Route) -> Self {
        let kind = match route.kind {
            Kind::Topic => ExchangeKind::Topic,
            Kind::Direct => ExchangeKind::Direct,
            Kind::Fanout => ExchangeKind::Fanout,
            Kind::Headers => ExchangeKind::Headers,
        };
        let (existing, transient) = (route.existing, route.transient);
        Exchange { name: Cow::Owned(route.name), kind, existing, transient }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        let mut letter = Letter {
            id: "7".to_owned(),
            name: Cow::Borrowed("order.created"),
            key: Some("ä\0\"".to_owned()),
            correlation_id: Some("c".to_owned()),
            priority: Some(3),
            sent_at: Some(1_000),
            ..Letter::default()
        };
        letter.headers.set("a", "1");
        letter.headers.set("b", "two\nlines");
        letter.payload.content_type = Cow::Borrowed("application/json");
        let exchange = Exchange::direct("orders").transient();
        let to = Address::Subject { exchange: exchange.clone(), subject: Cow::Borrowed("o.c") };
        let delay = Some(Duration::from_millis(500));
        let sealed = Sealed { to, mandatory: false, delay, letter: Box::new(letter.clone()) };
        let text = serde_json::to_string(&Envelope::seal(&sealed, 1_000)).unwrap();
        let open = |now| {
            let envelope: Envelope = serde_json::from_str(&text).unwrap();
            envelope.open("7".to_owned(), b"{}".to_vec(), now).unwrap()
        };
        let opened = open(1_200);
        letter.payload.body = bytes::Bytes::from_static(b"{}");
        assert_eq!((*opened.letter, opened.mandatory), (letter, false));
        assert_eq!(opened.delay, Some(Duration::from_millis(300)));
        assert!(matches!(opened.to, Address::Subject { exchange: it, subject }
            if it == exchange && subject == "o.c"));
        assert_eq!(open(2_000).delay, Some(Duration::ZERO));
        let nowhere: Envelope = serde_json::from_str("{}").unwrap();
        assert!(nowhere.open(String::new(), Vec::new(), 0).is_none());
    }
}
