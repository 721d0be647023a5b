//! Every limit, by name, with its unit. Defaults are RabbitMQ's (rabbit/Makefile `PROJECT_ENV`)
//! unless a line says otherwise.

use std::time::Duration;

/// Largest frame offered to a client, in bytes, the eight bytes of framing included.
pub const FRAME_MAX_BYTES: u32 = 131_072;
/// Smallest frame size a client may ask for, in bytes (AMQP 0-9-1, 4.2.3; RabbitMQ 4.1 wants
/// 8,192 and so refuses clients that ask for 4,096; there is no need to).
pub const FRAME_MIN_BYTES: u32 = 4_096;
/// Channels offered to a client on one connection.
pub const CHANNEL_MAX: u16 = 2_047;
/// Heartbeat interval offered to a client.
pub const HEARTBEAT: Duration = Duration::from_secs(60);
/// How long a client may take from connecting to `connection.open`.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest message body, in bytes.
pub const MESSAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How much of messages that are not whole yet one connection may send, in bytes: eight of the
/// largest. A client that publishes on many channels at once sends them piece by piece. RabbitMQ
/// has no such limit.
pub const UNFINISHED_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Longest time to live of a message or a queue, in milliseconds: ten years
/// (rabbit_misc:check_expiry).
pub const EXPIRATION_MS_MAX: u64 = 315_360_000_000;
/// Longest short string, in bytes (AMQP 0-9-1, 4.2.5.3): names, routing keys, consumer tags.
pub const SHORT_STRING_BYTES_MAX: usize = 255;
/// How many routing keys headers `CC` and `BCC` of one message may name. Each is a way to be
/// looked up; RabbitMQ has no such limit.
pub const MORE_KEYS_MAX: usize = 255;
/// How deep tables and arrays may nest in each other. RabbitMQ has no such limit.
pub const TABLE_DEPTH_MAX: usize = 64;
/// How many bytes of deliveries a connection may have that its client has not taken yet.
pub const SESSION_OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// How much may wait in a queue that has consumers before its publishers are slowed, in bytes.
pub const CONGESTED_QUEUE_BYTES: u64 = 4 * 1024 * 1024;
/// How long a publisher pauses after each read while a queue it publishes to is congested. Short
/// enough that consumers who do nothing cannot stop it.
pub const CONGESTION_PAUSE: Duration = Duration::from_millis(1);
/// How many batches may wait for the thread that runs the engine before those who bring more wait
/// themselves.
pub const INBOX_BATCHES_MAX: usize = 8;
/// How much content one batch may publish before it is submitted, in bytes.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How much one read takes from a socket, in bytes.
pub const READ_BYTES_MAX: usize = 64 * 1024;
/// How much may wait for the disk before publishers of persistent messages wait too, in bytes.
pub const LOG_BACKLOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// When publishers that were stopped because messages take too much memory may go on: when that
/// has fallen to this share of what is allowed, in percent. RabbitMQ has no such margin.
pub const MEMORY_RESUME_PERCENT: usize = 90;
/// Least memory that may be allowed for messages, in bytes: one of the largest must have room,
/// with some to spare.
pub const MEMORY_BYTES_MIN: usize = 32 * 1024 * 1024;
/// How much a consumer without a prefetch may have unacknowledged before it gets nothing more from
/// disk as long as messages take more memory than is allowed, in bytes. RabbitMQ has no such limit.
pub const LEASED_BYTES_MAX: usize = 1024 * 1024;
/// Smallest file of the log, in bytes: each begins with all definitions.
pub const SEGMENT_BYTES_MIN: u64 = 1024 * 1024;
/// Largest file of the log, in bytes: an index of its messages must be able to say where they are.
pub const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Least that must be free of the disk before publishers wait, where nobody said how much, in
/// bytes: the log takes 32 MiB at a time, and keeps two files more ready. Small disks have less.
pub const DISK_LOW_BYTES_MIN: u64 = 256 * 1024 * 1024;
/// Most that must be free of the disk before publishers wait, where nobody said how much, in bytes.
/// RabbitMQ wants 50 MB.
pub const DISK_LOW_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Least that must be free of the disk before everything waits that makes the log larger, where
/// nobody said how much, in bytes. Small disks have less; RabbitMQ has no such mark.
pub const DISK_CRITICAL_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// When those who wait for the disk may go on: when so much of the mark is free, in percent.
/// RabbitMQ has no such margin.
pub const DISK_RESUME_PERCENT: u64 = 110;
/// How fast a disk is taken to fill up, in bytes per second: the nearer to a mark, the more often
/// one must look.
pub const DISK_FILL_BYTES_PER_SECOND: u64 = 500_000_000;
/// How often the disk is looked at when a mark is near (RabbitMQ: 100 ms).
pub const DISK_LOOK_MIN: Duration = Duration::from_millis(100);
/// How often the disk is looked at when it is far from any mark (RabbitMQ: 10 s).
pub const DISK_LOOK_MAX: Duration = Duration::from_secs(1);
/// HTTP connections at a time; the API is for people and their tools, not for every client.
pub const HTTP_CONNECTIONS_MAX: usize = 256;
/// How long an HTTP client may take for the head of a request, and between two requests.
pub const HTTP_HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an HTTP client may take nothing of an answer.
pub const HTTP_WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest head of an HTTP request, in bytes.
pub const HTTP_HEADER_BYTES_MAX: usize = 16 * 1024;
/// Largest body of an HTTP request, in bytes.
pub const HTTP_BODY_BYTES_MAX: u64 = 10_000_000;
/// How much content one transaction may publish, in bytes.
pub const TRANSACTION_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How many bytes of dead letters that are not on their way yet are sent there at once when their
/// queue is deleted. Beyond that a crash at that moment loses them with the queue.
pub const DELETED_LETTERS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How much one step does of what nobody waits for: dead letters written anew and expired messages
/// dropped, in bytes of content; what is left is for the next steps.
pub const STEP_WORK_BYTES_MAX: usize = 1024 * 1024;
