//! Which path is whose.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use leveret_broker::Broker;
use leveret_model::limits::HTTP_CONNECTIONS_MAX;
use tokio::sync::Semaphore;

use crate::{answer, nodes, overview, queues, whoami};

/// What the API says about the server it is part of.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The node's name, such as `leveret@host`.
    pub node: String,
    /// The version of leveret.
    pub version: &'static str,
    /// The version of RabbitMQ that it stands for.
    pub rabbitmq_version: &'static str,
}

/// The management API of one broker. Clones are the same one.
#[derive(Clone)]
pub struct Api {
    pub(crate) router: Router,
    /// One permit for each connection that may still be opened.
    pub(crate) places: Arc<Semaphore>,
}

/// What handlers know.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) broker: Broker,
    pub(crate) identity: Arc<Identity>,
}

impl Api {
    /// The API of this broker.
    #[must_use]
    pub fn new(broker: Broker, identity: Identity) -> Api {
        let state = State { broker, identity: Arc::new(identity) };
        Api { router: router(state), places: Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX)) }
    }
}

fn router(state: State) -> Router {
    Router::new()
        .route("/api/overview", get(overview::show))
        .route("/api/whoami", get(whoami::show))
        .route("/api/nodes", get(nodes::list))
        .route("/api/nodes/{name}", get(nodes::show))
        .route("/api/queues", get(queues::list))
        .route("/api/queues/{vhost}", get(queues::list_of_vhost))
        .route("/api/queues/{vhost}/{name}", get(queues::show))
        .fallback(async || answer::not_found())
        .with_state(state)
}
