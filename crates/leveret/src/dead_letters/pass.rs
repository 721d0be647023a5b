//! Going through dead letters, and taking out those that are meant.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;

use super::look::{Look, Next};
use super::{DeadLetter, DeadLetters, Filter, Redriven};
use crate::error::{PublishError, Result};
use crate::history;
use crate::rate::Pace;
use crate::transport::{BoxFuture, Inbound, Settler, Target, Token};

/// How many that wait for their turn are held in memory.
const WINDOW: u16 = 64;

/// What is to be done with dead letters.
pub(super) enum Act<'a> {
    Discard,
    Redrive { to: Option<&'a str>, pace: Pace },
}

/// One pass through dead letters.
///
/// Those that are not meant stay out until the end, without their bodies. As soon as nothing else
/// would be fetched for them, all there are is fetched: then those that are meant and for which
/// there is no room stay out, too, and are given back one after the other, to come again in their
/// turn. So whatever comes is taken from the connection at once: others get their messages by it.
pub(super) struct Pass<'a> {
    dead: &'a DeadLetters,
    filter: &'a Filter,
    act: Act<'a>,
    look: Look<'a>,
    settler: Option<Arc<dyn Settler>>,
    /// How many may be out; 0 for all.
    prefetch: u16,
    kept: u64,
    waiting: VecDeque<(Token, DeadLetter)>,
    sending: Option<(Token, BoxFuture<'static, Result<()>>)>,
    /// Those for which there was no room.
    later: VecDeque<Token>,
    /// How many of them were given back and are to come again.
    returning: usize,
}

impl<'a> Pass<'a> {
    pub(super) async fn new(
        dead: &'a DeadLetters,
        filter: &'a Filter,
        act: Act<'a>,
    ) -> Result<Pass<'a>> {
        let look = Look::new(dead, WINDOW).await?;
        Ok(Pass {
            dead,
            filter,
            act,
            settler: look.settler(),
            look,
            prefetch: WINDOW,
            kept: 0,
            waiting: VecDeque::new(),
            sending: None,
            later: VecDeque::new(),
            returning: 0,
        })
    }

    pub(super) async fn run(mut self) -> Result<Redriven> {
        let mut batch = Vec::new();
        loop {
            let idle = self.sending.is_none() && self.waiting.is_empty();
            if idle && self.look.left == 0 && self.later.is_empty() && self.returning == 0 {
                break;
            }
            if idle && self.prefetch > 0 && self.kept >= u64::from(self.prefetch) {
                self.prefetch = 0;
                self.again(false).await?;
            }
            tokio::select! {
                biased;
                sent = sent(&mut self.sending) => {
                    sent?;
                    if let Some((token, _)) = self.sending.take() && !self.take_out(token) {
                        self.again(true).await?;
                    }
                }
                () = turn(&mut self.act), if self.sending.is_none() && !idle => {
                    if !self.send_next() {
                        self.again(true).await?;
                    }
                }
                next = self.look.next(&mut batch, !idle) => match next? {
                    Next::Some => {
                        let current = batch.drain(..).all(|inbound| self.sort(&inbound));
                        if !current {
                            self.again(true).await?;
                        }
                    }
                    Next::Nothing => (self.look.left, self.returning) = (0, 0),
                    Next::Lost => self.again(true).await?,
                }
            }
            self.settle();
        }
        Ok(Redriven { done: self.look.done, kept: self.kept })
    }

    /// Begins again, as what is out will come again.
    async fn again(&mut self, lost: bool) -> Result<()> {
        self.settler = None;
        (self.kept, self.returning, self.sending) = (0, 0, None);
        self.waiting.clear();
        self.later.clear();
        self.look.again(self.prefetch, lost).await?;
        self.settler = self.look.settler();
        Ok(())
    }

    fn is_current(&self, token: Token) -> bool {
        self.settler.as_ref().is_some_and(|settler| settler.is_current(token))
    }

    /// Whether what came is still ours, and what it is.
    fn sort(&mut self, inbound: &Inbound) -> bool {
        if !self.is_current(inbound.token) {
            return false;
        }
        if self.look.left > 0 {
            self.look.seen();
        } else if self.returning > 0 && inbound.redelivered {
            self.returning -= 1;
        } else {
            // It is new.
            return true;
        }
        let dead = DeadLetter::new(inbound, &self.dead.queue);
        if !self.filter.means(&dead) {
            self.kept += 1;
            return true;
        }
        match self.act {
            Act::Discard => return self.take_out(inbound.token),
            Act::Redrive { .. } if self.waiting.len() < usize::from(WINDOW) => {
                self.waiting.push_back((inbound.token, dead));
            }
            Act::Redrive { .. } => self.later.push_back(inbound.token),
        }
        true
    }

    /// Takes one out; whether that could be.
    fn take_out(&mut self, token: Token) -> bool {
        match &self.settler {
            Some(settler) if settler.is_current(token) => settler.ack(token),
            _ => return false,
        }
        self.look.done();
        true
    }

    /// Sends the next one that waits, if it is still ours.
    fn send_next(&mut self) -> bool {
        let (Act::Redrive { to, .. }, Some((token, dead))) = (&self.act, self.waiting.pop_front())
        else {
            return true;
        };
        if !self.is_current(token) {
            return false;
        }
        let queue = to.map_or(dead.queue, str::to_owned);
        let (inner, mut letter) = (Arc::clone(&self.dead.bus.inner), Box::new(dead.letter));
        history::revive(&mut letter);
        let sending = async move {
            let sent = inner.send_on(Target::Queue(queue), None, &mut letter).await;
            sent.map_err(|error| unroutable(error).into())
        };
        self.sending = Some((token, Box::pin(sending)));
        true
    }

    /// Tells the broker what was taken out, and lets those come again for which there is room now.
    fn settle(&mut self) {
        let Some(settler) = &self.settler else { return };
        settler.flush();
        while self.look.left == 0 && self.waiting.len() + self.returning < usize::from(WINDOW) {
            let Some(token) = self.later.pop_front() else { return };
            settler.release(token);
            self.returning += 1;
        }
    }
}

/// Waits until what is being sent is confirmed.
async fn sent(sending: &mut Option<(Token, BoxFuture<'static, Result<()>>)>) -> Result<()> {
    match sending {
        Some((_, sending)) => sending.await,
        None => pending().await,
    }
}

/// Waits until the next one may be sent.
async fn turn(act: &mut Act<'_>) {
    match act {
        Act::Redrive { pace, .. } => pace.wait().await,
        Act::Discard => pending().await,
    }
}

fn unroutable(error: PublishError) -> PublishError {
    match error {
        PublishError::Unroutable { target, .. } => {
            let text = "there is no such queue (that of a consumer with own_queue() is gone with \
                        it); send them to one that is there, with redrive_to()";
            PublishError::Unroutable { target, text: text.to_owned() }
        }
        other => other,
    }
}
