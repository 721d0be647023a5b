//! What a program sends and receives, as it describes it. That the document is AsyncAPI is checked
//! by AsyncAPI's own parser, in `crates/cli/tests/it/describe.rs`.

use std::time::Duration;

use leveret::json::Value;
use leveret::{
    AgentCx, Agents, Bus, Cx, Exchange, Fault, Json, Match, Message, Note, Retry, Text, schemars,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// A place to live.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Address {
    street: String,
    /// Who lives next door.
    next: Option<Box<Address>>,
}

/// Somebody wants something.
#[derive(Serialize, Deserialize, JsonSchema, Message)]
#[message(name = "order.placed", schema)]
struct OrderPlaced {
    id: u64,
    to: Address,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "order.paid", exchange = "money")]
struct OrderPaid {
    id: u64,
}

#[derive(Serialize, Deserialize, JsonSchema, Message)]
#[message(name = "price.ask", schema)]
struct PriceAsk {
    item: String,
}

#[derive(Serialize, Deserialize, JsonSchema, Message)]
#[message(name = "price", schema)]
struct Price {
    cents: u64,
}

fn describe(bus: &Bus) -> Value {
    let description = bus.describe("shop", "1.2.3");
    let document: Value = serde_json::from_str(&description.to_json()).unwrap();
    assert_eq!(document, serde_json::to_value(&description).unwrap());
    references(&document, &document);
    document
}

/// Fails if something refers to what is not there.
fn references(part: &Value, document: &Value) {
    match part {
        Value::Object(object) => {
            if let Some(Value::String(to)) = object.get("$ref") {
                assert!(document.pointer(&to[1..]).is_some(), "{to} is not there");
            }
            object.values().for_each(|part| references(part, document));
        }
        Value::Array(parts) => parts.iter().for_each(|part| references(part, document)),
        _ => {}
    }
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect()
}

async fn memory() -> Bus {
    Bus::connect("memory:").await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_published_is_described_before_it_is() {
    let bus = memory().await;
    bus.publishes::<OrderPlaced>().publishes::<OrderPaid>().sends::<Text>("notes");
    let document = describe(&bus);
    assert_eq!(document["asyncapi"], "3.0.0");
    assert_eq!(document["info"], json!({ "title": "shop", "version": "1.2.3" }));
    assert!(document.get("servers").is_none(), "memory: is no server");

    let channels = &document["channels"];
    assert_eq!(keys(channels), ["events.order.placed", "money.order.paid", "notes"]);
    let exchange = json!({
        "name": "events", "type": "topic", "durable": true, "autoDelete": false, "vhost": "/",
    });
    let amqp = json!({ "is": "routingKey", "exchange": exchange, "bindingVersion": "0.3.0" });
    let message = json!({ "$ref": "#/components/messages/order.placed" });
    let channel = json!({
        "address": "order.placed",
        "messages": { "order.placed": message },
        "bindings": { "amqp": amqp },
    });
    assert_eq!(channels["events.order.placed"], channel);
    assert_eq!(channels["notes"]["bindings"]["amqp"]["is"], "queue");
    assert_eq!(channels["notes"]["bindings"]["amqp"]["queue"]["name"], "notes");
    assert_eq!(channels["money.order.paid"]["bindings"]["amqp"]["exchange"]["name"], "money");

    let operation = json!({
        "action": "send",
        "channel": { "$ref": "#/channels/events.order.placed" },
        "messages": [{ "$ref": "#/channels/events.order.placed/messages/order.placed" }],
        "bindings": { "amqp": { "deliveryMode": 2, "bindingVersion": "0.3.0" } },
    });
    assert_eq!(document["operations"]["send.events.order.placed"], operation);
    assert_eq!(document["operations"].as_object().unwrap().len(), 3);

    let messages = &document["components"]["messages"];
    let placed = json!({
        "name": "order.placed",
        "contentType": "application/json",
        "payload": { "$ref": "#/components/schemas/order.placed" },
        "bindings": { "amqp": { "messageType": "order.placed", "bindingVersion": "0.3.0" } },
    });
    assert_eq!(messages["order.placed"], placed);
    assert_eq!(messages["Text"], json!({ "name": "Text", "contentType": "text/plain" }));
    assert!(messages["order.paid"].get("payload").is_none(), "it says nothing of its schema");
}

#[tokio::test(start_paused = true)]
async fn a_message_says_what_it_looks_like() {
    let bus = memory().await;
    bus.publishes::<OrderPlaced>();
    let document = describe(&bus);
    let schema = &document["components"]["schemas"]["order.placed"];
    assert_eq!(schema["description"], "Somebody wants something.");
    assert_eq!(schema["properties"]["id"]["type"], "integer");
    assert_eq!(schema["required"], json!(["id", "to"]));
    // A schema refers to its own parts, wherever it stands.
    let address = "#/components/schemas/order.placed/definitions/Address";
    assert_eq!(schema["properties"]["to"], json!({ "$ref": address }));
    let next = &schema["definitions"]["Address"]["properties"]["next"];
    assert_eq!(next["anyOf"][0], json!({ "$ref": address }));
}

#[tokio::test(start_paused = true)]
async fn consumers_are_described_with_what_becomes_of_failures() {
    let bus = memory().await;
    let bill = async |_: OrderPlaced, _: Cx| Ok(());
    let retry = Retry::fixed(Duration::from_secs(10)).attempts(5).jitter(0.0);
    bus.consume("billing", bill).retry(retry).start().await.unwrap();
    bus.consume("billing", bill).retry(retry).start().await.unwrap();
    let show = async |_: Json, _: Cx| Ok(());
    let watch = bus.consume("watch", show).subjects(["order.*", "price.#"]);
    watch.exchange(Exchange::topic("money")).own_queue().start().await.unwrap();

    let document = describe(&bus);
    let billing = &document["operations"]["receive.billing"];
    assert_eq!(billing["action"], "receive");
    assert_eq!(billing["bindings"]["amqp"]["ack"], true);
    assert_eq!(
        billing["messages"],
        json!([{ "$ref": "#/channels/billing/messages/order.placed" }])
    );
    let more = &billing["x-leveret"];
    assert_eq!(more["bindings"]["exchange"]["name"], "events");
    assert_eq!(more["bindings"]["routingKeys"], json!(["order.placed"]));
    let retry = json!({ "attempts": 5, "triesAtOnce": 1, "longestDelayMs": 10_000 });
    assert_eq!(more["retry"], retry);
    assert_eq!(more["deadLetterQueue"], "billing.dead");

    let watch = &document["operations"]["receive.watch"];
    let bindings = &watch["x-leveret"]["bindings"];
    assert_eq!(bindings["routingKeys"], json!(["order.*", "price.#"]));
    assert_eq!(bindings["exchange"]["name"], "money");
    let channel = &document["channels"]["watch"];
    assert_eq!(channel["address"], Value::Null, "its name is made up");
    assert_eq!(channel["bindings"]["amqp"]["queue"]["exclusive"], true);
    assert_eq!(keys(&document["operations"]), ["receive.billing", "receive.watch"]);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_by_headers_says_which() {
    let bus = memory().await;
    let scans = bus.consume("scans", async |_: Text, _: Cx| Ok(()));
    let scans = scans.exchange(Exchange::headers("documents"));
    scans.headers(Match::any([("format", "pdf"), ("format.old", "ps")])).start().await.unwrap();
    let document = describe(&bus);
    let bindings = &document["operations"]["receive.scans"]["x-leveret"]["bindings"];
    assert_eq!(bindings["exchange"]["type"], "headers");
    let arguments = json!({ "x-match": "any", "format": "pdf", "format.old": "ps" });
    assert_eq!(bindings["arguments"], arguments);
}

#[tokio::test(start_paused = true)]
async fn a_service_and_who_calls_it_describe_the_same() {
    let bus = memory().await;
    let price = async |_: PriceAsk, _: Cx| Ok::<_, Fault>(Price { cents: 5 });
    bus.serve::<PriceAsk, Price, _>("pricing", price).start().await.unwrap();
    bus.call::<_, Price>("pricing", &PriceAsk { item: "carrot".to_owned() }).await.unwrap();
    let before = describe(&bus);
    bus.calls::<PriceAsk, Price>("pricing");
    let document = describe(&bus);
    assert_eq!(document, before, "it was learned already");

    assert_eq!(keys(&document["operations"]), ["receive.pricing", "send.pricing"]);
    for operation in ["receive.pricing", "send.pricing"] {
        let operation = &document["operations"][operation];
        let question = json!([{ "$ref": "#/channels/pricing/messages/price.ask" }]);
        assert_eq!(operation["messages"], question);
        let reply = &operation["reply"];
        assert_eq!(reply["channel"], json!({ "$ref": "#/channels/pricing.reply" }));
        assert_eq!(reply["address"]["location"], "$message.header#/reply-to");
        let answer = json!([{ "$ref": "#/channels/pricing.reply/messages/price" }]);
        assert_eq!(reply["messages"], answer);
    }
    assert_eq!(document["channels"]["pricing.reply"]["address"], Value::Null);
    let call = &document["operations"]["send.pricing"];
    assert_eq!(call["bindings"]["amqp"]["deliveryMode"], 1, "questions are transient");
    assert!(document["operations"]["receive.pricing"].get("x-leveret").is_none());
    assert_eq!(keys(&document["components"]["schemas"]), ["price", "price.ask"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_published_is_learned() {
    let bus = memory().await;
    let order = || OrderPaid { id: 1 };
    bus.publish(&order()).optional().await.unwrap();
    bus.publish(&order()).subject("order.paid.twice").transient().optional().await.unwrap();
    let fanout = Exchange::fanout("news");
    bus.publish(&Text::from("hello")).exchange(fanout).optional().await.unwrap();
    bus.sends::<Text>("nowhere").send("nowhere", &Text::from("hello")).await.unwrap_err();
    let document = describe(&bus);
    assert_eq!(
        keys(&document["channels"]),
        ["money.order.paid", "money.order.paid.twice", "news", "nowhere"]
    );
    let twice = &document["operations"]["send.money.order.paid.twice"];
    assert_eq!(twice["bindings"]["amqp"]["deliveryMode"], 1);
    assert_eq!(document["channels"]["news"]["address"], Value::Null);
    assert_eq!(document["channels"]["news"]["bindings"]["amqp"]["exchange"]["type"], "fanout");
}

#[tokio::test(start_paused = true)]
async fn places_without_end_are_one_that_is_not_known() {
    let bus = memory().await;
    bus.publishes::<OrderPaid>().sends::<OrderPaid>("paid");
    for id in 0..100 {
        let order = OrderPaid { id };
        bus.publish(&order).subject(format!("order.{id}.paid")).optional().await.unwrap();
    }
    let document = describe(&bus);
    assert_eq!(keys(&document["channels"]), ["money", "money.order.paid", "paid"]);
    assert_eq!(document["channels"]["money"]["address"], Value::Null);
    assert_eq!(keys(&document["operations"]), ["send.money", "send.money.order.paid", "send.paid"]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_described_by_its_inbox() {
    let bus = memory().await;
    let agents = Agents::new(&bus);
    let reply = async |_: Note, _: AgentCx| Ok(());
    agents.agent("Ada").on(reply).start().await.unwrap();
    let document = describe(&bus);
    let inbox = &document["operations"]["receive.agent_ada_queue"];
    let bindings = &inbox["x-leveret"]["bindings"];
    assert_eq!(bindings["routingKeys"], json!(["agent.ada", "agent.all"]));
    assert_eq!(document["components"]["messages"]["Note"]["contentType"], "application/json");
}
