//! The check of a publish stream's batches: what a batch must be to get to the broker. Its topic must be one that the principal may
//! publish to, which is known before anything is done with its events; these must be within the limits (each as
//! `tidegate_wire::event` checks it), and its numbers must fit the stream. Nothing here reads, writes or waits.

use std::collections::HashMap;

use tidegate_wire::batch::ReceivedBatch;
use tidegate_wire::credit::batch_cost;
use tidegate_wire::event::check_event;
use tidegate_wire::limits::Limits;
use tidegate_wire::pb::{self, ErrorCode};

use super::super::error_codes::{StreamEnd, from_denied, from_event, invalid};
use crate::auth::{Policy, authorize};
use crate::broker::PublishRequest;
use crate::domain::{EncodedEvents, Principal, TopicName};

/// Topics whose verdict a stream remembers.
const TOPICS_REMEMBERED: usize = 1_024;

/// A batch that its principal may publish, whose events are found but not checked.
pub(super) struct Batch {
    head: ReceivedBatch,
    topic: TopicName,
    entries: EncodedEvents,
}

/// A batch that does not get in.
#[derive(Debug)]
pub(super) struct Unfit {
    /// The topic that it names.
    pub(super) topic: String,
    /// What is wrong with it.
    pub(super) error: pb::Error,
}

impl Batch {
    /// What it costs of the stream's credit.
    pub(super) fn cost(&self) -> usize {
        batch_cost(self.entries.count() as usize, self.entries.event_bytes())
    }
}

/// What a batch must pass before the broker sees it.
pub(super) struct BatchCheck<'a> {
    policy: &'a Policy,
    who: &'a Principal,
    limits: Limits,
    idempotent: bool,
    /// Topics this principal may publish to. Refusals are not remembered, so that each is counted.
    allowed: HashMap<String, TopicName>,
    /// Of which version of the policy these answers are.
    allowed_by: u64,
}

impl<'a> BatchCheck<'a> {
    /// That of a stream of `who`. An `idempotent` one numbers its events.
    pub(super) fn new(
        policy: &'a Policy,
        who: &'a Principal,
        limits: Limits,
        idempotent: bool,
    ) -> Self {
        Self {
            policy,
            who,
            limits,
            idempotent,
            allowed: HashMap::new(),
            allowed_by: policy.version(),
        }
    }

    /// The topic of this name, which the principal may publish to.
    ///
    /// # Errors
    ///
    /// It is none, or the principal may not.
    pub(super) fn topic(&mut self, text: &str) -> Result<TopicName, pb::Error> {
        let version = self.policy.version();
        if version != self.allowed_by {
            self.allowed.clear();
            self.allowed_by = version;
        }
        if let Some(topic) = self.allowed.get(text) {
            return Ok(topic.clone());
        }
        let topic: TopicName = text
            .parse()
            .map_err(|error| invalid(format!("topic: {error}")))?;
        authorize::publish(self.policy, self.who, &topic).map_err(|denied| from_denied(&denied))?;
        if self.allowed.len() >= TOPICS_REMEMBERED {
            self.allowed.clear();
        }
        self.allowed.insert(text.to_owned(), topic.clone());
        Ok(topic)
    }

    /// Finds the events of a batch that is not packed, or was unpacked, and whose topic was found to be this one. One of more events than
    /// there may be is [`Unfit`].
    ///
    /// # Errors
    ///
    /// There is something else in their place, which breaks the protocol.
    pub(super) fn batch(
        &self,
        topic: TopicName,
        mut head: ReceivedBatch,
    ) -> Result<Result<Batch, Unfit>, StreamEnd> {
        let events = std::mem::take(&mut head.events);
        let max = self.limits.batch_events_max;
        let entries = EncodedEvents::parse_at_most(events, max);
        let entries = entries.map_err(|error| StreamEnd::malformed(error.to_string()))?;
        Ok(match entries {
            Some(entries) => Ok(Batch {
                head,
                topic,
                entries,
            }),
            None => {
                let message = format!(
                    "the batch has more than {max} events, and no more are accepted (batch_events_max)"
                );
                Err(Unfit {
                    topic: head.topic,
                    error: pb::Error::new(ErrorCode::TooLarge, message),
                })
            }
        })
    }

    /// Lets a batch in.
    ///
    /// # Errors
    ///
    /// It has no events, or their numbers, or an event of it, are not allowed. Only this batch is concerned.
    pub(super) fn admit(&self, batch: Batch) -> Result<PublishRequest, Unfit> {
        let cost = batch.cost();
        let Batch {
            head,
            topic,
            entries,
        } = batch;
        match self.check(&head, &entries) {
            Ok(()) => Ok(PublishRequest {
                correlation: head.correlation,
                topic,
                first_number: head.first_number,
                resolved_through: head.resolved_through,
                entries,
                cost,
            }),
            Err(error) => Err(Unfit {
                topic: head.topic,
                error,
            }),
        }
    }

    fn check(&self, head: &ReceivedBatch, entries: &EncodedEvents) -> Result<(), pb::Error> {
        if entries.count() == 0 {
            return Err(invalid("the batch has no events; leave it out"));
        }
        self.check_numbers(head.first_number, entries.count())?;
        for (index, event) in entries.events().enumerate() {
            check_event(event, &self.limits).map_err(|error| from_event(index, &error))?;
        }
        Ok(())
    }

    fn check_numbers(&self, first: u64, count: u32) -> Result<(), pb::Error> {
        if self.idempotent == (first == 0) {
            return Err(invalid(format!(
                "first_number is {first}; a stream with a producer id numbers its events from 1, one without sends 0"
            )));
        }
        if first.checked_add(u64::from(count)).is_none() {
            return Err(invalid(
                "event numbers lead past 64 bits; take a new producer id",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;

    use super::*;
    use crate::auth::Grant;

    fn batch(topic: &str, first_number: u64, events: usize) -> pb::PublishBatch {
        let event = Bytes::from(
            pb::Event {
                id: "1".into(),
                ..pb::Event::default()
            }
            .encode_to_vec(),
        );
        pb::PublishBatch {
            correlation: 7,
            topic: topic.into(),
            first_number,
            resolved_through: 0,
            events: vec![event; events],
            ..Default::default()
        }
    }

    fn check(idempotent: bool, batch: pb::PublishBatch, expected: Result<(), ErrorCode>) {
        let policy = Policy::new(vec![Grant {
            principals: vec!["cn:p".parse().expect("valid")],
            publish: vec!["orders.>".parse().expect("valid")],
            ..Grant::default()
        }]);
        let who = Principal::common_name("p");
        let limits = Limits {
            batch_events_max: 3,
            headers_max: 1,
            ..Limits::default()
        };
        let mut gate = BatchCheck::new(&policy, &who, limits, idempotent);
        for _ in 0..2 {
            let head = ReceivedBatch::decode(batch.encode_to_vec().into());
            let head = head.expect("a batch");
            let found = gate.topic(&head.topic).and_then(|topic| {
                let found = gate.batch(topic, head).expect("events");
                let admitted = found.and_then(|batch| gate.admit(batch));
                admitted.map_err(|unfit| unfit.error)
            });
            assert_eq!(
                found.map(|_| ()).map_err(|error| error.code()),
                expected,
                "{batch:?}"
            );
        }
    }

    #[test]
    fn each_way_a_batch_can_be_wrong() {
        check(true, batch("orders.eu", 1, 3), Ok(()));
        check(false, batch("orders.eu", 0, 1), Ok(()));
        check(
            true,
            batch("invoices", 1, 1),
            Err(ErrorCode::PermissionDenied),
        );
        check(
            true,
            batch("orders.*", 1, 1),
            Err(ErrorCode::InvalidArgument),
        );
        check(
            true,
            batch("orders.eu", 1, 0),
            Err(ErrorCode::InvalidArgument),
        );
        check(true, batch("orders.eu", 1, 4), Err(ErrorCode::TooLarge));
        check(
            true,
            batch("orders.eu", 0, 1),
            Err(ErrorCode::InvalidArgument),
        );
        check(
            false,
            batch("orders.eu", 1, 1),
            Err(ErrorCode::InvalidArgument),
        );
        check(
            true,
            batch("orders.eu", u64::MAX, 1),
            Err(ErrorCode::InvalidArgument),
        );
        let with_event = |event: Vec<u8>| pb::PublishBatch {
            events: vec![event.into()],
            ..batch("orders.eu", 1, 1)
        };
        check(true, with_event(vec![0xff]), Err(ErrorCode::Malformed));
        check(
            true,
            with_event(vec![0x0a, 1, 0xff]),
            Err(ErrorCode::Malformed),
        );
        let header = pb::Header {
            name: "n".into(),
            value: "v".into(),
        };
        let event = pb::Event {
            headers: vec![header; 2],
            ..pb::Event::default()
        };
        check(
            true,
            with_event(event.encode_to_vec()),
            Err(ErrorCode::TooLarge),
        );
    }
}
