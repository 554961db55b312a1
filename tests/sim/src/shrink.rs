//! A smaller plan that still shows what is wrong: whatever can be taken out of it without that going away is taken out, large parts first,
//! and numbers are made small. What counts as showing it is the caller's business, and so is how often it may be tried.

use crate::plan::disk::DiskShape;
use crate::plan::failing::Attempts;
use crate::plan::{Actor, Link, Operation, Plan, Publishing, Role, Timed};

/// The link of a client on the same machine.
const NEAR: Link = Link {
    delay_us: 0,
    jitter_us: 0,
    bytes_per_ms: 0,
    piece_bytes: 65_536,
    stream_bytes: 65_536,
};

/// The smallest plan that was found to show the same. `shows` is asked so many times at most.
#[must_use]
pub fn shrink(plan: &Plan, tries_max: usize, shows: impl FnMut(&Plan) -> bool) -> Plan {
    let mut shrinking = Shrinking {
        plan: plan.clone(),
        left: tries_max,
        shows,
    };
    loop {
        let before = shrinking.plan.clone();
        shrinking.list(|plan| &mut plan.crashes);
        shrinking.list(|plan| &mut plan.actors);
        shrinking.list(|plan| &mut plan.faults);
        shrinking.list(|plan| &mut plan.operations);
        for subscription in 0..shrinking.plan.subscriptions.len() {
            shrinking
                .change(|plan| plan.subscriptions[subscription].attempts = Attempts::default());
            shrinking.list(|plan| &mut plan.subscriptions[subscription].filters);
        }
        shrinking.list(|plan| &mut plan.subscriptions);
        shrinking.list(|plan| &mut plan.routes);
        shrinking.list(|plan| &mut plan.plugins);
        shrinking.list(|plan| &mut plan.topics);
        for publisher in publishers(&shrinking.plan) {
            shrinking.list(|plan| does(plan, publisher));
        }
        shrinking.numbers();
        if shrinking.plan == before || shrinking.left == 0 {
            return shrinking.plan;
        }
    }
}

struct Shrinking<F> {
    plan: Plan,
    left: usize,
    shows: F,
}

impl<F: FnMut(&Plan) -> bool> Shrinking<F> {
    /// Takes a smaller plan if it shows the same. Whether it did.
    fn offer(&mut self, smaller: Plan) -> bool {
        let smaller = pruned(smaller);
        // What nobody consumes has not drained, whatever the broker does.
        let is_a_story = without_consumer(&smaller) <= without_consumer(&self.plan);
        if smaller == self.plan || !is_a_story || self.left == 0 {
            return false;
        }
        self.left -= 1;
        let shows = (self.shows)(&smaller);
        if shows {
            self.plan = smaller;
        }
        shows
    }

    // Leaves parts of a list out: all of it, halves, quarters, and so on to each by itself.
    fn list<T>(&mut self, list: impl Fn(&mut Plan) -> &mut Vec<T>) {
        let len = |plan: &mut Plan| list(plan).len();
        let mut size = len(&mut self.plan);
        while size > 0 {
            let mut at = 0;
            while at < len(&mut self.plan) {
                let mut smaller = self.plan.clone();
                let of = list(&mut smaller);
                let end = (at + size).min(of.len());
                of.drain(at..end);
                if !self.offer(smaller) {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    fn numbers(&mut self) {
        while self.change(|plan| plan.lasts_ms /= 2) {}
        self.change(|plan| plan.disk = DiskShape::default());
        for crash in 0..self.plan.crashes.len() {
            self.change(|plan| plan.crashes[crash].back_after_ms = 0);
        }
        for fault in 0..self.plan.faults.len() {
            while self.change(|plan| plan.faults[fault].after_ms /= 2) {}
        }
        for operation in 0..self.plan.operations.len() {
            while self.change(|plan| plan.operations[operation].after_ms /= 2) {}
        }
        for actor in 0..self.plan.actors.len() {
            self.change(|plan| plan.actors[actor].link = NEAR);
            self.change(|plan| plainly(&mut plan.actors[actor]));
        }
        for actor in publishers(&self.plan) {
            for step in 0..does(&mut self.plan, actor).len() {
                self.change(|plan| does(plan, actor)[step].after_ms = 0);
                self.change(|plan| {
                    if let Publishing::Publish { events, .. } = &mut does(plan, actor)[step].does {
                        *events = 1;
                    }
                });
                self.change(|plan| {
                    if let Publishing::Publish { bytes, .. } = &mut does(plan, actor)[step].does {
                        *bytes = 0;
                    }
                });
            }
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut smaller = self.plan.clone();
        change(&mut smaller);
        self.offer(smaller)
    }
}

// How many subscriptions nobody consumes from.
fn without_consumer(plan: &Plan) -> usize {
    let consumes = |name: &str| {
        let mut actors = plan.actors.iter();
        actors.any(|actor| match &actor.role {
            Role::Consumer(consuming) => consuming.subscription == name,
            Role::Publisher(_) => false,
        })
    };
    let subscriptions = plan.subscriptions.iter();
    subscriptions.filter(|of| !consumes(&of.name)).count()
}

// The actors that publish.
fn publishers(plan: &Plan) -> Vec<usize> {
    let actors = plan.actors.iter().enumerate();
    let publishers = actors.filter(|(_, actor)| actor.publishes());
    publishers.map(|(at, _)| at).collect()
}

// What one of them does.
fn does(plan: &mut Plan, publisher: usize) -> &mut Vec<Timed<Publishing>> {
    match &mut plan.actors[publisher].role {
        Role::Publisher(does) => does,
        Role::Consumer(_) => unreachable!("nobody becomes a consumer"),
    }
}

// A consumer that acks everything at once.
fn plainly(actor: &mut Actor) {
    if let Role::Consumer(consuming) = &mut actor.role {
        consuming.dies_after = 0;
        consuming.takes_ms = 0;
        consuming.credit = 0;
        consuming.says.nack = 0;
        consuming.says.extend = 0;
        consuming.says.nothing = 0;
        consuming.says.later = 0;
        consuming.says.term = 0;
        consuming.poison = None;
        consuming.says.ack = 1;
    }
}

// Without what names something that is not there any more.
fn pruned(mut plan: Plan) -> Plan {
    let topics: Vec<String> = plan.topics.iter().map(|of| of.name.clone()).collect();
    plan.subscriptions.retain(|of| topics.contains(&of.topic));
    plan.routes.retain(|of| {
        let mut outputs = of.outputs.iter();
        topics.contains(&of.from) && outputs.all(|(_, to)| topics.contains(to))
    });
    let plugins: Vec<String> = plan.plugins.iter().map(|of| of.name.clone()).collect();
    for subscription in &mut plan.subscriptions {
        let filters = &mut subscription.filters;
        filters.retain(|filter| plugins.contains(&filter.plugin));
    }
    for timed in &mut plan.operations {
        if let Operation::ChangeFilters { filters, .. } = &mut timed.does {
            filters.retain(|filter| plugins.contains(&filter.plugin));
        }
    }
    let subscriptions: Vec<String> = plan
        .subscriptions
        .iter()
        .map(|of| of.name.clone())
        .collect();
    plan.actors.retain_mut(|actor| match &mut actor.role {
        Role::Consumer(consuming) => subscriptions.contains(&consuming.subscription),
        Role::Publisher(does) => {
            does.retain(|timed| match &timed.does {
                Publishing::Publish { topic, .. } => topics.contains(topic),
                _ => true,
            });
            true
        }
    });
    plan.operations.retain(|timed| {
        let is_there = |names: &[String], name: Option<&str>| {
            name.is_none_or(|name| names.iter().any(|of| of == name))
        };
        is_there(&topics, timed.does.topic()) && is_there(&subscriptions, timed.does.subscription())
    });
    let actors: Vec<String> = plan.actors.iter().map(|of| of.name.clone()).collect();
    plan.faults.retain(|fault| {
        fault
            .does
            .actor()
            .is_none_or(|name| actors.iter().any(|of| of == name))
    });
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Crash, How};

    fn publishes(plan: &Plan, many: u64) -> bool {
        let events = plan.actors.iter().flat_map(|actor| match &actor.role {
            Role::Publisher(does) => does.clone(),
            Role::Consumer(_) => Vec::new(),
        });
        let events = events.filter_map(|timed| match timed.does {
            Publishing::Publish { events, .. } => Some(events),
            _ => None,
        });
        events.max().unwrap_or_default() >= many
    }

    #[test]
    fn what_shows_the_same_is_all_that_is_left() {
        let is_power = |crash: &Crash| matches!(crash.how, How::Power(_));
        for seed in 0..200 {
            let plan = Plan::of(seed);
            let shows = |plan: &Plan| plan.crashes.iter().any(is_power) && publishes(plan, 3);
            if !shows(&plan) {
                continue;
            }
            let smaller = shrink(&plan, 10_000, shows);
            assert!(shows(&smaller));
            assert_eq!(Plan::from_json(&smaller.to_json()), Ok(smaller.clone()));
            let left = (
                smaller.crashes.len(),
                smaller.actors.len(),
                smaller.topics.len(),
            );
            assert_eq!(
                (left, smaller.faults.len() + smaller.operations.len()),
                ((1, 1, 1), 0),
                "{}",
                smaller.to_json()
            );
            assert_eq!((smaller.subscriptions.len(), smaller.lasts_ms), (0, 0));
            let Role::Publisher(does) = &smaller.actors[0].role else {
                panic!("nobody publishes");
            };
            assert_eq!((does.len(), smaller.actors[0].link), (1, NEAR));
        }
    }

    #[test]
    fn what_a_fault_names_stays_as_long_as_the_fault() {
        let plan = (0..).map(Plan::of).find(|plan| {
            let of_links = |plan: &Plan| plan.faults.iter().any(|of| of.does.actor().is_some());
            plan.actors.len() > 3 && of_links(plan)
        });
        let shows = |plan: &Plan| plan.faults.iter().any(|of| of.does.actor().is_some());
        let smaller = shrink(&plan.unwrap(), 10_000, shows);
        assert_eq!((smaller.faults.len(), smaller.actors.len()), (1, 1));
        assert_eq!(Plan::from_json(&smaller.to_json()), Ok(smaller));
    }

    #[test]
    fn whoever_has_a_subscription_keeps_a_consumer_of_it() {
        for seed in 0..40 {
            let shows = |plan: &Plan| !plan.subscriptions.is_empty();
            let smaller = shrink(&Plan::of(seed), 10_000, shows);
            let left = (smaller.subscriptions.len(), smaller.actors.len());
            assert_eq!(left, (1, 1), "{}", smaller.to_json());
            assert_eq!(without_consumer(&smaller), 0);
        }
    }

    #[test]
    fn it_is_tried_no_more_often_than_it_may_be() {
        let mut tries = 0;
        let plan = Plan::of(1);
        let smaller = shrink(&plan, 7, |_| {
            tries += 1;
            false
        });
        assert_eq!((tries, smaller), (7, plan));
    }
}
