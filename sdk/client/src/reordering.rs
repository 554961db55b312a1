//! Reordering: whether packets that count as lost only came late, because the path lets others overtake them. Asked of the broker when
//! there is a reason to; what to do about it is the supervisor's business.

use std::time::Duration;

use tidegate_wire::counters::{ConnectionCounters, LinkReport, Losses};
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
    let mut asked = LinkReport::default();
    let mut came = CAME_AT_FIRST;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let here = established.connection.counters();
        if here.round_trip < LONG_PATH || !is_worth_asking(&here.since(&asked.here), came) {
            continue;
        }
        let report = report_on(established).await.ok()?;
        // What is under way counts as lost, so over a short time hardly anything seems late; a path may also have become what it is.
        let spans = [&report, &report.since(&asked)];
        if spans
            .iter()
            .any(|span| lets_overtake(span.up()) || lets_overtake(span.down()))
        {
            return Some(());
        }
        asked = report;
        came = came.saturating_mul(2);
    }
}

// Something counts as lost here, or so much came that something may have counted as lost there.
fn is_worth_asking(here: &ConnectionCounters, came: u64) -> bool {
    here.packets_lost >= LATE_LEAST || here.datagrams_received >= came
}

fn lets_overtake(losses: Losses) -> bool {
    losses.late >= LATE_LEAST && losses.late_part() >= LATE_PART_LEAST
}
