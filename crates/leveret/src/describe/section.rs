//! Sections of the document: what has an id there.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Objects by their ids.
#[derive(Default)]
pub(super) struct Section {
    objects: BTreeMap<String, Value>,
}

impl Section {
    /// Takes an object in, and gives its id: the wanted one with what no id may have made `_`, and
    /// a number behind it if another object is called so.
    pub(super) fn add(&mut self, wanted: &str, object: Value) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let wanted: String = wanted.chars().map(|c| if plain(c) { c } else { '_' }).collect();
        let (mut id, mut number) = (wanted.clone(), 1);
        while self.objects.get(&id).is_some_and(|known| *known != object) {
            number += 1;
            id = format!("{wanted}_{number}");
        }
        self.objects.entry(id.clone()).or_insert(object);
        id
    }

    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The section, each object finished by `finish`, which is told its id.
    pub(super) fn finish(self, finish: impl Fn(&str, &mut Value)) -> Value {
        let finished = self.objects.into_iter().map(|(id, mut object)| {
            finish(&id, &mut object);
            (id, object)
        });
        Value::Object(finished.collect::<Map<_, _>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_has_another_id() {
        let mut section = Section::default();
        assert_eq!(section.add("a b", 1.into()), "a_b");
        assert_eq!(section.add("a/b", 2.into()), "a_b_2");
        assert_eq!(section.add("a?b", 2.into()), "a_b_2");
        assert_eq!(section.add("a b", 1.into()), "a_b");
        let finished = section.finish(|_, object| *object = Value::Null);
        assert_eq!(finished, serde_json::json!({"a_b": null, "a_b_2": null}));
    }
}
