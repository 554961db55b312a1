//! How a subscription hands out its events: deadlines for acks, attempts and the back-off between them, the dead-letter topic, the window.
//! As written in JSON to the admin API and kept in the catalog, and changes of it. What is due by it is reckoned in
//! `state/subscription`, the back-off in `state/subscription/retries/backoff.rs`.

use serde::{Deserialize, Serialize};

use super::TopicName;

/// Longest time that an event may be left alone between two attempts: 30 days. Longer is taken for a mistake, since nobody would
/// see the event again.
pub const DELAY_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1_000;
/// Longest time that a consumer may have for an event: 24 hours. It says that it is still at work for more.
pub const ACK_DEADLINE_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// What counts as delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AckMode {
    /// An event stays until a consumer acks it: at least once.
    #[default]
    Explicit,
}

/// How a subscription hands out its events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = r#"an object, such as {"attempts_max": 10}"#
)]
pub struct DeliveryPolicy {
    /// Who says that an event is done with.
    pub ack: AckMode,
    /// Milliseconds a consumer has for an event before it is handed out again. Default 30,000.
    pub ack_deadline_ms: u64,
    /// How often an event is handed out before it goes to the dead-letter topic. Default 10; 0 stands for
    /// without end.
    pub attempts_max: u32,
    /// Milliseconds to wait before the second, third … attempt; the last one repeats. Default 1 s, 5 s, 30 s.
    pub backoff_ms: Vec<u64>,
    /// Where events go that were given up. Default: `dead.<subscription>`.
    pub dead_letter: Option<TopicName>,
    /// Events handed out and not acked, over all consumers of the subscription. Default 65,536.
    pub in_flight_events_max: u32,
}

impl Default for DeliveryPolicy {
    fn default() -> Self {
        Self {
            ack: AckMode::Explicit,
            ack_deadline_ms: 30_000,
            attempts_max: 10,
            backoff_ms: vec![1_000, 5_000, 30_000],
            dead_letter: None,
            in_flight_events_max: 65_536,
        }
    }
}

impl DeliveryPolicy {
    /// Milliseconds that a consumer has for an event: never more than may be said, whatever an older broker took.
    #[must_use]
    pub fn ack_deadline(&self) -> u64 {
        self.ack_deadline_ms.min(ACK_DEADLINE_MS_MAX)
    }

    /// Whether its times are such as somebody may mean.
    ///
    /// # Errors
    ///
    /// What is wrong, and what may be said instead.
    pub fn check_times(&self) -> Result<(), String> {
        if self.ack_deadline_ms > ACK_DEADLINE_MS_MAX {
            return Err(format!(
                "ack_deadline_ms is {}; at most {ACK_DEADLINE_MS_MAX} (24 h) is taken: a consumer that needs longer says that it is still at work",
                self.ack_deadline_ms
            ));
        }
        match self.backoff_ms.iter().find(|step| **step > DELAY_MS_MAX) {
            Some(step) => Err(format!(
                "backoff_ms has a step of {step}; at most {DELAY_MS_MAX} (30 days) is taken"
            )),
            None => Ok(()),
        }
    }
}

/// What to change of how a subscription hands out events, see [`DeliveryPolicy`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    default,
    expecting = r#"an object, such as {"attempts_max": 10}"#
)]
pub struct DeliveryPatch {
    /// See [`DeliveryPolicy::ack_deadline_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack_deadline_ms: Option<u64>,
    /// See [`DeliveryPolicy::attempts_max`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// See [`DeliveryPolicy::backoff_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<Vec<u64>>,
    /// See [`DeliveryPolicy::dead_letter`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<TopicName>,
    /// See [`DeliveryPolicy::in_flight_events_max`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight_events_max: Option<u32>,
}

impl DeliveryPatch {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Makes these changes.
    pub fn apply(self, policy: &mut DeliveryPolicy) {
        let Self {
            ack_deadline_ms,
            attempts_max,
            backoff_ms,
            dead_letter,
            in_flight_events_max,
        } = self;
        policy.ack_deadline_ms = ack_deadline_ms.unwrap_or(policy.ack_deadline_ms);
        policy.attempts_max = attempts_max.unwrap_or(policy.attempts_max);
        policy.in_flight_events_max = in_flight_events_max.unwrap_or(policy.in_flight_events_max);
        if let Some(backoff_ms) = backoff_ms {
            policy.backoff_ms = backoff_ms;
        }
        if dead_letter.is_some() {
            policy.dead_letter = dead_letter;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_hide_events_for_ever_are_refused_and_what_is_kept_of_them_counts_less() {
        let check = |deadline: u64, step: u64, expected: Option<&str>| {
            let policy = DeliveryPolicy {
                ack_deadline_ms: deadline,
                backoff_ms: vec![0, step],
                ..DeliveryPolicy::default()
            };
            let found = policy.check_times().err();
            let says = |part: &str| found.as_ref().is_some_and(|found| found.contains(part));
            assert!(expected.map_or(found.is_none(), says), "{found:?}");
            assert!(policy.ack_deadline() <= ACK_DEADLINE_MS_MAX);
        };
        check(ACK_DEADLINE_MS_MAX, DELAY_MS_MAX, None);
        check(
            ACK_DEADLINE_MS_MAX + 1,
            0,
            Some("ack_deadline_ms is 86400001"),
        );
        check(0, DELAY_MS_MAX + 1, Some("30 days"));
        check(u64::MAX, u64::MAX, Some("24 h"));
    }
}
