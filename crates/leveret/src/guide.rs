//! The guide's programs, compiled and run as tests of documentation.

#[doc = include_str!("../../../README.md")]
struct Project;

#[doc = include_str!("../../../docs/guide/README.md")]
struct Guide;

#[doc = include_str!("../../../docs/guide/publishing.md")]
struct Publishing;

#[doc = include_str!("../../../docs/guide/consuming.md")]
struct Consuming;

#[doc = include_str!("../../../docs/guide/batches.md")]
struct Batches;

#[doc = include_str!("../../../docs/guide/layers.md")]
struct Layers;

#[doc = include_str!("../../../docs/guide/retry.md")]
struct Retry;

#[doc = include_str!("../../../docs/guide/dead-letters.md")]
struct DeadLetters;

#[doc = include_str!("../../../docs/guide/publish-subscribe.md")]
struct PublishSubscribe;

#[doc = include_str!("../../../docs/guide/work-queues.md")]
struct WorkQueues;

#[doc = include_str!("../../../docs/guide/scheduling.md")]
struct Scheduling;

#[doc = include_str!("../../../docs/guide/health.md")]
struct Health;

#[doc = include_str!("../../../docs/guide/brokers.md")]
struct Brokers;

#[doc = include_str!("../../../docs/guide/agents.md")]
struct Agents;

#[cfg(all(feature = "dedup-file", feature = "postgres"))]
#[doc = include_str!("../../../docs/guide/idempotency.md")]
struct Idempotency;

#[cfg(feature = "claim-check")]
#[doc = include_str!("../../../docs/guide/large-messages.md")]
struct LargeMessages;

#[cfg(feature = "postgres")]
#[doc = include_str!("../../../docs/guide/outbox.md")]
struct Outbox;

#[cfg(feature = "schema")]
#[doc = include_str!("../../../docs/guide/describe.md")]
struct Describe;

#[doc = include_str!("../../../docs/guide/request-reply.md")]
struct RequestReply;

#[doc = include_str!("../../../docs/guide/testing.md")]
struct Testing;
