//! Transforms: the trait an author implements, the loop that serves it, and the short ways to build an outcome.

use crate::{Emitted, Event, Failure, Outcome, Output, Rule, RuleTable, Wants};

/// One rule of a transform: what one subscription or route configured.
pub trait Transform: Sized + 'static {
    /// Makes a rule from a subscription's configuration.
    ///
    /// # Errors
    /// What is wrong and where; the subscription's author reads it.
    fn configure(config: &str) -> Result<Self, String>;

    /// What the rule needs to see of an event. Less is faster, but a transform passes on only what it sees: one that
    /// replaces the event must want what it means to keep. The default is everything.
    fn wants(&self) -> Wants {
        Wants::everything()
    }

    /// What becomes of an event.
    ///
    /// # Errors
    /// [`Failure::Reject`] sends the event to the dead-letter topic with the reason; [`Failure::Retry`] tries it again
    /// later. A `String` turns into the first by `?`.
    fn apply(&self, event: &Event) -> Result<Outcome, Failure>;
}

/// The rules of a [`Transform`] in one instance.
#[derive(Debug)]
pub struct TransformSet<T>(RuleTable<T>);

impl<T> Default for TransformSet<T> {
    fn default() -> Self {
        Self(RuleTable::default())
    }
}

impl<T: Transform> TransformSet<T> {
    /// Makes a rule and says what it needs to see.
    ///
    /// # Errors
    /// The author's own words.
    pub fn configure(&mut self, config: &str) -> Result<(Rule, Wants), String> {
        let transform = T::configure(config)?;
        let wants = transform.wants();
        Ok((self.0.insert(transform)?, wants))
    }

    /// Forgets a rule.
    pub fn release(&mut self, rule: Rule) {
        self.0.remove(rule);
    }

    /// Applies a rule to each event, in order.
    #[must_use]
    pub fn apply(&self, rule: Rule, events: &[Event]) -> Vec<Result<Outcome, Failure>> {
        let Some(transform) = self.0.get(rule) else {
            let unknown = || Failure::Retry(format!("rule {rule} is not configured"));
            return events.iter().map(|_| Err(unknown())).collect();
        };
        events.iter().map(|event| transform.apply(event)).collect()
    }
}

impl Output {
    /// An event like `event` in key, content type and headers, with another payload.
    #[must_use]
    pub fn like(event: &Event, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            key: event.key.clone(),
            content_type: event.content_type.clone(),
            headers: event.headers.clone(),
            payload: payload.into(),
        }
    }
}

impl Emitted {
    /// For the output of this name.
    #[must_use]
    pub fn to(output: impl Into<String>, event: Output) -> Self {
        Self {
            output: Some(output.into()),
            event,
        }
    }
}

impl From<Output> for Emitted {
    /// For a route's only output.
    fn from(event: Output) -> Self {
        Self {
            output: None,
            event,
        }
    }
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self::Reject(reason)
    }
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Self {
        Self::Reject(reason.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Upper;

    impl Transform for Upper {
        fn configure(_: &str) -> Result<Self, String> {
            Ok(Self)
        }

        fn apply(&self, event: &Event) -> Result<Outcome, Failure> {
            let text = event.payload_str().map_err(|error| error.to_string())?;
            Ok(Outcome::Replace(Output::like(event, text.to_uppercase())))
        }
    }

    #[test]
    fn answers_come_one_per_event_in_order() {
        let mut set = TransformSet::<Upper>::default();
        let (rule, _) = set.configure("").unwrap();
        let event = |payload: &[u8]| Event {
            topic: "t".into(),
            sequence: 0,
            time: 0,
            key: Some(b"k".to_vec()),
            content_type: Some("text/plain".into()),
            headers: Vec::new(),
            payload: payload.to_vec(),
        };
        let events = [event(b"a"), event(b"\xff"), event(b"b")];
        let answers = set.apply(rule, &events);
        let Ok(Outcome::Replace(first)) = &answers[0] else {
            panic!("{:?}", answers[0]);
        };
        assert_eq!(first.payload, b"A");
        assert_eq!(first.key.as_deref(), Some(b"k".as_slice()));
        assert!(matches!(&answers[1], Err(Failure::Reject(reason)) if reason.contains("utf-8")));
        assert!(matches!(&answers[2], Ok(Outcome::Replace(_))));

        set.release(rule);
        let answers = set.apply(rule, &events);
        assert!(matches!(&answers[..], [Err(Failure::Retry(_)), _, _]));
    }
}
