//! Requests: each is answered once, by an answer to itself, and before long when nothing is wrong. What is there drains when everybody
//! consumes, and a broker that is told to stop does.

use std::collections::BTreeMap;

use super::facts::Facts;
use super::{Found, Group, Promise};
use crate::history::{Entry, What};

pub(super) const ANSWERED_ONCE: Promise = Promise {
    id: "I2",
    page: "delivery.md",
    words: "a resend is recognised",
};
pub(super) const ANSWERED_AT_ALL: Promise = Promise {
    id: "I17",
    page: "internals/queues.md",
    words: "What makes this free of deadlocks:",
};
pub(super) const DRAINS: Promise = Promise {
    id: "I17",
    page: "delivery.md",
    words: "at least once: an event is delivered again until a consumer",
};
pub(super) const STOPS: Promise = Promise {
    id: "I17",
    page: "operate/run.md",
    words: "closes what is left after all of it",
};

/// How long a broker takes to stop, and to start, on a disk that is not slow.
const STOPS_MS: u64 = 20_000;
const STARTS_MS: u64 = 60_000;

#[derive(Default)]
pub(super) struct Requests {
    began: BTreeMap<u64, u64>,
    starts: Option<(u64, u64)>,
    stops: Option<(u64, u64)>,
    drained: Vec<String>,
    now_ms: u64,
}

impl Group for Requests {
    fn see(&mut self, entry: &Entry, facts: &Facts, found: &mut Found) {
        self.now_ms = entry.ms;
        if let Some(op) = super::facts::asks(&entry.what)
            && self.began.insert(op, entry.ms).is_some()
        {
            found.breaks(&ANSWERED_ONCE, format!("request {op} was made twice"));
        }
        if let Some(op) = answers(&entry.what) {
            self.answered(op, entry, facts, found);
        }
        match &entry.what {
            What::Starts { life } => self.starts = Some((*life, entry.ms)),
            What::Serves { life, .. } | What::Refuses { life, .. } => {
                let began = self.starts.take().filter(|(of, _)| of == life);
                let took = began.map_or(0, |(_, at)| entry.ms - at);
                let is_quiet = !began.is_some_and(|(_, at)| facts.troubles.was_slow_since(at));
                if took > STARTS_MS && is_quiet {
                    found.breaks(
                        &ANSWERED_AT_ALL,
                        format!("life {life} took {took} ms to start"),
                    );
                }
            }
            What::Stops { life } => self.stops = Some((*life, entry.ms)),
            What::Stopped { life } => {
                let began = self.stops.take().filter(|(of, _)| of == life);
                let took = began.map_or(0, |(_, at)| entry.ms - at);
                // What is wrong with a link keeps nobody from stopping.
                let is_quiet = !began.is_some_and(|(_, at)| facts.troubles.was_slow_since(at));
                if took > STOPS_MS && is_quiet {
                    found.breaks(&STOPS, format!("life {life} took {took} ms to stop"));
                }
            }
            What::Crashed { .. } => (self.starts, self.stops) = (None, None),
            What::Drained { subscription } => self.drained.push(subscription.to_string()),
            What::Over {} => self.over(facts, found),
            _ => {}
        }
    }

    fn end(&mut self, _: &Facts, found: &mut Found) {
        if let Some((life, _)) = self.stops {
            found.breaks(&STOPS, format!("life {life} never stopped"));
        }
        if let Some((life, _)) = self.starts {
            found.breaks(&ANSWERED_AT_ALL, format!("life {life} never started"));
        }
    }
}

impl Requests {
    fn answered(&mut self, op: u64, entry: &Entry, facts: &Facts, found: &mut Found) {
        let Some(request) = facts.requests.get(&op) else {
            found.breaks(&ANSWERED_ONCE, format!("nobody made request {op}"));
            return;
        };
        if request.who != entry.who || !fits(&request.what, &entry.what) {
            let says = format!("request {op} got the answer of another");
            found.breaks(&ANSWERED_ONCE, says);
        }
        let Some(began) = self.began.remove(&op) else {
            found.breaks(&ANSWERED_ONCE, format!("request {op} was answered twice"));
            return;
        };
        self.check(op, began, facts, found);
    }

    fn over(&mut self, facts: &Facts, found: &mut Found) {
        for (op, began) in &self.began {
            if facts
                .requests
                .get(op)
                .is_some_and(|request| request.is_open)
            {
                self.check(*op, *began, facts, found);
            }
        }
        for (name, subscription) in &facts.subscriptions {
            let is_drained = self.drained.iter().any(|drained| **drained == **name);
            if facts.is_draining && subscription.is_sure && !is_drained {
                found.breaks(&DRAINS, format!("{name} has not drained"));
            }
        }
    }

    fn check(&self, op: u64, began: u64, facts: &Facts, found: &mut Found) {
        let Some(request) = facts.requests.get(&op) else {
            return;
        };
        let Some(quiet) = facts.quiet_for(request, self.now_ms) else {
            return;
        };
        let waited = self.now_ms - began.max(quiet);
        if waited > bound_ms(&request.what) {
            let what = &request.what;
            let says =
                format!("for {waited} ms in which nothing was wrong nobody answered: {what}");
            found.breaks(&ANSWERED_AT_ALL, says);
        }
    }
}

/// How long a request may wait while nothing is wrong. A client that has just lost its connection notices, and comes again, in that time.
fn bound_ms(what: &What) -> u64 {
    match what {
        What::Publishes { .. } => 60_000,
        _ => 45_000,
    }
}

fn answers(what: &What) -> Option<u64> {
    match what {
        What::Done { op, .. }
        | What::NotDone { op, .. }
        | What::Published { op, .. }
        | What::NotPublished { op, .. }
        | What::Attached { op }
        | What::NotAttached { op, .. }
        | What::Confirmed { op }
        | What::NotConfirmed { op, .. } => Some(*op),
        _ => None,
    }
}

fn fits(request: &What, answer: &What) -> bool {
    match request {
        What::Publishes { .. } => {
            matches!(answer, What::Published { .. } | What::NotPublished { .. })
        }
        What::Attaches { .. } => {
            matches!(answer, What::Attached { .. } | What::NotAttached { .. })
        }
        What::Flushes { .. } => {
            matches!(answer, What::Confirmed { .. } | What::NotConfirmed { .. })
        }
        _ => matches!(answer, What::Done { .. } | What::NotDone { .. }),
    }
}
