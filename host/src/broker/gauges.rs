//! Metrics that are read from state at the moment somebody asks: depth and age of subscriptions, what plugins
//! did, what the store occupies. The words here are the ones an operator sees.

use crate::domain::Owner;
use crate::domain::SubscriptionInfo;
use crate::plugin::{Holder, PluginStats};
use crate::store::StoreUsage;
use crate::telemetry::metrics::GaugeFamily;

/// Name, help and kind of a family, and how its value is read.
type Column<T> = (&'static str, &'static str, &'static str, fn(&T) -> f64);

pub(crate) fn of_subscriptions(subscriptions: &[SubscriptionInfo]) -> Vec<GaugeFamily> {
    let columns: [Column<SubscriptionInfo>; 15] = [
        (
            "tidegate_subscription_depth",
            "Events that matched and are not acked",
            "gauge",
            |s| s.depth as f64,
        ),
        (
            "tidegate_subscription_unevaluated",
            "Events its filters have not looked at yet, counted over all topics",
            "gauge",
            |s| s.unevaluated as f64,
        ),
        (
            "tidegate_subscription_in_flight",
            "Events handed out and not acked",
            "gauge",
            |s| s.in_flight as f64,
        ),
        (
            "tidegate_subscription_oldest_unacked_seconds",
            "Age of the oldest event that is not acked",
            "gauge",
            |s| s.oldest_unacked_ms as f64 / 1_000.0,
        ),
        (
            "tidegate_subscription_consumers",
            "Attached consumers",
            "gauge",
            |s| s.consumers as f64,
        ),
        (
            "tidegate_subscription_paused",
            "1 while it is paused",
            "gauge",
            |s| f64::from(u8::from(s.paused.is_some())),
        ),
        (
            "tidegate_subscription_coarse_delays",
            "1 while so many events wait for another attempt that they may wait a quarter longer than they should",
            "gauge",
            |s| reached(s, "coarse_delays"),
        ),
        (
            "tidegate_subscription_coarse_reasons",
            "1 while so many events wait for their dead letter that further ones share their reasons",
            "gauge",
            |s| reached(s, "coarse_reasons"),
        ),
        (
            "tidegate_subscription_unreadable",
            "Pending events that could not be read when that was last tried",
            "gauge",
            |s| s.unreadable as f64,
        ),
        (
            "tidegate_subscription_stands",
            "1 while its filters or its catching up stand at an event that cannot be read",
            "gauge",
            |s| f64::from(u8::from(s.stands_at.is_some())),
        ),
        (
            "tidegate_subscription_stopped",
            "1 while whoever it belongs to lacks a right: a route does nothing, dead letters wait",
            "gauge",
            |s| f64::from(u8::from(s.stopped.is_some())),
        ),
        (
            "tidegate_subscription_pending_changes",
            "Changes of its filters that wait until the filters before them have looked at every event before the fence",
            "gauge",
            |s| s.pending_changes as f64,
        ),
        (
            "tidegate_subscription_redelivered",
            "Events handed out again",
            "counter",
            |s| s.redelivered as f64,
        ),
        (
            "tidegate_subscription_dead_lettered",
            "Dead letters of the subscription; those of all, also of such that are gone, are tidegate_dead_letters_total",
            "counter",
            |s| s.dead_lettered as f64,
        ),
        (
            "tidegate_subscription_dead_letters_dropped",
            "Dead letters that were given up a second time, and dropped",
            "counter",
            |s| s.letters_dropped as f64,
        ),
    ];
    families(subscriptions, &columns, |s| {
        vec![("subscription", s.spec.name.to_string())]
    })
}

fn reached(subscription: &SubscriptionInfo, limit: &str) -> f64 {
    let reached = subscription.limits_reached.iter().any(|name| name == limit);
    f64::from(u8::from(reached))
}

pub(crate) fn of_plugins(plugins: &[PluginStats]) -> Vec<GaugeFamily> {
    let columns: [Column<PluginStats>; 8] = [
        (
            "tidegate_plugin_calls",
            "Calls into the plugin",
            "counter",
            |p| p.calls as f64,
        ),
        (
            "tidegate_plugin_events",
            "Events passed to the plugin",
            "counter",
            |p| p.events as f64,
        ),
        (
            "tidegate_plugin_busy_seconds",
            "Time spent in the plugin",
            "counter",
            |p| p.busy_ns as f64 / 1e9,
        ),
        (
            "tidegate_plugin_traps",
            "Calls that trapped",
            "counter",
            |p| p.traps as f64,
        ),
        (
            "tidegate_plugin_timeouts",
            "Calls that ran out of time",
            "counter",
            |p| p.timeouts as f64,
        ),
        (
            "tidegate_plugin_instances",
            "Live instances",
            "gauge",
            |p| p.instances as f64,
        ),
        (
            "tidegate_plugin_quarantined",
            "Rules in an instance of their own after a failure",
            "gauge",
            |p| p.quarantined as f64,
        ),
        (
            "tidegate_plugin_paused",
            "Rules or groups left alone for a while after failures",
            "gauge",
            |p| p.paused as f64,
        ),
    ];
    families(plugins, &columns, |p| {
        vec![
            ("plugin", p.label.clone()),
            ("digest", p.digest.to_string()),
        ]
    })
}

pub(crate) fn of_plugin_owners(holders: &[Holder]) -> Vec<GaugeFamily> {
    let columns: [Column<Holder>; 2] = [
        (
            "tidegate_plugin_owner_instances",
            "Live instances of all plugins of an owner",
            "gauge",
            |h| h.held.instances as f64,
        ),
        (
            "tidegate_plugin_owner_memory_bytes",
            "Bytes of the memories and tables of these instances",
            "gauge",
            |h| h.held.memory_bytes as f64,
        ),
    ];
    families(holders, &columns, |h| {
        let owner = h.owner.as_ref().map(Owner::to_string);
        vec![("owner", owner.unwrap_or_else(|| "broker".to_owned()))]
    })
}

pub(crate) fn of_store(usage: &StoreUsage, failed: bool) -> Vec<GaugeFamily> {
    let columns: [Column<(&StoreUsage, bool)>; 5] = [
        (
            "tidegate_journal_bytes",
            "Bytes in the journal",
            "gauge",
            |(u, _)| u.journal_bytes as f64,
        ),
        (
            "tidegate_journal_blocks",
            "Blocks in the journal",
            "gauge",
            |(u, _)| u.journal_blocks as f64,
        ),
        (
            "tidegate_generation_bytes",
            "Bytes in sled generations",
            "gauge",
            |(u, _)| u.generation_bytes as f64,
        ),
        (
            "tidegate_generations",
            "sled generations",
            "gauge",
            |(u, _)| u.generations as f64,
        ),
        (
            "tidegate_store_failed",
            "1 when the store refuses writes",
            "gauge",
            |(_, failed)| f64::from(u8::from(*failed)),
        ),
    ];
    families(&[(usage, failed)], &columns, |_| Vec::new())
}

fn families<T>(
    rows: &[T],
    columns: &[Column<T>],
    labels: impl Fn(&T) -> Vec<(&'static str, String)>,
) -> Vec<GaugeFamily> {
    let family = |(name, help, kind, value): &Column<T>| GaugeFamily {
        name,
        help,
        kind,
        samples: rows.iter().map(|row| (labels(row), value(row))).collect(),
    };
    columns.iter().map(family).collect()
}
