//! Values as RabbitMQ's error texts have them: as Erlang terms.

use leveret_model::FieldValue;

/// The value of an argument.
pub(crate) fn value(value: &FieldValue) -> String {
    match value {
        FieldValue::LongString(bytes) | FieldValue::Binary(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        FieldValue::Bool(value) => value.to_string(),
        FieldValue::Float(value) => value.to_string(),
        FieldValue::Double(value) => value.to_string(),
        FieldValue::Decimal { scale, value } => format!("{{{scale},{value}}}"),
        FieldValue::Timestamp(value) => value.to_string(),
        FieldValue::Table(_) | FieldValue::Array(_) => "[...]".to_owned(),
        FieldValue::Void => "undefined".to_owned(),
        integer => integer.as_integer().map_or_else(String::new, |value| value.to_string()),
    }
}
