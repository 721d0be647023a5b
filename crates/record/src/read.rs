//! Reading records back. Nothing here trusts a length it reads, and nothing is allocated but what
//! the bytes at hand hold.

use std::fmt;

use leveret_model::message::Past;
use leveret_model::{FieldTable, Lsn, Message, PackId, Position, QueueId, ShortString, Time};

use crate::record::{
    BindingDefinition, Destination, ExchangeDefinition, ExtentDefinition, Origin, PackDefinition,
    QueueDefinition, Record, destination, flag, kind,
};
use crate::varint;

/// No pack has room for more messages: it is smaller than 4 GiB, and no record than eight bytes.
const PACK_MESSAGES_MAX: u64 = 1 << 29;

/// The records of a run of bytes, each with its offset from the first of them.
///
/// Ends after the first error.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
    offset: usize,
}

/// The durable queues a message went to, and its position in each.
#[derive(Clone, Copy)]
pub struct Targets<'a> {
    /// `remaining` pairs of varints, checked when the record was read.
    bytes: &'a [u8],
    remaining: usize,
}

/// Bytes that are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end inside a record.
    #[error("record at byte {offset} is cut off")]
    Truncated {
        /// Where the record begins, from the start of the run.
        offset: usize,
    },
    /// A type this build does not know.
    #[error("record at byte {offset} has the unknown type {kind}")]
    UnknownType {
        /// Where the record begins, from the start of the run.
        offset: usize,
        /// Its type.
        kind: u8,
    },
    /// A known type with a body that is not one.
    #[error("record at byte {offset} has type {kind} and a malformed body")]
    Malformed {
        /// Where the record begins, from the start of the run.
        offset: usize,
        /// Its type.
        kind: u8,
    },
}

impl<'a> Records<'a> {
    /// The records of `bytes`, which begin with one.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Records { rest: bytes, offset: 0 }
    }

    fn next_record(&mut self) -> Result<Record<'a>, RecordError> {
        let offset = self.offset;
        let truncated = RecordError::Truncated { offset };
        let (&kind, mut rest) = self.rest.split_first().ok_or(truncated)?;
        let len = varint::read(&mut rest).ok_or(truncated)?;
        let len = usize::try_from(len).map_err(|_| truncated)?;
        let (body, rest) = rest.split_at_checked(len).ok_or(truncated)?;
        self.offset += self.rest.len() - rest.len();
        self.rest = rest;
        let mut body = Body(body);
        let record = match kind {
            kind::PUBLISH => body.publish(),
            kind::SETTLE => body.settle(),
            kind::DECLARE_EXCHANGE => body.exchange().map(Record::DeclareExchange),
            kind::DELETE_EXCHANGE => body.delete_exchange(),
            kind::DECLARE_QUEUE => body.queue().map(Record::DeclareQueue),
            kind::DELETE_QUEUE => body.queue_id().map(|id| Record::DeleteQueue { id }),
            kind::BIND => body.binding().map(Record::Bind),
            kind::UNBIND => body.binding().map(Record::Unbind),
            kind::PACK => body.pack().map(Record::Pack),
            kind::EXTENT => body.extent().map(Record::Extent),
            kind::DELIVERED => body.delivered(),
            _ => return Err(RecordError::UnknownType { offset, kind }),
        };
        match record {
            Some(record) if body.0.is_empty() => Ok(record),
            _ => Err(RecordError::Malformed { offset, kind }),
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(usize, Record<'a>), RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let offset = self.offset;
        let record = self.next_record();
        if record.is_err() {
            self.rest = &[];
        }
        Some(record.map(|record| (offset, record)))
    }
}

impl Iterator for Targets<'_> {
    type Item = (QueueId, Position);

    fn next(&mut self) -> Option<Self::Item> {
        self.remaining = self.remaining.checked_sub(1)?;
        let mut body = Body(self.bytes);
        let target = (body.queue_id()?, Position(body.number()?));
        self.bytes = body.0;
        Some(target)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for Targets<'_> {}

impl PartialEq for Targets<'_> {
    fn eq(&self, other: &Self) -> bool {
        Iterator::eq(*self, *other)
    }
}

impl fmt::Debug for Targets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

/// What is left of a record's body. `None` always means malformed.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn publish(&mut self) -> Option<Record<'a>> {
        let known = flag::PERSISTENT | flag::TIMED | flag::DIED | flag::REKEYED;
        let flags = self.flags(known)?;
        let time = match flags & flag::TIMED {
            0 => None,
            _ => Some(Time(self.number()?)),
        };
        let past = match flags & (flag::DIED | flag::REKEYED) {
            0 => Past::None,
            flag::DIED => Past::Died,
            flag::REKEYED => Past::Rekeyed,
            _ => return None,
        };
        let origin = Origin { time, past };
        let envelope_len = self.size()?;
        let properties_len = self.size()?;
        let count = self.size()?;
        let targets = self.0;
        for _ in 0..count {
            self.queue_id()?;
            // There is one after it, or it could not be settled.
            self.number()?.checked_add(1)?;
        }
        let bytes = &targets[..targets.len() - self.0.len()];
        let envelope = self.take(envelope_len)?;
        let mut names = Body(envelope);
        names.short()?;
        names.short()?;
        if !names.0.is_empty() {
            return None;
        }
        let properties = self.take(properties_len)?;
        let body = std::mem::take(&mut self.0);
        let persistent = flags & flag::PERSISTENT != 0;
        let message = Message { envelope, properties, body, persistent };
        Some(Record::Publish { message, origin, targets: Targets { bytes, remaining: count } })
    }

    fn settle(&mut self) -> Option<Record<'a>> {
        let queue = self.queue_id()?;
        let first = self.number()?;
        let count = self.number()?;
        first.checked_add(count)?;
        (count > 0).then_some(Record::Settle { queue, first: Position(first), count })
    }

    fn exchange(&mut self) -> Option<ExchangeDefinition> {
        let flags = self.flags(flag::AUTO_DELETE | flag::INTERNAL)?;
        Some(ExchangeDefinition {
            vhost: self.name()?,
            name: self.name()?,
            kind: self.name()?,
            auto_delete: flags & flag::AUTO_DELETE != 0,
            internal: flags & flag::INTERNAL != 0,
            arguments: self.table()?,
        })
    }

    fn delete_exchange(&mut self) -> Option<Record<'a>> {
        Some(Record::DeleteExchange { vhost: self.name()?, name: self.name()? })
    }

    fn queue(&mut self) -> Option<QueueDefinition> {
        let flags = self.flags(flag::AUTO_DELETE)?;
        let id = self.queue_id()?;
        let next = Position(self.number()?);
        Some(QueueDefinition {
            id,
            vhost: self.name()?,
            name: self.name()?,
            auto_delete: flags & flag::AUTO_DELETE != 0,
            arguments: self.table()?,
            next,
        })
    }

    fn binding(&mut self) -> Option<BindingDefinition> {
        Some(BindingDefinition {
            vhost: self.name()?,
            source: self.name()?,
            destination: self.destination()?,
            routing_key: self.name()?,
            arguments: self.table()?,
        })
    }

    fn destination(&mut self) -> Option<Destination> {
        match self.byte()? {
            destination::QUEUE => self.queue_id().map(Destination::Queue),
            destination::EXCHANGE => self.name().map(Destination::Exchange),
            _ => None,
        }
    }

    fn pack(&mut self) -> Option<PackDefinition> {
        let id = PackId(self.number()?);
        let end = Lsn(self.number()?);
        let mut replaces = Vec::new();
        while !self.0.is_empty() {
            replaces.push(PackId(self.number()?));
        }
        Some(PackDefinition { id, end, replaces })
    }

    fn extent(&mut self) -> Option<ExtentDefinition> {
        let flags = self.flags(flag::TIMED)?;
        let (pack, queue, priority) = (PackId(self.number()?), self.queue_id()?, self.byte()?);
        let expires = match flags {
            0 => None,
            _ => Some(Time(self.number()?)),
        };
        let body_bytes = self.number()?;
        let mut runs = Vec::new();
        let (mut end, mut all) = (0_u64, 0_u64);
        while !self.0.is_empty() {
            let first = end.checked_add(self.number()?)?;
            let count = self.number().filter(|count| *count > 0)?;
            end = first.checked_add(count)?;
            all = all.checked_add(count).filter(|all| *all <= PACK_MESSAGES_MAX)?;
            runs.push((Position(first), count));
        }
        Some(ExtentDefinition { pack, queue, priority, expires, body_bytes, runs })
    }

    fn delivered(&mut self) -> Option<Record<'a>> {
        Some(Record::Delivered { queue: self.queue_id()?, below: Position(self.number()?) })
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    /// A byte of flags of which only those in `known` may be set.
    fn flags(&mut self, known: u8) -> Option<u8> {
        self.byte().filter(|flags| flags & !known == 0)
    }

    fn number(&mut self) -> Option<u64> {
        varint::read(&mut self.0)
    }

    /// The length of something that lies in the rest of the body, or a count of such things.
    fn size(&mut self) -> Option<usize> {
        let size = usize::try_from(self.number()?).ok()?;
        (size <= self.0.len()).then_some(size)
    }

    fn queue_id(&mut self) -> Option<QueueId> {
        self.number().map(QueueId)
    }

    fn short(&mut self) -> Option<&'a [u8]> {
        let len = self.byte()?;
        self.take(usize::from(len))
    }

    fn name(&mut self) -> Option<ShortString> {
        ShortString::try_from(self.short()?).ok()
    }

    fn table(&mut self) -> Option<FieldTable> {
        FieldTable::decode(&mut self.0).ok()
    }
}
