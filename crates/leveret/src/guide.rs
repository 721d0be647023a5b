//! The guide's pages: the programs in them are compiled and run as tests.

#[doc = include_str!("../../../docs/guide/agents.md")]
mod agents {}

#[cfg(all(feature = "dedup-file", feature = "postgres"))]
#[doc = include_str!("../../../docs/guide/idempotency.md")]
mod idempotency {}

#[cfg(feature = "claim-check")]
#[doc = include_str!("../../../docs/guide/large-messages.md")]
mod large_messages {}

#[cfg(feature = "postgres")]
#[doc = include_str!("../../../docs/guide/outbox.md")]
mod outbox {}

#[doc = include_str!("../../../docs/guide/request-reply.md")]
mod request_reply {}
