//! What is asked and what is answered.

use leveret_model::limits::MEMORY_BYTES_MIN;
use leveret_model::{FieldTable, ShortString};
use serde_json::{Value, json};

use crate::server::{
    DISK_LOW, Server, ask, ask_on, declare, get, get_path, publish, queue, request, signed,
};

fn not_found() -> Value {
    json!({"error": "Object Not Found", "reason": "Not Found"})
}

#[tokio::test]
async fn a_queue_is_shown_as_rabbitmq_shows_it() {
    let server = Server::start();
    let address = server.listen().await;
    let session = server.session();
    let arguments: FieldTable = [
        (ShortString::from_static("x-team-number"), 86_400_000.into()),
        (ShortString::from_static("x-comment"), "ready \u{2713}".into()),
    ]
    .into_iter()
    .collect();
    declare(&session, crate::server::queue("jobs/1 a"));
    let durable = leveret_broker::engine::command::DeclareQueue {
        durable: true,
        arguments,
        ..queue("orders")
    };
    declare(&session, durable);
    publish(&session, "orders", 3);
    get(&session, "orders");

    let answer = get_path(address, "/api/queues/%2F/orders").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.head.contains("\r\ncontent-type: application/json"), "{}", answer.head);
    assert!(answer.head.contains("\r\ncache-control: no-cache"), "{}", answer.head);
    let orders = json!({
        "name": "orders", "vhost": "/", "type": "classic", "durable": true,
        "auto_delete": false, "exclusive": false,
        "arguments": {"x-team-number": 86_400_000, "x-comment": "ready \u{2713}"},
        "consumers": 0, "messages": 3, "messages_ready": 2, "messages_unacknowledged": 1,
        "state": "running", "node": "leveret@here",
    });
    assert_eq!(answer.json(), orders);

    for path in ["/api/queues", "/api/queues/", "/api/queues/%2f", "/api/queues/%2F/?columns=x"] {
        let list = get_path(address, path).await.json();
        assert_eq!(list[1], orders, "{path}");
        assert_eq!(list[0]["name"], "jobs/1 a", "{path}: sorted by name");
        assert_eq!(list.as_array().map(Vec::len), Some(2), "{path}");
    }
    let encoded = get_path(address, "/api/queues/%2F/jobs%2F1%20a").await;
    assert_eq!(encoded.json()["name"], "jobs/1 a");
}

#[tokio::test]
async fn the_overview_adds_up_the_queues() {
    let server = Server::start();
    let address = server.listen().await;
    let session = server.session();
    for (name, messages) in [("a", 2), ("b", 5)] {
        declare(&session, queue(name));
        publish(&session, name, messages);
    }
    get(&session, "b");
    let overview = get_path(address, "/api/overview").await.json();
    let expected = json!({
        "product_name": "leveret", "product_version": "0.1.2",
        "rabbitmq_version": "4.5.6", "management_version": "4.5.6", "node": "leveret@here",
        "queue_totals": {"messages": 7, "messages_ready": 6, "messages_unacknowledged": 1},
        "object_totals": {"queues": 2, "consumers": 0},
    });
    assert_eq!(overview, expected);
}

#[tokio::test]
async fn the_node_says_what_messages_take() {
    let server = Server::start();
    let address = server.listen().await;
    let session = server.session();
    let before = server.broker.memory().used;
    session.set_unfinished(MEMORY_BYTES_MIN + 1);
    assert!(session.shortage().is_some());
    let node = json!({
        "name": "leveret@here", "type": "disc", "running": true,
        "mem_used": before + MEMORY_BYTES_MIN + 1, "mem_limit": MEMORY_BYTES_MIN, "mem_alarm": true,
        "disk_free": DISK_LOW, "disk_free_limit": DISK_LOW, "disk_free_alarm": false,
    });
    assert_eq!(get_path(address, "/api/nodes").await.json(), json!([node]));
    assert_eq!(get_path(address, "/api/nodes/leveret@here").await.json(), node);
    session.set_unfinished(0);
    let node = get_path(address, "/api/nodes/leveret%40here").await.json();
    assert_eq!((&node["mem_used"], &node["mem_alarm"]), (&json!(before), &json!(false)));
    assert_eq!(get_path(address, "/api/nodes/other").await.status, 404);
}

#[tokio::test]
async fn the_node_says_what_is_free_of_the_disk() {
    for (free, alarm) in [(Some(DISK_LOW), false), (Some(DISK_LOW - 1), true), (None, false)] {
        let server = Server::start_with_free(free);
        let node = get_path(server.listen().await, "/api/nodes/leveret@here").await.json();
        assert_eq!(node["disk_free"], json!(free));
        assert_eq!(node["disk_free_limit"], json!(DISK_LOW));
        assert_eq!((&node["disk_free_alarm"], &node["mem_alarm"]), (&json!(alarm), &json!(false)));
    }
}

#[tokio::test]
async fn a_caller_is_told_who_it_is() {
    let server = Server::start();
    let address = server.listen().await;
    let answer = ask(address, &signed("GET", "/api/whoami", "app", "pass:word")).await;
    let app = json!({"name": "app", "tags": ["administrator"], "is_internal_user": true});
    assert_eq!((answer.status, answer.json()), (200, app));
}

#[tokio::test]
async fn nobody_without_a_password_learns_anything() {
    let server = Server::start();
    let address = server.listen().await;
    for path in
        ["/api/overview", "/api/whoami", "/api/queues", "/api/queues/%2F", "/api/queues/x/y"]
    {
        let nobody = ask(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n")).await;
        assert_eq!((nobody.status, nobody.body.as_str()), (401, ""), "{path}");
        let challenge = "\r\nwww-authenticate: basic realm=\"rabbitmq management\"";
        assert!(nobody.head.contains(challenge), "{path}: {}", nobody.head);

        for (name, password) in [("guest", "guest"), ("nobody", "pass:word"), ("", "")] {
            let wrong = ask(address, &signed("GET", path, name, password)).await;
            let refusal = json!({"error": "not_authorized", "reason": "Not_Authorized"});
            assert_eq!((wrong.status, wrong.json()), (401, refusal), "{path} {name}");
        }
    }
}

#[tokio::test]
async fn a_user_of_this_machine_comes_from_this_machine() {
    let server = Server::start();
    let from = |peer| server.connect_from(peer, 4096);
    let guest = request("GET", "/api/whoami");
    for here in ["127.0.0.1:1", "[::1]:1"] {
        assert_eq!(ask_on(from(here), &guest).await.status, 200, "{here}");
    }
    let refused = ask_on(from("192.0.2.1:1"), &guest).await;
    let reason = json!({"error": "not_authorised", "reason": "User can only log in via localhost"});
    assert_eq!((refused.status, refused.json()), (401, reason));
    let wrong = ask_on(from("192.0.2.1:1"), &signed("GET", "/api/whoami", "guest", "x")).await;
    assert_eq!(wrong.json()["reason"], "Not_Authorized", "no hint without the password");
    let app = signed("GET", "/api/whoami", "app", "pass:word");
    assert_eq!(ask_on(from("192.0.2.1:1"), &app).await.status, 200);
}

#[tokio::test]
async fn what_is_not_there_is_a_404_in_json() {
    let server = Server::start();
    let address = server.listen().await;
    declare(&server.session(), queue("orders"));
    let paths = [
        "/",
        "/api",
        "/api/node",
        "/api/queues/nowhere",
        "/api/queues/%2F%2F",
        "/api/queues//orders",
        "/api/queues/%2F/missing",
        "/api/queues/nowhere/orders",
        "/api/queues/%2F/%ff%fe",
        "/api/queues/%2F/orders/bindings",
        "/API/queues",
    ];
    for path in paths {
        let answer = get_path(address, path).await;
        assert_eq!((answer.status, answer.json()), (404, not_found()), "{path}");
        assert!(answer.head.contains("\r\ncontent-type: application/json"), "{path}");
    }
    let empty = get_path(address, "/api/queues/%2F").await;
    assert_eq!((empty.status, empty.json().as_array().map(Vec::len)), (200, Some(1)));
}

#[tokio::test]
async fn a_virtual_host_without_queues_has_an_empty_list() {
    let server = Server::start();
    let address = server.listen().await;
    let answer = get_path(address, "/api/queues/%2F").await;
    assert_eq!((answer.status, answer.json()), (200, json!([])));
}

#[tokio::test]
async fn a_method_that_is_not_there_is_refused() {
    let server = Server::start();
    let address = server.listen().await;
    for method in ["PUT", "POST", "DELETE", "PATCH"] {
        let answer = ask(address, &request(method, "/api/queues/%2F/orders")).await;
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.head.contains("\r\nallow: get,head"), "{}", answer.head);
    }
    let head = ask(address, &request("HEAD", "/api/whoami")).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn a_page_of_a_list_is_refused_and_not_faked() {
    let server = Server::start();
    let address = server.listen().await;
    for query in ["page=1", "name=x&page=2&page_size=10"] {
        let answer = get_path(address, &format!("/api/queues?{query}")).await;
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("bad_request")));
    }
}
