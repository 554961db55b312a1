//! Every limit of the protocol, in one place, each with its arithmetic. The broker announces what it accepts in its
//! `Welcome`; a breach is answered with `ERROR_CODE_TOO_LARGE`.

use crate::pb;

/// Largest first frame of a stream, before any limit is agreed on: a `StreamOpen`. A hello holds some version
/// numbers and a client's name, a publish open 16 bytes and a number, a subscribe open a name of at most 128 bytes:
/// under 1 KiB with room to grow, so 16 KiB lets nobody make the broker wait for much.
pub const OPEN_FRAME_BYTES_MAX: usize = 16 * 1024;

/// Largest frame that is accepted unless the hello says otherwise: 1 MiB. At 1 GB/s that is 1 ms of a stream, and
/// sixteen blocks of the broker's store.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a frame that are not the one event in it. The larger envelope is `PublishBatch`'s: topic 1 + 2 + 255,
/// correlation, first number and resolved-through 11 each, its topic's number and whether to remember 4, the event's tag and length
/// 1 + 4: 300. `Deliver` has topic 258, attempt 6, time 11, one packed position and sequence 12 each, the mark of a suspect 2, its
/// topic's number and whether to remember 4, the event 5, and 1 + 4 around it: 315. The rest is [`ADDED_BYTES_MAX`].
pub const ENVELOPE_BYTES_MAX: usize = 1024;

/// Bytes that the broker's own headers may add to the largest event for whoever takes no larger frames than that needs: what is left
/// of the envelope in a `Deliver`, less a few. A dead letter's headers take up to 587 without the reason, which gets the rest
/// when the event is that large.
pub const ADDED_BYTES_MAX: usize = 692;

/// Bytes that the broker's own headers add to an event at most: those 587, a reason of [`REASON_BYTES_MAX`], what it begins with,
/// and room to grow. They count neither as an event's size nor among its headers.
pub const LETTER_BYTES_MAX: usize = 2 * 1024;

/// Largest encoded event: what fits a frame beside its envelope.
pub const EVENT_BYTES_MAX: usize = FRAME_BYTES_MAX - ENVELOPE_BYTES_MAX;

/// Headers of one event. CloudEvents has some ten attributes; tracing and routing add a few more.
pub const HEADERS_MAX: usize = 128;

/// Bytes of all header names and values of one event: 128 headers of 128 bytes.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Events in one batch: a frame full of 256-byte events holds about 4,000.
pub const BATCH_EVENTS_MAX: usize = 4096;

/// Bytes of a topic name.
pub const TOPIC_BYTES_MAX: usize = 255;

/// Bytes of the name of a subscription, route or plugin.
pub const NAME_BYTES_MAX: usize = 128;

/// Bytes of a producer id that is given at all.
pub const PRODUCER_ID_BYTES: usize = 16;

/// Ranges in one `Positions`: at up to 20 bytes each, the most that fits a frame is about 50,000.
pub const POSITION_RANGES_MAX: usize = 32 * 1024;

/// Ranges of what was not held in one `Confirmed`: at up to 20 bytes each, 80 KiB.
pub const NOT_HELD_RANGES_MAX: usize = 4096;

/// Bytes of the reason in a `Term`; it becomes a header of the dead letter.
pub const REASON_BYTES_MAX: usize = 1024;

/// Numbers that topics may have in one direction of a stream: more than most streams have topics.
pub const TOPIC_NUMBERS_MAX: usize = 64;

/// Bytes of the names of all topics that have a number in one direction of a stream: 64 of 32 bytes.
pub const TOPIC_NUMBERS_BYTES_MAX: usize = 2 * 1024;

/// Bytes of events that both ends remember of one direction of a stream: some thirty of 256 bytes, among which the next mostly finds one
/// that is like it, for 8 KiB on each end of a stream on which anything is remembered. So many a batch that is remembered has at most.
pub const REMEMBERED_BYTES_MAX: usize = 8 * 1024;

/// Memory of each end of one direction of a stream for what was said on it, at most: the events, the names of topics, and as much as
/// these for where the names are.
pub const COMPACT_BYTES_MAX: usize = REMEMBERED_BYTES_MAX + 2 * TOPIC_NUMBERS_BYTES_MAX;

/// Bytes to which what is packed may unpack, however large frames may be: what a reader is busy with at a stretch, for a millisecond
/// or two.
pub const UNPACKED_BYTES_MAX: usize = 1024 * 1024;

/// So many bytes may one byte of a packed batch stand for, of its block and of the [`PACKED_HEAD_BYTES`] before it. Of JSON a
/// fourteenth to a half is left; what is denser says nothing, or is meant to make a reader work.
pub const PACKED_DENSITY_MAX: usize = 32;

/// What counts as the head of a packed batch: without that, three events that are those from before would be too dense.
pub const PACKED_HEAD_BYTES: usize = 16;

/// What one side accepts, agreed on in the hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message on a stream, without its length prefix. Default 1 MiB.
    pub frame_bytes_max: usize,
    /// Bytes of one encoded event. Default 1 MiB less 1 KiB for the envelope.
    pub event_bytes_max: usize,
    /// Headers of one event. Default 128.
    pub headers_max: usize,
    /// Bytes of all header names and values of one event. Default 16 KiB.
    pub header_bytes_max: usize,
    /// Events in one `PublishBatch`. Default 4,096.
    pub batch_events_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: FRAME_BYTES_MAX,
            event_bytes_max: EVENT_BYTES_MAX,
            headers_max: HEADERS_MAX,
            header_bytes_max: HEADER_BYTES_MAX,
            batch_events_max: BATCH_EVENTS_MAX,
        }
    }
}

/// A field that is 0 or absent stands for the default.
impl From<&pb::Limits> for Limits {
    fn from(limits: &pb::Limits) -> Self {
        let default = Self::default();
        Self {
            frame_bytes_max: or_default(limits.frame_bytes_max, default.frame_bytes_max),
            event_bytes_max: or_default(limits.event_bytes_max, default.event_bytes_max),
            headers_max: or_default(limits.headers_max.into(), default.headers_max),
            header_bytes_max: or_default(limits.header_bytes_max, default.header_bytes_max),
            batch_events_max: or_default(limits.batch_events_max.into(), default.batch_events_max),
        }
    }
}

impl From<Option<&pb::Limits>> for Limits {
    fn from(limits: Option<&pb::Limits>) -> Self {
        limits.map_or_else(Self::default, Self::from)
    }
}

impl From<&Limits> for pb::Limits {
    fn from(limits: &Limits) -> Self {
        Self {
            frame_bytes_max: limits.frame_bytes_max as u64,
            event_bytes_max: limits.event_bytes_max as u64,
            headers_max: u32::try_from(limits.headers_max).unwrap_or(u32::MAX),
            header_bytes_max: limits.header_bytes_max as u64,
            batch_events_max: u32::try_from(limits.batch_events_max).unwrap_or(u32::MAX),
        }
    }
}

/// A peer's `value`, or `default` when it is 0.
fn or_default(value: u64, default: usize) -> usize {
    match value {
        0 => default,
        value => usize::try_from(value).unwrap_or(usize::MAX),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn zero_and_absence_stand_for_the_default() {
        assert_eq!(Limits::from(None), Limits::default());
        assert_eq!(Limits::from(&pb::Limits::default()), Limits::default());
    }

    #[test]
    fn limits_survive_the_wire() {
        let limits = Limits {
            frame_bytes_max: 1,
            event_bytes_max: 2,
            headers_max: 3,
            header_bytes_max: 4,
            batch_events_max: 5,
        };
        assert_eq!(Limits::from(&pb::Limits::from(&limits)), limits);
    }

    #[test]
    fn the_largest_event_fits_a_frame() {
        let event = vec![0u8; EVENT_BYTES_MAX];
        let batch = pb::PublishBatch {
            correlation: u64::MAX,
            topic: "t".repeat(TOPIC_BYTES_MAX),
            first_number: u64::MAX,
            resolved_through: u64::MAX,
            topic_number: u32::MAX,
            remember: true,
            events: vec![event.into()],
            ..Default::default()
        };
        assert!(
            batch.encoded_len() <= FRAME_BYTES_MAX,
            "{}",
            batch.encoded_len()
        );
        let event = vec![0u8; EVENT_BYTES_MAX + ADDED_BYTES_MAX];
        let deliver = pb::Deliver {
            topic: "t".repeat(TOPIC_BYTES_MAX),
            attempt: u32::MAX,
            time_ms: u64::MAX,
            positions: vec![u64::MAX],
            sequences: vec![u64::MAX],
            suspect: true,
            topic_number: TOPIC_NUMBERS_MAX as u32,
            remember: true,
            events: vec![event.into()],
            ..Default::default()
        };
        let message = pb::BrokerToConsumer {
            message: Some(pb::broker_to_consumer::Message::Deliver(deliver)),
        };
        assert!(
            message.encoded_len() <= FRAME_BYTES_MAX,
            "{}",
            message.encoded_len()
        );
    }

    #[test]
    fn the_largest_opens_fit_the_first_frame() {
        let open = pb::StreamOpen {
            kind: Some(pb::stream_open::Kind::Subscribe(pb::SubscribeOpen {
                subscription: "s".repeat(NAME_BYTES_MAX),
                credit_events: u64::MAX,
                credit_bytes: u64::MAX,
                says_handed_over: true,
                look: true,
                tell_not_held: true,
                takes_compact: true,
                handed_over_max: u64::MAX,
            })),
        };
        assert!(open.encoded_len() <= OPEN_FRAME_BYTES_MAX);
    }
}
