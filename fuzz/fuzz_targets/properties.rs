//! Property lists: what is read means the same when written and read again, and a scan agrees.
#![no_main]

use leveret_model::properties::{Properties, PropertiesError, expiration, scan};
use leveret_model::{FieldTable, ShortString};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = expiration(data).map_err(|error| error.to_string());
    let scanned = scan(data);
    let properties = match Properties::decode(data) {
        Ok(properties) => properties,
        // A scan does not look into the headers.
        Err(PropertiesError::Headers(_)) => return,
        Err(error) => return assert_eq!(scanned, Err(error)),
    };
    let scanned = scanned.expect("what can be decoded can be scanned");
    let bytes = ShortString::as_bytes;
    assert_eq!(scanned.delivery_mode, properties.delivery_mode);
    assert_eq!(scanned.priority, properties.priority);
    assert_eq!(scanned.reply_to, properties.reply_to.as_ref().map(bytes));
    assert_eq!(scanned.expiration, properties.expiration.as_ref().map(bytes));
    assert_eq!(scanned.user_id, properties.user_id.as_ref().map(bytes));
    let headers = scanned.headers.map(FieldTable::decode_content).transpose();
    assert_eq!(headers.as_ref(), Ok(&properties.headers));
    let mut again = Vec::new();
    properties.encode(&mut again);
    assert_eq!(again.len(), data.len());
    assert_eq!(Properties::decode(&again), Ok(properties));
});
