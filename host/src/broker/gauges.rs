//! Metrics that are read from state at the moment somebody asks: depth and age of subscriptions, what plugins
//! did, what the store occupies. The words here are the ones an operator sees.

use crate::domain::Owner;
use crate::domain::SubscriptionInfo;
use crate::plugin::{Held, Holder, PluginStats};
use crate::store::StoreUsage;
use crate::telemetry::metrics_registry::{Family, Kind, Labels};

/// Name, help and kind of a family, and how its value is read.
type Column<T> = (&'static str, &'static str, Kind, fn(&T) -> f64);

pub(crate) fn of_subscriptions(subscriptions: &[SubscriptionInfo]) -> Vec<Family> {
    let columns: [Column<SubscriptionInfo>; 15] = [
        (
            "subscription_depth",
            "Events that matched and are not acked",
            Kind::Gauge,
            |s| s.depth as f64,
        ),
        (
            "subscription_unevaluated",
            "Events its filters have not looked at yet, counted over all topics",
            Kind::Gauge,
            |s| s.unevaluated as f64,
        ),
        (
            "subscription_in_flight",
            "Events handed out and not acked",
            Kind::Gauge,
            |s| s.in_flight as f64,
        ),
        (
            "subscription_delayed",
            "Events that are left alone until another attempt is due",
            Kind::Gauge,
            |s| s.delayed as f64,
        ),
        (
            "subscription_consumers",
            "Attached consumers",
            Kind::Gauge,
            |s| s.consumers as f64,
        ),
        (
            "subscription_paused",
            "1 while it is paused",
            Kind::Gauge,
            |s| flag(s.paused.is_some()),
        ),
        (
            "subscription_coarse_delays",
            "1 while so many events wait for another attempt that they may wait a quarter longer than they should",
            Kind::Gauge,
            |s| reached(s, "coarse_delays"),
        ),
        (
            "subscription_coarse_reasons",
            "1 while so many events wait for their dead letter that further ones share their reasons",
            Kind::Gauge,
            |s| reached(s, "coarse_reasons"),
        ),
        (
            "subscription_unreadable",
            "Pending events that could not be read when that was last tried",
            Kind::Gauge,
            |s| s.unreadable as f64,
        ),
        (
            "subscription_stands",
            "1 while its filters or its catching up stand at an event that cannot be read",
            Kind::Gauge,
            |s| flag(s.stands_at.is_some()),
        ),
        (
            "subscription_stopped",
            "1 while whoever it belongs to lacks a right: a route does nothing, dead letters wait",
            Kind::Gauge,
            |s| flag(s.stopped.is_some()),
        ),
        (
            "subscription_pending_changes",
            "Changes of its filters that wait until the filters before them have looked at every event before the fence",
            Kind::Gauge,
            |s| s.pending_changes as f64,
        ),
        (
            "subscription_redelivered",
            "Events handed out again",
            Kind::Counter,
            |s| s.redelivered as f64,
        ),
        (
            "subscription_dead_lettered",
            "Dead letters of the subscription; those of all, also of such that are gone, are tidegate_dead_letters_total",
            Kind::Counter,
            |s| s.dead_lettered as f64,
        ),
        (
            "subscription_dead_letters_dropped",
            "Dead letters that were given up a second time, and dropped",
            Kind::Counter,
            |s| s.letters_dropped as f64,
        ),
    ];
    let mut families = families(subscriptions, &columns, name_of);
    families.push(ages(subscriptions));
    families
}

fn name_of(subscription: &SubscriptionInfo) -> Labels {
    vec![("subscription", subscription.spec.name.to_string())]
}

// Where it cannot be read there is no sample: an age of 0 would say that all is well.
fn ages(subscriptions: &[SubscriptionInfo]) -> Family {
    let ages = subscriptions.iter().filter_map(|s| {
        let age_ms = s.oldest_unacked_ms?;
        Some((name_of(s), age_ms as f64 / 1_000.0))
    });
    Family {
        name: "subscription_oldest_unacked_seconds",
        help: "Age of the oldest event that is not acked or that filters have not looked at yet; none where that cannot be read",
        kind: Kind::Gauge,
        samples: ages.collect(),
    }
}

// 1 while it holds.
fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn reached(subscription: &SubscriptionInfo, limit: &str) -> f64 {
    let reached = subscription.limits_reached.iter().any(|name| name == limit);
    flag(reached)
}

pub(crate) fn of_plugins(plugins: &[PluginStats]) -> Vec<Family> {
    let columns: [Column<PluginStats>; 8] = [
        (
            "plugin_calls",
            "Calls into the plugin",
            Kind::Counter,
            |p| p.calls as f64,
        ),
        (
            "plugin_events",
            "Events passed to the plugin",
            Kind::Counter,
            |p| p.events as f64,
        ),
        (
            "plugin_busy_seconds",
            "Time spent in the plugin",
            Kind::Counter,
            |p| p.busy_ns as f64 / 1e9,
        ),
        ("plugin_traps", "Calls that trapped", Kind::Counter, |p| {
            p.traps as f64
        }),
        (
            "plugin_timeouts",
            "Calls that ran out of time",
            Kind::Counter,
            |p| p.timeouts as f64,
        ),
        ("plugin_instances", "Live instances", Kind::Gauge, |p| {
            p.instances as f64
        }),
        (
            "plugin_quarantined",
            "Rules in an instance of their own after a failure",
            Kind::Gauge,
            |p| p.quarantined as f64,
        ),
        (
            "plugin_paused",
            "Rules or groups left alone for a while after failures",
            Kind::Gauge,
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

pub(crate) fn of_plugin_owners(holders: &[Holder]) -> Vec<Family> {
    let columns: [Column<Holder>; 2] = [
        (
            "plugin_owner_instances",
            "Live instances of all plugins of an owner",
            Kind::Gauge,
            |h| h.held.instances as f64,
        ),
        (
            "plugin_owner_memory_bytes",
            "Bytes of the memories and tables of these instances",
            Kind::Gauge,
            |h| h.held.memory_bytes as f64,
        ),
    ];
    families(holders, &columns, |h| {
        let owner = h.owner.as_ref().map(Owner::to_string);
        vec![("owner", owner.unwrap_or_else(|| "broker".to_owned()))]
    })
}

pub(crate) fn of_all_plugins(held: Held, most: Held) -> Vec<Family> {
    let columns: [Column<(Held, Held)>; 4] = [
        (
            "plugins_instances",
            "Live instances of all plugins",
            Kind::Gauge,
            |(held, _)| held.instances as f64,
        ),
        (
            "plugins_instances_max",
            "Most of them that there may be",
            Kind::Gauge,
            |(_, most)| most.instances as f64,
        ),
        (
            "plugins_memory_bytes",
            "Bytes of the memories and tables of all instances",
            Kind::Gauge,
            |(held, _)| held.memory_bytes as f64,
        ),
        (
            "plugins_memory_bytes_max",
            "Most of them that there may be",
            Kind::Gauge,
            |(_, most)| most.memory_bytes as f64,
        ),
    ];
    families(&[(held, most)], &columns, |_| Vec::new())
}

pub(crate) fn of_store(usage: &StoreUsage, failed: bool) -> Vec<Family> {
    let columns: [Column<(&StoreUsage, bool)>; 5] = [
        (
            "journal_bytes",
            "Bytes in the journal",
            Kind::Gauge,
            |(u, _)| u.journal_bytes as f64,
        ),
        (
            "journal_blocks",
            "Blocks in the journal",
            Kind::Gauge,
            |(u, _)| u.journal_blocks as f64,
        ),
        (
            "generation_bytes",
            "Bytes in sled generations",
            Kind::Gauge,
            |(u, _)| u.generation_bytes as f64,
        ),
        ("generations", "sled generations", Kind::Gauge, |(u, _)| {
            u.generations as f64
        }),
        (
            "store_failed",
            "1 when the store refuses writes",
            Kind::Gauge,
            |(_, failed)| flag(*failed),
        ),
    ];
    families(&[(usage, failed)], &columns, |_| Vec::new())
}

fn families<T>(rows: &[T], columns: &[Column<T>], labels: impl Fn(&T) -> Labels) -> Vec<Family> {
    let family = |(name, help, kind, value): &Column<T>| Family {
        name,
        help,
        kind: *kind,
        samples: rows.iter().map(|row| (labels(row), value(row))).collect(),
    };
    columns.iter().map(family).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_that_is_not_known_has_no_sample() {
        let age = |ms: Option<u64>| {
            let info = serde_json::json!({
                "name": "s", "topics": [">"], "depth": 1, "unevaluated": 0, "in_flight": 0,
                "oldest_unacked_ms": ms, "consumers": 0, "redelivered": 0, "dead_lettered": 0,
            });
            let info: SubscriptionInfo = serde_json::from_value(info).expect("an info");
            let families = of_subscriptions(&[info]);
            let mut ages = families.into_iter();
            let age = ages.find(|family| family.name == "subscription_oldest_unacked_seconds");
            let samples = age.expect("there is one").samples;
            samples
                .into_iter()
                .map(|(_, value)| value)
                .collect::<Vec<f64>>()
        };
        assert_eq!(age(Some(1_500)), [1.5]);
        assert_eq!(age(Some(0)), [0.0]);
        assert_eq!(age(None), [] as [f64; 0]);
    }
}
