//! Messages from the client: whole ones go to the batch at once, others are put together first.

use leveret_amqp_wire::method::{ConnectionBlocked, ConnectionUnblocked};
use leveret_amqp_wire::{Frame, Method, PublishView};
use leveret_broker::Shortage;
use leveret_broker::engine::{Command, Operation};
use leveret_model::limits::{BATCH_BYTES_MAX, READ_BYTES_MAX, UNFINISHED_BYTES_MAX};
use leveret_model::{Message, ShortString};

use crate::connection::Connection;
use crate::content::{self, Assembly, PUBLISH};
use crate::fault::{Fault, NOT_IMPLEMENTED, PRECONDITION_FAILED, RESOURCE_ERROR};
use crate::operation::{Meaning, meaning};

impl Connection {
    /// Takes a `basic.publish`, and its content if that is all in `rest`, which lies behind it;
    /// returns how much of that it has taken.
    pub(crate) fn publish_frame(
        &mut self,
        number: u16,
        payload: &[u8],
        rest: &[u8],
    ) -> Result<usize, Fault> {
        let publish = PublishView::parse(payload)?;
        if publish.immediate {
            return Err(Fault::new(NOT_IMPLEMENTED, "immediate=true").of(PUBLISH));
        }
        if let Some(whole) = content::whole(rest, number, self.tuning.frame_max, &self.user) {
            let (content, used) = whole?;
            let message = Message {
                envelope: publish.envelope,
                properties: content.properties,
                body: content.body,
                persistent: content.persistent,
            };
            self.publish(number, publish.mandatory, content.special, message)?;
            return Ok(used);
        }
        if let Some(channel) = self.channels.get_mut(&number) {
            let assembly = Assembly::new(&publish);
            self.unfinished += assembly.held();
            channel.assembly = Some(assembly);
        }
        Ok(0)
    }

    /// Takes a frame of a channel whose message is being put together.
    pub(crate) fn assemble(&mut self, frame: &Frame<'_>) -> Result<(), Fault> {
        let number = frame.channel;
        let channel = self.channels.get_mut(&number);
        let Some(assembly) = channel.and_then(|channel| channel.assembly.as_mut()) else {
            return Ok(());
        };
        let before = assembly.held();
        let whole = assembly.frame(frame.kind, frame.payload, &self.user)?;
        self.unfinished += assembly.held() - before;
        if whole && let Some(assembly) = self.end_assembly(number) {
            let (mandatory, special) = (assembly.mandatory, assembly.is_special());
            return self.publish(number, mandatory, special, assembly.message());
        }
        if self.unfinished > UNFINISHED_BYTES_MAX {
            let text = format!(
                "messages of this connection that are not whole hold {} bytes, more than \
                 {UNFINISHED_BYTES_MAX}",
                self.unfinished
            );
            return Err(Fault::new(RESOURCE_ERROR, text).of(PUBLISH));
        }
        Ok(())
    }

    /// The message that is being put together on a channel is whole, or never will be.
    pub(crate) fn end_assembly(&mut self, number: u16) -> Option<Assembly> {
        let assembly = self.channels.get_mut(&number)?.assembly.take()?;
        self.unfinished -= assembly.held();
        Some(assembly)
    }

    /// Tells the broker how much of messages that are not whole is held here, if that changed.
    pub(crate) fn report_unfinished(&mut self) {
        if self.unfinished != self.reported
            && let Some(session) = &self.session
        {
            self.reported = self.unfinished;
            session.set_unfinished(self.unfinished);
        }
    }

    /// Publishes a whole message. A large one has a chunk of its own, or a small one in the same
    /// chunk would keep it in memory.
    fn publish(
        &mut self,
        holder: u16,
        wanted: bool,
        extra: bool,
        message: Message<'_>,
    ) -> Result<(), Fault> {
        let Message { envelope, properties, body, .. } = message;
        if envelope.len() + properties.len() + body.len() <= READ_BYTES_MAX {
            return self.add(holder, wanted, extra, message);
        }
        if self.chunk.content_len() > 0 {
            self.submit();
        }
        self.add(holder, wanted, extra, message)?;
        self.submit();
        Ok(())
    }

    /// Adds a whole message to the batch.
    #[inline]
    fn add(
        &mut self,
        holder: u16,
        wanted: bool,
        extra: bool,
        message: Message<'_>,
    ) -> Result<(), Fault> {
        let index = self
            .chunk
            .push(message)
            .map_err(|error| Fault::new(PRECONDITION_FAILED, error.to_string()).of(PUBLISH))?;
        if let Some(Command {
            holder: same,
            operation: Operation::Publish { first, count, mandatory, special },
            ..
        }) = self.commands.last_mut()
            && *same == holder
            && *mandatory == wanted
            && *special == extra
            && *first + *count == index
        {
            *count += 1;
        } else {
            let publish =
                Operation::Publish { first: index, count: 1, mandatory: wanted, special: extra };
            self.command(holder, PUBLISH, publish);
        }
        if self.chunk.content_len() > BATCH_BYTES_MAX {
            self.submit();
        }
        Ok(())
    }

    /// The shortage there is, if the disk is so full that nothing may make the log larger.
    pub(crate) fn critical(&self) -> Option<Shortage> {
        self.shortage.filter(|shortage| shortage.disk_critical)
    }

    /// Whether a method would make the log larger, after everything before it. Asks the engine.
    pub(crate) fn adds_to_log(&mut self, number: u16, method: &Method) -> bool {
        let may = matches!(
            method,
            Method::ExchangeDeclare(_)
                | Method::ExchangeBind(_)
                | Method::QueueDeclare(_)
                | Method::QueueBind(_)
                | Method::TxCommit(_)
        );
        if !may {
            return false;
        }
        self.submit();
        match (meaning(method.clone()), &self.session) {
            (Ok(Meaning::Command(operation)), Some(session)) => {
                session.adds_to_log(number, &operation)
            }
            _ => false,
        }
    }

    /// Stops in front of a message, or of something else for which there is no room. What is left
    /// of the input is to come again after [`Connection::unblock`].
    pub(crate) fn block(&mut self, shortage: Shortage, out: &mut Vec<u8>) {
        let reason = reason(shortage);
        tracing::debug!(peer = %self.peer, "blocked: {reason}");
        self.blocked = true;
        if self.capabilities.connection_blocked {
            let reason = ShortString::from_static(reason);
            Method::from(ConnectionBlocked { reason }).frame(0, out);
        }
    }

    /// There is room again.
    pub(crate) fn unblock(&mut self, out: &mut Vec<u8>) {
        tracing::debug!(peer = %self.peer, "unblocked");
        self.blocked = false;
        if self.capabilities.connection_blocked {
            Method::from(ConnectionUnblocked {}).frame(0, out);
        }
    }
}

/// What RabbitMQ tells clients (rabbit_reader:blocked_by_message).
fn reason(shortage: Shortage) -> &'static str {
    match shortage {
        Shortage { memory: true, disk: true, .. } => "low on memory & disk",
        Shortage { disk: true, .. } => "low on disk",
        _ => "low on memory",
    }
}
