//! Exchanges, and what is bound to them.

use super::{Answer, Letter, Plain, Who};

#[derive(Clone, Debug)]
pub(in crate::tests) struct ExchangeSpec {
    pub(in crate::tests) name: &'static str,
    pub(in crate::tests) kind: &'static str,
    pub(in crate::tests) durable: bool,
    pub(in crate::tests) auto_delete: bool,
    pub(in crate::tests) internal: bool,
    pub(in crate::tests) alternate: Option<&'static str>,
}

/// The far end of a binding.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::tests) enum End {
    Queue(u64),
    Exchange(String),
}

#[derive(Clone, Debug, PartialEq)]
pub(in crate::tests) struct Bound {
    pub(in crate::tests) source: String,
    pub(in crate::tests) end: End,
    key: String,
    /// Which of [`MATCHES`] its arguments are.
    arguments: usize,
}

/// Arguments of bindings: names and texts.
pub(in crate::tests) const MATCHES: [&[(&str, &str)]; 6] = [
    &[],
    &[("x-match", "all"), ("h", "1"), ("x-g", "is ignored")],
    &[("x-match", "any"), ("h", "1"), ("g", "2")],
    &[("x-match", "any")],
    &[("x-match", "all-with-x"), ("x-first-death-reason", "expired")],
    &[("x-match", "any-with-x"), ("x-last-death-queue", "a"), ("h", "1")],
];

pub(super) fn predeclared() -> impl Iterator<Item = ExchangeSpec> {
    let all = [
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.headers", "headers"),
        ("amq.topic", "topic"),
    ];
    all.into_iter().map(|(name, kind)| ExchangeSpec {
        name,
        kind,
        durable: true,
        auto_delete: false,
        internal: false,
        alternate: None,
    })
}

impl Plain {
    pub(in crate::tests) fn declare_exchange(&mut self, who: Who, spec: &ExchangeSpec) -> Answer {
        self.exchanges.entry(spec.name.to_owned()).or_insert_with(|| spec.clone());
        self.tell(who.0, "ExchangeDeclared");
        Ok(())
    }

    pub(in crate::tests) fn delete_exchange(
        &mut self,
        who: Who,
        name: &str,
        if_unused: bool,
    ) -> Answer {
        if if_unused && self.bindings.iter().any(|bound| bound.source == name) {
            return Err(format!("exchange '{name}' in vhost '/' in use"));
        }
        self.drop_exchange(name);
        self.tell(who.0, "ExchangeDeleted");
        Ok(())
    }

    fn drop_exchange(&mut self, name: &str) {
        if self.exchanges.remove(name).is_some() {
            self.bindings.retain(|bound| bound.source != name);
            self.drop_bindings(|bound| bound.end == End::Exchange(name.to_owned()));
        }
    }

    /// An auto-delete exchange goes with the last binding that leads from it.
    pub(super) fn drop_bindings(&mut self, which: impl Fn(&Bound) -> bool) {
        let dropped: Vec<Bound> =
            self.bindings.iter().filter(|each| which(each)).cloned().collect();
        self.bindings.retain(|each| !which(each));
        for Bound { source, .. } in dropped {
            let left = self.bindings.iter().any(|bound| bound.source == source);
            if !left && self.exchanges.get(&source).is_some_and(|source| source.auto_delete) {
                self.drop_exchange(&source);
            }
        }
    }

    pub(in crate::tests) fn bind(
        &mut self,
        who: Who,
        (source, to_queue, end): (&str, bool, &str),
        key: &str,
        arguments: usize,
    ) -> Answer {
        self.has_exchange(source)?;
        let end = self.find_end(who, to_queue, end)?;
        let bound = Bound { source: source.to_owned(), end, key: key.to_owned(), arguments };
        if !self.bindings.contains(&bound) {
            self.bindings.push(bound);
        }
        self.tell(who.0, if to_queue { "Bound" } else { "ExchangeBound" });
        Ok(())
    }

    pub(in crate::tests) fn unbind(
        &mut self,
        who: Who,
        (source, to_queue, end): (&str, bool, &str),
        key: &str,
        arguments: usize,
    ) -> Answer {
        match self.find_end(who, to_queue, end) {
            Err(refusal) if refusal.starts_with("no ") => {}
            found => {
                let (source, key) = (source.to_owned(), key.to_owned());
                let bound = Bound { source, end: found?, key, arguments };
                self.drop_bindings(|each| *each == bound);
            }
        }
        self.tell(who.0, if to_queue { "Unbound" } else { "ExchangeUnbound" });
        Ok(())
    }

    pub(in crate::tests) fn has_exchange(&self, name: &str) -> Answer {
        match self.exchanges.contains_key(name) {
            true => Ok(()),
            false => Err(format!("no exchange '{name}' in vhost '/'")),
        }
    }

    fn find_end(&self, who: Who, queue: bool, name: &str) -> Result<End, String> {
        if queue {
            return self.find(who, name).map(End::Queue);
        }
        self.has_exchange(name).map(|()| End::Exchange(name.to_owned()))
    }

    /// Where a client's message goes.
    pub(super) fn route_for_client(&self, letter: &Letter) -> Result<Vec<u64>, String> {
        let name = &letter.exchange;
        if self.exchanges.get(name).is_some_and(|exchange| exchange.internal) {
            return Err(format!("cannot publish to internal exchange '{name}' in vhost '/'"));
        }
        if !name.is_empty() {
            self.has_exchange(name)?;
        }
        Ok(self.route(letter))
    }

    /// The queues that a message goes to.
    pub(super) fn route(&self, letter: &Letter) -> Vec<u64> {
        let keys = letter.keys();
        let mut queues: Vec<u64> = Vec::new();
        if letter.exchange.is_empty() {
            queues.extend(keys.iter().filter_map(|key| self.named(key)));
        }
        let mut seen = vec![letter.exchange.clone()];
        let mut next = 0;
        while let Some(name) = seen.get(next).cloned() {
            next += 1;
            let Some(exchange) = self.exchanges.get(&name) else { continue };
            let matching = self.bindings.iter().filter(|bound| {
                bound.source == name && matches(exchange.kind, bound, &keys, letter)
            });
            let mut ends: Vec<End> = matching.map(|bound| bound.end.clone()).collect();
            if ends.is_empty() {
                ends.extend(exchange.alternate.map(|name| End::Exchange(name.to_owned())));
            }
            for end in ends {
                match end {
                    End::Queue(id) => queues.push(id),
                    End::Exchange(name) if !seen.contains(&name) => seen.push(name),
                    End::Exchange(_) => {}
                }
            }
        }
        queues.sort_unstable();
        queues.dedup();
        queues
    }
}

fn matches(kind: &str, bound: &Bound, keys: &[String], letter: &Letter) -> bool {
    match kind {
        "fanout" => true,
        "direct" => keys.contains(&bound.key),
        // All keys are single words here.
        "topic" => matches!(&*bound.key, "*" | "#") || keys.contains(&bound.key),
        "headers" => {
            let arguments = MATCHES[bound.arguments];
            let rule = arguments.iter().find(|(name, _)| *name == "x-match");
            let rule = rule.map_or("all", |(_, rule)| rule);
            let counts = |name: &str| {
                name != "x-match" && (rule.ends_with("-with-x") || !name.starts_with("x-"))
            };
            let headers = letter.headers();
            let has = |(name, text): &&(&str, &str)| {
                headers.get(*name).is_some_and(|value| value == text)
            };
            let mut wanted = arguments.iter().filter(|(name, _)| counts(name));
            if rule.starts_with("any") {
                wanted.any(|each| has(&each))
            } else {
                wanted.all(|each| has(&each))
            }
        }
        other => panic!("{other}"),
    }
}
