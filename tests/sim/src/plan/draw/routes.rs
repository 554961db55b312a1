//! How routes are drawn: one or two from the topics that are published to, another one from what they make, and whoever consumes what comes
//! of it all. From numbers of its own, so that what else is drawn stays as it is.

use super::Draw;
use crate::plan::failing::Attempts;
use crate::plan::route::Route;
use crate::plan::{Plan, Subscription, Topic};

impl Draw {
    /// Adds them to a third of the plans, which have everything else. The first so many topics are published to.
    pub(super) fn routes(self, published: usize, plan: &mut Plan) {
        if self.number("has routes", 0, 3) > 0 {
            return;
        }
        let many = 1 + self.number("routes", 0, 2);
        for of in 0..many {
            let from = self.number("route from", of, published as u64);
            let from = usize::try_from(from).unwrap_or_default();
            let rule = self.among(
                "route",
                of,
                &[
                    ("keep", 2),
                    ("replace", 2),
                    ("emit 2", 2),
                    ("emit 3 to b", 2),
                    ("drop", 1),
                ],
            );
            let mut outputs = vec![("a".to_owned(), "o.0".to_owned())];
            if rule.contains(" to ") {
                outputs.push(("b".to_owned(), "o.1".to_owned()));
            }
            plan.routes.push(Route {
                name: format!("r{of}"),
                from: plan.topics[from].name.clone(),
                rule: rule.to_owned(),
                outputs,
            });
        }
        if self.number("chain of routes", 0, 2) == 0 {
            plan.routes.push(Route {
                name: format!("r{many}"),
                from: "o.0".to_owned(),
                rule: self
                    .among("next route", 0, &[("replace", 1), ("emit 2", 1)])
                    .to_owned(),
                outputs: vec![("a".to_owned(), "p.0".to_owned())],
            });
        }
        for (topic, of) in ["o.0", "o.1", "p.0"].iter().zip(5_000..) {
            plan.topics.push(Topic {
                name: (*topic).to_owned(),
                is_sync: true,
            });
            let subscription = Subscription {
                name: format!("s-{topic}"),
                topic: (*topic).to_owned(),
                ack_deadline_ms: 30_000,
                filters: Vec::new(),
                attempts: Attempts::default(),
            };
            plan.actors.push(self.consumer(of, &subscription));
            plan.subscriptions.push(subscription);
        }
    }
}
