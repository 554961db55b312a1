//! How it is drawn what an operator does: what goes mostly comes again soon, and what stands still mostly goes on.

use super::Draw;
use crate::plan::filter::Plugin;
use crate::plan::{Operation, Subscription, Timed, Topic};

impl Draw {
    pub(super) fn operations(
        self,
        lasts_ms: u64,
        plugins: &[Plugin],
        topics: &[Topic],
        subscriptions: &[Subscription],
    ) -> Vec<Timed<Operation>> {
        let mut operations = Vec::new();
        if !self.has("operates") {
            return operations;
        }
        let mut at = 0;
        for of in 0..3 + self.number("operations", 0, 12) {
            let rest = self.among("before operation", of, &[(10, 1), (400, 2), (4_000, 2)]);
            let after_ms = 1 + self.number("rest before operation", of, rest);
            at += after_ms;
            if at >= lasts_ms {
                break;
            }
            let (first, then) = self.operation(of, plugins, topics, subscriptions);
            operations.push(Timed {
                after_ms,
                does: first,
            });
            let soon = self.among(
                "between operations",
                of,
                &[(0, 1), (200, 2), (6_000, 2), (40_000, 1)],
            );
            if let Some(does) = then.filter(|_| self.number("undone", of, 5) > 0) {
                let after_ms = self.number("rest between operations", of, soon + 1);
                at += after_ms;
                operations.push(Timed { after_ms, does });
            }
        }
        operations
    }

    // One, and what undoes it.
    fn operation(
        self,
        of: u64,
        plugins: &[Plugin],
        topics: &[Topic],
        subscriptions: &[Subscription],
    ) -> (Operation, Option<Operation>) {
        let one_of = |what: &str, len: usize| {
            usize::try_from(self.number(what, of, len as u64)).unwrap_or_default()
        };
        let topic = topics[one_of("topic of operation", topics.len())]
            .name
            .clone();
        let subscription = subscriptions[one_of("subscription of operation", subscriptions.len())]
            .name
            .clone();
        if !plugins.is_empty() && self.number("filters change", of, 3) == 0 {
            let filters = self.chain(1_000 + of, plugins);
            let does = Operation::ChangeFilters {
                subscription,
                filters,
            };
            return (does, None);
        }
        match self.number("operation", of, 10) {
            0 => (
                Operation::DeleteTopic {
                    topic: topic.clone(),
                },
                Some(Operation::CreateTopic { topic }),
            ),
            1 => (Operation::CreateTopic { topic }, None),
            2 | 3 => (
                Operation::DeleteSubscription {
                    subscription: subscription.clone(),
                },
                Some(self.created(of, subscription)),
            ),
            4 => (self.created(of, subscription), None),
            5..=7 => (
                Operation::Pause {
                    subscription: subscription.clone(),
                },
                Some(Operation::Resume { subscription }),
            ),
            _ => (
                Operation::Change {
                    subscription,
                    ack_deadline_ms: self.among("changed deadline", of, &[(30_000, 2), (3_000, 1)]),
                    in_flight_max: self.among("changed window", of, &[(4, 1), (65_536, 2)]),
                },
                None,
            ),
        }
    }

    fn created(self, of: u64, subscription: String) -> Operation {
        Operation::CreateSubscription {
            subscription,
            is_earliest: self.number("earliest", of, 2) == 0,
        }
    }
}
