//! Who asks.

use std::net::SocketAddr;

use axum::extract::FromRequestParts;
use axum::http::header::{AUTHORIZATION, HeaderMap};
use axum::http::request::Parts;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use leveret_broker::LoginError;

use crate::answer;
use crate::api::State;

/// A user who gave the right password. A handler that takes it is for users only.
pub(crate) struct Caller {
    pub(crate) name: String,
}

/// Where the connection of a request comes from.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl FromRequestParts<State> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Caller, Response> {
        let Some((name, password)) = credentials(&parts.headers) else {
            return Err(answer::who_are_you());
        };
        let peer = parts.extensions.get::<Peer>().copied();
        let loopback = peer.is_some_and(|Peer(address)| address.ip().is_loopback());
        let Err(error) = state.broker.authenticate(&name, &password, loopback) else {
            return Ok(Caller { name: text(&name) });
        };
        let peer = peer.map_or_else(String::new, |Peer(address)| address.to_string());
        tracing::warn!(peer, user = text(&name), %error, "login refused");
        Err(match error {
            LoginError::NotLocal => answer::not_allowed("User can only log in via localhost"),
            LoginError::Credentials => answer::login_refused(),
        })
    }
}

/// The name and the password of HTTP Basic authentication (RFC 7617).
fn credentials(headers: &HeaderMap) -> Option<(Vec<u8>, Vec<u8>)> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, encoded) = value.split_at(value.iter().position(|byte| *byte == b' ')?);
    if !scheme.eq_ignore_ascii_case(b"Basic") {
        return None;
    }
    let pair = BASE64_STANDARD.decode(encoded.trim_ascii()).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some((pair[..colon].to_vec(), pair[colon + 1..].to_vec()))
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: &str) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        credentials(&headers)
    }

    #[test]
    fn a_password_may_have_colons_and_a_name_may_not() {
        let pair = |name: &str, password: &str| Some((name.into(), password.into()));
        assert_eq!(parsed("Basic Z3Vlc3Q6Z3Vlc3Q="), pair("guest", "guest"));
        assert_eq!(parsed("bASIC   YTpiOmM="), pair("a", "b:c"));
        assert_eq!(parsed("Basic Og=="), pair("", ""));
    }

    #[test]
    fn what_is_no_basic_authentication_is_none() {
        for value in
            ["", "Basic", "Basic ", "Basic Z3Vlc3Q=", "Basic ???", "Bearer Z3Vlc3Q6Z3Vlc3Q="]
        {
            assert_eq!(parsed(value), None, "{value}");
        }
        assert_eq!(credentials(&HeaderMap::new()), None);
    }
}
