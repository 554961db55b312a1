//! What a broker says is wrong with it, looked at as an operator looks at `/readyz`: what is new, and what is over, goes into the history.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tidegate_simulated::broker::Broker;
use tokio::time::sleep;

use super::disk_faults;
use crate::disk::SimDisk;
use crate::history::{History, Text, What};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is known to be wrong with one life of the broker. Clones are one.
#[derive(Clone)]
pub(super) struct Watch {
    history: History,
    broker: Broker,
    disk: SimDisk,
    known: Rc<RefCell<BTreeMap<String, Text>>>,
}

impl Watch {
    pub(super) fn new(history: History, broker: Broker, disk: SimDisk) -> Self {
        Self {
            history,
            broker,
            disk,
            known: Rc::default(),
        }
    }

    /// Looks again and again.
    pub(super) async fn run(self) {
        loop {
            self.look();
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whether anything is wrong.
    pub(super) fn look(&self) -> bool {
        // What a broker says whose power is gone nobody hears.
        !self.disk.is_off() && self.note()
    }

    /// Looks at one that has just stopped: what it said last.
    pub(super) fn last_look(&self) {
        self.note();
    }

    fn note(&self) -> bool {
        // What it says may come of what has just failed.
        disk_faults::note_struck(&self.disk, &self.history);
        let raised = self.broker.conditions().all().into_iter();
        let raised = raised.map(|raised| {
            let subject = raised.condition.subject().unwrap_or_default().to_owned();
            let condition = format!("{} {subject}", raised.condition.kind());
            (condition.trim_end().to_owned(), Text::from(raised.why))
        });
        let raised: BTreeMap<String, Text> = raised.collect();
        let mut known = self.known.borrow_mut();
        for (condition, why) in &raised {
            if !known.contains_key(condition) {
                let (condition, why) = (condition.as_str().into(), why.clone());
                let what = What::IsWrong { condition, why };
                self.history.note("broker", what);
            }
        }
        for condition in known.keys().filter(|of| !raised.contains_key(*of)) {
            let condition = condition.as_str().into();
            self.history.note("broker", What::IsOver { condition });
        }
        *known = raised;
        !known.is_empty()
    }

    /// Whether nothing is written before a restart.
    pub(super) fn needs_restart(&self) -> bool {
        let raised = self.broker.conditions().all();
        let kinds = ["store_failed", "task_died"];
        let mut raised = raised.iter().map(|raised| raised.condition.kind());
        raised.any(|kind| kinds.contains(&kind))
    }
}
