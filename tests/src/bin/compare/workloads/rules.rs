//! W6: what many rules cost. Each subscription wants a hundredth of the events by a rule of its own, and nobody consumes,
//! so what remains beside the publishing is the filters. Beside it, what the plugin's code takes for the same as a part of
//! this program, without a sandbox and a broker around it.

use std::time::{Duration, Instant};

use ::tidegate::cli::load::{Numbers, Run, publish};
use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use tidegate_event_pattern::{Pattern, PatternSet};
use tidegate_tests::AdminApi;

use super::{Bench, OUTSTANDING, TOPIC};
use crate::broker::{Broker, Places, STALLED_AFTER, Subscription};
use crate::event_shape::Shape;
use crate::load::PeerSender;
use crate::report::{Sample, Unit, figure};
use crate::tidegate::{self, Tidegate};

const RULES: [u64; 6] = [0, 1, 10, 100, 1_000, 10_000];
/// Bytes of an event.
const SIZE: usize = 1_024;
/// Values of the field; a rule lists ten of them.
const VALUES: u64 = 1_000;
const VALUES_PER_RULE: u64 = 10;
/// Pairs of an event and a rule in one run, and between how many events that may come to.
const PAIRS: u64 = 50_000_000;
const EVENTS_MIN: u64 = 5_000;
const EVENTS_MAX: u64 = 200_000;
/// Subscriptions that are made at a time.
const CREATED_AT_ONCE: usize = 16;
/// One instance of a plugin has about so many rules; one subscription of each is watched.
const WATCHED_EVERY: usize = 500;
/// How often a subscription is looked at.
const POLL: Duration = Duration::from_millis(20);

impl Bench {
    pub(super) async fn rules(&mut self) {
        let rules: Vec<u64> = RULES
            .into_iter()
            .filter(|rules| *rules <= self.args.scale_max)
            .collect();
        let title = "subscriptions with a rule each that a hundredth matches, nobody consuming, 1,024 B JSON";
        let mut table = super::Table::new("rules", title);
        for count in &rules {
            table.row(format!("{count} rules"));
        }
        table.compare(0..rules.len(), 0);
        let scale = if self.args.quick { 4 } else { 1 };
        let places = self.places.clone();
        let mut base_cpu_us = 0.0;
        self.take_turns(table, rules.len(), async |row| {
            let events = (PAIRS / scale / rules[row].max(1)).clamp(EVENTS_MIN, EVENTS_MAX / scale);
            let evaluated = evaluated(&places, rules[row], events).await?;
            if rules[row] == 0 {
                base_cpu_us = evaluated.cpu_us;
            }
            let filters_us = evaluated.cpu_us - base_cpu_us;
            let mut sample = evaluated.sample(filters_us, rules[row]);
            if rules[row] > 0 {
                let native_us = natively(rules[row], events)?;
                sample.push(figure(
                    "natively µs/event",
                    Unit::FineMicroseconds,
                    native_us,
                ));
                let part = native_us / filters_us;
                sample.push(figure("native part of filters", Unit::Fraction, part));
            }
            Ok(sample)
        })
        .await;
    }
}

struct Evaluated {
    events_per_second: f64,
    cpu_us: f64,
    resident_bytes_max: u64,
    disk_bytes: u64,
}

impl Evaluated {
    fn sample(&self, filters_us: f64, rules: u64) -> Sample {
        let per_pair = filters_us * 1_000.0 / rules.max(1) as f64;
        vec![
            figure("evaluated events/s", Unit::Count, self.events_per_second),
            figure("CPU µs/event", Unit::FineMicroseconds, self.cpu_us),
            figure("of filters µs/event", Unit::FineMicroseconds, filters_us),
            figure("ns/event and rule", Unit::FineMicroseconds, per_pair),
            figure(
                "peak RSS MiB",
                Unit::Mebibytes,
                self.resident_bytes_max as f64,
            ),
            figure("disk MiB", Unit::Mebibytes, self.disk_bytes as f64),
        ]
    }
}

async fn evaluated(places: &Places, rules: u64, events: u64) -> anyhow::Result<Evaluated> {
    let tidegate = Tidegate::start(places, "").await?;
    let admin = tidegate.admin();
    let broker = Broker::tidegate(tidegate);
    create(&admin, rules).await?;
    let shape = Shape::json(SIZE, VALUES, TOPIC);
    let mut sender = PeerSender::new(broker.publisher(OUTSTANDING).await?, shape);
    let run = Run::new();
    // Whole rounds of the values, so that every rule matches the same number of events.
    let warm_up = Numbers {
        first: 0,
        max: VALUES,
    };
    let numbers = Numbers {
        first: VALUES,
        max: events.next_multiple_of(VALUES),
    };
    publish(&mut sender, &run, warm_up, OUTSTANDING).await?;
    wait_evaluated(&admin, rules).await?;

    let before = broker.reading()?;
    publish(&mut sender, &run, numbers, OUTSTANDING).await?;
    wait_evaluated(&admin, rules).await?;
    let spent = before.until(broker.reading()?);

    check(
        &admin,
        (warm_up.max + numbers.max) / VALUES * VALUES_PER_RULE,
    )
    .await?;
    Ok(Evaluated {
        events_per_second: numbers.max as f64 / spent.seconds,
        cpu_us: spent.cpu_us / numbers.max as f64,
        resident_bytes_max: broker.resident_bytes_max()?,
        disk_bytes: broker.disk_bytes(),
    })
}

// Microseconds per event that the bundled plugin's code takes for all rules, compiled into this program.
fn natively(rules: u64, events: u64) -> anyhow::Result<f64> {
    let mut set = PatternSet::new();
    for index in 0..rules {
        let pattern = Pattern::parse(&rule(index)).context("a rule of its own")?;
        set.insert(index as u32, pattern);
    }
    let shape = Shape::json(SIZE, VALUES, TOPIC);
    let payloads: Vec<_> = (0..VALUES).map(|number| shape.payload(number, 0)).collect();
    let (mut matched, mut matches) = (Vec::new(), 0);
    let rounds = events.div_ceil(VALUES);
    let begin = Instant::now();
    for payload in (0..rounds).flat_map(|_| &payloads) {
        matched.clear();
        set.evaluate(payload, &[], &mut matched);
        matches += matched.len() as u64;
    }
    let spent = begin.elapsed();
    let expected = rounds * rules * VALUES_PER_RULE;
    ensure!(
        matches == expected,
        "{matches} matches instead of {expected}"
    );
    Ok(spent.as_secs_f64() * 1e6 / (rounds * VALUES) as f64)
}

async fn create(admin: &AdminApi, rules: u64) -> anyhow::Result<()> {
    let each = (0..rules).map(|index| async move {
        let subscription = Subscription::new(name(index as usize), TOPIC);
        tidegate::subscribe(admin, &subscription.filtered("event-pattern", rule(index))).await
    });
    stream::iter(each)
        .buffer_unordered(CREATED_AT_ONCE)
        .try_collect()
        .await
}

pub(super) fn name(index: usize) -> String {
    format!("r{index}")
}

// Ten values, another ten for each rule: where they start and how far they are apart differs.
fn rule(index: u64) -> String {
    /// Without a common factor with the number of values, so that the ten are different.
    const STEPS: [u64; 10] = [97, 101, 103, 107, 109, 113, 127, 131, 137, 139];
    let step = STEPS[(index / VALUES) as usize % STEPS.len()];
    let values: Vec<String> = (0..VALUES_PER_RULE)
        .map(|place| ((index + place * step) % VALUES).to_string())
        .collect();
    format!(r#"{{"group": [{}]}}"#, values.join(","))
}

// Asks about one subscription at a time, and about few of them: thousands are a page of megabytes.
pub(super) async fn wait_evaluated(admin: &AdminApi, rules: u64) -> anyhow::Result<()> {
    let last = (rules as usize).checked_sub(1);
    let watched = (0..rules as usize).step_by(WATCHED_EVERY).chain(last);
    for index in watched {
        let name = name(index);
        let begin = Instant::now();
        let mut before = u64::MAX;
        loop {
            let left = admin.subscription(&name).await?.unevaluated;
            if left == 0 {
                break;
            }
            ensure!(
                left < before || begin.elapsed() < 4 * STALLED_AFTER,
                "`{name}` is not evaluated"
            );
            before = left;
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

pub(super) async fn check(admin: &AdminApi, expected: u64) -> anyhow::Result<()> {
    for info in admin.subscriptions().await? {
        let name = &info.spec.name;
        ensure!(info.unevaluated == 0, "`{name}` is not evaluated");
        ensure!(
            info.depth == expected,
            "`{name}` has {} events instead of {expected}",
            info.depth
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn rules_are_different_and_want_a_hundredth() {
        let rules: HashSet<String> = (0..10_000).map(rule).collect();
        assert_eq!(rules.len(), 10_000);
        let parsed: serde_json::Value = serde_json::from_str(&rule(9_999)).expect("valid JSON");
        let values = parsed["group"].as_array().expect("a list");
        let distinct: HashSet<_> = values.iter().map(ToString::to_string).collect();
        assert_eq!(distinct.len() as u64, VALUES_PER_RULE);
    }
}
