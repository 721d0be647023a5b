//! A connection, and what it may cost.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;

use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use axum::response::Response;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use leveret_model::limits::{HTTP_BODY_BYTES_MAX, HTTP_HEADER_BYTES_MAX, HTTP_HEADER_TIMEOUT};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tower_service::Service;

use crate::answer;
use crate::api::Api;
use crate::caller::Peer;
use crate::patience::Patient;

/// Said to a client for whom there is no place, without reading what it wants.
const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Serves one client until it leaves or fails. Once `shutdown` is true it is served no request
/// but the one it has begun.
pub async fn serve<S>(stream: S, peer: SocketAddr, api: Api, mut shutdown: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = Patient::new(stream);
    let Ok(_place) = api.places.try_acquire() else {
        tracing::warn!(%peer, "too many HTTP connections; this one is refused");
        let _ = stream.write_all(BUSY).await;
        let _ = stream.shutdown().await;
        return;
    };
    let service = service_fn(|request| answer(api.router.clone(), request, peer));
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HTTP_HEADER_TIMEOUT)
            .max_buf_size(HTTP_HEADER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopped(&mut shutdown) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "HTTP connection lost");
    }
}

async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that there is nobody left who could say so.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

async fn answer(
    mut router: Router,
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
) -> Result<Response, Infallible> {
    if request.body().size_hint().lower() > HTTP_BODY_BYTES_MAX {
        return Ok(answer::bad_request("Exceeded HTTP request body size limit"));
    }
    let mut request: Request = request.map(axum::body::Body::new);
    request.extensions_mut().insert(Peer(peer));
    if let Some(uri) = without_last_slash(request.uri()) {
        *request.uri_mut() = uri;
    }
    router.call(request).await
}

/// RabbitMQ does not care whether a path ends with a slash.
fn without_last_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path().strip_suffix('/').filter(|path| !path.is_empty())?;
    let query = uri.query().map_or(String::new(), |query| format!("?{query}"));
    let path_and_query = PathAndQuery::try_from(format!("{path}{query}")).ok()?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_slash_goes_and_the_rest_stays() {
        let cut =
            |uri: &'static str| without_last_slash(&Uri::from_static(uri)).map(|u| u.to_string());
        assert_eq!(cut("/api/queues/%2F/?a=b/"), Some("/api/queues/%2F?a=b/".into()));
        assert_eq!(cut("http://host/api/queues/"), Some("http://host/api/queues".into()));
        for kept in ["/", "/api", "/api?a=/", "*"] {
            assert_eq!(cut(kept), None, "{kept}");
        }
    }
}
