//! `/api/overview`

use axum::extract;
use axum::response::Response;
use serde::Serialize;

use crate::answer;
use crate::api::State;
use crate::caller::Caller;

#[derive(Serialize)]
struct Overview<'a> {
    product_name: &'static str,
    product_version: &'a str,
    rabbitmq_version: &'a str,
    management_version: &'a str,
    node: &'a str,
    queue_totals: QueueTotals,
    object_totals: ObjectTotals,
}

#[derive(Default, Serialize)]
struct QueueTotals {
    messages: usize,
    messages_ready: usize,
    messages_unacknowledged: usize,
}

#[derive(Serialize)]
struct ObjectTotals {
    queues: usize,
    consumers: usize,
}

pub(crate) async fn show(_: Caller, extract::State(state): extract::State<State>) -> Response {
    let queues = state.broker.queues();
    let mut totals = QueueTotals::default();
    for queue in &queues {
        totals.messages_ready += queue.ready;
        totals.messages_unacknowledged += queue.unacknowledged;
    }
    totals.messages = totals.messages_ready + totals.messages_unacknowledged;
    let identity = &state.identity;
    answer::ok(&Overview {
        product_name: "leveret",
        product_version: identity.version,
        rabbitmq_version: identity.rabbitmq_version,
        management_version: identity.rabbitmq_version,
        node: &identity.node,
        queue_totals: totals,
        object_totals: ObjectTotals {
            queues: queues.len(),
            consumers: queues.iter().map(|queue| queue.consumers).sum(),
        },
    })
}
