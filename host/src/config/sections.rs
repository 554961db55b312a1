//! What can be configured, as types: one for each section of the file. What makes a value wrong is not said here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::choices::choices;
use super::defaults;
use crate::auth::Grant;
use crate::domain::Name;

/// What a broker runs on. The fields are explained in [`DEVELOPMENT`](super::DEVELOPMENT), key by key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where everything durable lives.
    pub data_dir: PathBuf,
    /// Addresses.
    pub listen: Listen,
    /// The broker's certificate and whose clients it accepts.
    pub tls: Tls,
    /// What one client may take.
    pub limits: Limits,
    /// Journal, sled and caches.
    pub store: Store,
    /// Topics.
    pub topics: Topics,
    /// Limits of WebAssembly plugins.
    pub plugins: Plugins,
    /// What is written to stderr.
    pub log: Log,
    /// How the broker stops.
    pub shutdown: Shutdown,
    /// Who may do what.
    pub policy: Policy,
}

/// `[listen]`: addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// QUIC with client certificates.
    pub quic: SocketAddr,
    /// QUIC without client certificates.
    #[serde(with = "optional_address")]
    pub anonymous: Option<SocketAddr>,
    /// What decides how much may be under way to the clients of `quic`.
    pub quic_congestion: CongestionControl,
    /// The same for those of `anonymous`.
    pub anonymous_congestion: CongestionControl,
    /// Whether events are compressed on the way to and from the clients of `quic`.
    pub quic_compression: CompressionMode,
    /// The same for those of `anonymous`.
    pub anonymous_compression: CompressionMode,
    /// Admin API over plain HTTP, loopback only.
    #[serde(with = "optional_address")]
    pub admin: Option<SocketAddr>,
    /// Admin API over HTTPS with client certificates.
    #[serde(with = "optional_address")]
    pub admin_tls: Option<SocketAddr>,
}

/// What decides how much may be under way on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CongestionControl {
    /// Cubic on short paths, a model of the path on long ones.
    #[default]
    Auto,
    /// Loss is congestion.
    Cubic,
    /// quinn's experimental BBR.
    Bbr,
}

choices!(CongestionControl {
    Auto => "auto",
    Cubic => "cubic",
    Bbr => "bbr",
});

/// Whether events are compressed on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompressionMode {
    /// On long paths, where it pays.
    #[default]
    Auto,
    /// Never, in either direction.
    Off,
    /// On every path.
    Always,
}

choices!(CompressionMode {
    Auto => "auto",
    Off => "off",
    Always => "always",
});

/// `[tls]`: PEM files; all or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Certificate chain of the broker.
    pub cert: Option<PathBuf>,
    /// Private key of the broker.
    pub key: Option<PathBuf>,
    /// Authorities whose client certificates are accepted.
    pub client_ca: Option<PathBuf>,
}

/// `[limits]`: what one client may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of one message on a stream.
    pub frame_bytes_max: u64,
    /// Bytes of one encoded event.
    pub event_bytes_max: u64,
    /// Headers of one event.
    pub headers_max: u32,
    /// Bytes of all headers of one event.
    pub header_bytes_max: u64,
    /// Events in one publish batch.
    pub batch_events_max: u32,
    /// Open QUIC connections.
    pub connections_max: u32,
    /// Of those, how many one principal may have; 0 stands for half of them.
    pub principal_connections_max: u32,
    /// Streams of one connection.
    pub connection_streams_max: u32,
    /// What may be unanswered on one publish stream, in bytes of cost.
    pub publish_credit_bytes: u64,
    /// The same over all publish streams.
    pub publish_credit_total_bytes: u64,
    /// Unanswered batches of one publish stream.
    pub publish_credit_batches: u32,
    /// What all connections may have waiting to be sent, beyond 4 MiB of each.
    pub send_window_total_bytes: u64,
    /// Producers whose resends are recognised.
    pub producers_max: u64,
    /// Topics there may be.
    pub topics_max: u64,
    /// Of these, made by one principal.
    pub principal_topics_max: u64,
    /// Subscriptions and routes there may be.
    pub subscriptions_max: u64,
    /// Of these, made by one principal.
    pub principal_subscriptions_max: u64,
    /// Topic patterns of one subscription or route.
    pub subscription_patterns_max: u64,
    /// Bytes of the specifications of all subscriptions and routes.
    pub specification_bytes_max: u64,
    /// Of these, of those made by one principal.
    pub principal_specification_bytes_max: u64,
    /// Versions of plugins there may be; a name whose versions are all deleted counts as one.
    pub plugins_max: u64,
    /// Of these, uploaded by one principal.
    pub principal_plugins_max: u64,
    /// Bytes of all uploaded versions.
    pub plugin_bytes_max: u64,
    /// Of these, uploaded by one principal.
    pub principal_plugin_bytes_max: u64,
    /// Milliseconds for a handshake and the first message.
    pub handshake_timeout_ms: u64,
    /// Milliseconds for a message from its first byte to its last.
    pub frame_timeout_ms: u64,
    /// Milliseconds of silence after which a connection is closed; after a fifth of them, 6 s at least, others get what its consumers hold.
    pub idle_timeout_ms: u64,
    /// Open connections to each listener of the admin API.
    pub admin_connections_max: u32,
    /// Of these, from one address over TLS.
    pub admin_address_connections_max: u32,
    /// Of these, by one principal over TLS.
    pub admin_principal_connections_max: u32,
    /// Milliseconds for an admin request, plugin uploads apart.
    pub admin_request_timeout_ms: u64,
}

/// `[store]`: journal, sled and caches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// Bytes of journal on disk.
    pub journal_bytes_max: u64,
    /// Bytes of one journal file.
    pub journal_file_bytes: u64,
    /// Bytes of it that publishes may not use.
    pub journal_reserve_bytes: u64,
    /// Blocks in it.
    pub journal_blocks_max: u64,
    /// Milliseconds from an answer to its sync, for topics with `interval` durability.
    pub interval_ms: u64,
    /// Bytes of blocks read from disk kept in memory.
    pub cache_bytes: u64,
    /// Bytes of the newest events kept in memory.
    pub tail_bytes: u64,
    /// sled databases open at a time.
    pub generations_open_max: u32,
    /// Bytes of events in one sled database.
    pub generation_part_bytes: u64,
    /// Start although committed data is damaged, and go on without it. Not a key of the file, so that it is
    /// never left on.
    #[serde(skip)]
    pub accept_loss: bool,
}

/// `[topics]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Topics {
    /// Create a topic when it is first published to.
    pub auto_create: bool,
    /// Milliseconds after a topic was deleted in which publishing to it is refused rather than makes it again. 0: at once. At most a
    /// year.
    pub recreate_after_ms: u64,
}

/// `[plugins]`: limits of WebAssembly plugins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plugins {
    /// Bytes of memory of one instance.
    pub memory_bytes_max: u64,
    /// Milliseconds any call may take.
    pub deadline_base_ms: u64,
    /// Microseconds a call may take in addition per pair of event and rule.
    pub deadline_pair_us: u64,
    /// Bytes one call may hand back.
    pub output_bytes_max: u64,
    /// Bytes of one uploaded component.
    pub module_bytes_max: u64,
    /// Milliseconds for compiling one component.
    pub compile_timeout_ms: u64,
    /// Bytes of memory for compiling one component.
    pub compile_memory_bytes_max: u64,
    /// Instances in the whole process.
    pub instances_max: u32,
    /// Of these, those of the plugins of one owner; 0 for half of them.
    pub owner_instances_max: u32,
    /// Bytes of memory of all instances together.
    pub instances_memory_bytes_max: u64,
    /// Of these, those of the plugins of one owner; 0 for half of them.
    pub owner_memory_bytes_max: u64,
    /// Threads that run plugins; 0 for the number of cores, at least 2.
    pub worker_threads: u32,
    /// Other limits for some plugins, by name.
    #[serde(rename = "override", skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<Name, PluginLimits>,
}

/// `[plugins.override.NAME]`: what is absent is as for every plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginLimits {
    /// Bytes of memory of one instance.
    pub memory_bytes_max: Option<u64>,
    /// Milliseconds any call may take.
    pub deadline_base_ms: Option<u64>,
    /// Microseconds a call may take in addition per pair of event and rule.
    pub deadline_pair_us: Option<u64>,
    /// Bytes one call may hand back.
    pub output_bytes_max: Option<u64>,
    /// Bytes of one uploaded component.
    pub module_bytes_max: Option<u64>,
}

/// `[log]`: what is written to stderr.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// Directives of a tracing filter.
    pub level: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

choices!(LogFormat {
    Text => "text",
    Json => "json",
});

/// `[shutdown]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// Milliseconds clients have to finish.
    pub deadline_ms: u64,
}

/// `[policy]`: who may do what; nothing is allowed that is not granted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// What is allowed.
    pub grants: Vec<Grant>,
}

impl Default for Config {
    /// The defaults, without any grant.
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from(defaults::DATA_DIR),
            listen: Listen::default(),
            tls: Tls::default(),
            limits: Limits::default(),
            store: Store::default(),
            topics: Topics::default(),
            plugins: Plugins::default(),
            log: Log::default(),
            shutdown: Shutdown::default(),
            policy: Policy::default(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        let address = |text: &str| text.parse().expect("a constant address");
        Self {
            quic: address(defaults::LISTEN_QUIC),
            anonymous: None,
            quic_congestion: CongestionControl::Auto,
            anonymous_congestion: CongestionControl::Auto,
            quic_compression: CompressionMode::Auto,
            anonymous_compression: CompressionMode::Auto,
            admin: Some(address(defaults::LISTEN_ADMIN)),
            admin_tls: None,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: defaults::FRAME_BYTES_MAX,
            event_bytes_max: defaults::EVENT_BYTES_MAX,
            headers_max: defaults::HEADERS_MAX,
            header_bytes_max: defaults::HEADER_BYTES_MAX,
            batch_events_max: defaults::BATCH_EVENTS_MAX,
            connections_max: defaults::CONNECTIONS_MAX,
            principal_connections_max: defaults::PRINCIPAL_CONNECTIONS_MAX,
            connection_streams_max: defaults::CONNECTION_STREAMS_MAX,
            publish_credit_bytes: defaults::PUBLISH_CREDIT_BYTES,
            publish_credit_total_bytes: defaults::PUBLISH_CREDIT_TOTAL_BYTES,
            publish_credit_batches: defaults::PUBLISH_CREDIT_BATCHES,
            send_window_total_bytes: defaults::SEND_WINDOW_TOTAL_BYTES,
            producers_max: defaults::PRODUCERS_MAX,
            topics_max: defaults::TOPICS_MAX,
            principal_topics_max: defaults::PRINCIPAL_TOPICS_MAX,
            subscriptions_max: defaults::SUBSCRIPTIONS_MAX,
            principal_subscriptions_max: defaults::PRINCIPAL_SUBSCRIPTIONS_MAX,
            subscription_patterns_max: defaults::SUBSCRIPTION_PATTERNS_MAX,
            specification_bytes_max: defaults::SPECIFICATION_BYTES_MAX,
            principal_specification_bytes_max: defaults::PRINCIPAL_SPECIFICATION_BYTES_MAX,
            plugins_max: defaults::PLUGINS_MAX,
            principal_plugins_max: defaults::PRINCIPAL_PLUGINS_MAX,
            plugin_bytes_max: defaults::PLUGIN_BYTES_MAX,
            principal_plugin_bytes_max: defaults::PRINCIPAL_PLUGIN_BYTES_MAX,
            handshake_timeout_ms: defaults::HANDSHAKE_TIMEOUT_MS,
            frame_timeout_ms: defaults::FRAME_TIMEOUT_MS,
            idle_timeout_ms: defaults::IDLE_TIMEOUT_MS,
            admin_connections_max: defaults::ADMIN_CONNECTIONS_MAX,
            admin_address_connections_max: defaults::ADMIN_ADDRESS_CONNECTIONS_MAX,
            admin_principal_connections_max: defaults::ADMIN_PRINCIPAL_CONNECTIONS_MAX,
            admin_request_timeout_ms: defaults::ADMIN_REQUEST_TIMEOUT_MS,
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            journal_bytes_max: defaults::JOURNAL_BYTES_MAX,
            journal_file_bytes: defaults::JOURNAL_FILE_BYTES,
            journal_reserve_bytes: defaults::JOURNAL_RESERVE_BYTES,
            journal_blocks_max: defaults::JOURNAL_BLOCKS_MAX,
            interval_ms: defaults::INTERVAL_MS,
            cache_bytes: defaults::CACHE_BYTES,
            tail_bytes: defaults::TAIL_BYTES,
            generations_open_max: defaults::GENERATIONS_OPEN_MAX,
            generation_part_bytes: defaults::GENERATION_PART_BYTES,
            accept_loss: false,
        }
    }
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            auto_create: true,
            recreate_after_ms: 10 * 60 * 1_000,
        }
    }
}

impl Default for Plugins {
    fn default() -> Self {
        Self {
            memory_bytes_max: defaults::PLUGIN_MEMORY_BYTES_MAX,
            deadline_base_ms: defaults::PLUGIN_DEADLINE_BASE_MS,
            deadline_pair_us: defaults::PLUGIN_DEADLINE_PAIR_US,
            output_bytes_max: defaults::PLUGIN_OUTPUT_BYTES_MAX,
            module_bytes_max: defaults::MODULE_BYTES_MAX,
            compile_timeout_ms: defaults::COMPILE_TIMEOUT_MS,
            compile_memory_bytes_max: defaults::COMPILE_MEMORY_BYTES_MAX,
            instances_max: defaults::PLUGIN_INSTANCES_MAX,
            owner_instances_max: defaults::PLUGIN_OWNER_INSTANCES_MAX,
            instances_memory_bytes_max: defaults::PLUGIN_INSTANCES_MEMORY_BYTES_MAX,
            owner_memory_bytes_max: defaults::PLUGIN_OWNER_MEMORY_BYTES_MAX,
            worker_threads: defaults::WORKER_THREADS,
            overrides: BTreeMap::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: defaults::LOG_LEVEL.to_owned(),
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            deadline_ms: defaults::SHUTDOWN_DEADLINE_MS,
        }
    }
}

// An address that may be closed: an empty text stands for none, so that a default can be switched off.
mod optional_address {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::ref_option, reason = "the signature serde asks for")]
    pub(super) fn serialize<S: Serializer>(
        address: &Option<SocketAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str(""),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| {
            D::Error::custom(format!(
                "`{text}` is not an address and port, such as 127.0.0.1:4433"
            ))
        })
    }
}
