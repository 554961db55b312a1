//! What the demo says at its end: a table for people or JSON for programs, and whether everything held.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::interests::Interest;
use super::ledger::{Account, Ledger};

/// The result of a run.
pub(super) struct DemoReport {
    /// Per interest: its name, what it shows, and how it fared.
    pub(super) rows: Vec<(&'static str, &'static str, Account)>,
    /// Events sent.
    pub(super) published: u64,
    /// Events the broker answered for.
    pub(super) acked: u64,
    /// Resends that the broker recognised.
    pub(super) recognised_resends: u64,
    /// How long the broker was away after it was killed.
    pub(super) outage: Option<Duration>,
    /// How long the whole run took.
    pub(super) elapsed: Duration,
}

impl DemoReport {
    /// Reads the accounts out of the ledger.
    pub(super) fn new(
        interests: &[Interest],
        ledger: &Ledger,
        published: u64,
        outage: Option<Duration>,
        elapsed: Duration,
    ) -> Self {
        let row = |(index, interest): (usize, &Interest)| {
            (interest.name, interest.about, ledger.account(index))
        };
        Self {
            rows: interests.iter().enumerate().map(row).collect(),
            published,
            acked: ledger.acked_count(),
            recognised_resends: ledger.duplicate_count(),
            outage,
            elapsed,
        }
    }

    /// What did not hold, one sentence each. Empty: all is well.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.acked != self.published {
            faults.push(format!(
                "{} of {} events were never answered",
                self.published - self.acked,
                self.published
            ));
        }
        if self.outage.is_none() {
            faults.push("the broker was never killed, so nothing was proved".to_owned());
        }
        for (name, _, account) in &self.rows {
            let counts = [
                (account.lost, "acked events were not delivered"),
                (
                    account.unexpected,
                    "events came that the native recomputation refuses",
                ),
                (
                    account.doubled,
                    "deliveries were of events that were appended twice",
                ),
            ];
            let bad = counts.iter().filter(|(count, _)| *count > 0);
            faults.extend(bad.map(|(count, what)| format!("`{name}`: {count} {what}")));
        }
        faults
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_preset(presets::UTF8_HORIZONTAL_ONLY)
            .set_header([
                "subscription",
                "",
                "published",
                "matched",
                "delivered",
                "redelivered",
                "lost",
                "doubled",
                "p50 ms",
                "p99 ms",
                "events/s",
            ]);
        for (name, about, account) in &self.rows {
            table.add_row([
                (*name).to_owned(),
                (*about).to_owned(),
                self.acked.to_string(),
                account.matched.to_string(),
                account.delivered.to_string(),
                account.redelivered.to_string(),
                account.lost.to_string(),
                account.doubled.to_string(),
                milliseconds(account.latency_p50_us),
                milliseconds(account.latency_p99_us),
                format!("{:.0}", account.events_per_second),
            ]);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let outage = self.outage.unwrap_or_default();
        format!(
            "{table}\n{} events in {:.1} s; broker killed once and back after {:.2} s; {} resends recognised",
            self.acked,
            self.elapsed.as_secs_f64(),
            outage.as_secs_f64(),
            self.recognised_resends,
        )
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let row = |(name, _, account): &(&str, &str, Account)| {
            json!({
                "subscription": name,
                "matched": account.matched,
                "delivered": account.delivered,
                "redelivered": account.redelivered,
                "lost": account.lost,
                "unexpected": account.unexpected,
                "doubled": account.doubled,
                "latency_p50_us": account.latency_p50_us,
                "latency_p99_us": account.latency_p99_us,
                "events_per_second": account.events_per_second,
            })
        };
        json!({
            "published": self.published,
            "acked": self.acked,
            "recognised_resends": self.recognised_resends,
            "outage_ms": self.outage.map(|outage| outage.as_millis() as u64),
            "elapsed_ms": self.elapsed.as_millis() as u64,
            "subscriptions": self.rows.iter().map(row).collect::<Vec<_>>(),
            "faults": self.faults(),
        })
    }
}

fn milliseconds(us: u64) -> String {
    format!("{:.1}", us as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(change: impl FnOnce(&mut DemoReport)) -> DemoReport {
        let account = Account {
            matched: 1,
            delivered: 1,
            redelivered: 3,
            lost: 0,
            unexpected: 0,
            doubled: 0,
            latency_p50_us: 1,
            latency_p99_us: 1,
            events_per_second: 1.0,
        };
        let mut report = DemoReport {
            rows: vec![("a", "", account)],
            published: 5,
            acked: 5,
            recognised_resends: 0,
            outage: Some(Duration::from_secs(1)),
            elapsed: Duration::from_secs(2),
        };
        change(&mut report);
        report
    }

    #[test]
    fn every_kind_of_fault_is_named() {
        let check = |change: fn(&mut DemoReport), faults: usize| {
            assert_eq!(report(change).faults().len(), faults);
        };
        check(|_| {}, 0);
        check(|r| r.acked = 4, 1);
        check(|r| r.outage = None, 1);
        check(|r| r.rows[0].2.lost = 1, 1);
        check(|r| r.rows[0].2.unexpected = 1, 1);
        check(|r| r.rows[0].2.doubled = 1, 1);
    }

    #[test]
    fn both_forms_show_the_rows() {
        let report = report(|_| {});
        assert!(report.table().contains("redelivered"));
        assert_eq!(report.json()["subscriptions"][0]["redelivered"], 3);
    }
}
