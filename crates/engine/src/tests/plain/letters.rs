//! Messages: what is in them, how they come into queues, and where they go when they die.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::rc::Rc;

use super::{Answer, Dying, Entry, Overflow, Plain, Who};

/// A message, as consumers see it.
#[derive(Clone, Debug, Default)]
pub(in crate::tests) struct Letter {
    pub(in crate::tests) exchange: String,
    pub(in crate::tests) key: String,
    pub(in crate::tests) body: Rc<str>,
    pub(in crate::tests) persistent: bool,
    pub(in crate::tests) expiration: Option<u64>,
    pub(in crate::tests) priority: Option<u8>,
    pub(in crate::tests) cc: Vec<&'static str>,
    pub(in crate::tests) bcc: Vec<&'static str>,
    /// Those of the client.
    pub(in crate::tests) others: Vec<(&'static str, &'static str)>,
    /// Whether a queue gave it another key; then those of `cc` count no more.
    pub(in crate::tests) rekeyed: bool,
    /// Its ends so far, the last one first.
    pub(in crate::tests) deaths: Vec<Death>,
    /// Exchange, queue and reason of the first and the last of them.
    pub(in crate::tests) first: [String; 3],
    pub(in crate::tests) last: [String; 3],
}

#[derive(Clone, Debug)]
pub(in crate::tests) struct Death {
    queue: &'static str,
    reason: &'static str,
    count: u64,
    /// All else about the first time.
    before: String,
    after: String,
}

/// What is published at once.
#[derive(Clone, Debug)]
pub(in crate::tests) struct Publish {
    pub(in crate::tests) letters: Vec<Rc<Letter>>,
    pub(in crate::tests) mandatory: bool,
}

impl Letter {
    /// The keys it is routed by.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys = vec![self.key.clone()];
        if !self.rekeyed {
            keys.extend(self.cc.iter().chain(&self.bcc).map(|key| (*key).to_owned()));
        }
        keys
    }

    /// Those that consumers see.
    pub(super) fn headers(&self) -> BTreeMap<String, String> {
        let others = self.others.iter();
        let mut headers: BTreeMap<String, String> =
            others.map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        if !self.cc.is_empty() {
            headers.insert("CC".to_owned(), format!("[{}]", self.cc.join(",")));
        }
        if self.deaths.is_empty() {
            return headers;
        }
        for (which, texts) in [("first", &self.first), ("last", &self.last)] {
            for (what, text) in ["exchange", "queue", "reason"].iter().zip(texts) {
                headers.insert(format!("x-{which}-death-{what}"), text.clone());
            }
        }
        let deaths = self.deaths.iter().map(|death| {
            let Death { queue, reason, count, before, after } = death;
            format!("{{{before}count={count},reason={reason},queue={queue},{after}}}")
        });
        let deaths: Vec<String> = deaths.collect();
        headers.insert("x-death".to_owned(), format!("[{}]", deaths.join(",")));
        headers
    }

    pub(super) fn text(&self) -> String {
        let (shown, len) = (&self.body[..self.body.len().min(8)], self.body.len());
        let mut text = format!("{shown} of {len} by {:?} {:?}", self.exchange, self.key);
        let expiration = self.expiration.map(|ms| ms.to_string());
        write!(text, " persistent={} ttl={expiration:?}", self.persistent).unwrap();
        write!(text, " priority={:?}", self.priority).unwrap();
        for (name, value) in self.headers() {
            write!(text, " {name}={value}").unwrap();
        }
        text
    }

    /// The message after its end in a queue.
    fn dead(&self, dying: &Dying, now: u64) -> Letter {
        let Dying { spec, reason, .. } = dying;
        let (exchange, dead_key) = spec.dead_letter.unwrap();
        let mut dead = Letter { expiration: None, bcc: Vec::new(), ..self.clone() };
        let known = |death: &Death| death.queue == spec.name && death.reason == *reason;
        let mut death = match dead.deaths.iter().position(known) {
            Some(index) => dead.deaths.remove(index),
            None => {
                let before = self.expiration.map(|ms| format!("original-expiration={ms},"));
                let keys = Letter { bcc: Vec::new(), ..self.clone() }.keys().join(",");
                let (from, time) = (&self.exchange, now / 1_000);
                Death {
                    queue: spec.name,
                    reason,
                    count: 0,
                    before: before.unwrap_or_default(),
                    after: format!("time={time},exchange={from},routing-keys=[{keys}]"),
                }
            }
        };
        death.count += 1;
        dead.last = [self.exchange.as_str(), spec.name, reason].map(str::to_owned);
        if self.deaths.is_empty() {
            dead.first = dead.last.clone();
            // What a client says of a message's death counts for nothing.
            let says = |name: &str| name == "x-death" || name.starts_with("x-first-death-");
            dead.others.retain(|(name, _)| !says(name) && !name.starts_with("x-last-death-"));
        }
        dead.deaths.insert(0, death);
        dead.exchange = exchange.to_owned();
        if let Some(key) = dead_key {
            (dead.key, dead.rekeyed) = (key.to_owned(), true);
        }
        dead
    }

    /// Whether it was in this queue before, and nobody has rejected it since.
    fn goes_round(&self, queue: &str) -> bool {
        let since = self.deaths.iter().position(|death| death.queue == queue);
        since.is_some_and(|index| {
            self.deaths[..=index].iter().all(|death| death.reason != "rejected")
        })
    }
}

impl Plain {
    pub(in crate::tests) fn publish(&mut self, who: Who, publish: &Publish) -> Answer {
        for letter in &publish.letters {
            let targets = self.route_for_client(letter)?;
            let kept = (Rc::clone(letter), targets, publish.mandatory);
            match &mut self.holder(who).transaction {
                Some(transaction) => transaction.published.push(kept),
                None => self.enqueue(Some(who), kept),
            }
        }
        Ok(())
    }

    /// Puts a message into queues, and tells its publisher.
    pub(super) fn enqueue(
        &mut self,
        publisher: Option<Who>,
        (letter, targets, mandatory): (Rc<Letter>, Vec<u64>, bool),
    ) {
        if let Some(who) = publisher
            && mandatory
            && targets.is_empty()
        {
            self.tell(who.0, format!("returned {}", letter.text()));
        }
        let (mut rejected, mut logged, mut crowded) = (false, false, Vec::new());
        for id in targets {
            if !self.queues.contains_key(&id) {
                continue;
            }
            if !self.takes_another(id, &letter, publisher.is_none()) {
                rejected = true;
                continue;
            }
            let now = self.now;
            let queue = self.queues.get_mut(&id).unwrap();
            let ttl = [queue.spec.ttl, letter.expiration].into_iter().flatten().min();
            let entry = Entry {
                letter: Rc::clone(&letter),
                position: queue.next,
                lane: queue.spec.lane(letter.priority),
                expires: ttl.map(|ttl| now + ttl),
                attempts: 0,
                durable: queue.spec.durable() && (letter.persistent || queue.spec.quorum),
            };
            queue.next += 1;
            if entry.durable {
                queue.next_known = queue.next;
            }
            logged |= entry.durable;
            queue.ready.push(entry);
            if queue.over_limit(0, 0) && !queue.spec.rejects() {
                crowded.push(id);
            }
        }
        if let Some(who) = publisher
            && let Some(number) = &mut self.holder(who).published
        {
            *number += 1;
            let number = *number;
            match (rejected, logged) {
                (true, _) => self.tell(who.0, format!("rejected {number}")),
                (false, true) => self.tell_when_durable(&format!("{}: {number}", who.1)),
                (false, false) => self.tell(who.0, format!("confirmed {number}")),
            }
        }
        for id in crowded {
            self.attend(&[id]);
            self.trim(id);
        }
    }

    /// Whether a queue that refuses what is too much has room, once consumers have taken what
    /// they can.
    fn takes_another(&mut self, id: u64, letter: &Rc<Letter>, dead: bool) -> bool {
        let bytes = letter.body.len() as u64;
        let spec = Rc::clone(&self.queues[&id].spec);
        let bypass = dead && spec.quorum;
        if bypass || !spec.rejects() || !self.queues[&id].over_limit(1, bytes) {
            return true;
        }
        self.attend(&[id]);
        if !self.queues[&id].over_limit(1, bytes) {
            return true;
        }
        if spec.overflow == Some(Overflow::RejectDeadLetter) {
            self.die(&spec, letter, "maxlen");
        }
        false
    }

    pub(super) fn die(
        &mut self,
        spec: &Rc<super::QueueSpec>,
        letter: &Rc<Letter>,
        reason: &'static str,
    ) {
        if spec.dead_letter.is_some() {
            let (spec, letter) = (Rc::clone(spec), Rc::clone(letter));
            self.dying.push_back(Dying { spec, letter, reason });
        }
    }

    /// Sends dead letters on their way.
    pub(in crate::tests) fn bury(&mut self) {
        while let Some(dying) = self.dying.pop_front() {
            self.send_letter(&dying);
        }
    }

    /// Sends one dead letter on its way.
    pub(super) fn send_letter(&mut self, dying: &Dying) {
        let dead = dying.letter.dead(dying, self.now);
        let mut targets = self.route(&dead);
        if dying.reason != "rejected" {
            targets.retain(|id| !dead.goes_round(self.queues[id].spec.name));
        }
        self.enqueue(None, (Rc::new(dead), targets, false));
    }
}
