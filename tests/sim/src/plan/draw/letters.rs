//! How it is drawn what is done about events that fail: subscriptions that give them up, consumers that always fail on some, and who keeps
//! dead letters, those of dead letters among them. From numbers of its own, so that what else is drawn stays as it is.

use super::Draw;
use crate::plan::failing::{Attempts, Fails, Poison};
use crate::plan::{Actor, Plan, Role, Subscription, Topic};

impl Draw {
    /// Adds it to a third of the plans, which have everything else.
    pub(super) fn letters(self, plan: &mut Plan) {
        if self.number("letters", 0, 3) > 0 {
            return;
        }
        for (subscription, of) in plan.subscriptions.iter_mut().zip(0..) {
            subscription.attempts = self.attempts(of);
        }
        for (actor, of) in plan.actors.iter_mut().zip(0..) {
            self.fails(of, actor, &plan.subscriptions);
        }
        let mut level = plan.subscriptions.clone();
        for of in 0..2 {
            level = self.keepers(1_000 * (of + 1), &level);
            for keeper in &level {
                plan.topics.push(Topic {
                    name: keeper.topic.clone(),
                    is_sync: true,
                });
                plan.subscriptions.push(keeper.clone());
            }
            let consumers = level.iter().zip(1_000 * (of + 1)..);
            let consumers = consumers.map(|(keeper, of)| {
                let mut consumer = self.consumer(of, keeper);
                self.fails(of, &mut consumer, &level);
                consumer
            });
            plan.actors.extend(consumers.collect::<Vec<_>>());
        }
    }

    fn attempts(self, of: u64) -> Attempts {
        let steps: &[u64] = self.among(
            "backoff",
            of,
            &[
                (&[100], 2),
                (&[0], 1),
                (&[700, 3_000], 2),
                (&[20, 20_000], 1),
            ],
        );
        Attempts {
            max: self.among("attempts", of, &[(0, 1), (1, 1), (2, 2), (4, 2)]),
            backoff_ms: steps.to_vec(),
        }
    }

    // Those of these that may give something up mostly have somebody who keeps their letters.
    fn keepers(self, of: u64, givers: &[Subscription]) -> Vec<Subscription> {
        let givers = givers.iter().zip(of..);
        let keepers = givers.filter(|(giver, of)| {
            let gives_up = giver.attempts.max > 0 || !giver.filters.is_empty();
            gives_up && self.number("keeps letters", *of, 4) > 0
        });
        let keepers = keepers.map(|(giver, of)| Subscription {
            name: format!("k-{}", giver.name),
            topic: format!("dead.{}", giver.name),
            ack_deadline_ms: self.among("keeper's deadline", of, &[(30_000, 3), (2_000, 1)]),
            filters: Vec::new(),
            attempts: match self.number("gives letters up", of, 3) {
                0 => Attempts {
                    max: 2,
                    ..self.attempts(of)
                },
                _ => Attempts::default(),
            },
        });
        keepers.collect()
    }

    // Some consumers always fail on some events, and some say that they want one later or never.
    fn fails(self, of: u64, actor: &mut Actor, subscriptions: &[Subscription]) {
        let Role::Consumer(consuming) = &mut actor.role else {
            return;
        };
        consuming.says.later = self.among("later", of, &[(0, 2), (2, 1)]);
        consuming.says.term = self.among("term", of, &[(0, 2), (1, 1)]);
        if self.number("poisoned", of, 2) == 0 {
            return;
        }
        let of_it = subscriptions
            .iter()
            .find(|is| is.name == consuming.subscription);
        let is_endless = of_it.is_some_and(|is| is.attempts.max == 0);
        let every = self.among("poison", of, &[(3, 1), (10, 2), (40, 2)]);
        let does = self.among(
            "fails",
            of,
            &[
                (Fails::Nack, 3),
                (Fails::NackAfter(0), 1),
                (Fails::NackAfter(1_500), 1),
                (Fails::NackAfter(15_000), 1),
                (Fails::Term, 2),
                (Fails::Silent, 2),
                (Fails::Dies, 2),
            ],
        );
        // Who wants it again at once, and gets it without end, leaves no time to anybody.
        let does = match does {
            Fails::Nack | Fails::NackAfter(0) if is_endless => Fails::NackAfter(1_500),
            does => does,
        };
        consuming.poison = Some(Poison {
            every,
            rest: self.number("which poison", of, every),
            does,
        });
    }
}
