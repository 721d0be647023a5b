//! What all answers have in common.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
/// RabbitMQ's: clients may have been told the password for a realm of that name.
const CHALLENGE: HeaderValue = HeaderValue::from_static(r#"Basic realm="RabbitMQ Management""#);

/// RabbitMQ's form of an error.
#[derive(Serialize)]
struct Problem<'a> {
    error: &'a str,
    reason: &'a str,
}

/// What was asked for.
pub(crate) fn ok(facts: &impl Serialize) -> Response {
    let mut response = json(StatusCode::OK, facts);
    response.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    response
}

/// There is no such path, or no such object.
pub(crate) fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "Object Not Found", "Not Found")
}

/// The request makes no sense, or too much of it.
pub(crate) fn bad_request(reason: &str) -> Response {
    problem(StatusCode::BAD_REQUEST, "bad_request", reason)
}

/// Nobody said who asks. Without a body, as RabbitMQ has it.
pub(crate) fn who_are_you() -> Response {
    let mut response = StatusCode::UNAUTHORIZED.into_response();
    response.headers_mut().insert(WWW_AUTHENTICATE, CHALLENGE);
    response
}

/// The name or the password is wrong. RabbitMQ gives no challenge here, so that a browser leaves
/// the question to the page that asked.
pub(crate) fn login_refused() -> Response {
    problem(StatusCode::UNAUTHORIZED, "not_authorized", "Not_Authorized")
}

/// The user is known and may not do this.
pub(crate) fn not_allowed(reason: &str) -> Response {
    problem(StatusCode::UNAUTHORIZED, "not_authorised", reason)
}

fn problem(status: StatusCode, error: &str, reason: &str) -> Response {
    json(status, &Problem { error, reason })
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (status, [(CONTENT_TYPE, JSON)], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
