//! What a dead letter says in its headers: why the event was given up, by whom, and where it came from. They are the broker's, so they
//! count neither as the event's size nor among its publisher's headers. Pure.

use bytes::Bytes;
use prost::Message as _;

use crate::domain::{Event, EventRef, Header, Name, Sequence, TopicName};
use crate::state::GivenUp;

/// So much is said of a reason at least, however little room there is.
const REASON_BYTES_MIN: usize = 96;

/// Header that says why an event was given up.
pub const REASON_HEADER: &str = "tidegate-dead-reason";
/// Header that names the subscription that gave the event up.
pub const SUBSCRIPTION_HEADER: &str = "tidegate-dead-subscription";
/// Header that names the topic the event came from.
pub const TOPIC_HEADER: &str = "tidegate-dead-topic";
/// Header with the event's sequence in that topic.
pub const SEQUENCE_HEADER: &str = "tidegate-dead-sequence";
/// Header with the event's place in the broker, where nothing else is known of it.
pub const POSITION_HEADER: &str = "tidegate-dead-position";
/// Header that says how many attempts at the event counted.
pub const ATTEMPTS_HEADER: &str = "tidegate-dead-attempts";

/// Says why the event was given up, in place of what an earlier letter said.
pub(super) fn say_why(
    event: &mut Event,
    subscription: &Name,
    (topic, sequence): (&TopicName, Sequence),
    item: &GivenUp,
) {
    let said = [
        (REASON_HEADER, item.reason.to_string()),
        (SUBSCRIPTION_HEADER, subscription.to_string()),
        (TOPIC_HEADER, topic.to_string()),
        (SEQUENCE_HEADER, sequence.to_string()),
        (ATTEMPTS_HEADER, item.attempts.to_string()),
    ];
    event
        .headers
        .retain(|header| !said.iter().any(|(name, _)| *name == header.name));
    event.headers.extend(said.map(|(name, value)| Header {
        name: name.to_owned(),
        value,
    }));
}

/// The same letter with `excess` bytes less of its reason, for whoever has just the room for the event itself: it is better to get the
/// letter than to read all of why it is one. Nothing when it is no letter, or its reason is too short for that.
#[must_use]
pub fn with_shorter_reason(letter: &Bytes, excess: usize) -> Option<Bytes> {
    // Most that is too large is no letter, and is not copied for that.
    EventRef::parse(letter).ok()?.header(REASON_HEADER)?;
    let mut letter = Event::decode(letter.clone()).ok()?;
    let mut headers = letter.headers.iter_mut();
    let reason = headers.find(|header| header.name == REASON_HEADER)?;
    let left = reason.value.len().checked_sub(excess)?;
    let end = reason.value.floor_char_boundary(left);
    if end < REASON_BYTES_MIN {
        return None;
    }
    reason.value.truncate(end);
    Some(letter.encode_to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ADDED_BYTES_MAX, LETTER_BYTES_MAX, Position, hops};
    use crate::state::GiveUpReason;

    fn largest(event_bytes_max: usize) -> Event {
        let mut event = Event::default();
        event.payload = vec![7; event_bytes_max - event.encoded_len() - 3].into();
        assert_eq!(event.encoded_len(), event_bytes_max);
        event
    }

    fn given_up(reason: GiveUpReason) -> GivenUp {
        GivenUp {
            position: Position(u64::MAX),
            attempts: u32::MAX,
            reason,
        }
    }

    // Makes a letter of it, for which the broker adds as much as it ever does.
    fn letter(event: &mut Event, item: &GivenUp) -> Bytes {
        let subscription: Name = "s".repeat(128).parse().expect("a name");
        let topic: TopicName = "t".repeat(255).parse().expect("a name");
        hops::set(event, u32::MAX);
        say_why(event, &subscription, (&topic, Sequence(u64::MAX)), item);
        event.encode_to_vec().into()
    }

    #[test]
    fn a_letter_says_all_of_the_longest_reason_and_stays_within_what_headers_may_add() {
        let long = || "é".repeat(512).into();
        for reason in [
            GiveUpReason::Terminated(long()),
            GiveUpReason::FilterFailed(long()),
            GiveUpReason::TransformRejected(long()),
            GiveUpReason::TransformFailed(long()),
            GiveUpReason::Unreadable(long()),
            GiveUpReason::TooLarge(long()),
        ] {
            let whole = reason.to_string();
            let item = given_up(reason);
            let mut event = largest(10_000);
            for times in 1..4 {
                let letter = letter(&mut event, &item);
                let bytes = letter.len();
                assert!(bytes <= 10_000 + LETTER_BYTES_MAX, "{times}: {bytes}");
                let letter = EventRef::parse(&letter).expect("an event");
                assert_eq!(letter.header(REASON_HEADER), Some(&*whole));
            }
        }
    }

    #[test]
    fn who_has_room_for_the_event_only_gets_the_letter_with_less_of_the_reason() {
        let item = given_up(GiveUpReason::Terminated("é".repeat(512).into()));
        let mut event = largest(10_000);
        let letter = letter(&mut event, &item);
        let excess = letter.len() - (10_000 + ADDED_BYTES_MAX);
        let shorter = with_shorter_reason(&letter, excess).expect("a letter");
        assert!(
            shorter.len() <= 10_000 + ADDED_BYTES_MAX,
            "{}",
            shorter.len()
        );
        let shorter = EventRef::parse(&shorter).expect("an event");
        let reason = shorter.header(REASON_HEADER).expect("a reason");
        assert!(reason.starts_with("refused by the consumer: é"), "{reason}");
        assert_eq!(shorter.payload().len(), event.payload.len());
        assert_eq!(with_shorter_reason(&letter, letter.len()), None);
        let other = Bytes::from(largest(10_000).encode_to_vec());
        assert_eq!(with_shorter_reason(&other, 1), None, "no letter");
    }
}
