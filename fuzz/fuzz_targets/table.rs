//! Field tables: what is read means the same when written and read again, and a check agrees.
#![no_main]

use leveret_model::FieldTable;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let decoded = FieldTable::decode_content(data);
    let has = |table: &FieldTable| table.get("CC").is_some();
    let checked = FieldTable::check_content(data, &[b"CC"]);
    assert_eq!(checked, decoded.as_ref().map(has).map_err(|error| *error));
    let Ok(table) = decoded else { return };
    let mut again = Vec::new();
    table.encode(&mut again);
    assert_eq!(again.len(), 4 + data.len());
    let mut input = &again[..];
    assert_eq!(FieldTable::decode(&mut input), Ok(table));
    assert!(input.is_empty());
});
