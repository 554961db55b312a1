//! Watches how long the broker's own certificate holds, which it read at its start, and says so before clients refuse it. Renewing it
//! is somebody else's work, and takes a restart.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::Millis;
use crate::runtime::Clock;
use crate::telemetry::conditions::{Condition, Conditions};
use crate::telemetry::metrics_registry::{Family, Kind};

/// So long before its end it is said: a week in which somebody looks at the log or at `/readyz`.
const AHEAD: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How often it is looked. The machine's clock may be set meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);

/// Looks until `shutdown`. `ends` is the moment from which clients refuse it.
pub(super) async fn run(
    ends: Millis,
    clock: Clock,
    conditions: Conditions,
    shutdown: CancellationToken,
) {
    loop {
        let left = look(ends, clock.now(), &conditions);
        // To the moment in which something is to be said, or for an hour.
        let until_said = match left.checked_sub(AHEAD) {
            Some(until) if !until.is_zero() => until,
            _ => left,
        };
        let pause = match until_said.is_zero() {
            true => LOOK_EVERY,
            false => until_said.min(LOOK_EVERY),
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause + Duration::from_millis(1)) => {}
        }
    }
}

/// When it ends, as a metric.
pub(super) fn families(ends: Millis) -> Vec<Family> {
    vec![Family::single(
        "certificate_not_after_seconds",
        "When the broker's certificate ends, or the first one of its chain, in seconds since the Unix epoch",
        Kind::Gauge,
        (ends.0 / 1_000) as f64,
    )]
}

// Says how it stands. Returns how long it still holds.
fn look(ends: Millis, now: Millis, conditions: &Conditions) -> Duration {
    let left = Duration::from_millis(ends.0.saturating_sub(now.0));
    let (ending, ended) = (Condition::CertificateEnding, Condition::CertificateEnded);
    if left.is_zero() {
        conditions.clear(&ending);
        conditions.raise(
            ended,
            "the broker's certificate has expired, so clients refuse to connect; put a renewed one in the place of `tls.cert` and restart the broker (without `tls.cert` a restart suffices)",
        );
        return left;
    }
    conditions.clear(&ended);
    if left <= AHEAD {
        let hours = left.as_secs() / 3_600;
        conditions.raise(
            ending,
            format!(
                "the broker's certificate ends in {} days and {} hours, and then clients refuse to connect; put a renewed one in the place of `tls.cert` and restart the broker before (without `tls.cert` a restart in the last day suffices)",
                hours / 24,
                hours % 24
            ),
        );
    } else {
        conditions.clear(&ending);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_certificate_is_said_before_it_comes_and_when_it_is_there() {
        const DAY: u64 = 24 * 60 * 60 * 1_000;
        let (conditions, shutdown) = (Conditions::default(), CancellationToken::new());
        let clock = Clock::start();
        let begun = clock.now();
        let ends = Millis(begun.0 + 10 * DAY);
        let watch = run(ends, clock.clone(), conditions.clone(), shutdown.clone());
        let watching = tokio::spawn(watch);
        let raised = || {
            let all = conditions.all().into_iter();
            all.map(|raised| raised.condition).collect::<Vec<_>>()
        };
        let mut ending = None;
        while raised() != [Condition::CertificateEnded] {
            if ending.is_none() && raised() == [Condition::CertificateEnding] {
                ending = Some(clock.now());
            }
            assert!(clock.now() <= Millis(ends.0 + DAY), "never said");
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        let ending = ending.expect("said before it").0 - begun.0;
        assert!((3 * DAY..4 * DAY).contains(&ending), "{ending}");
        assert!(clock.now() >= ends);
        assert!(!conditions.is_ready(), "nobody can connect");
        shutdown.cancel();
        watching.await.expect("ended");
    }
}
