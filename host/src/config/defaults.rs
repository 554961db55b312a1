//! Every default of the configuration, with the arithmetic behind it. `examples/tidegate.toml` shows the same
//! values to people; a test keeps the two equal. The parts of the broker have the same ones for their own tests, and a test of `app`
//! keeps those equal.

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Below the directory the broker is started in, so that a first try needs no rights and leaves one folder.
pub(super) const DATA_DIR: &str = "tidegate-data";

/// Loopback: a broker is opened to a network by a decision, not by default.
pub(super) const LISTEN_QUIC: &str = "127.0.0.1:4433";
/// Loopback, as the plain listener must be.
pub(super) const LISTEN_ADMIN: &str = "127.0.0.1:4480";

/// At 1 GB/s this is 1 ms of a stream, and sixteen blocks of the store. The protocol's own default.
pub(super) const FRAME_BYTES_MAX: u64 = MIB;
/// What fits a frame beside 1 KiB for its envelope. Larger things belong into an object store, with their
/// address in the event.
pub(super) const EVENT_BYTES_MAX: u64 = FRAME_BYTES_MAX - KIB;
/// CloudEvents has some ten attributes; tracing and routing add a few more.
pub(super) const HEADERS_MAX: u32 = 128;
/// 128 headers of 128 bytes.
pub(super) const HEADER_BYTES_MAX: u64 = HEADERS_MAX as u64 * 128;
/// A frame is full with 4,096 events of 256 bytes.
pub(super) const BATCH_EVENTS_MAX: u32 = (FRAME_BYTES_MAX / 256) as u32;
/// At about 30 KiB for an idle connection, 300 MiB.
pub(super) const CONNECTIONS_MAX: u32 = 10_000;
/// 0 stands for half of all: two principals that take what they can still leave room for others.
pub(super) const PRINCIPAL_CONNECTIONS_MAX: u32 = 0;
/// A few publish streams and over 200 consumers.
pub(super) const CONNECTION_STREAMS_MAX: u32 = 256;
/// At 1 GB/s 8 ms: a few syncs, so that frames arrive while others are written.
pub(super) const PUBLISH_CREDIT_BYTES: u64 = 8 * FRAME_BYTES_MAX;
/// 32 times what a stream asks for. A principal may have half of that; its first eight streams get all they ask for.
pub(super) const PUBLISH_CREDIT_TOTAL_BYTES: u64 = 32 * PUBLISH_CREDIT_BYTES;
/// At about 300 bytes each and, over all of them, ten batches of 24 bytes for each: 54 MB.
pub(super) const PRODUCERS_MAX: u64 = 100_000;
/// At 1 to 2 KB each with a name of some tens of bytes, up to 200 MB.
pub(super) const TOPICS_MAX: u64 = 100_000;
/// A tenth: a topic for each device of a large site.
pub(super) const PRINCIPAL_TOPICS_MAX: u64 = TOPICS_MAX / 10;
/// At 3 KB each, 5 with a short rule in a filter (measured with 1,000 of each), 100 MB.
pub(super) const SUBSCRIPTIONS_MAX: u64 = 20_000;
/// One for each rule of a team that has many; a twentieth of all.
pub(super) const PRINCIPAL_SUBSCRIPTIONS_MAX: u64 = SUBSCRIPTIONS_MAX / 20;
/// At 1.5 KB each (measured with patterns of four tokens, of which three make nodes of their own), 400 KB for one subscription.
pub(super) const SUBSCRIPTION_PATTERNS_MAX: u64 = 256;
/// 3.3 KB for each subscription there may be. Each is kept some six times (for who changes it, who reads it, who runs it): 400 MB.
pub(super) const SPECIFICATION_BYTES_MAX: u64 = 64 * MIB;
/// A quarter: 16 KB for each subscription a principal may have, or sixteen of the longest that a request can bring.
pub(super) const PRINCIPAL_SPECIFICATION_BYTES_MAX: u64 = SPECIFICATION_BYTES_MAX / 4;
/// At some 200 bytes each beside what is compiled. Nobody has more at work than there may be instances, and some versions are old.
pub(super) const PLUGINS_MAX: u64 = 2 * PLUGIN_INSTANCES_MAX as u64;
/// A sixteenth: several teams with some plugins each, and a few versions of every one.
pub(super) const PRINCIPAL_PLUGINS_MAX: u64 = PLUGINS_MAX / 16;
/// 16 of the largest that are accepted. Compiled they take two and a half times that (measured with the bundled ones), in memory
/// and beside them on disk: 1.3 GiB.
pub(super) const PLUGIN_BYTES_MAX: u64 = 16 * MODULE_BYTES_MAX;
/// A quarter: four of the largest, seven of Python or some hundreds in Rust.
pub(super) const PRINCIPAL_PLUGIN_BYTES_MAX: u64 = PLUGIN_BYTES_MAX / 4;
/// One batch per 32 KiB of the byte credit; smaller batches run into this first.
pub(super) const PUBLISH_CREDIT_BATCHES: u32 = (PUBLISH_CREDIT_BYTES / (32 * KIB)) as u32;
/// Nine connections that each fill 1 Gbit/s at 100 ms.
pub(super) const SEND_WINDOW_TOTAL_BYTES: u64 = 256 * MIB;
/// QUIC sends again what was lost after 1 and after 3 s, as long as it knows nothing of the path: two losses in a row.
pub(super) const HANDSHAKE_TIMEOUT_MS: u64 = 5_000;
/// A frame of 1 MiB at 300 kbit/s.
pub(super) const FRAME_TIMEOUT_MS: u64 = 30_000;
/// Three keep-alives may be lost in a row before a connection counts as dead.
pub(super) const IDLE_TIMEOUT_MS: u64 = 30_000;
/// Scrapers, dashboards and people; each connection is a task of a few KiB.
pub(super) const ADMIN_CONNECTIONS_MAX: u32 = 256;
/// A quarter: a machine with scrapers, dashboards and a deployment at the same time, and three more like it.
pub(super) const ADMIN_ADDRESS_CONNECTIONS_MAX: u32 = ADMIN_CONNECTIONS_MAX / 4;
/// Half of an address: several principals may share one, behind a proxy or on one machine, and none of them shuts the others out.
pub(super) const ADMIN_PRINCIPAL_CONNECTIONS_MAX: u32 = ADMIN_ADDRESS_CONNECTIONS_MAX / 2;
/// A request waits for one durable group, milliseconds unless the disk is in trouble.
pub(super) const ADMIN_REQUEST_TIMEOUT_MS: u64 = 30_000;

/// 64 files: at 100 MB/s twenty seconds of publishes until a checkpoint, in which consumers ack before anything moves to
/// sled. Moving costs more than publishing did, so it is for subscribers that are away, not for those that are late.
pub(super) const JOURNAL_BYTES_MAX: u64 = 64 * JOURNAL_FILE_BYTES;
/// At 100 MB/s a rotation (one preallocation and a folder sync, 2 to 3 ms) every 0.6 s.
pub(super) const JOURNAL_FILE_BYTES: u64 = 64 * MIB;
/// At 0.15 to 1.2 ms for a sync, syncing costs such topics under 3 % of the time. What they wait for is the write.
pub(super) const INTERVAL_MS: u64 = 50;
/// One file: room for the acks of everything in flight and for the marks of a checkpoint.
pub(super) const JOURNAL_RESERVE_BYTES: u64 = JOURNAL_FILE_BYTES;
/// At 64 bytes each 64 MiB; reached before the bytes when blocks are under 4 KiB, as with a thousand busy topics.
pub(super) const JOURNAL_BLOCKS_MAX: u64 = JOURNAL_BYTES_MAX / (4 * KIB);
/// 512 blocks of 64 KiB, shared by all readers that are behind.
pub(super) const CACHE_BYTES: u64 = 32 * MIB;
/// At 100 MB/s the last 0.6 s: longer than a consumer's round trip and a plugin's deadline together.
pub(super) const TAIL_BYTES: u64 = 64 * MIB;
/// With 16 MiB each, and sled taking up to twice what it read, at most 64 MiB while a backlog drains.
pub(super) const GENERATIONS_OPEN_MAX: u32 = 2;
/// A database is read whole, and again by each reader that comes when it was closed meanwhile: small enough that readers at
/// three or four places cost little, large enough that opening one (about 1 ms beside reading it) does not count.
pub(super) const GENERATION_PART_BYTES: u64 = 16 * MIB;

/// An interpreter (Python, JavaScript) takes 10 to 30 MiB before it holds a rule.
pub(super) const PLUGIN_MEMORY_BYTES_MAX: u64 = 64 * MIB;
/// A garbage collection or a scheduling hiccup must not look like an endless loop.
pub(super) const PLUGIN_DEADLINE_BASE_MS: u64 = 50;
/// A compiled filter needs 0.02 to 4 µs for a pair, interpreted JavaScript 14 µs.
pub(super) const PLUGIN_DEADLINE_PAIR_US: u64 = 20;
/// Four times what a call is given at most.
pub(super) const PLUGIN_OUTPUT_BYTES_MAX: u64 = 16 * MIB;
/// Each reserves 4 GiB of address space: 2 TiB of the 128 that a process has. What memory they take has a bound of its own.
pub(super) const PLUGIN_INSTANCES_MAX: u32 = 512;
/// 0 stands for half of all: 256.
pub(super) const PLUGIN_OWNER_INSTANCES_MAX: u32 = 0;
/// 256 compiled filters of 4 MiB, or 20 interpreters of 50 MiB; an eighth of a machine with 8 GiB, beside some 300 MiB for events.
pub(super) const PLUGIN_INSTANCES_MEMORY_BYTES_MAX: u64 = 16 * PLUGIN_MEMORY_BYTES_MAX;
/// 0 stands for half of all: 512 MiB, eight instances that have all that one may.
pub(super) const PLUGIN_OWNER_MEMORY_BYTES_MAX: u64 = 0;
/// componentize-py makes 18 MB, componentize-js 12 MB.
pub(super) const MODULE_BYTES_MAX: u64 = 32 * MIB;
/// Six times what Cranelift needs for 18 MB on two cores.
pub(super) const COMPILE_TIMEOUT_MS: u64 = 120_000;
/// A function of 4.5 MB takes some 530 MB, and 7.6 MB is the most that WebAssembly allows one; 18 MB in 3,000 functions take 160 MB.
pub(super) const COMPILE_MEMORY_BYTES_MAX: u64 = 1_024 * MIB;
/// 0 stands for the number of cores.
pub(super) const WORKER_THREADS: u32 = 0;

/// One line per fault or refusal, nothing per event.
pub(super) const LOG_LEVEL: &str = "info";
/// Shorter than the 30 s after which orchestrators kill.
pub(super) const SHUTDOWN_DEADLINE_MS: u64 = 10_000;
