//! Field tables: what is read means the same when written and read again.
#![no_main]

use leveret_model::FieldTable;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(table) = FieldTable::decode_content(data) else { return };
    let mut again = Vec::new();
    table.encode(&mut again);
    assert_eq!(again.len(), 4 + data.len());
    let mut input = &again[..];
    assert_eq!(FieldTable::decode(&mut input), Ok(table));
    assert!(input.is_empty());
});
