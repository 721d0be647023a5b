//! `/api/queues` and what is below it.

use std::borrow::Cow;

use axum::extract;
use axum::http::Uri;
use axum::response::Response;
use leveret_broker::engine::QueueStatus;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::api::State;
use crate::caller::Caller;
use crate::{answer, arguments};

/// Segments of the path in front of the virtual host: an empty one, `api` and `queues`.
const SEGMENTS_BEFORE: usize = 3;

/// A queue, with RabbitMQ's names for what is known of it.
#[derive(Serialize)]
struct Queue<'a> {
    name: Cow<'a, str>,
    vhost: Cow<'a, str>,
    #[serde(rename = "type")]
    kind: &'static str,
    durable: bool,
    auto_delete: bool,
    exclusive: bool,
    arguments: Map<String, Value>,
    consumers: usize,
    messages: usize,
    messages_ready: usize,
    messages_unacknowledged: usize,
    state: &'static str,
    node: &'a str,
}

impl<'a> Queue<'a> {
    fn of(status: &'a QueueStatus, node: &'a str) -> Self {
        Queue {
            name: status.name.to_str_lossy(),
            vhost: status.vhost.to_str_lossy(),
            kind: "classic",
            durable: status.durable,
            auto_delete: status.auto_delete,
            exclusive: status.exclusive,
            arguments: arguments::json(&status.arguments),
            consumers: status.consumers,
            messages: status.ready + status.unacknowledged,
            messages_ready: status.ready,
            messages_unacknowledged: status.unacknowledged,
            state: "running",
            node,
        }
    }
}

/// All queues.
pub(crate) async fn list(
    _: Caller,
    uri: Uri,
    extract::State(state): extract::State<State>,
) -> Response {
    sorted(state.broker.queues(), &uri, &state)
}

/// The queues of one virtual host.
pub(crate) async fn list_of_vhost(
    _: Caller,
    uri: Uri,
    extract::State(state): extract::State<State>,
) -> Response {
    let vhost = segment(&uri, 0);
    let mut queues = state.broker.queues();
    queues.retain(|queue| queue.vhost == vhost[..]);
    if queues.is_empty() && !state.broker.has_vhost(&vhost) {
        return answer::not_found();
    }
    sorted(queues, &uri, &state)
}

/// One queue.
pub(crate) async fn show(
    _: Caller,
    uri: Uri,
    extract::State(state): extract::State<State>,
) -> Response {
    let (vhost, name) = (segment(&uri, 0), segment(&uri, 1));
    let queues = state.broker.queues();
    match queues.iter().find(|queue| queue.vhost == vhost[..] && queue.name == name[..]) {
        Some(queue) => answer::ok(&Queue::of(queue, &state.identity.node)),
        None => answer::not_found(),
    }
}

/// In RabbitMQ's order.
fn sorted(mut queues: Vec<QueueStatus>, uri: &Uri, state: &State) -> Response {
    if has_parameter(uri, "page") {
        // One who asks for a page does not understand a list.
        return answer::bad_request("Pagination is not supported");
    }
    queues.sort_unstable_by(|a, b| (&a.vhost, &a.name).cmp(&(&b.vhost, &b.name)));
    let node = &state.identity.node;
    answer::ok(&queues.iter().map(|queue| Queue::of(queue, node)).collect::<Vec<_>>())
}

/// A name in the path, as the bytes it stands for: it need not be UTF-8.
fn segment(uri: &Uri, index: usize) -> Vec<u8> {
    let segment = uri.path().split('/').nth(SEGMENTS_BEFORE + index).unwrap_or_default();
    percent_decode_str(segment).collect()
}

fn has_parameter(uri: &Uri, name: &str) -> bool {
    let mut pairs = uri.query().unwrap_or_default().split('&');
    pairs.any(|pair| pair.split('=').next() == Some(name))
}
