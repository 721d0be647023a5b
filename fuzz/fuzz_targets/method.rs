//! Methods: what is read means the same when written and read again.
#![no_main]

use leveret_amqp_wire::{Method, PublishView, publish};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let decoded = Method::decode(data);
    if publish::is_publish(data) {
        let view = PublishView::parse(data);
        assert_eq!(view.is_ok(), decoded.is_ok());
        if let (Ok(view), Ok(Method::BasicPublish(method))) = (view, &decoded) {
            assert_eq!(view.exchange(), method.exchange.as_bytes());
            assert_eq!(view.routing_key(), method.routing_key.as_bytes());
            assert_eq!((view.mandatory, view.immediate), (method.mandatory, method.immediate));
        }
    }
    let Ok(method) = decoded else { return };
    let mut again = Vec::new();
    method.encode(&mut again);
    assert_eq!(again.len(), data.len());
    assert_eq!(Method::decode(&again), Ok(method));
});
