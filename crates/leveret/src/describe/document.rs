//! The document: AsyncAPI 3.0.0, with its bindings for AMQP 0-9-1.

use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::catalog::{Catalog, MessageType, Received, Sent, Server};
use super::section::Section;
use crate::dead_letters::dead_name;
use crate::publish::Address;
use crate::retry::Retry;
use crate::topology::{Exchange, ExchangeKind, Match};

const ASYNCAPI: &str = "3.0.0";
const AMQP_BINDINGS: &str = "0.3.0";

pub(super) fn document(catalog: &Catalog, title: &str, version: &str) -> Value {
    let mut draft = Draft::new(catalog);
    for server in &catalog.servers {
        draft.server(server);
    }
    for received in catalog.received().iter() {
        draft.receive(received);
    }
    for sent in catalog.sent.iter() {
        draft.send(sent, catalog.is_one_of_many(sent));
    }
    draft.finish(title, version)
}

/// A document in the making.
struct Draft<'a> {
    vhost: &'a str,
    servers: Section,
    channels: Section,
    operations: Section,
    messages: Section,
    schemas: Section,
    /// Which messages a channel has.
    channel_messages: BTreeMap<String, BTreeSet<String>>,
    /// References to the messages of an operation.
    operation_messages: BTreeMap<String, BTreeSet<String>>,
}

impl<'a> Draft<'a> {
    fn new(catalog: &'a Catalog) -> Self {
        Draft {
            vhost: &catalog.vhost,
            servers: Section::default(),
            channels: Section::default(),
            operations: Section::default(),
            messages: Section::default(),
            schemas: Section::default(),
            channel_messages: BTreeMap::new(),
            operation_messages: BTreeMap::new(),
        }
    }

    fn server(&mut self, server: &Server) {
        let mut object = json!({
            "host": server.host,
            "protocol": if server.tls { "amqps" } else { "amqp" },
            "protocolVersion": "0-9-1",
            "security": [{ "type": "userPassword" }],
        });
        if self.vhost != "/" {
            let vhost = utf8_percent_encode(self.vhost, NON_ALPHANUMERIC);
            object["pathname"] = format!("/{vhost}").into();
        }
        self.servers.add("broker", object);
    }

    fn send(&mut self, sent: &Sent, many: bool) {
        let channel = match &sent.to {
            Address::Subject { exchange, subject } => {
                let known = !subject.is_empty() && (!many || *subject == sent.traffic.message.name);
                self.subject_channel(exchange, known.then_some(subject))
            }
            Address::Queue(queue) => self.queue_channel((!many).then_some(queue)),
        };
        let mode = if sent.transient { 1 } else { 2 };
        let operation =
            json!({ "action": "send", "bindings": amqp(json!({"deliveryMode": mode})) });
        self.operation(&channel, operation, &sent.traffic.message, sent.traffic.answer.as_ref());
    }

    fn receive(&mut self, received: &Received) {
        let queue = &received.queue;
        let channel = match received.own {
            true => self.own_queue_channel(queue),
            false => self.queue_channel(Some(queue)),
        };
        let mut more = json!({});
        if !received.subjects.is_empty() {
            let exchange = self.exchange(&received.exchange);
            more["bindings"] = json!({"exchange": exchange, "routingKeys": received.subjects});
            if let Some(headers) = &received.headers {
                more["bindings"]["arguments"] = arguments(headers);
            }
        }
        if let Some(policy) = &received.retry {
            more["retry"] = retry(policy);
            more["deadLetterQueue"] = dead_name(queue).into();
        }
        let mut operation = json!({ "action": "receive", "bindings": amqp(json!({"ack": true})) });
        if more != json!({}) {
            operation["x-leveret"] = more;
        }
        let traffic = &received.traffic;
        self.operation(&channel, operation, &traffic.message, traffic.answer.as_ref());
    }

    /// Takes in what is done with messages of a channel.
    fn operation(
        &mut self,
        channel: &str,
        mut operation: Value,
        message: &MessageType,
        answer: Option<&MessageType>,
    ) {
        let id = format!("{}.{channel}", operation["action"].as_str().unwrap_or_default());
        operation["channel"] = json!({ "$ref": format!("#/channels/{channel}") });
        if let Some(answer) = answer {
            operation["reply"] = self.reply(channel, answer);
        }
        let id = self.operations.add(&id, operation);
        let message = self.channel_message(channel, message);
        self.operation_messages.entry(id).or_default().insert(message);
    }

    /// Where an answer goes to.
    fn reply(&mut self, channel: &str, answer: &MessageType) -> Value {
        let text = "the property reply-to; the answer has the question's correlation-id";
        let replies = self.channels.add(&format!("{channel}.reply"), json!({ "address": null }));
        let message = self.channel_message(&replies, answer);
        json!({
            "address": { "location": "$message.header#/reply-to", "description": text },
            "channel": { "$ref": format!("#/channels/{replies}") },
            "messages": [{ "$ref": message }],
        })
    }

    /// Takes a message into a channel; a reference to it there.
    fn channel_message(&mut self, channel: &str, message: &MessageType) -> String {
        let message = self.message(message);
        let reference = format!("#/channels/{channel}/messages/{message}");
        self.channel_messages.entry(channel.to_owned()).or_default().insert(message);
        reference
    }

    fn message(&mut self, message: &MessageType) -> String {
        let title = message.title();
        let mut object = json!({ "name": title });
        if !message.name.is_empty() {
            object["bindings"] = amqp(json!({ "messageType": message.name }));
        }
        if let Some(content_type) = message.content_type {
            object["contentType"] = content_type.into();
        }
        if let Some(schema) = (message.schema)() {
            let schema = self.schemas.add(title, schema);
            object["payload"] = json!({ "$ref": format!("#/components/schemas/{schema}") });
        }
        self.messages.add(title, object)
    }

    /// What is published to an exchange, under that subject if it is known beforehand.
    fn subject_channel(
        &mut self,
        exchange: &Exchange,
        subject: Option<&impl AsRef<str>>,
    ) -> String {
        let subject = subject.map(AsRef::as_ref);
        let bindings = json!({ "is": "routingKey", "exchange": self.exchange(exchange) });
        let id = match subject {
            Some(subject) => format!("{}.{subject}", exchange.name),
            None => exchange.name.to_string(),
        };
        self.channels.add(&id, json!({ "address": subject, "bindings": amqp(bindings) }))
    }

    /// What is in a queue: in that one, or in one that is not known beforehand.
    fn queue_channel(&mut self, name: Option<&String>) -> String {
        let mut queue = json!({
            "durable": true, "exclusive": false, "autoDelete": false, "vhost": self.vhost,
        });
        if let Some(name) = name {
            queue["name"] = name.as_str().into();
        }
        let bindings = amqp(json!({ "is": "queue", "queue": queue }));
        let id = name.map_or("queues", String::as_str);
        self.channels.add(id, json!({ "address": name, "bindings": bindings }))
    }

    /// What is in a queue that a consumer makes for itself.
    fn own_queue_channel(&mut self, name: &str) -> String {
        let queue = json!({
            "durable": false, "exclusive": true, "autoDelete": true, "vhost": self.vhost,
        });
        let bindings = amqp(json!({ "is": "queue", "queue": queue }));
        self.channels.add(name, json!({ "address": null, "bindings": bindings }))
    }

    fn exchange(&self, exchange: &Exchange) -> Value {
        let kind = match exchange.kind {
            ExchangeKind::Topic => "topic",
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Headers => "headers",
        };
        json!({
            "name": exchange.name,
            "type": kind,
            "durable": !exchange.transient,
            "autoDelete": false,
            "vhost": self.vhost,
        })
    }

    fn finish(self, title: &str, version: &str) -> Value {
        let channels = self.channels.finish(|id, channel| {
            for message in self.channel_messages.get(id).into_iter().flatten() {
                let reference = format!("#/components/messages/{message}");
                channel["messages"][message] = json!({ "$ref": reference });
            }
        });
        let operations = self.operations.finish(|id, operation| {
            let references = self.operation_messages.get(id).into_iter().flatten();
            operation["messages"] = references.map(|to| json!({ "$ref": to })).collect();
        });
        let schemas = self.schemas.finish(|id, schema| {
            if let Some(schema) = schema.as_object_mut() {
                schema.remove("$schema");
            }
            move_references(schema, &format!("#/components/schemas/{id}"));
        });
        let messages = self.messages.finish(|_, _| ());
        let mut document = json!({
            "asyncapi": ASYNCAPI,
            "info": { "title": title, "version": version },
            "channels": channels,
            "operations": operations,
            "components": { "messages": messages, "schemas": schemas },
        });
        if !self.servers.is_empty() {
            document["servers"] = self.servers.finish(|_, _| ());
        }
        document
    }
}

fn amqp(mut bindings: Value) -> Value {
    bindings["bindingVersion"] = AMQP_BINDINGS.into();
    json!({ "amqp": bindings })
}

fn arguments(headers: &Match) -> Value {
    let (rule, headers) = match headers {
        Match::All(headers) => ("all", headers),
        Match::Any(headers) => ("any", headers),
    };
    headers.iter().chain([("x-match", rule)]).collect()
}

fn retry(retry: &Retry) -> Value {
    let longest = retry.longest().unwrap_or_default();
    json!({
        "attempts": retry.attempts,
        "triesAtOnce": retry.tries_at_once(),
        "longestDelayMs": u64::try_from(longest.as_millis()).unwrap_or(u64::MAX),
    })
}

/// A schema's references to itself, now that it stands within a document.
fn move_references(schema: &mut Value, to: &str) {
    match schema {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == "$ref" && text.starts_with('#') => {
                        text.replace_range(..1, to);
                    }
                    _ => move_references(value, to),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| move_references(item, to)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_named_and_who_they_let_in_is_not() {
        let url = "amqps://ada:s3cret@a.example:1,[::1]/%2fv?name=shop&heartbeat=5";
        let document = document_of(url);
        let server = |host: &str| {
            json!({
                "host": host,
                "pathname": "/%2Fv",
                "protocol": "amqps",
                "protocolVersion": "0-9-1",
                "security": [{ "type": "userPassword" }],
            })
        };
        let servers = json!({ "broker": server("a.example:1"), "broker_2": server("[::1]:5671") });
        assert_eq!(document["servers"], servers);
        let text = document.to_string();
        assert!(!text.contains("ada") && !text.contains("s3cret"), "{text}");
        for url in ["memory:", "embedded:data", "no URL with s3cret@"] {
            assert!(document_of(url).get("servers").is_none(), "{url}");
        }
    }

    fn document_of(url: &str) -> Value {
        document(&Catalog::new(Some(url)), "shop", "1")
    }
}
