//! What the configuration means for each part of the broker: its sections, in the words of the part that takes them.

use std::sync::Arc;
use std::time::Duration;

use crate::admin::AdminOptions;
use crate::auth::Policy;
use crate::broker::{BrokerOptions, CheckpointDue, PluginQuotas};
use crate::config::{CompressionMode, Config, CongestionControl};
use crate::disk::RealFileSystem;
use crate::net::{
    Compression, Congestion, Limits, ListenerOptions, NetOptions, QuicOptions, SessionOptions,
};
use crate::plugin::{Compiler, PluginLimits, PluginOptions};
use crate::runtime::{Clock, Random};
use crate::state::quotas::Quota;
use crate::store::StoreOptions;
use crate::telemetry::Metrics;
use crate::tls::ClientAuth;

/// What all parts have from outside, and one of it.
pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) random: Random,
    pub(super) metrics: Metrics,
}

pub(super) fn store_options(config: &Config) -> StoreOptions {
    StoreOptions {
        journal_file_bytes: config.store.journal_file_bytes,
        journal_bytes_max: config.store.journal_bytes_max,
        journal_reserve_bytes: config.store.journal_reserve_bytes,
        journal_blocks_max: usize_of(config.store.journal_blocks_max),
        generations_open_max: config.store.generations_open_max as usize,
        generation_part_bytes: config.store.generation_part_bytes,
        cache_bytes: config.store.cache_bytes,
        accept_loss: config.store.accept_loss,
        marker: Some(config.data_dir.join("tidegate.data")),
        ..StoreOptions::default()
    }
}

/// With as many connections as the machine's limit on open files leaves.
pub(super) fn admin_options(config: &Config, connections_max: u64) -> AdminOptions {
    let plugins = &config.plugins;
    let own = plugins.overrides.values();
    let module_bytes_max = own
        .filter_map(|own| own.module_bytes_max)
        .fold(plugins.module_bytes_max, u64::max);
    let request_timeout = Duration::from_millis(config.limits.admin_request_timeout_ms);
    AdminOptions {
        connections_max: usize_of(connections_max),
        address_connections_max: config.limits.admin_address_connections_max as usize,
        principal_connections_max: config.limits.admin_principal_connections_max as usize,
        request_timeout,
        // It waits for others, and then takes as long itself.
        upload_timeout: request_timeout + 2 * Duration::from_millis(plugins.compile_timeout_ms),
        module_bytes_max: usize_of(module_bytes_max),
    }
}

pub(super) fn broker_options(
    config: &Config,
    policy: Arc<Policy>,
    shared: &Shared,
) -> BrokerOptions {
    BrokerOptions {
        clock: shared.clock.clone(),
        metrics: shared.metrics.clone(),
        file_system: Arc::new(RealFileSystem),
        plugins_dir: config.data_dir.join("plugins"),
        auto_create_topics: config.topics.auto_create,
        recreate_after_ms: config.topics.recreate_after_ms,
        interval_ms: config.store.interval_ms,
        tail_bytes: usize_of(config.store.tail_bytes),
        checkpoint_at: CheckpointDue::when_half_full(&store_options(config)),
        journal_bytes_max: config.store.journal_bytes_max,
        producers_max: usize_of(config.limits.producers_max),
        topics: Quota {
            all: usize_of(config.limits.topics_max),
            principal: usize_of(config.limits.principal_topics_max),
        },
        subscriptions: Quota {
            all: usize_of(config.limits.subscriptions_max),
            principal: usize_of(config.limits.principal_subscriptions_max),
        },
        specification_bytes: Quota {
            all: usize_of(config.limits.specification_bytes_max),
            principal: usize_of(config.limits.principal_specification_bytes_max),
        },
        plugins: PluginQuotas {
            versions: Quota {
                all: usize_of(config.limits.plugins_max),
                principal: usize_of(config.limits.principal_plugins_max),
            },
            bytes: Quota {
                all: usize_of(config.limits.plugin_bytes_max),
                principal: usize_of(config.limits.principal_plugin_bytes_max),
            },
        },
        subscription_patterns_max: usize_of(config.limits.subscription_patterns_max),
        event_bytes_max: usize_of(config.limits.event_bytes_max),
        // As large as a frame that the broker takes itself, without its envelope.
        delivery_bytes_max: usize_of(config.limits.frame_bytes_max).saturating_sub(1_024),
        policy,
    }
}

pub(super) fn net_options(config: &Config, reset_key: [u8; 64], random: &Random) -> NetOptions {
    let limits = &config.limits;
    let mut listeners = vec![ListenerOptions {
        addr: config.listen.quic,
        client_auth: ClientAuth::Required,
        congestion: congestion(config.listen.quic_congestion),
        compression: compression(config.listen.quic_compression),
    }];
    if let Some(addr) = config.listen.anonymous {
        listeners.push(ListenerOptions {
            addr,
            client_auth: ClientAuth::Anonymous,
            congestion: congestion(config.listen.anonymous_congestion),
            compression: compression(config.listen.anonymous_compression),
        });
    }
    let idle_timeout = Duration::from_millis(limits.idle_timeout_ms);
    let sessions = SessionOptions {
        limits: Limits {
            frame_bytes_max: usize_of(limits.frame_bytes_max),
            event_bytes_max: usize_of(limits.event_bytes_max),
            headers_max: limits.headers_max as usize,
            header_bytes_max: usize_of(limits.header_bytes_max),
            batch_events_max: limits.batch_events_max as usize,
        },
        publish_credit_bytes: usize_of(limits.publish_credit_bytes),
        publish_credit_batches: limits.publish_credit_batches,
        publish_credit_total_bytes: usize_of(limits.publish_credit_total_bytes),
        handshake_timeout: Duration::from_millis(limits.handshake_timeout_ms),
        frame_timeout: Duration::from_millis(limits.frame_timeout_ms),
        connections_max: limits.connections_max as usize,
        principal_connections_max: limits.principal_connections_max as usize,
        streams_max: limits.connection_streams_max,
        shutdown_grace: Duration::from_millis(config.shutdown.deadline_ms),
        silent_after: SessionOptions::silent_after(idle_timeout),
    };
    let quic = QuicOptions {
        listeners,
        idle_timeout,
        reset_key: Some(reset_key),
        random: random.clone(),
        send_window_total_bytes: limits.send_window_total_bytes,
        ..QuicOptions::default()
    };
    NetOptions { sessions, quic }
}

fn congestion(control: CongestionControl) -> Congestion {
    match control {
        CongestionControl::Auto => Congestion::Auto,
        CongestionControl::Cubic => Congestion::Cubic,
        CongestionControl::Bbr => Congestion::Bbr,
    }
}

fn compression(mode: CompressionMode) -> Compression {
    match mode {
        CompressionMode::Auto => Compression::Auto,
        CompressionMode::Off => Compression::Off,
        CompressionMode::Always => Compression::Always,
    }
}

pub(super) fn plugin_options(config: &Config, shared: &Shared) -> PluginOptions {
    let plugins = &config.plugins;
    let limits = PluginLimits {
        memory_bytes_max: usize_of(plugins.memory_bytes_max),
        call_base: Duration::from_millis(plugins.deadline_base_ms),
        call_pair: Duration::from_micros(plugins.deadline_pair_us),
        output_bytes_max: usize_of(plugins.output_bytes_max),
        module_bytes_max: usize_of(plugins.module_bytes_max),
    };
    let overrides = plugins.overrides.iter().map(|(name, own)| {
        let own = PluginLimits {
            memory_bytes_max: own
                .memory_bytes_max
                .map_or(limits.memory_bytes_max, usize_of),
            call_base: own
                .deadline_base_ms
                .map_or(limits.call_base, Duration::from_millis),
            call_pair: own
                .deadline_pair_us
                .map_or(limits.call_pair, Duration::from_micros),
            output_bytes_max: own
                .output_bytes_max
                .map_or(limits.output_bytes_max, usize_of),
            module_bytes_max: own
                .module_bytes_max
                .map_or(limits.module_bytes_max, usize_of),
        };
        (name.to_string(), own)
    });
    let defaults = PluginOptions::default();
    PluginOptions {
        clock: shared.clock.clone(),
        random: shared.random.clone(),
        overrides: overrides.collect(),
        compiler: Compiler::this_program(),
        compile_timeout: Duration::from_millis(plugins.compile_timeout_ms),
        compile_memory_bytes_max: plugins.compile_memory_bytes_max,
        instances_max: plugins.instances_max as usize,
        owner_instances_max: plugins.owner_instances_max as usize,
        instances_memory_bytes_max: usize_of(plugins.instances_memory_bytes_max),
        owner_memory_bytes_max: usize_of(plugins.owner_memory_bytes_max),
        worker_threads: match plugins.worker_threads {
            0 => defaults.worker_threads,
            threads => threads as usize,
        },
        cache_dir: config.data_dir.join("plugin-cache"),
        limits,
        ..defaults
    }
}

// On machines where a size does not fit the address space, it is as large as that.
pub(super) fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Sections of the configuration and what runs know nothing of each other, so each has names of its own for what both mean.
    #[test]
    fn a_choice_is_called_the_same_in_the_configuration_and_where_it_is_made() {
        fn read<T: serde::de::DeserializeOwned>(name: &str) -> T {
            serde_json::from_value(name.into()).expect("a name that both know")
        }
        for choice in Congestion::ALL {
            assert_eq!(congestion(read(choice.name())), choice);
        }
        for choice in Compression::ALL {
            assert_eq!(compression(read(choice.name())), choice);
        }
    }

    // What is tested with defaults of its own is what runs without a configuration.
    #[test]
    fn the_defaults_of_each_part_are_those_of_the_configuration() {
        let config = Config::default();
        let shared = Shared {
            clock: Clock::start(),
            random: Random::of_system(),
            metrics: Metrics::default(),
        };
        let check = |of_config: String, own: String| assert_eq!(of_config, own);
        let NetOptions { sessions, quic } = net_options(&config, [0; 64], &shared.random);
        check(
            format!("{sessions:#?}"),
            format!("{:#?}", SessionOptions::default()),
        );
        let own = QuicOptions::default();
        // Which are not for a default to say.
        let quic = QuicOptions {
            listeners: own.listeners.clone(),
            reset_key: own.reset_key,
            random: own.random.clone(),
            ..quic
        };
        check(format!("{quic:#?}"), format!("{own:#?}"));
        let own = PluginOptions::default();
        let plugins = PluginOptions {
            clock: own.clock.clone(),
            random: own.random.clone(),
            cache_dir: own.cache_dir.clone(),
            compiler: own.compiler.clone(),
            ..plugin_options(&config, &shared)
        };
        check(format!("{plugins:#?}"), format!("{own:#?}"));
        let own = StoreOptions::default();
        let store = StoreOptions {
            clock: own.clock.clone(),
            random: own.random.clone(),
            marker: own.marker.clone(),
            ..store_options(&config)
        };
        check(format!("{store:#?}"), format!("{own:#?}"));
    }
}
