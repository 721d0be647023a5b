//! What programs with the toolkit say of themselves, read by AsyncAPI's own parser.

use crate::broker::Broker;
use crate::node;
use crate::program::Program;
use crate::tools::tests_dir;
use leveret::{AgentCx, Agents, Bus, Cx, Exchange, Fault, Message, Note, Text, schemars};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fs;
use std::process::Command;

/// Where something is to go.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Address {
    street: String,
    or_else: Option<Box<Address>>,
}

/// What there may be.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Payment {
    Invoice,
    Card { number: String, expires: (u8, u16) },
}

#[derive(Serialize, Deserialize, JsonSchema, Message)]
#[message(name = "order.placed", schema)]
struct OrderPlaced {
    id: u64,
    to: Address,
    payment: Payment,
}

/// A message that contains itself, and says so where a schema begins.
#[derive(Serialize, Deserialize, JsonSchema, Message)]
#[message(name = "parcel/sent", exchange = "describe parcels", schema)]
struct ParcelSent {
    within: Vec<ParcelSent>,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "price.ask")]
struct PriceAsk {
    item: String,
}

#[derive(Serialize, Deserialize, JsonSchema, Message)]
#[message(name = "price", schema)]
struct Price {
    cents: u64,
}

/// A program that does all there is.
async fn program(url: &str) -> String {
    let bus = Bus::connect(url).await.expect("a broker");
    bus.publishes::<OrderPlaced>().publishes::<ParcelSent>().publishes::<Text>();
    bus.sends::<Text>("describe notes").calls::<PriceAsk, Price>("describe.pricing");
    let placed = async |_: OrderPlaced, _: Cx| Ok(());
    bus.consume("describe.billing", placed).start().await.expect("a consumer");
    let show = async |_: Text, _: Cx| Ok(());
    let watch = bus.consume("describe.watch", show).subjects(["order.*", "parcel.#"]);
    watch.exchange(Exchange::topic("describe parcels")).own_queue().start().await.expect("another");
    let price = async |_: PriceAsk, _: Cx| Ok::<_, Fault>(Price { cents: 5 });
    bus.serve::<PriceAsk, Price, _>("describe.pricing", price).start().await.expect("a service");
    let listen = async |_: Note, _: AgentCx| Ok(());
    Agents::new(&bus).agent("Describer").on(listen).start().await.expect("an agent");
    for number in 0..20 {
        let text = Text::from("hello");
        bus.publish(&text).subject(format!("n.{number}")).optional().await.expect("a confirm");
    }
    let description = bus.describe("Shop", "1.2.3").to_json();
    bus.close().await;
    description
}

#[tokio::test]
async fn a_description_is_asyncapi() {
    let test = "a_description_is_asyncapi";
    let Some(modules) = node::modules(test) else { return };
    let broker = Broker::start();
    let home = tempfile::tempdir().expect("make a directory");
    let file = home.path().join("asyncapi.json");
    fs::write(&file, program(broker.url()).await).expect("write the description");
    let mut parser = Command::new("node");
    parser.arg(tests_dir("node").join("check_asyncapi.js")).arg(&file).env("NODE_PATH", modules);
    let found = Program::start(parser).finish();
    let expected = [
        "receive receive.agent_describer_queue Note:application/json",
        "receive receive.agents.roll_call Raw:application/octet-stream",
        "receive receive.describe.billing order.placed:application/json",
        "receive receive.describe.pricing price.ask:application/json",
        "receive receive.describe.watch Text:text/plain",
        "send send.describe.pricing price.ask:application/json",
        "send send.describe_notes Text:text/plain",
        "send send.describe_parcels.parcel_sent parcel/sent:application/json",
        "send send.events Text:text/plain",
        "send send.events.order.placed order.placed:application/json",
    ];
    assert_eq!(found, expected);
}
