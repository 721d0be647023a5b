//! The headers exchange: bindings that match a message's headers.
//!
//! Rules: RabbitMQ's rabbit_exchange_type_headers.

use std::collections::BTreeMap;

use leveret_model::{FieldTable, FieldValue, ShortString};

use crate::exchange::{Target, remove_some};

/// The argument of a binding that says how many headers must match.
pub(crate) const MATCH: &str = "x-match";

#[derive(Debug, Default)]
pub(crate) struct Headers {
    bindings: Vec<Binding>,
}

/// A message's headers by name: many bindings are held against them.
pub(crate) type ByName<'a> = BTreeMap<&'a [u8], &'a FieldValue>;

/// Headers by name; the last of each name counts.
pub(crate) fn by_name(headers: &FieldTable) -> ByName<'_> {
    headers.iter().map(|(name, value)| (name.as_bytes(), value)).collect()
}

#[derive(Debug)]
struct Binding {
    /// As bound, to tell it from others.
    arguments: FieldTable,
    rule: Rule,
    target: Target,
}

/// Whether one header that matches is enough, and whether headers that begin with `x-` count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    any: bool,
    with_x: bool,
}

impl Rule {
    /// `None` if it is no rule.
    fn of(arguments: &FieldTable) -> Option<Rule> {
        let word = match arguments.get(MATCH) {
            None => b"all",
            Some(FieldValue::LongString(word)) => word.as_slice(),
            Some(_) => return None,
        };
        match word {
            b"all" => Some(Rule { any: false, with_x: false }),
            b"any" => Some(Rule { any: true, with_x: false }),
            b"all-with-x" => Some(Rule { any: false, with_x: true }),
            b"any-with-x" => Some(Rule { any: true, with_x: true }),
            _ => None,
        }
    }
}

/// Whether `x-match` of a new binding makes sense; otherwise what it is, for the refusal.
pub(crate) fn check(arguments: &FieldTable) -> Result<(), String> {
    match (Rule::of(arguments), arguments.get(MATCH)) {
        (None, Some(FieldValue::LongString(word))) => {
            let word = String::from_utf8_lossy(word);
            Err(format!(
                "Invalid x-match field value <<\"{word}\">>; expected all, any, all-with-x, or \
                 any-with-x"
            ))
        }
        (None, Some(other)) => Err(format!(
            "Invalid x-match field type {} (value {}); expected longstr",
            other.type_name(),
            crate::text::value(other)
        )),
        _ => Ok(()),
    }
}

impl Headers {
    pub(crate) fn insert(&mut self, arguments: &FieldTable, target: Target) {
        // Only checked ones come here, or those of a log that was written by a newer version.
        let rule = Rule::of(arguments).unwrap_or(Rule { any: false, with_x: false });
        self.bindings.push(Binding { arguments: arguments.clone(), rule, target });
    }

    pub(crate) fn remove(&mut self, arguments: &FieldTable, target: Target) {
        let same = |each: &Binding| each.target == target && each.arguments == *arguments;
        remove_some(&mut self.bindings, 1, same);
    }

    /// Removes all bindings of a target, of which there are so many.
    pub(crate) fn remove_all(&mut self, count: usize, target: Target) {
        remove_some(&mut self.bindings, count, |each| each.target == target);
    }

    pub(crate) fn targets(&self) -> Vec<Target> {
        self.bindings.iter().map(|binding| binding.target).collect()
    }

    /// Adds what is bound so that these headers match.
    pub(crate) fn matches(&self, headers: &ByName<'_>, targets: &mut Vec<Target>) {
        let matching = self.bindings.iter().filter(|binding| binding.matches(headers));
        targets.extend(matching.map(|binding| binding.target));
    }
}

impl Binding {
    fn matches(&self, headers: &ByName<'_>) -> bool {
        let counts = |name: &ShortString| {
            let bytes = name.as_bytes();
            *name != MATCH && (self.rule.with_x || !bytes.starts_with(b"x-"))
        };
        let mut wanted = self.arguments.iter().filter(|(name, _)| counts(name));
        let matches = |(name, value): &(ShortString, FieldValue)| {
            headers.get(name.as_bytes()).is_some_and(|header| same(value, header))
        };
        match self.rule.any {
            true => wanted.any(matches),
            false => wanted.all(matches),
        }
    }
}

/// Whether a header is what a binding wants: no value wants it to be there at all, and integers
/// and floats are the same whatever their width, as are text and bytes.
fn same(wanted: &FieldValue, header: &FieldValue) -> bool {
    match (wanted, header) {
        (FieldValue::Void, _) => true,
        (FieldValue::LongString(a), FieldValue::Binary(b))
        | (FieldValue::Binary(a), FieldValue::LongString(b)) => a == b,
        (FieldValue::Float(a), FieldValue::Double(b))
        | (FieldValue::Double(b), FieldValue::Float(a)) => f64::from(*a) == *b,
        (a, b) => match (a.as_integer(), b.as_integer()) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_model::QueueId;

    fn table(fields: &[(&'static str, FieldValue)]) -> FieldTable {
        let mut table = FieldTable::new();
        for (name, value) in fields {
            table.insert(ShortString::from_static(name), value.clone());
        }
        table
    }

    fn matches(binding: &[(&'static str, FieldValue)], headers: &FieldTable) -> bool {
        let mut router = Headers::default();
        router.insert(&table(binding), Target::Queue(QueueId(1)));
        let mut targets = Vec::new();
        router.matches(&by_name(headers), &mut targets);
        !targets.is_empty()
    }

    #[test]
    fn rules_of_rabbitmq() {
        let headers = table(&[
            ("a", 1_i64.into()),
            ("b", "two".into()),
            ("f", 1.0.into()),
            ("x-c", true.into()),
        ]);
        let cases: &[(&[(&str, FieldValue)], bool)] = &[
            (&[], true),
            (&[("x-match", "any".into())], false),
            (&[("a", FieldValue::U8(1))], true),
            (&[("a", FieldValue::Double(1.0))], false),
            (&[("f", 1_i64.into())], false),
            (&[("a", 2_i64.into())], false),
            (&[("a", FieldValue::Void), ("b", "two".into())], true),
            (&[("a", 1_i64.into()), ("b", "three".into())], false),
            (&[("x-match", "any".into()), ("a", 7_i64.into()), ("b", "two".into())], true),
            (&[("x-match", "any".into()), ("z", FieldValue::Void)], false),
            // Headers beginning with x- count only where the rule says so.
            (&[("x-c", false.into())], true),
            (&[("x-match", "all-with-x".into()), ("x-c", false.into())], false),
            (&[("x-match", "any".into()), ("x-c", true.into())], false),
            (&[("x-match", "any-with-x".into()), ("x-c", true.into())], true),
        ];
        for (binding, expected) in cases {
            assert_eq!(matches(binding, &headers), *expected, "{binding:?}");
        }
    }
}
