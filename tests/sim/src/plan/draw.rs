//! How a plan is drawn. Each number follows from the seed, what it is for and the number of what it is for, so that drawing more or less for
//! one actor leaves the others as they are.

mod disk;
mod filters;
mod letters;
mod operations;
mod rot;
mod routes;

use super::failing::Attempts;
use super::{
    Actor, Consuming, Crash, Fault, How, Link, Moment, Plan, Publishing, Role, Says, Subscription,
    Timed, Topic,
};
use crate::life::Sizes;
use crate::scheduler::{Manner, mix, text};

/// How often which of several things is drawn: pairs of a thing and its part of the sum.
pub type Weights<'a, T> = &'a [(T, u64)];

/// Draws a plan.
#[derive(Clone, Copy)]
pub(super) struct Draw {
    seed: u64,
}

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Of something by its number: below `below`.
    fn number(self, what: &str, of: u64, below: u64) -> u64 {
        mix(&[self.seed, text("plan"), text(what), of]) % below.max(1)
    }

    fn among<T: Copy>(self, what: &str, of: u64, among: Weights<'_, T>) -> T {
        let sum: u64 = among.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.number(what, of, sum);
        let mut last = among[0].0;
        for (thing, weight) in among {
            last = *thing;
            match drawn.checked_sub(*weight) {
                Some(left) => drawn = left,
                None => break,
            }
        }
        last
    }

    // Whole kinds are left out of a third of the runs.
    fn has(self, kind: &str) -> bool {
        self.number(kind, 0, 3) > 0
    }

    pub(super) fn plan(self) -> Plan {
        let lasts_ms = 10_000 + self.number("lasts", 0, 50_000);
        let topics: Vec<Topic> = (0..1 + self.number("topics", 0, 3))
            .map(|of| Topic {
                name: format!("t.{of}"),
                is_sync: self.number("sync", of, 3) > 0,
            })
            .collect();
        let plugins = self.plugins();
        let of_plugins = &plugins;
        let subscriptions: Vec<Subscription> = topics
            .iter()
            .zip(0..)
            .flat_map(|(topic, of)| {
                let many = 1 + self.number("subscriptions", of, 2);
                (0..many).map(move |sub| Subscription {
                    name: format!("s{of}-{sub}"),
                    topic: topic.name.clone(),
                    ack_deadline_ms: self.among(
                        "deadline",
                        2 * of + sub,
                        &[(30_000, 3), (2_000, 1)],
                    ),
                    filters: self.chain(2 * of + sub, of_plugins),
                    attempts: Attempts::default(),
                })
            })
            .collect();
        let publishers = (0..1 + self.number("publishers", 0, 3))
            .map(|of| self.publisher(of, lasts_ms, &topics));
        let consumers = subscriptions
            .iter()
            .zip(0..)
            .flat_map(|(subscription, of)| {
                let many = self.among("consumers", of, &[(1, 3), (2, 1)]);
                (0..many).map(move |consumer| self.consumer(4 * of + consumer, subscription))
            });
        let actors: Vec<Actor> = publishers.chain(consumers).collect();
        let mut plan = Plan {
            seed: self.seed,
            sizes: Some(Sizes::of(self.seed)),
            manner: Some(Manner::of(self.seed)),
            lasts_ms,
            disk: self.disk(),
            faults: self.all_faults(lasts_ms, &actors),
            crashes: self.crashes(lasts_ms),
            operations: self.operations(lasts_ms, &plugins, &topics, &subscriptions),
            plugins,
            topics,
            subscriptions,
            routes: Vec::new(),
            actors,
        };
        let published = plan.topics.len();
        self.letters(&mut plan);
        self.routes(published, &mut plan);
        plan
    }

    fn link(self, of: u64) -> Link {
        let delay_us = self.among("delay", of, &[(0, 2), (200, 2), (20_000, 2), (80_000, 1)]);
        Link {
            delay_us,
            jitter_us: self.number("jitter", of, delay_us / 2 + 1),
            bytes_per_ms: self.among("band", of, &[(0, 2), (100, 1), (2_000, 1)]),
            piece_bytes: self.among("piece", of, &[(1_200, 2), (65_536, 2), (37, 1)]),
            stream_bytes: self.among("stream", of, &[(65_536, 3), (4_096, 1)]),
        }
    }

    fn publisher(self, of: u64, lasts_ms: u64, topics: &[Topic]) -> Actor {
        let mut does = Vec::new();
        let (mut at, mut op) = (0, of * 10_000);
        while does.len() < 60 {
            op += 1;
            let after_ms = self.among("rest", op, &[(0, 2), (20, 2), (300, 2), (2_500, 1)]);
            at += after_ms;
            if at >= lasts_ms {
                break;
            }
            let does_next = match self.number("publishing", op, 12) {
                0 => Publishing::Flush,
                1 if self.has("dying") => Publishing::Die,
                _ => self.publish(op, topics),
            };
            does.push(Timed {
                after_ms,
                does: does_next,
            });
        }
        Actor {
            name: format!("p{of}"),
            link: self.link(of),
            role: Role::Publisher(does),
        }
    }

    fn publish(self, op: u64, topics: &[Topic]) -> Publishing {
        let topic = self.number("topic", op, topics.len() as u64);
        let topic = topics[usize::try_from(topic).unwrap_or_default()]
            .name
            .clone();
        let events = self.among("events", op, &[(1, 4), (3, 3), (20, 1)]);
        let bytes = self.among("bytes", op, &[(10, 3), (200, 3), (3_000, 1), (20_000, 1)]);
        Publishing::Publish {
            topic,
            events: 1 + self.number("of events", op, events),
            bytes: self.number("of bytes", op, bytes),
        }
    }

    fn consumer(self, of: u64, subscription: &Subscription) -> Actor {
        let says = match self.has("answers") {
            true => Says {
                ack: 20,
                nack: self.number("nack", of, 4),
                extend: self.number("extend", of, 3),
                nothing: self.number("nothing", of, 2),
                later: 0,
                term: 0,
            },
            false => Says {
                ack: 1,
                nack: 0,
                extend: 0,
                nothing: 0,
                later: 0,
                term: 0,
            },
        };
        let dies_after = match self.has("dying") {
            true => self.among("dies", of, &[(0, 2), (7, 1), (40, 1)]),
            false => 0,
        };
        Actor {
            name: format!("c{of}"),
            link: self.link(100 + of),
            role: Role::Consumer(Consuming {
                subscription: subscription.name.clone(),
                credit: self.among("credit", of, &[(0, 2), (1, 1), (16, 2)]),
                says,
                flushes_after: self.among("flushes", of, &[(1, 1), (5, 2), (50, 1)]),
                dies_after,
                takes_ms: self.among("takes", of, &[(0, 3), (5, 1), (100, 1)]),
                poison: None,
            }),
        }
    }

    fn all_faults(self, lasts_ms: u64, actors: &[Actor]) -> Vec<Timed<Fault>> {
        let mut faults = self.faults(lasts_ms, actors);
        faults.extend(self.disk_faults(lasts_ms));
        faults.extend(self.rots(lasts_ms));
        faults.sort_by_key(|fault| fault.after_ms);
        faults
    }

    fn faults(self, lasts_ms: u64, actors: &[Actor]) -> Vec<Timed<Fault>> {
        let mut faults = Vec::new();
        if !self.has("links") {
            return faults;
        }
        for of in 0..self.number("faults", 0, 8) {
            let actor = self.number("whose", of, actors.len() as u64);
            let actor = actors[usize::try_from(actor).unwrap_or_default()]
                .name
                .clone();
            let is_up = self.number("up", of, 2) == 0;
            let does = match self.number("fault", of, 8) {
                0 => Fault::Cut { actor },
                1 | 2 => Fault::CutAfter {
                    actor,
                    is_up,
                    bytes: self.number("after", of, 3_000),
                },
                3 => Fault::Outage {
                    actor,
                    is_up: Some(is_up).filter(|_| self.number("one way", of, 2) == 0),
                    lasts_ms: self.among("outage", of, &[(800, 2), (9_000, 1), (40_000, 1)]),
                },
                4 => Fault::Slow { actor, factor: 10 },
                5 => Fault::Refuse { actor, times: 3 },
                6 => Fault::Close { actor },
                _ => Fault::SlowDisk { factor: 20 },
            };
            faults.push(Timed {
                after_ms: self.number("fault at", of, lasts_ms),
                does,
            });
        }
        faults
    }

    fn crashes(self, lasts_ms: u64) -> Vec<Crash> {
        let many = match self.has("crashes") {
            true => 1 + self.number("crashes", 1, 4),
            false => 0,
        };
        let crash = |of| Crash {
            at: match self.number("at what", of, 2) {
                0 => Moment::Time(self.number("at time", of, lasts_ms / many)),
                // A start takes some tens of them.
                _ => Moment::Operation(match self.number("in a start", of, 4) {
                    0 => 1 + self.number("at operation", of, 60),
                    _ => 1 + self.number("at operation", of, 1_500),
                }),
            },
            how: match self.number("how", of, 6) {
                0 => How::Stop,
                1 => How::Kill,
                _ => How::Power(self.number("power", of, 4)),
            },
            back_after_ms: self.among("back", of, &[(0, 1), (500, 2), (6_000, 1)]),
        };
        (0..many).map(crash).collect()
    }
}
