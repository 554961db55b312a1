//! Reading an encoded `Event` in place, as the broker does for every event on its way: no copy, no allocation, not
//! even for the list of headers, which is scanned again when it is asked for. The rules are protobuf's: the last of
//! several values wins, unknown fields are skipped, text is UTF-8. Groups, which proto3 does not have, are refused.
//! Here too is which events are refused, and in which words: their size, the number and the bytes of their headers, reserved names.

use prost::encoding::{WireType, decode_key, decode_varint};

use crate::limits::Limits;
use crate::pb;

/// Field numbers of `Event` and `Header` in the schema.
mod tag {
    pub(super) const ID: u32 = 1;
    pub(super) const KEY: u32 = 2;
    pub(super) const HEADERS: u32 = 3;
    pub(super) const CONTENT_TYPE: u32 = 4;
    pub(super) const PAYLOAD: u32 = 5;
    pub(super) const HEADER_NAME: u32 = 1;
    pub(super) const HEADER_VALUE: u32 = 2;
}

/// What the names of headers begin with that only the broker sets, as in `tidegate-dead-reason`.
pub const RESERVED_HEADER_PREFIX: &str = "tidegate-";

/// Whether a header of this name is for what the broker says, and refused when a publisher sets it. Upper and lower case
/// are the same here, since many programs do not tell them apart.
#[must_use]
pub fn is_reserved_header(name: &str) -> bool {
    let prefix = RESERVED_HEADER_PREFIX.as_bytes();
    let begin = name.as_bytes().get(..prefix.len());
    begin.is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
}

/// Why bytes are not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventRefError {
    /// Not protobuf at all.
    #[error("the event is not a protobuf message: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// A length leads past the end.
    #[error("a field of the event is longer than what is left of the message")]
    Truncated,
    /// A known field has another wire type than the schema gives it.
    #[error("field {tag} of the event has the wrong wire type")]
    WireType {
        /// Its number.
        tag: u32,
    },
    /// A group, which proto3 does not have.
    #[error("field {tag} of the event is a group; groups are not supported")]
    Group {
        /// Its number.
        tag: u32,
    },
    /// Text that is not UTF-8.
    #[error("{field} of the event is not UTF-8")]
    Utf8 {
        /// Which field.
        field: &'static str,
    },
}

/// Why an event is refused at the door.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventCheckError {
    /// The bytes are no event.
    #[error(transparent)]
    Malformed(#[from] EventRefError),
    /// More bytes than an event may have.
    #[error("the event has {size} bytes encoded; at most {max} are accepted (event_bytes_max)")]
    TooLarge {
        /// Its size, encoded.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// More headers than an event may have.
    #[error("the event has {headers} headers; at most {max} are accepted (headers_max)")]
    TooManyHeaders {
        /// How many it has.
        headers: usize,
        /// The limit.
        max: usize,
    },
    /// More bytes of headers than an event may have.
    #[error("the event's headers have {size} bytes; at most {max} are accepted (header_bytes_max)")]
    HeadersTooLarge {
        /// Bytes of all names and values.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// A header without a name.
    #[error("header {index} of the event has no name; name it or leave it out")]
    HeaderUnnamed {
        /// Its place, from 0.
        index: usize,
    },
    /// A header that only the broker sets.
    #[error(
        "header `{name}` is the broker's to set, as all that begin with `{RESERVED_HEADER_PREFIX}`; leave such headers out when you publish again what you received"
    )]
    HeaderReserved {
        /// Its name.
        name: String,
    },
}

impl From<&EventCheckError> for pb::Error {
    fn from(error: &EventCheckError) -> Self {
        let code = match error {
            EventCheckError::Malformed(_) => pb::ErrorCode::Malformed,
            EventCheckError::HeaderUnnamed { .. } | EventCheckError::HeaderReserved { .. } => {
                pb::ErrorCode::InvalidArgument
            }
            _ => pb::ErrorCode::TooLarge,
        };
        pb::Error::new(code, error.to_string())
    }
}

/// Checks one encoded event as it comes in: that it is one, and within `limits`.
///
/// # Errors
/// The first thing that is wrong with it; the size is looked at before anything else.
pub fn check_event(bytes: &[u8], limits: &Limits) -> Result<(), EventCheckError> {
    if bytes.len() > limits.event_bytes_max {
        return Err(EventCheckError::TooLarge {
            size: bytes.len(),
            max: limits.event_bytes_max,
        });
    }
    let event = EventRef::parse(bytes)?;
    if event.headers_count() > limits.headers_max {
        // Of a dead letter that is too many for this only, that is what helps.
        let mut names = event.headers().map(|(name, _)| name);
        if let Some(name) = names.find(|name| is_reserved_header(name)) {
            let name = name.to_owned();
            return Err(EventCheckError::HeaderReserved { name });
        }
        return Err(EventCheckError::TooManyHeaders {
            headers: event.headers_count(),
            max: limits.headers_max,
        });
    }
    let mut size = 0;
    for (index, (name, value)) in event.headers().enumerate() {
        if name.is_empty() {
            return Err(EventCheckError::HeaderUnnamed { index });
        }
        if is_reserved_header(name) {
            let name = name.to_owned();
            return Err(EventCheckError::HeaderReserved { name });
        }
        size += name.len() + value.len();
    }
    if size > limits.header_bytes_max {
        return Err(EventCheckError::HeadersTooLarge {
            size,
            max: limits.header_bytes_max,
        });
    }
    Ok(())
}

/// An encoded event, read where it lies.
#[derive(Clone, Copy, Debug)]
pub struct EventRef<'a> {
    id: &'a str,
    key: Option<&'a [u8]>,
    content_type: &'a str,
    payload: &'a [u8],
    /// From the first header's key to the end of the last one; what lies between may be other fields.
    headers: &'a [u8],
    headers_count: usize,
}

impl<'a> EventRef<'a> {
    /// Reads and checks all of `bytes` once.
    ///
    /// # Errors
    /// When the bytes are no `Event`; whatever this accepts, prost accepts with the same fields.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EventRefError> {
        let mut event = EventRef {
            id: "",
            key: None,
            content_type: "",
            payload: &[],
            headers: &[],
            headers_count: 0,
        };
        let mut headers_span = None;
        let mut rest = bytes;
        while !rest.is_empty() {
            let begin = bytes.len() - rest.len();
            let (number, value) = next_field(&mut rest)?;
            match number {
                tag::ID => event.id = text(number, value, "id")?,
                tag::KEY => event.key = Some(delimited(number, value)?),
                tag::HEADERS => {
                    parse_header(delimited(number, value)?)?;
                    event.headers_count += 1;
                    let first = headers_span.map_or(begin, |(first, _)| first);
                    headers_span = Some((first, bytes.len() - rest.len()));
                }
                tag::CONTENT_TYPE => event.content_type = text(number, value, "content_type")?,
                tag::PAYLOAD => event.payload = delimited(number, value)?,
                _ => {}
            }
        }
        if let Some((first, end)) = headers_span {
            event.headers = &bytes[first..end];
        }
        Ok(event)
    }

    /// The publisher's id for it; empty when it gave none.
    #[must_use]
    pub fn id(&self) -> &'a str {
        self.id
    }

    /// What groups events that belong together. Absent and empty are different.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// Name and value of each header, in the publisher's order; a name may occur more than once.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        Headers { rest: self.headers }
    }

    /// How many headers there are.
    #[must_use]
    pub fn headers_count(&self) -> usize {
        self.headers_count
    }

    /// Value of the first header called `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }

    /// Media type of the payload; empty when unknown.
    #[must_use]
    pub fn content_type(&self) -> &'a str {
        self.content_type
    }

    /// What the event carries.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// Scans for headers in bytes that [`EventRef::parse`] has checked.
struct Headers<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            // Errors cannot happen in checked bytes; should they, the list ends.
            if let (tag::HEADERS, Some(header)) = next_field(&mut self.rest).ok()? {
                return parse_header(header).ok();
            }
        }
        None
    }
}

/// Name and value in an encoded `Header`.
fn parse_header(mut rest: &[u8]) -> Result<(&str, &str), EventRefError> {
    let (mut name, mut text_value) = ("", "");
    while !rest.is_empty() {
        let (number, value) = next_field(&mut rest)?;
        match number {
            tag::HEADER_NAME => name = text(number, value, "a header name")?,
            tag::HEADER_VALUE => text_value = text(number, value, "a header value")?,
            _ => {}
        }
    }
    Ok((name, text_value))
}

/// Takes one field from the front: its number, and its bytes when it is length-delimited. Fields of other wire types
/// are skipped over.
fn next_field<'a>(rest: &mut &'a [u8]) -> Result<(u32, Option<&'a [u8]>), EventRefError> {
    let (number, wire_type) = decode_key(rest)?;
    match wire_type {
        WireType::LengthDelimited => {
            let length = decode_varint(rest)?;
            let length = usize::try_from(length).map_err(|_| EventRefError::Truncated)?;
            Ok((number, Some(take(rest, length)?)))
        }
        WireType::Varint => decode_varint(rest)
            .map(|_| (number, None))
            .map_err(Into::into),
        WireType::ThirtyTwoBit => take(rest, 4).map(|_| (number, None)),
        WireType::SixtyFourBit => take(rest, 8).map(|_| (number, None)),
        WireType::StartGroup | WireType::EndGroup => Err(EventRefError::Group { tag: number }),
    }
}

/// Takes `length` bytes from the front.
fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], EventRefError> {
    let (taken, after) = rest
        .split_at_checked(length)
        .ok_or(EventRefError::Truncated)?;
    *rest = after;
    Ok(taken)
}

/// The bytes of a field that must be length-delimited.
fn delimited(number: u32, value: Option<&[u8]>) -> Result<&[u8], EventRefError> {
    value.ok_or(EventRefError::WireType { tag: number })
}

/// The text of a field that must be length-delimited and UTF-8.
fn text<'a>(
    number: u32,
    value: Option<&'a [u8]>,
    field: &'static str,
) -> Result<&'a str, EventRefError> {
    std::str::from_utf8(delimited(number, value)?).map_err(|_| EventRefError::Utf8 { field })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::golden::any_event;

    fn assert_agrees(bytes: &[u8], found: &EventRef<'_>, expected: &pb::Event) {
        assert_eq!(found.id(), expected.id, "{bytes:02x?}");
        assert_eq!(found.key(), expected.key.as_deref(), "{bytes:02x?}");
        let headers: Vec<_> = found
            .headers()
            .map(|(name, value)| pb::Header {
                name: name.into(),
                value: value.into(),
            })
            .collect();
        assert_eq!(headers, expected.headers, "{bytes:02x?}");
        assert_eq!(found.headers_count(), headers.len());
        assert_eq!(found.content_type(), expected.content_type, "{bytes:02x?}");
        assert_eq!(found.payload(), &expected.payload[..], "{bytes:02x?}");
    }

    /// Both readers must say the same of `bytes`, groups aside.
    fn check(bytes: &[u8]) {
        match (EventRef::parse(bytes), pb::Event::decode(bytes)) {
            (Ok(found), Ok(expected)) => assert_agrees(bytes, &found, &expected),
            (Err(_), Err(_)) | (Err(EventRefError::Group { .. }), Ok(_)) => {}
            (found, expected) => panic!("{bytes:02x?}: {found:?} but {expected:?}"),
        }
    }

    #[test]
    fn protobuf_rules_hold() {
        check(b"");
        check(b"\x0a\x01a\x0a\x01b"); // The last id wins.
        check(b"\x0a\x01a\x0a\x00"); // Even when it is empty.
        check(b"\x12\x00"); // An empty key is not an absent one.
        check(b"\x0a\x01\xff\x0a\x01b"); // Text that loses must be UTF-8 too.
        check(b"\x08\x01"); // Wrong wire type.
        check(b"\x30\x01\x3a\x02ab\x41\x00\x00\x00\x00\x00\x00\x00\x00\x4d\x00\x00\x00\x00"); // Unknown fields.
        check(b"\x1a\x03\x0a\x01n\x2a\x01p\x1a\x03\x12\x01v"); // Headers with another field between.
        check(b"\x1a\x02\x0a\x05name!"); // A header's field leads out of the header.
        check(b"\x00\x00"); // Field number 0.
        check(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"); // A length of 64 bits.
    }

    #[test]
    fn groups_are_refused() {
        let error = EventRef::parse(b"\x33\x34").unwrap_err();
        assert_eq!(error, EventRefError::Group { tag: 6 });
    }

    fn event_with_headers(headers: &[(&str, &str)]) -> pb::Event {
        let header = |(name, value): &(&str, &str)| pb::Header {
            name: (*name).into(),
            value: (*value).into(),
        };
        pb::Event {
            headers: headers.iter().map(header).collect(),
            ..Default::default()
        }
    }

    fn check_limits(event: &pb::Event, limits: Limits, expected: Result<(), EventCheckError>) {
        assert_eq!(check_event(&event.encode_to_vec(), &limits), expected);
    }

    #[test]
    fn each_limit_obeyed_and_violated() {
        let event = event_with_headers(&[("name", "value"), ("n", "")]);
        let size = event.encoded_len();
        let default = Limits::default();
        check_limits(
            &event,
            Limits {
                event_bytes_max: size,
                ..default
            },
            Ok(()),
        );
        check_limits(
            &event,
            Limits {
                event_bytes_max: size - 1,
                ..default
            },
            Err(EventCheckError::TooLarge {
                size,
                max: size - 1,
            }),
        );
        check_limits(
            &event,
            Limits {
                headers_max: 2,
                ..default
            },
            Ok(()),
        );
        check_limits(
            &event,
            Limits {
                headers_max: 1,
                ..default
            },
            Err(EventCheckError::TooManyHeaders { headers: 2, max: 1 }),
        );
        check_limits(
            &event,
            Limits {
                header_bytes_max: 10,
                ..default
            },
            Ok(()),
        );
        check_limits(
            &event,
            Limits {
                header_bytes_max: 9,
                ..default
            },
            Err(EventCheckError::HeadersTooLarge { size: 10, max: 9 }),
        );
        check_limits(
            &event_with_headers(&[("a", ""), ("", "b")]),
            default,
            Err(EventCheckError::HeaderUnnamed { index: 1 }),
        );
    }

    #[test]
    fn malformed_events_are_refused() {
        let error = check_event(b"\x0a\x02a", &Limits::default()).unwrap_err();
        assert_eq!(error, EventCheckError::Malformed(EventRefError::Truncated));
        assert_eq!(pb::Error::from(&error).code(), pb::ErrorCode::Malformed);
    }

    proptest! {
        #[test]
        fn agrees_with_prost_on_events(event in any_event()) {
            let bytes = event.encode_to_vec();
            assert_agrees(&bytes, &EventRef::parse(&bytes).unwrap(), &event);
        }

        #[test]
        fn agrees_with_prost_on_concatenated_events(one in any_event(), two in any_event()) {
            let mut bytes = one.encode_to_vec();
            two.encode(&mut bytes).unwrap();
            check(&bytes);
        }

        #[test]
        fn agrees_with_prost_on_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            check(&bytes);
        }

        #[test]
        fn agrees_with_prost_on_damaged_events(
            event in any_event(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = event.encode_to_vec();
            for (index, byte) in damage {
                if !bytes.is_empty() {
                    let index = index.index(bytes.len());
                    bytes[index] = byte;
                }
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            check(&bytes);
        }

        #[test]
        fn agrees_with_prost_on_small_alphabets(bytes in prop::collection::vec(
            prop::sample::select(vec![0u8, 1, 2, 3, 8, 0x0a, 0x12, 0x1a, 0x22, 0x2a, 0x32, 0x35, 0x61, 0x80, 0xff]), 0..40,
        )) {
            check(&bytes);
        }
    }
}
