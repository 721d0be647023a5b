//! What a client may not do, and for how long.

use std::time::Duration;

use leveret_model::limits::{
    HTTP_BODY_BYTES_MAX, HTTP_CONNECTIONS_MAX, HTTP_HEADER_BYTES_MAX, HTTP_HEADER_TIMEOUT,
    HTTP_WRITE_TIMEOUT,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::server::{Server, answer, ask, ask_on, declare, get_path, publish, queue, request};

const HERE: &str = "127.0.0.1:1";
const SECOND: Duration = Duration::from_secs(1);

/// Waits until the server closes the connection; what it said and how long that took.
async fn closed(mut client: DuplexStream) -> (String, Duration) {
    let start = Instant::now();
    let mut text = String::new();
    client.read_to_string(&mut text).await.expect("read until it is closed");
    (text, start.elapsed())
}

fn about(took: Duration, limit: Duration) -> bool {
    (limit - SECOND..limit + SECOND).contains(&took)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_left() {
    let server = Server::start();
    let (said, took) = closed(server.connect_from(HERE, 4096)).await;
    assert!(said.is_empty() && about(took, HTTP_HEADER_TIMEOUT), "{said:?} after {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_a_letter_now_and_then_is_left() {
    let server = Server::start();
    let mut client = server.connect_from(HERE, 4096);
    let start = Instant::now();
    client.write_all(b"GET /api/whoami HTTP/1.1\r\nx: ").await.expect("send");
    while client.write_all(b"x").await.is_ok() {
        tokio::time::sleep(SECOND / 2).await;
        assert!(start.elapsed() < HTTP_HEADER_TIMEOUT * 2, "it is still listened to");
    }
    assert!(about(start.elapsed(), HTTP_HEADER_TIMEOUT), "after {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_no_more_questions_is_left() {
    let server = Server::start();
    let mut client = server.connect_from(HERE, 4096);
    let head = format!("{}\r\n", request("GET", "/api/whoami"));
    client.write_all(head.as_bytes()).await.expect("send");
    let (said, took) = closed(client).await;
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
    assert!(about(took, HTTP_HEADER_TIMEOUT), "after {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_left() {
    let server = Server::start();
    let mut client = server.connect_from(HERE, 64);
    let head = format!("{}\r\n", request("GET", "/api/whoami"));
    client.write_all(head.as_bytes()).await.expect("send");
    let start = Instant::now();
    // Fails when the server is gone; nothing is read meanwhile.
    while client.write_all(b"G").await.is_ok() {
        tokio::time::sleep(SECOND / 2).await;
        assert!(start.elapsed() < HTTP_WRITE_TIMEOUT * 2, "it is still waited for");
    }
    assert!(about(start.elapsed(), HTTP_WRITE_TIMEOUT), "after {:?}", start.elapsed());
}

#[tokio::test]
async fn a_head_may_be_long_but_not_longer_than_that() {
    let server = Server::start();
    let address = server.listen().await;
    let head =
        |bytes: usize| format!("{}x: {}\r\n", request("GET", "/api/whoami"), "y".repeat(bytes));
    assert_eq!(ask(address, &head(HTTP_HEADER_BYTES_MAX - 1024)).await.status, 200);
    let client = server.connect_from(HERE, HTTP_HEADER_BYTES_MAX * 2);
    assert_eq!(ask_on(client, &head(HTTP_HEADER_BYTES_MAX)).await.status, 431);
    let client = server.connect_from(HERE, HTTP_HEADER_BYTES_MAX * 2);
    let fields = format!("{}{}", request("GET", "/api/whoami"), "x: y\r\n".repeat(200));
    assert_eq!(ask_on(client, &fields).await.status, 431);
}

#[tokio::test]
async fn a_body_may_be_long_but_not_longer_than_that() {
    let server = Server::start();
    let address = server.listen().await;
    let head = |bytes: u64| format!("{}content-length: {bytes}\r\n", request("GET", "/api/whoami"));
    assert_eq!(ask(address, &head(HTTP_BODY_BYTES_MAX)).await.status, 200);
    let refused = ask(address, &head(HTTP_BODY_BYTES_MAX + 1)).await;
    assert_eq!((refused.status, &refused.json()["error"]), (400, &"bad_request".into()));
}

#[tokio::test]
async fn a_body_that_nobody_wants_is_not_read() {
    let server = Server::start();
    let mut client = server.connect_from(HERE, 4096);
    let head = format!("{}transfer-encoding: chunked\r\n\r\n", request("POST", "/api/whoami"));
    client.write_all(head.as_bytes()).await.expect("send");
    let chunk = [b"1000\r\n".as_slice(), &[b'x'; 0x1000], b"\r\n"].concat();
    let mut sent = 0;
    while client.write_all(&chunk).await.is_ok() {
        sent += 0x1000;
        assert!(sent < 1024 * 1024, "it is still read");
    }
}

#[tokio::test]
async fn what_is_no_http_does_no_harm() {
    let server = Server::start();
    let address = server.listen().await;
    for junk in ["AMQP\0\0\x09\x01", "\r\n\r\n\r\n\r\n", "GET  /\r\n\r\n", "\x16\x03\x01\x02\0\x01"]
    {
        let mut client = TcpStream::connect(address).await.expect("connect");
        client.write_all(junk.as_bytes()).await.expect("send");
        client.shutdown().await.expect("say that this is all");
        let mut said = Vec::new();
        let end = timeout(HTTP_HEADER_TIMEOUT / 2, client.read_to_end(&mut said)).await;
        assert!(end.is_ok(), "{junk:?} is waited for");
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 400"), "{junk:?}: {said:?}");
    }
    assert_eq!(get_path(address, "/api/whoami").await.status, 200);
}

#[tokio::test]
async fn there_is_a_place_for_so_many_and_for_another_when_one_leaves() {
    let server = Server::start();
    let address = server.listen().await;
    let mut guests = Vec::new();
    for _ in 0..HTTP_CONNECTIONS_MAX {
        let mut guest = TcpStream::connect(address).await.expect("connect");
        guest.write_all(b"GET ").await.expect("send");
        guests.push(guest);
    }
    let late = TcpStream::connect(address).await.expect("connect");
    let refused = answer(late).await;
    assert_eq!((refused.status, refused.body.as_str()), (503, ""));
    guests.pop();
    let served = async {
        // The place is free once the server has seen that the guest left; until then it says so
        // to whoever comes, and closes.
        loop {
            let mut guest = TcpStream::connect(address).await.expect("connect");
            if timeout(SECOND / 10, guest.read_u8()).await.is_err() {
                return ask_on(guest, &request("GET", "/api/whoami")).await.status;
            }
        }
    };
    let status = timeout(HTTP_HEADER_TIMEOUT / 2, served).await.expect("a place");
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_long_answer_arrives_whole() {
    let server = Server::start();
    let address = server.listen().await;
    let session = server.session();
    for index in 0..5_000 {
        declare(&session, queue(&format!("queue-{index:04}")));
    }
    publish(&session, "queue-4999", 1);
    let list = get_path(address, "/api/queues").await.json();
    assert_eq!(list.as_array().map(Vec::len), Some(5_000));
    assert_eq!(list[4_999]["messages"], 1);
}

#[tokio::test]
async fn the_end_of_the_server_is_the_end_of_idle_connections() {
    let server = Server::start();
    let silent = server.connect_from(HERE, 4096);
    let mut idle = server.connect_from(HERE, 4096);
    let head = format!("{}\r\n", request("GET", "/api/whoami"));
    idle.write_all(head.as_bytes()).await.expect("send");
    assert!(idle.read(&mut [0; 4096]).await.expect("an answer") > 0);
    server.stop();
    for client in [silent, idle] {
        let end = timeout(HTTP_HEADER_TIMEOUT / 2, closed(client)).await;
        assert_eq!(end.expect("closed at once").0, "");
    }
}
