//! What the session is told, into bytes for the client.

use std::borrow::Cow;

use leveret_amqp_wire::method::{
    BasicCancel, BasicCancelOk, BasicConsumeOk, BasicGetEmpty, BasicGetOk, BasicQosOk,
    BasicRecoverOk, BasicReturn, ChannelOpenOk, ConfirmSelectOk, ConnectionCloseOk, ExchangeBindOk,
    ExchangeDeclareOk, ExchangeDeleteOk, ExchangeUnbindOk, QueueBindOk, QueueDeclareOk,
    QueueDeleteOk, QueuePurgeOk, QueueUnbindOk, TxCommitOk, TxRollbackOk, TxSelectOk,
};
use leveret_amqp_wire::publish::write_deliver;
use leveret_amqp_wire::{DeliverPrefix, Method, write_content};
use leveret_broker::engine::{Item, Outbound, Reply};
use leveret_model::{Message, Properties, ShortString};

use crate::confirm::Confirms;
use crate::connection::{Connection, Phase};
use crate::fault::Fault;

const NO_ROUTE: u16 = 312;
/// The header that says how often a message was given back.
const DELIVERY_COUNT: &str = "x-delivery-count";

impl Connection {
    /// Encodes what the session is told. Call [`Connection::write_confirms`] after the last.
    pub(crate) fn tell(&mut self, outbound: &Outbound, out: &mut Vec<u8>) {
        let frame_max = self.tuning.frame_max;
        let mut last: Option<(u64, &DeliverPrefix)> = None;
        for (index, item) in outbound.items.iter().enumerate() {
            let Item::Deliver { redelivered, consumer, attempts: 0, chunk, message, lease, .. } =
                *item
            else {
                // Anything else may change what a delivery needs.
                self.tell_rest(outbound, index, out);
                return;
            };
            let prefix = match last {
                Some((same, prefix)) if same == consumer => prefix,
                _ => {
                    let Some(prefix) = self.consumers.get(&consumer) else { continue };
                    last = Some((consumer, prefix));
                    prefix
                }
            };
            let message = outbound.chunks[chunk as usize].get(message);
            write_deliver(out, prefix, lease, redelivered, message.envelope);
            write_content(out, prefix.channel(), message.properties, message.body, frame_max);
        }
    }

    fn tell_rest(&mut self, outbound: &Outbound, first: usize, out: &mut Vec<u8>) {
        for item in &outbound.items[first..] {
            // A refusal may have ended the connection in between.
            if matches!(self.phase, Phase::Running | Phase::Leaving) {
                self.tell_item(outbound, item, out);
            }
        }
    }

    fn tell_item(&mut self, outbound: &Outbound, item: &Item, out: &mut Vec<u8>) {
        let content = |chunk: u32, message: u32| outbound.chunks[chunk as usize].get(message);
        let frame_max = self.tuning.frame_max;
        match *item {
            Item::Deliver { redelivered, consumer, attempts, chunk, message, lease, .. } => {
                let Some(prefix) = self.consumers.get(&consumer) else { return };
                let message = content(chunk, message);
                write_deliver(out, prefix, lease, redelivered, message.envelope);
                let properties = counted(message.properties, attempts);
                write_content(out, prefix.channel(), &properties, message.body, frame_max);
            }
            Item::Confirmed { holder, confirmed } => {
                if let Some(confirms) = self.confirms(holder) {
                    confirms.confirmed(confirmed);
                }
            }
            Item::Rejected { holder, confirmed } => {
                if let Some(confirms) = self.confirms(holder) {
                    confirms.rejected(confirmed);
                }
            }
            Item::Got { holder, .. } | Item::Returned { holder, .. } if !self.hears(holder) => {}
            Item::Got { holder, redelivered, attempts, chunk, message, lease, left } => {
                let message = content(chunk, message);
                let (exchange, routing_key) = names(&message);
                let method = BasicGetOk {
                    delivery_tag: lease,
                    redelivered,
                    exchange,
                    routing_key,
                    message_count: left,
                };
                Method::from(method).frame(holder, out);
                let properties = counted(message.properties, attempts);
                write_content(out, holder, &properties, message.body, frame_max);
            }
            Item::Returned { holder, chunk, message } => {
                let message = content(chunk, message);
                let (exchange, routing_key) = names(&message);
                let reply_text = ShortString::from_static("NO_ROUTE");
                let method =
                    BasicReturn { reply_code: NO_ROUTE, reply_text, exchange, routing_key };
                Method::from(method).frame(holder, out);
                write_content(out, holder, message.properties, message.body, frame_max);
            }
            Item::Reply { holder, ref reply } => self.tell_reply(holder, reply, out),
        }
    }

    /// The confirms of a channel, to be written after what else is told.
    fn confirms(&mut self, holder: u16) -> Option<&mut Confirms> {
        let confirms = self.channels.get_mut(&holder)?.confirms.as_mut()?;
        if self.confirming.last() != Some(&holder) {
            self.confirming.push(holder);
        }
        Some(confirms)
    }

    /// Writes the confirms that were told, as few as possible.
    pub(crate) fn write_confirms(&mut self, out: &mut Vec<u8>) {
        for number in self.confirming.drain(..) {
            if let Some(channel) = self.channels.get_mut(&number)
                && let Some(confirms) = &mut channel.confirms
            {
                confirms.write(number, out);
            }
        }
    }

    fn tell_reply(&mut self, holder: u16, reply: &Reply, out: &mut Vec<u8>) {
        let method: Method = match reply.clone() {
            Reply::Opened => ChannelOpenOk::default().into(),
            Reply::Closed => return self.channel_closed(holder, out),
            Reply::Disconnected => {
                Method::from(ConnectionCloseOk {}).frame(0, out);
                self.phase = Phase::Closed;
                return;
            }
            Reply::ConfirmsSelected { publisher, reply } => {
                if let Some(channel) = self.channels.get_mut(&holder) {
                    channel.confirms.get_or_insert_with(|| Confirms::new(publisher));
                }
                if !reply {
                    return;
                }
                ConfirmSelectOk {}.into()
            }
            Reply::TransactionsSelected => TxSelectOk {}.into(),
            Reply::Committed => TxCommitOk {}.into(),
            Reply::RolledBack => TxRollbackOk {}.into(),
            Reply::PrefetchSet => BasicQosOk {}.into(),
            Reply::Recovered => BasicRecoverOk {}.into(),
            Reply::ExchangeDeclared => ExchangeDeclareOk {}.into(),
            Reply::ExchangeDeleted => ExchangeDeleteOk {}.into(),
            Reply::QueueDeclared { name, messages, consumers } => {
                QueueDeclareOk { queue: name, message_count: messages, consumer_count: consumers }
                    .into()
            }
            Reply::QueueDeleted(message_count) => QueueDeleteOk { message_count }.into(),
            Reply::QueuePurged(message_count) => QueuePurgeOk { message_count }.into(),
            Reply::Bound => QueueBindOk {}.into(),
            Reply::Unbound => QueueUnbindOk {}.into(),
            Reply::ExchangeBound => ExchangeBindOk {}.into(),
            Reply::ExchangeUnbound => ExchangeUnbindOk {}.into(),
            Reply::Consuming { consumer, tag, reply } => {
                self.consumers.insert(consumer, DeliverPrefix::new(holder, &tag));
                if !reply {
                    return;
                }
                BasicConsumeOk { consumer_tag: tag }.into()
            }
            Reply::Cancelled { tag, consumer, reply } => {
                consumer.and_then(|consumer| self.consumers.remove(&consumer));
                if !reply {
                    return;
                }
                BasicCancelOk { consumer_tag: tag }.into()
            }
            Reply::ConsumerLost { tag, consumer } => {
                self.consumers.remove(&consumer);
                if !self.wants_cancels() {
                    return;
                }
                BasicCancel { consumer_tag: tag, no_wait: true }.into()
            }
            Reply::GotNothing => BasicGetEmpty::default().into(),
            Reply::Refused { token, refusal } => {
                let id = ((token.0 >> 16) as u16, token.0 as u16);
                let fault = Fault::from(refusal).of(id);
                return match fault.closes_channel() {
                    true => self.refuse_channel(holder, &fault, out),
                    false => self.fail(&fault, out),
                };
            }
        };
        method.frame(holder, out);
    }
}

fn names(message: &Message<'_>) -> (ShortString, ShortString) {
    let name = |name: &[u8]| ShortString::try_from(name).unwrap_or_default();
    (name(message.exchange()), name(message.routing_key()))
}

/// A message's properties, with how often it was given back before if it was.
fn counted(properties: &[u8], attempts: u16) -> Cow<'_, [u8]> {
    if attempts == 0 {
        return Cow::Borrowed(properties);
    }
    let Ok(mut decoded) = Properties::decode(properties) else {
        // Checked when it was published; what cannot be read is passed on as it is.
        return Cow::Borrowed(properties);
    };
    let headers = decoded.headers.get_or_insert_default();
    while headers.remove(DELIVERY_COUNT).is_some() {}
    headers.insert(ShortString::from_static(DELIVERY_COUNT), i64::from(attempts));
    let mut encoded = Vec::with_capacity(properties.len() + 32);
    decoded.encode(&mut encoded);
    Cow::Owned(encoded)
}
