//! `/api/nodes` and what is below it: the one node there is.

use axum::extract;
use axum::response::Response;
use serde::Serialize;

use crate::answer;
use crate::api::State;
use crate::caller::Caller;

/// A node, with RabbitMQ's names for what is known of it.
#[derive(Serialize)]
struct Node<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    running: bool,
    mem_used: usize,
    mem_limit: usize,
    mem_alarm: bool,
    /// Null where the system does not tell.
    disk_free: Option<u64>,
    disk_free_limit: u64,
    disk_free_alarm: bool,
}

impl<'a> Node<'a> {
    fn of(state: &'a State) -> Self {
        let (memory, disk) = (state.broker.memory(), state.broker.disk());
        Node {
            name: &state.identity.node,
            kind: "disc",
            running: true,
            mem_used: memory.used,
            mem_limit: memory.max,
            mem_alarm: memory.publishers_wait,
            disk_free: disk.free,
            disk_free_limit: disk.low,
            disk_free_alarm: disk.publishers_wait,
        }
    }
}

/// All nodes.
pub(crate) async fn list(_: Caller, extract::State(state): extract::State<State>) -> Response {
    answer::ok(&[Node::of(&state)])
}

/// One node.
pub(crate) async fn show(
    _: Caller,
    extract::Path(name): extract::Path<String>,
    extract::State(state): extract::State<State>,
) -> Response {
    if name == state.identity.node { answer::ok(&Node::of(&state)) } else { answer::not_found() }
}
