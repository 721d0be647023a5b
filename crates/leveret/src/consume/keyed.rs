//! Messages whose key is somewhere else than on them.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::SubscribeError;
use crate::health::ConsumerState;
use crate::letter::Letter;
use crate::transport::{BoxFuture, Inbound, Inlet, Settler};

/// A message's key, by what is in it.
pub(crate) type KeyOf = fn(&Letter) -> Option<String>;

/// Writes keys on messages that have none.
pub(super) struct Keyed {
    pub(super) inlet: Box<dyn Inlet>,
    pub(super) key_of: KeyOf,
}

impl Inlet for Keyed {
    fn next<'a>(
        &'a mut self,
        into: &'a mut Vec<Arc<Inbound>>,
    ) -> BoxFuture<'a, Result<(), SubscribeError>> {
        Box::pin(async move {
            let before = into.len();
            self.inlet.next(into).await?;
            for inbound in &mut into[before..] {
                if inbound.letter.key.is_none()
                    && let Some(key) = (self.key_of)(&inbound.letter)
                {
                    Arc::make_mut(inbound).letter.key = Some(key);
                }
            }
            Ok(())
        })
    }

    fn settler(&self) -> Arc<dyn Settler> {
        self.inlet.settler()
    }

    fn state(&self) -> watch::Receiver<ConsumerState> {
        self.inlet.state()
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        self.inlet.stop()
    }
}
