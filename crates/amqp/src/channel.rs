//! The life of a channel: opened, used, closed from one side or from both at once.

use leveret_amqp_wire::method::ChannelCloseOk;
use leveret_amqp_wire::{Frame, Method, frame};
use leveret_broker::engine::Operation;
use leveret_model::Printable;

use crate::confirm::Confirms;
use crate::connection::Connection;
use crate::content::Assembly;
use crate::fault::{CHANNEL_ERROR, Fault, NOT_ALLOWED};
use crate::operation::{Meaning, meaning};

/// A channel that the client opened.
#[derive(Debug, Default)]
pub(crate) struct Channel {
    /// The message being published, if its frames did not all come at once.
    pub(crate) assembly: Option<Assembly>,
    pub(crate) confirms: Option<Confirms>,
    pub(crate) state: ChannelState,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum ChannelState {
    #[default]
    Open,
    /// The client has closed it; the engine has not answered yet.
    Leaving,
    /// This side found a fault. The client is told when everything before it is answered; what it
    /// sends meanwhile means nothing, but a close of its own (`crossed`) wants its answer.
    Failing { fault: Fault, crossed: bool },
    /// We have closed it; the client has not agreed yet, and what it sends means nothing.
    Closing,
}

impl Connection {
    pub(crate) fn open_channel(&mut self, frame: &Frame<'_>) -> Result<(), Fault> {
        let number = frame.channel;
        let method = match frame.kind {
            frame::METHOD => Some(Method::decode(frame.payload)?),
            _ => None,
        };
        let Some(Method::ChannelOpen(_)) = method else {
            let id = method.map_or((0, 0), |method| method.id());
            return Err(Fault::new(CHANNEL_ERROR, "expected 'channel.open'").of(id));
        };
        let max = self.tuning.channel_max;
        if self.channels.len() >= usize::from(max) {
            let text = format!(
                "number of channels opened ({}) has reached the negotiated channel_max ({max})",
                self.channels.len()
            );
            return Err(Fault::new(NOT_ALLOWED, text).of((20, 10)));
        }
        self.channels.insert(number, Channel::default());
        self.command(number, (20, 10), Operation::Open);
        Ok(())
    }

    pub(crate) fn channel_method(
        &mut self,
        number: u16,
        method: Method,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let id = method.id();
        match method {
            Method::ChannelOpen(_) => {
                return Err(Fault::new(CHANNEL_ERROR, "second 'channel.open' seen").of(id));
            }
            Method::ChannelClose(_) => {
                if let Some(channel) = self.channels.get_mut(&number) {
                    channel.state = ChannelState::Leaving;
                }
                self.command(number, id, Operation::Close);
            }
            // A late answer to a close that crossed the client's own.
            Method::ChannelCloseOk(_) | Method::ChannelFlowOk(_) => {}
            method => match meaning(method)? {
                Meaning::Command(operation) => self.command(number, id, operation),
                Meaning::Answer(answer) => answer.frame(number, out),
            },
        }
        Ok(())
    }

    /// A frame of a channel that is being closed from one side.
    pub(crate) fn closed_channel_frame(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        if frame.kind != frame::METHOD {
            return;
        }
        match Method::decode(frame.payload) {
            Ok(Method::ChannelCloseOk(_)) => {
                let closing = |channel: &Channel| channel.state == ChannelState::Closing;
                if self.channels.get(&frame.channel).is_some_and(closing) {
                    self.channels.remove(&frame.channel);
                }
            }
            Ok(Method::ChannelClose(_)) => match self.channels.get_mut(&frame.channel) {
                // The client has closed it before it was told why we would. As RabbitMQ does, it is
                // told both.
                Some(Channel { state: ChannelState::Failing { crossed, .. }, .. }) => {
                    *crossed = true
                }
                _ => Method::from(ChannelCloseOk {}).frame(frame.channel, out),
            },
            _ => {}
        }
    }

    /// Closes a channel for a fault that this side found, once the engine has answered what was
    /// asked for before.
    pub(crate) fn fail_channel(&mut self, number: u16, fault: Fault) {
        self.end_assembly(number);
        let Some(channel) = self.channels.get_mut(&number) else { return };
        channel.state = ChannelState::Failing { fault, crossed: false };
        self.command(number, (0, 0), Operation::Close);
    }

    /// Closes a channel because the engine refused something, and has closed its side.
    pub(crate) fn refuse_channel(&mut self, number: u16, fault: &Fault, out: &mut Vec<u8>) {
        let Some(channel) = self.channels.get(&number) else { return };
        let leaving = match channel.state {
            ChannelState::Failing { crossed, .. } => crossed,
            ref state => *state == ChannelState::Leaving,
        };
        if leaving || matches!(channel.state, ChannelState::Failing { .. }) {
            // The engine was asked to close it too, and will answer that as well.
            *self.answers_to_skip.entry(number).or_default() += 1;
        }
        self.close_channel(number, fault, out);
        if leaving {
            // The client's own close crossed ours, and wants its answer too.
            Method::from(ChannelCloseOk {}).frame(number, out);
        }
    }

    /// The engine has closed its side of a channel, as it was asked to.
    pub(crate) fn channel_closed(&mut self, number: u16, out: &mut Vec<u8>) {
        if let Some(count) = self.answers_to_skip.get_mut(&number) {
            *count -= 1;
            if *count == 0 {
                self.answers_to_skip.remove(&number);
            }
            return;
        }
        match self.channels.get_mut(&number).map(|channel| std::mem::take(&mut channel.state)) {
            Some(ChannelState::Leaving) => {
                self.forget_consumers(number);
                self.channels.remove(&number);
                Method::from(ChannelCloseOk {}).frame(number, out);
            }
            Some(ChannelState::Failing { fault, crossed }) => {
                self.close_channel(number, &fault, out);
                if crossed {
                    Method::from(ChannelCloseOk {}).frame(number, out);
                }
            }
            // Nothing else asks the engine to close a holder.
            Some(state @ (ChannelState::Open | ChannelState::Closing)) => {
                self.channels.entry(number).or_default().state = state;
            }
            None => {}
        }
    }

    fn close_channel(&mut self, number: u16, fault: &Fault, out: &mut Vec<u8>) {
        let text = Printable(fault.reply_text());
        tracing::info!(peer = %self.peer, channel = number, %text, "closing a channel");
        self.forget_consumers(number);
        self.end_assembly(number);
        self.report_unfinished();
        fault.channel_close().frame(number, out);
        let closing = Channel { state: ChannelState::Closing, ..Channel::default() };
        self.channels.insert(number, closing);
    }

    fn forget_consumers(&mut self, number: u16) {
        self.consumers.retain(|_, prefix| prefix.channel() != number);
    }

    /// Whether the client still listens to what is said on a channel.
    pub(crate) fn hears(&self, number: u16) -> bool {
        let closing = |channel: &Channel| channel.state == ChannelState::Closing;
        self.channels.get(&number).is_some_and(|channel| !closing(channel))
    }
}
