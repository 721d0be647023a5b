use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

pub(crate) fn short_strings() -> impl Strategy<Value = ShortString> {
    prop_oneof![
        4 => vec(any::<u8>(), 0..12),
        1 => vec(any::<u8>(), 255),
    ]
    .prop_map(|bytes| ShortString::try_from(bytes.as_slice()).unwrap())
}

pub(crate) fn tables() -> impl Strategy<Value = FieldTable> {
    vec((short_strings(), value()), 0..6).prop_map(FieldTable::from_iter)
}

fn value() -> impl Strategy<Value = FieldValue> {
    use FieldValue as V;
    let leaf = prop_oneof![
        vec(any::<u8>(), 0..20).prop_map(V::LongString),
        vec(any::<u8>(), 0..20).prop_map(V::Binary),
        any::<bool>().prop_map(V::Bool),
        any::<i8>().prop_map(V::I8),
        any::<u8>().prop_map(V::U8),
        any::<i16>().prop_map(V::I16),
        any::<u16>().prop_map(V::U16),
        any::<i32>().prop_map(V::I32),
        any::<u32>().prop_map(V::U32),
        any::<i64>().prop_map(V::I64),
        any::<u32>().prop_map(|bits| V::Float(f32::from_bits(bits))),
        any::<u64>().prop_map(|bits| V::Double(f64::from_bits(bits))),
        any::<(u8, u32)>().prop_map(|(scale, value)| V::Decimal { scale, value }),
        any::<u64>().prop_map(V::Timestamp),
        Just(V::Void),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(V::Array),
            vec((short_strings(), inner), 0..5)
                .prop_map(|entries| V::Table(entries.into_iter().collect())),
        ]
    })
}

fn encoded(table: &FieldTable) -> Vec<u8> {
    let mut out = Vec::new();
    table.encode(&mut out);
    out
}

/// The value of a table whose only name is `k`.
fn decode_one(tag_and_value: &[u8]) -> Result<FieldValue, TableError> {
    let table = FieldTable::decode_content(&[b"\x01k", tag_and_value].concat())?;
    assert_eq!(table.len(), 1);
    Ok(table.get("k").unwrap().clone())
}

#[test]
fn every_type_has_its_tag_name_and_bytes() {
    use FieldValue as V;
    let cases: [(&[u8], FieldValue, &str); 17] = [
        (b"S\0\0\0\x02hi", V::LongString(b"hi".to_vec()), "longstr"),
        (b"x\0\0\0\x01\xff", V::Binary(vec![0xff]), "binary"),
        (b"t\x01", V::Bool(true), "bool"),
        (b"b\xff", V::I8(-1), "byte"),
        (b"B\xff", V::U8(255), "unsignedbyte"),
        (b"s\xff\xfe", V::I16(-2), "short"),
        (b"u\xff\xfe", V::U16(65534), "unsignedshort"),
        (b"I\xff\xff\xff\xfd", V::I32(-3), "signedint"),
        (b"i\0\0\x01\0", V::U32(256), "unsignedint"),
        (b"l\xff\xff\xff\xff\xff\xff\xff\xfc", V::I64(-4), "long"),
        (b"f\x3f\x80\0\0", V::Float(1.0), "float"),
        (b"d\x3f\xf0\0\0\0\0\0\0", V::Double(1.0), "double"),
        (b"D\x02\0\0\x01\x3a", V::Decimal { scale: 2, value: 314 }, "decimal"),
        (b"T\0\0\0\0\0\0\0\x07", V::Timestamp(7), "timestamp"),
        (b"F\0\0\0\x03\x01aV", V::Table([(name("a"), V::Void)].into_iter().collect()), "table"),
        (b"A\0\0\0\x03t\0V", V::Array(vec![V::Bool(false), V::Void]), "array"),
        (b"V", V::Void, "void"),
    ];
    for (bytes, value, name) in cases {
        assert_eq!(decode_one(bytes), Ok(value.clone()), "{name}");
        assert_eq!(value.type_name(), name);
        let mut out = Vec::new();
        value.encode(&mut out);
        assert_eq!(out, bytes, "{name}");
    }
}

fn name(text: &'static str) -> ShortString {
    ShortString::from_static(text)
}

#[test]
fn reads_more_than_it_writes() {
    assert_eq!(decode_one(b"L\0\0\0\0\0\0\0\x01"), Ok(FieldValue::I64(1)));
    assert_eq!(decode_one(b"t\x02"), Ok(FieldValue::Bool(true)));
}

#[test]
fn refuses_the_tags_rabbitmq_does_not_use() {
    for tag in (0..=255).filter(|tag| !b"SxtbBsuIilLfdDTFAV".contains(tag)) {
        let bytes = [&[tag][..], &[0; 16]].concat();
        assert_eq!(decode_one(&bytes), Err(TableError::UnknownType(tag)));
    }
    let text = TableError::UnknownType(b'U').to_string();
    assert_eq!(text, "unknown field type 0x55");
}

#[test]
fn a_length_is_only_believed_with_its_bytes() {
    let claims: [&[u8]; 4] = [
        b"\x01kS\xff\xff\xff\xffa",
        b"\x01kF\xff\xff\xff\xff\x01",
        b"\x01kA\xff\xff\xff\xffV",
        b"\x05k",
    ];
    for claim in claims {
        let result = FieldTable::decode_content(claim);
        assert!(matches!(result, Err(TableError::Truncated { left: 1, .. })), "{result:?}");
    }
    let mut short: &[u8] = b"\0\0\0\x05\x01kV";
    let error = FieldTable::decode(&mut short).unwrap_err();
    assert_eq!(error.to_string(), "field table ends early: 5 bytes needed, 3 left");
}

#[test]
fn nests_as_deep_as_the_limit_and_no_deeper() {
    let nested = |depth: usize, wrap: fn(FieldValue) -> FieldValue| {
        let value = (1..depth).fold(FieldValue::Void, |value, _| wrap(value));
        encoded(&FieldTable::from_iter([(name("k"), value)]))
    };
    let wraps: [fn(FieldValue) -> FieldValue; 2] = [
        |value| FieldValue::Array(vec![value]),
        |value| FieldValue::Table([(name("k"), value)].into_iter().collect()),
    ];
    for wrap in wraps {
        assert!(FieldTable::decode(&mut &nested(TABLE_DEPTH_MAX, wrap)[..]).is_ok());
        let deeper = nested(TABLE_DEPTH_MAX + 1, wrap);
        assert_eq!(FieldTable::decode(&mut &deeper[..]), Err(TableError::TooDeep));
    }
}

#[test]
fn finds_sets_and_removes_by_name() {
    let mut table = FieldTable::new();
    table.insert(name("a"), 1);
    table.insert(name("b"), "text");
    table.insert(name("a"), true);
    assert_eq!(table.len(), 2);
    assert_eq!(table.get("a").and_then(FieldValue::as_bool), Some(true));
    assert_eq!(table.get(&b"b"[..]).and_then(FieldValue::as_long_string), Some(&b"text"[..]));
    assert_eq!(table.get(&name("c")), None);
    assert_eq!(table.remove("a"), Some(FieldValue::Bool(true)));
    assert_eq!(table.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_name_sent_twice_is_kept_twice_and_the_first_is_found() {
    let content = b"\x01at\0\x01at\x01";
    let table = FieldTable::decode_content(content).unwrap();
    assert_eq!(table.get("a"), Some(&FieldValue::Bool(false)));
    let mut out = Vec::new();
    table.encode_content(&mut out);
    assert_eq!(out, content);
}

#[test]
fn integers_of_any_width_are_integers() {
    for value in [FieldValue::I8(7), FieldValue::U8(7), FieldValue::I16(7), FieldValue::U16(7)] {
        assert_eq!(value.as_integer(), Some(7));
    }
    for value in [FieldValue::I32(7), FieldValue::U32(7), FieldValue::I64(7)] {
        assert_eq!(value.as_integer(), Some(7));
    }
    assert_eq!(FieldValue::Timestamp(7).as_integer(), None);
    assert_eq!(FieldValue::Double(7.0).as_integer(), None);
}

/// Memory a value holds beside itself, in bytes.
fn heap(value: &FieldValue) -> usize {
    match value {
        FieldValue::LongString(bytes) | FieldValue::Binary(bytes) => bytes.capacity(),
        FieldValue::Array(values) => {
            let own = values.capacity() * size_of::<FieldValue>();
            own + values.iter().map(heap).sum::<usize>()
        }
        FieldValue::Table(table) => table_heap(table),
        _ => 0,
    }
}

fn table_heap(table: &FieldTable) -> usize {
    let own = table.0.capacity() * size_of::<(ShortString, FieldValue)>();
    // A shared string keeps two counts beside its bytes.
    own + table.iter().map(|(name, value)| name.len() + 16 + heap(value)).sum::<usize>()
}

proptest! {
    #[test]
    fn comes_back_from_its_bytes(table in tables(), behind in vec(any::<u8>(), 0..4)) {
        let bytes = [encoded(&table), behind.clone()].concat();
        let mut input = &bytes[..];
        prop_assert_eq!(FieldTable::decode(&mut input), Ok(table));
        prop_assert_eq!(input, behind);
    }

    #[test]
    fn a_check_accepts_and_refuses_what_decoding_does(
        table in tables(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut content = Vec::new();
        table.encode_content(&mut content);
        same_verdict(&content);
        for (index, byte) in changes {
            if !content.is_empty() {
                let index = index.index(content.len());
                content[index] = byte;
                same_verdict(&content);
            }
        }
        same_verdict(&content[..cut.index(content.len() + 1)]);
    }

    #[test]
    fn a_check_of_any_bytes_ends_as_decoding_does(bytes in table_likes()) {
        same_verdict(&bytes);
    }

    #[test]
    fn every_truncation_is_an_error(table in tables()) {
        let bytes = encoded(&table);
        for len in 0..bytes.len() {
            prop_assert!(FieldTable::decode(&mut &bytes[..len]).is_err());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_within_memory(bytes in table_likes()) {
        if let Ok(table) = FieldTable::decode_content(&bytes) {
            // A value of one byte takes 32 in an array whose room doubles from four.
            prop_assert!(table_heap(&table) <= 192 + 128 * bytes.len(), "{table:?}");
            let mut again = Vec::new();
            table.encode_content(&mut again);
            prop_assert_eq!(FieldTable::decode_content(&again), Ok(table));
        }
    }
}

/// A check must find the same faults as decoding, and the same names.
fn same_verdict(content: &[u8]) {
    let names: [&[u8]; 2] = [b"\x01", b"CC"];
    let has = |table: FieldTable| names.iter().any(|name| table.get(*name).is_some());
    let decoded = FieldTable::decode_content(content);
    assert_eq!(FieldTable::check_content(content, &names), decoded.map(has), "{content:?}");
}

#[test]
fn a_check_looks_for_names_at_the_top_only() {
    let inner = FieldTable::from_iter([(name("CC"), FieldValue::Void)]);
    let names: [&[u8]; 2] = [b"CC", b"BCC"];
    let check = |table: FieldTable| {
        let mut content = Vec::new();
        table.encode_content(&mut content);
        FieldTable::check_content(&content, &names).unwrap()
    };
    assert!(!check(FieldTable::new()));
    assert!(!check(FieldTable::from_iter([(name("a"), FieldValue::Table(inner.clone()))])));
    assert!(check(inner));
    assert!(check(FieldTable::from_iter([
        (name("a"), FieldValue::I32(1)),
        (name("BCC"), FieldValue::Array(Vec::new())),
    ])));
}

#[test]
fn a_check_nests_as_deep_as_decoding() {
    for depth in [TABLE_DEPTH_MAX - 1, TABLE_DEPTH_MAX, TABLE_DEPTH_MAX + 1] {
        for table in [false, true] {
            let value = (1..depth).fold(FieldValue::Void, |value, _| match table {
                true => FieldValue::Table([(name("k"), value)].into_iter().collect()),
                false => FieldValue::Array(vec![value]),
            });
            let mut content = Vec::new();
            FieldTable::from_iter([(name("k"), value)]).encode_content(&mut content);
            same_verdict(&content);
        }
    }
}

/// Bytes that look enough like a table to get past the first tag.
fn table_likes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => 0..4_u8,
        3 => prop::sample::select(b"SxtbBsuIilLfdDTFAV".as_slice()),
        1 => any::<u8>(),
    ];
    vec(byte, 0..80)
}
