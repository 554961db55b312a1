//! Reordering: whether packets that count as lost only came late, because the path lets others overtake them. Asked of the broker when
//! there is a reason to; what to do about it is the supervisor's business.

use std::time::Duration;

use tidegate_wire::counters::{ConnectionCounters, Losses};
use tidegate_wire::stream::Connection;
use tidegate_wire::stream::quic::congestion::LONG_PATH;

use crate::hello::Established;
use crate::measure::report_on;

/// How often to look at what this end has counted.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// So many packets late are no accident.
const LATE_LEAST: u64 = 20;
/// Nor is this part of them: where one packet in fifty is sent again in vain, patience would cost more than that. Datagrams that the
/// network doubles make up for lost ones, and look like late ones.
const LATE_PART_LEAST: f64 = 0.05;

/// The broker is asked what it has sent in vain when so many more datagrams came than before it was asked last, and ever more seldom.
const CAME_AT_FIRST: u64 = 200;

/// Waits until the path of `established` is found to let packets overtake each other. For ever, where the broker is near, where that
/// cannot be found out, and when the connection is lost.
///
/// # Cancel safety
/// May be dropped at any time.
pub(crate) async fn found<C: Connection>(established: &Established<C>) {
    if established.takes_measure && look(established).await.is_some() {
        return;
    }
    std::future::pending().await
}

async fn look<C: Connection>(established: &Established<C>) -> Option<()> {
    let mut asked = ConnectionCounters::default();
    let mut came = CAME_AT_FIRST;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if established.is_measured() || established.connection.round_trip() < LONG_PATH {
            continue;
        }
        let before = established.connection.counters();
        if !is_worth_asking(&before.since(&asked), came) {
            continue;
        }
        let broker = report_on(established).await.ok()?.broker;
        let after = established.connection.counters();
        if lets_overtake(late_up(&before, &broker, &after))
            || lets_overtake(late_down(&before, &broker))
        {
            return Some(());
        }
        asked = after;
        came = came.saturating_mul(2);
    }
}

// What counts as lost must not seem late since the numbers are not of one moment: what went out meanwhile counts as lost, and what
// counted as lost meanwhile does not count.
fn late_up(
    before: &ConnectionCounters,
    broker: &ConnectionCounters,
    after: &ConnectionCounters,
) -> Losses {
    let mut sender = after.clone();
    sender.packets_lost = before.packets_lost;
    Losses::between(&sender, broker)
}

fn late_down(before: &ConnectionCounters, broker: &ConnectionCounters) -> Losses {
    Losses::between(broker, before)
}

// Something counts as lost here, or so much came that something may have counted as lost there.
fn is_worth_asking(here: &ConnectionCounters, came: u64) -> bool {
    here.packets_lost >= LATE_LEAST || here.datagrams_received >= came
}

fn lets_overtake(losses: Losses) -> bool {
    losses.late >= LATE_LEAST && losses.late_part() >= LATE_PART_LEAST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(sent: u64, received: u64, lost: u64) -> ConnectionCounters {
        let mut counters = ConnectionCounters::default();
        counters.datagrams_sent = sent;
        counters.datagrams_received = received;
        counters.packets_lost = lost;
        counters
    }

    #[test]
    fn what_was_lost_does_not_seem_late_however_much_goes_on_meanwhile() {
        let (before, after) = (counters(1_000, 1_000, 80), counters(1_200, 1_200, 100));
        // Of what went out before 80 were lost, and all of the 100 came that went out until it answered.
        let broker = counters(1_100, 1_020, 80);
        assert_eq!(late_up(&before, &broker, &after).late, 0);
        assert_eq!(late_down(&before, &broker).late, 0);
    }

    #[test]
    fn what_came_although_it_counts_as_lost_is_late() {
        let (before, after) = (counters(1_000, 1_000, 400), counters(1_010, 1_010, 404));
        let broker = counters(1_005, 1_000, 300);
        let (up, down) = (
            late_up(&before, &broker, &after),
            late_down(&before, &broker),
        );
        assert_eq!((up.late, down.late), (390, 295));
        assert!(lets_overtake(up) && lets_overtake(down));
        assert!(!lets_overtake(Losses::between(
            &counters(1_000, 0, 19),
            &counters(0, 1_000, 0)
        )));
        assert!(!lets_overtake(Losses::between(
            &counters(1_000, 0, 40),
            &counters(0, 1_000, 0)
        )));
    }
}
