//! The engine: its state, its sessions and the step.

use std::collections::{BTreeSet, VecDeque};
use std::hash::Hasher;
use std::sync::Arc;

use leveret_model::limits::STEP_WORK_BYTES_MAX;
use leveret_model::{FieldTable, Lsn, QueueId, SessionId, ShortString, Time};
use rustc_hash::FxHashMap;
use siphasher::sip128::{Hasher128, SipHasher24};

use crate::chunks::Chunks;
use crate::command::{Batch, Command, Operation, Outcome};
use crate::dead_letter::Dying;
use crate::effect::{Effects, Item, Reply};
use crate::exchange::{Exchange, ExchangeId};
use crate::holder::Holder;
use crate::queue::{OVERHEAD_BYTES, Queue};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::stall::Stalled;
use crate::step::{Content, Step};
use crate::vhost::{VHost, predeclared};

/// All rules and all state of the broker, without a clock, a socket or a file.
#[derive(Debug)]
pub struct Engine {
    pub(crate) vhosts: Vec<VHost>,
    pub(crate) exchanges: FxHashMap<ExchangeId, Exchange>,
    pub(crate) queues: FxHashMap<QueueId, Queue>,
    pub(crate) consumers: FxHashMap<u64, Consumer>,
    pub(crate) sessions: FxHashMap<SessionId, Session>,
    pub(crate) chunks: Chunks,
    /// Changes with every change of the topology, so that remembered routes expire.
    pub(crate) generation: u64,
    pub(crate) next_exchange: u64,
    pub(crate) next_queue: u64,
    pub(crate) next_consumer: u64,
    next_publisher: u64,
    /// What made-up names come from: whoever knows some cannot tell others.
    names: SipHasher24,
    named: u64,
    random: u64,
    /// Queues that may have something to deliver when the step ends.
    pub(crate) dirty: Vec<QueueId>,
    /// When to look at which queues.
    pub(crate) deadlines: BTreeSet<(Time, QueueId)>,
    /// Dead letters that wait for a step that may send them on their way.
    pub(crate) dying: VecDeque<Dying>,
    /// What open transactions and batches that wait take, in bytes.
    pub(crate) kept: usize,
    /// From which size on messages leave memory that packs hold too.
    pub(crate) memory_target: usize,
    /// From which size on consumers may be held back from what packs hold.
    pub(crate) memory_max: usize,
    /// Consumers that are, until messages take less memory or they settle some.
    pub(crate) held_back: BTreeSet<u64>,
    /// Whether some of them are because dead letters wait.
    pub(crate) held_for_letters: bool,
    /// Queues that have messages in memory that packs hold too.
    pub(crate) listed: Vec<QueueId>,
    /// Sessions that need wait no more.
    pub(crate) resumable: VecDeque<SessionId>,
    /// Where the replay of the log began.
    pub(crate) replayed: Option<Lsn>,
    /// Counts the steps.
    pub(crate) step: u64,
    /// How much a step does of what nobody waits for, in bytes.
    work: usize,
}

/// A consumer of one queue.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) session: SessionId,
    pub(crate) holder: u16,
    pub(crate) queue: QueueId,
    pub(crate) tag: ShortString,
    pub(crate) no_ack: bool,
    /// Those of a higher one come first.
    pub(crate) priority: i64,
    /// Most leases at a time; 0 is no limit.
    pub(crate) prefetch: u16,
    /// Leases out, and their bytes.
    pub(crate) leased: u32,
    pub(crate) leased_bytes: usize,
    /// Off its queue's list of active consumers, because it could not take a message.
    pub(crate) blocked: bool,
}

/// What is known of a queue, for people.
#[derive(Debug, Clone)]
pub struct QueueStatus {
    /// Its virtual host.
    pub vhost: ShortString,
    /// Its name.
    pub name: ShortString,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it goes with its last consumer.
    pub auto_delete: bool,
    /// Whether it belongs to one session.
    pub exclusive: bool,
    /// Messages that wait for a consumer.
    pub ready: usize,
    /// Messages delivered and not settled.
    pub unacknowledged: usize,
    /// Messages that it has lost since the start, because they could not be read any more.
    pub damaged: u64,
    /// Its consumers.
    pub consumers: usize,
    /// The arguments it was declared with.
    pub arguments: FieldTable,
}

impl Engine {
    /// An engine with one empty virtual host `/`. The seed is for the names it makes up: nobody may
    /// know it who must not guess them.
    #[must_use]
    pub fn new(seed: [u8; 16]) -> Self {
        let mut engine = Engine {
            vhosts: vec![VHost::new(ShortString::from_static("/"))],
            exchanges: FxHashMap::default(),
            queues: FxHashMap::default(),
            consumers: FxHashMap::default(),
            sessions: FxHashMap::default(),
            chunks: Chunks::default(),
            generation: 1,
            next_exchange: 1,
            next_queue: 1,
            next_consumer: 1,
            next_publisher: 1,
            names: SipHasher24::new_with_key(&seed),
            named: 0,
            random: 0,
            dirty: Vec::new(),
            deadlines: BTreeSet::new(),
            dying: VecDeque::new(),
            kept: 0,
            memory_target: usize::MAX,
            memory_max: usize::MAX,
            held_back: BTreeSet::new(),
            held_for_letters: false,
            listed: Vec::new(),
            resumable: VecDeque::new(),
            replayed: None,
            step: 0,
            work: STEP_WORK_BYTES_MAX,
        };
        predeclared(0).for_each(|exchange| engine.add_exchange(exchange));
        engine
    }

    /// Starts a session in a virtual host; it ends with [`Operation::Disconnect`]. `false` if
    /// there is no such virtual host.
    pub fn connect(&mut self, session: SessionId, vhost: &[u8]) -> bool {
        let Some(vhost) = self.vhosts.iter().position(|each| each.name.as_bytes() == vhost) else {
            return false;
        };
        self.sessions.insert(session, Session { vhost, ..Session::default() });
        true
    }

    /// Carries out a batch at a moment that is not before that of the step before. `address` is
    /// where in the log the records in `effects` will begin.
    pub fn step(&mut self, batch: Batch, now: Time, address: Lsn, effects: &mut Effects) {
        let Batch { session, chunk, commands } = batch;
        let batch = Stalled { chunk: Arc::new(chunk), commands };
        if self.stalls(session) {
            return self.stall(session, batch, false);
        }
        self.run(session, batch, now, address, effects);
    }

    /// Carries out a batch, or as much of it as can be.
    pub(crate) fn run(
        &mut self,
        session: SessionId,
        batch: Stalled,
        now: Time,
        address: Lsn,
        effects: &mut Effects,
    ) {
        self.step += 1;
        let Stalled { chunk, commands } = batch;
        let slot = self.chunks.insert(Arc::clone(&chunk));
        // Held until the step ends: a message may be published and settled within it.
        self.chunks.retain(slot, 1);
        let content = Content { chunk, slot };
        let mut step = Step::new(session, content, now, address, effects, self.work);
        self.meet_deadlines(&mut step);
        let mut commands = commands.into_iter();
        while let Some(command) = commands.next() {
            if self.must_wait(&command, &mut step) {
                let chunk = Arc::clone(&step.content.chunk);
                let commands = std::iter::once(command).chain(commands).collect();
                self.stall(session, Stalled { chunk, commands }, true);
                break;
            }
            self.command(command, &mut step);
            self.bury(&mut step);
        }
        self.settle_down(&mut step);
        step.flush_settled();
        self.chunks.release(slot, &mut step.effects.released);
        self.evict();
        step.effects.emptied.extend(self.chunks.packs.take_emptied());
    }

    /// From which size on messages leave memory that are safe in packs, in bytes. At first there is
    /// no such size.
    pub fn set_memory_target(&mut self, bytes: usize) {
        self.memory_target = bytes;
    }

    /// From which size on consumers that acknowledge little, and have no prefetch, get nothing more
    /// from packs, in bytes. At first there is no such size.
    pub fn set_memory_max(&mut self, bytes: usize) {
        self.memory_max = bytes;
    }

    /// Whether steps do nothing of what nobody waits for from now on: messages that are too old and
    /// dead letters write much to the log, and nothing else would slow them down when it is behind.
    pub fn set_log_behind(&mut self, behind: bool) {
        self.work = if behind { 0 } else { STEP_WORK_BYTES_MAX };
    }

    /// Whether dead letters wait for the log.
    pub(crate) fn letters_wait(&self) -> bool {
        self.work == 0 && !self.dying.is_empty()
    }

    /// Bytes that messages take: their content and what refers to it, in queues, on leases and in
    /// open transactions.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.chunks.memory() + self.kept
    }

    /// Whether messages take more memory than they may.
    pub(crate) fn is_short(&self) -> bool {
        self.memory() > self.memory_max
    }

    /// The queues there are.
    pub fn queues(&self) -> impl Iterator<Item = QueueStatus> {
        self.queues.values().filter(|queue| !queue.replies).map(|queue| QueueStatus {
            vhost: self.vhosts[queue.vhost].name.clone(),
            name: queue.name.clone(),
            durable: queue.durable,
            auto_delete: queue.auto_delete,
            exclusive: queue.owner.is_some(),
            ready: queue.ready(),
            unacknowledged: queue.leased as usize,
            damaged: queue.damaged,
            consumers: queue.consumers.len(),
            arguments: queue.arguments.clone(),
        })
    }

    fn command(&mut self, command: Command, step: &mut Step<'_>) {
        let Command { holder, token, operation } = command;
        if let Operation::Loaded(loaded) = &operation {
            return self.loaded(loaded, step);
        }
        let Some(session) = self.sessions.get_mut(&step.session) else { return };
        match operation {
            Operation::Taken { bytes } => return self.taken(bytes, step),
            Operation::Disconnect => return self.disconnect(step),
            Operation::Open => {
                if session.holders.contains_key(&holder) {
                    return self.refuse(holder, token, Refusal::AlreadyOpen, step);
                }
                session.holders.insert(holder, Holder::new());
                return self.reply(holder, Reply::Opened, step);
            }
            _ => {}
        }
        if !session.holders.contains_key(&holder) {
            // Closed by a refusal, and the client has not heard of it yet. Front doors check
            // that a holder was opened at all.
            if matches!(operation, Operation::Close) {
                self.reply(holder, Reply::Closed, step);
            }
            return;
        }
        if let Err(refusal) = self.operation(holder, operation, step) {
            self.refuse(holder, token, refusal, step);
        }
    }

    fn operation(
        &mut self,
        holder: u16,
        operation: Operation,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        match operation {
            Operation::Publish { first, count, mandatory, special } => {
                return self.publish(holder, first..first + count, mandatory, special, step);
            }
            Operation::Settle { lease, multiple, outcome } => {
                return self.settle(holder, lease, multiple, outcome, step);
            }
            Operation::DeclareExchange(declare) => {
                return self.declare_exchange(holder, &declare, step);
            }
            Operation::DeleteExchange { name, if_unused, reply } => {
                self.delete_exchange(&name, if_unused, step)?;
                self.reply_if(reply, holder, Reply::ExchangeDeleted, step);
            }
            Operation::DeclareQueue(declare) => return self.declare_queue(holder, &declare, step),
            Operation::DeleteQueue { name, if_unused, if_empty, reply } => {
                let count = self.delete_named_queue(holder, &name, if_unused, if_empty, step)?;
                self.reply_if(reply, holder, Reply::QueueDeleted(count), step);
            }
            Operation::PurgeQueue { name, reply } => {
                let count = self.purge_queue(holder, &name, step)?;
                self.reply_if(reply, holder, Reply::QueuePurged(count), step);
            }
            Operation::Bind(binding) => return self.bind(holder, &binding, step),
            Operation::Unbind(binding) => return self.unbind(holder, &binding, step),
            Operation::SelectTransactions => return self.select_transactions(holder, step),
            Operation::Commit => return self.commit(holder, step),
            Operation::Rollback => return self.roll_back(holder, step),
            Operation::Consume(consume) => return self.consume(holder, *consume, step),
            Operation::Cancel { tag, reply } => self.cancel(holder, tag, reply, step),
            Operation::Get { queue, no_ack } => return self.get(holder, &queue, no_ack, step),
            Operation::SelectConfirms { reply } => {
                self.select_confirms(holder, reply, step)?;
            }
            Operation::Prefetch { count, shared } => {
                self.prefetch(holder, count, shared, step);
                self.reply(holder, Reply::PrefetchSet, step);
            }
            Operation::Recover { reply } => {
                // Also in a transaction this happens at once.
                self.end_leases(holder, u64::MAX, Outcome::Requeue, step);
                self.reply_if(reply, holder, Reply::Recovered, step);
            }
            Operation::Close => {
                self.close_holder(holder, step);
                self.reply(holder, Reply::Closed, step);
            }
            Operation::Open
            | Operation::Disconnect
            | Operation::Taken { .. }
            | Operation::Loaded(_) => {}
        }
        Ok(())
    }

    /// The holder that asks; it exists, or the command would not have come so far.
    pub(crate) fn holder(&mut self, step: &Step<'_>, holder: u16) -> &mut Holder {
        self.sessions
            .get_mut(&step.session)
            .and_then(|session| session.holders.get_mut(&holder))
            .expect("checked before the operation")
    }

    /// The index of the session's virtual host.
    pub(crate) fn vhost_of(&self, step: &Step<'_>) -> usize {
        self.sessions.get(&step.session).map_or(0, |session| session.vhost)
    }

    fn select_confirms(
        &mut self,
        number: u16,
        reply: bool,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let next = self.next_publisher;
        let holder = self.holder(step, number);
        if holder.transaction.is_some() {
            return Err(Refusal::TransactionsSelected);
        }
        let (publisher, _) = *holder.published.get_or_insert((next, 0));
        self.next_publisher = self.next_publisher.max(publisher + 1);
        self.reply(number, Reply::ConfirmsSelected { publisher, reply }, step);
        Ok(())
    }

    fn prefetch(&mut self, holder: u16, count: u16, shared: bool, step: &Step<'_>) {
        let entry = self.holder(step, holder);
        if shared {
            entry.shared_prefetch = count;
        } else {
            // As in RabbitMQ, one kind of limit at a time is set.
            entry.shared_prefetch = 0;
            entry.prefetch = count;
        }
        self.wake_consumers(step.session, holder);
    }

    fn refuse(&mut self, holder: u16, token: crate::Token, refusal: Refusal, step: &mut Step<'_>) {
        let open = |session: &mut Session| session.holders.contains_key(&holder);
        if self.sessions.get_mut(&step.session).is_some_and(open) {
            self.close_holder(holder, step);
        }
        self.reply(holder, Reply::Refused { token, refusal }, step);
    }

    pub(crate) fn reply_if(
        &mut self,
        wanted: bool,
        holder: u16,
        reply: Reply,
        step: &mut Step<'_>,
    ) {
        if wanted {
            self.reply(holder, reply, step);
        }
    }

    /// Tells the session whose batch this is.
    pub(crate) fn reply(&mut self, holder: u16, reply: Reply, step: &mut Step<'_>) {
        self.tell(step.session, Item::Reply { holder, reply: Box::new(reply) }, step);
    }

    pub(crate) fn tell(&mut self, id: SessionId, item: Item, step: &mut Step<'_>) {
        if let Some(session) = self.sessions.get_mut(&id) {
            let outbound = session.outbound(id, self.step, step.effects);
            outbound.items.push(item);
            outbound.bytes += OVERHEAD_BYTES;
            session.outstanding += OVERHEAD_BYTES;
        }
    }

    /// Holds back what the session is told in this step until the step's records are durable.
    pub(crate) fn after_log(&mut self, step: &mut Step<'_>) {
        if let Some(session) = self.sessions.get_mut(&step.session) {
            session.outbound(step.session, self.step, step.effects).after_log = true;
        }
    }

    /// A definition went to the log: what the session is told waits for it.
    pub(crate) fn recorded(&mut self, step: &mut Step<'_>) {
        step.effects.records += 1;
        self.after_log(step);
    }

    /// A name nobody else has: the prefix and 22 characters of base64url.
    pub(crate) fn made_up_name(&mut self, prefix: &str) -> ShortString {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        self.named += 1;
        let mut hasher = self.names;
        hasher.write_u64(self.named);
        let mut bits = hasher.finish128().as_u128();
        let mut name = prefix.as_bytes().to_vec();
        for _ in 0..22 {
            name.push(ALPHABET[(bits & 63) as usize]);
            bits >>= 6;
        }
        ShortString::try_from(name.as_slice()).expect("a prefix and 22 bytes are short")
    }

    /// splitmix64: for what only has to be even.
    pub(crate) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
