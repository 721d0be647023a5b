//! Channels closed from both sides.

use leveret_amqp_wire::method::{ChannelClose, ChannelCloseOk, ChannelOpenOk};

use super::*;

#[test]
fn a_client_that_closes_behind_a_fault_hears_of_both() {
    let mut client = Client::new();
    let mut bytes = message(1, b"\x01\0\x01x", b"expires never");
    bytes.extend(framed(1, ChannelClose::default()));
    let told = client.send(&bytes);
    let [Told::Method(Method::ChannelClose(close)), Told::Method(Method::ChannelCloseOk(_))] =
        &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!((close.reply_code, close.class_id, close.method_id), (406, 60, 40));
    // The number is free when the client has agreed.
    assert_eq!(client.say(1, ChannelCloseOk {}), []);
    let opened = ChannelOpenOk::default().into();
    assert_eq!(client.say(1, ChannelOpen::default()), [Told::Method(opened)]);
}

#[test]
fn a_fault_alone_is_told_once() {
    let mut client = Client::new();
    let told = client.send(&message(1, b"\x01\0\x01x", b"expires never"));
    assert!(matches!(told[..], [Told::Method(Method::ChannelClose(_))]), "{told:?}");
    // What the client had sent before it heard of it means nothing.
    assert_eq!(client.send(&message(1, b"\0\0", b"late")), []);
    let told = client.say(1, ChannelClose::default());
    assert_eq!(told, [Told::Method(ChannelCloseOk {}.into())]);
}
