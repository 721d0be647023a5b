//! Field tables as JSON, in RabbitMQ's way (`rabbit_misc:amqp_table`).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use leveret_model::{FieldTable, FieldValue};
use serde_json::{Map, Value};

/// How long a line of base64 is, in bytes (MIME).
const BASE64_LINE: usize = 76;

/// The table as an object. Of values of the same name, the last.
pub(crate) fn json(table: &FieldTable) -> Map<String, Value> {
    let entry = |(name, value): &(_, _)| (readable(AsRef::as_ref(name)), field(value));
    table.iter().map(entry).collect()
}

fn field(value: &FieldValue) -> Value {
    match value {
        FieldValue::LongString(bytes) | FieldValue::Binary(bytes) => readable(bytes).into(),
        FieldValue::Bool(value) => (*value).into(),
        FieldValue::I8(value) => (*value).into(),
        FieldValue::U8(value) => (*value).into(),
        FieldValue::I16(value) => (*value).into(),
        FieldValue::U16(value) => (*value).into(),
        FieldValue::I32(value) => (*value).into(),
        FieldValue::U32(value) => (*value).into(),
        FieldValue::I64(value) => (*value).into(),
        // JSON has no number for what is not finite; this makes it null.
        FieldValue::Float(value) => (*value).into(),
        FieldValue::Double(value) => (*value).into(),
        FieldValue::Decimal { scale, value } => decimal(*scale, *value),
        FieldValue::Timestamp(value) => (*value).into(),
        FieldValue::Table(table) => Value::Object(json(table)),
        FieldValue::Array(values) => values.iter().map(field).collect(),
        FieldValue::Void => Value::Null,
    }
}

/// The number it is. RabbitMQ shows 4.25 as 2.425: the scale, a point and the digits.
fn decimal(scale: u8, value: u32) -> Value {
    (f64::from(value) / 10_f64.powi(scale.into())).into()
}

/// Text as it is, and RabbitMQ's words for other bytes.
fn readable(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    let encoded = BASE64_STANDARD.encode(bytes);
    let mut text = String::from("Not UTF-8, base64 is: ");
    for (index, letter) in encoded.chars().enumerate() {
        if index > 0 && index % BASE64_LINE == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_model::ShortString;
    use serde_json::json;

    fn name(name: &'static str) -> ShortString {
        ShortString::from_static(name)
    }

    #[test]
    fn every_type_has_its_json() {
        let inner: FieldTable = [(name("deep"), true.into())].into_iter().collect();
        let values = [
            (FieldValue::from("text"), json!("text")),
            (FieldValue::Binary(b"bytes".to_vec()), json!("bytes")),
            (true.into(), json!(true)),
            (FieldValue::I8(-8), json!(-8)),
            (FieldValue::U8(200), json!(200)),
            (FieldValue::I16(-300), json!(-300)),
            (FieldValue::U16(60_000), json!(60_000)),
            (86_400_000.into(), json!(86_400_000)),
            (FieldValue::U32(u32::MAX), json!(u32::MAX)),
            (i64::MIN.into(), json!(i64::MIN)),
            (FieldValue::Float(0.5), json!(0.5)),
            (2.25.into(), json!(2.25)),
            (f64::NAN.into(), json!(null)),
            (FieldValue::Decimal { scale: 2, value: 425 }, json!(4.25)),
            (FieldValue::Decimal { scale: 255, value: u32::MAX }, json!(0.0)),
            (FieldValue::Timestamp(u64::MAX), json!(u64::MAX)),
            (inner.into(), json!({"deep": true})),
            (vec![1.into(), "two".into()].into(), json!([1, "two"])),
            (FieldValue::Void, json!(null)),
        ];
        for (value, expected) in values {
            let close = |a: &Value, b: &Value| match (a.as_f64(), b.as_f64()) {
                (Some(a), Some(b)) => (a - b).abs() < 1e-9,
                _ => a == b,
            };
            let got = field(&value);
            assert!(close(&got, &expected), "{value:?}: {got} and not {expected}");
        }
    }

    #[test]
    fn the_last_of_a_name_counts() {
        let table: FieldTable =
            [(name("x"), 1.into()), (name("x"), 2.into())].into_iter().collect();
        assert_eq!(Value::Object(json(&table)), json!({"x": 2}));
    }

    #[test]
    fn bytes_that_are_no_text_are_shown_in_lines_of_base64() {
        assert_eq!(readable(&[0xff]), "Not UTF-8, base64 is: /w==");
        let long = readable(&[0xff; 58]);
        assert_eq!(long, format!("Not UTF-8, base64 is: {}/\n/w==", "/".repeat(75)));
    }
}
