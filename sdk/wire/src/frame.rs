//! Frames: every message on a stream is preceded by its length in bytes as a base-128 varint. Here bytes become
//! whole frames and messages; reading from and writing to a stream is left to whoever owns the stream.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use prost::encoding::encode_varint;

use crate::pb;

/// Longest varint that protobuf allows: ten groups of seven bits hold 64.
const VARINT_BYTES_MAX: usize = 10;

/// How much room is made at once for a frame that has not arrived yet, on a stream that had no longer one before. A peer's
/// length alone must not cost memory, so the buffer grows with what arrives, in steps of this size at least.
const RESERVE_BYTES_MAX: usize = 64 * 1024;

/// Room behind the end of a frame, for the beginning of the next one: both often arrive in one read, and a buffer without it
/// would be copied as a whole into a larger one for those bytes. Only behind long frames, beside which it weighs little.
const ROOM_BEHIND_BYTES: usize = 32 * 1024;

/// Why bytes are not a frame, or a frame not a message. The stream cannot be read any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length announced is above what this side accepts.
    #[error(
        "a frame of {length} bytes or more was announced, but at most {max} are accepted; send smaller batches"
    )]
    TooLarge {
        /// What is known of the announced length; the length itself may be larger still.
        length: u64,
        /// The limit that holds on this stream.
        max: usize,
    },
    /// The length prefix goes on past ten bytes or past 64 bits.
    #[error("the length prefix of a frame is no varint of at most ten bytes")]
    LengthOverlong,
    /// The frame does not decode as the message expected here.
    #[error("the frame is not a message allowed here: {0}")]
    Malformed(#[from] prost::DecodeError),
}

impl From<&FrameError> for pb::Error {
    fn from(error: &FrameError) -> Self {
        let code = match error {
            FrameError::TooLarge { .. } => pb::ErrorCode::TooLarge,
            FrameError::LengthOverlong | FrameError::Malformed(_) => pb::ErrorCode::Malformed,
        };
        pb::Error::new(code, error.to_string())
    }
}

/// Appends `message` with its length prefix to `out`: room is made once, and every byte is copied once.
#[expect(
    clippy::missing_panics_doc,
    reason = "a BytesMut grows, so encoding into it cannot run out of room"
)]
pub fn encode_frame<M: Message>(message: &M, out: &mut BytesMut) {
    let length = message.encoded_len();
    out.reserve(VARINT_BYTES_MAX + length);
    encode_varint(length as u64, out);
    message
        .encode(out)
        .expect("a BytesMut grows as needed, and that is the only way to fail");
}

/// Decodes one whole frame. Fields of type `bytes` become slices of `frame`, not copies.
///
/// # Errors
/// [`FrameError::Malformed`] when the bytes are no `M`.
pub fn decode<M: Message + Default>(frame: Bytes) -> Result<M, FrameError> {
    Ok(M::decode(frame)?)
}

/// Cuts a stream of bytes into frames.
#[derive(Clone, Debug)]
pub struct FrameReader {
    max: usize,
    /// Length of the longest frame that has come whole.
    longest: usize,
}

impl FrameReader {
    /// A reader that refuses frames of more than `max_bytes` (length prefix not counted).
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max: max_bytes,
            longest: 0,
        }
    }

    /// The largest frame accepted, in bytes.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.max
    }

    /// The length of the frame at the front of `buffer`, prefix included, as far as it is known. Of use to whoever wants to make
    /// room for it, or to refuse it, before it has come.
    ///
    /// # Errors
    /// As [`next_frame`](Self::next_frame).
    pub fn announced(&self, buffer: &[u8]) -> Result<Option<usize>, FrameError> {
        let announced = read_length(buffer, self.max)?;
        Ok(announced.map(|(prefix, length)| prefix + length))
    }

    /// Takes the next whole frame from the front of `buffer`, without copying it. `None` means that more bytes are
    /// needed; `buffer` then has room for some of them.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] or [`FrameError::LengthOverlong`], both before any memory is taken for the frame.
    /// The reader stays where it is: the stream is of no more use.
    pub fn next_frame(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let Some((prefix, length)) = read_length(buffer, self.max)? else {
            return Ok(None);
        };
        let missing = (prefix + length).saturating_sub(buffer.len());
        if missing > 0 {
            // Somebody whose frames were that long before gets the room for one at once.
            let step = RESERVE_BYTES_MAX.max(self.longest);
            let behind = match length > RESERVE_BYTES_MAX {
                true => ROOM_BEHIND_BYTES,
                false => 0,
            };
            buffer.reserve(missing.min(step) + behind);
            return Ok(None);
        }
        self.longest = self.longest.max(length);
        buffer.advance(prefix);
        let frame = buffer.split_to(length).freeze();
        if length > RESERVE_BYTES_MAX && buffer.len() <= RESERVE_BYTES_MAX {
            // What follows must not keep the memory of a large frame: it may be small and kept for long.
            *buffer = BytesMut::from(&buffer[..]);
        }
        Ok(Some(frame))
    }
}

/// The length prefix at the front of `bytes`: its own size and its value. The value is compared with `max` as it
/// grows, so that an absurd length is called too large and not a broken varint.
fn read_length(bytes: &[u8], max: usize) -> Result<Option<(usize, usize)>, FrameError> {
    let mut length: u64 = 0;
    for (index, byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        if index == VARINT_BYTES_MAX - 1 && *byte > 1 {
            return Err(FrameError::LengthOverlong);
        }
        length |= u64::from(byte & 0x7f) << (7 * index);
        if length > max as u64 {
            return Err(FrameError::TooLarge { length, max });
        }
        if byte & 0x80 == 0 {
            // Not above `max`, which is a usize.
            return Ok(Some((index + 1, length as usize)));
        }
    }
    if bytes.len() >= VARINT_BYTES_MAX {
        return Err(FrameError::LengthOverlong);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(max: usize, bytes: &[u8], expected: Result<Option<&[u8]>, FrameError>) {
        let mut buffer = BytesMut::from(bytes);
        let found = FrameReader::new(max).next_frame(&mut buffer);
        assert_eq!(
            found,
            expected.map(|frame| frame.map(Bytes::copy_from_slice))
        );
    }

    #[test]
    fn frames_at_the_limit_and_above_it() {
        check(3, &[3, 1, 2, 3], Ok(Some(&[1, 2, 3])));
        check(
            2,
            &[3, 1, 2, 3],
            Err(FrameError::TooLarge { length: 3, max: 2 }),
        );
        check(3, &[0], Ok(Some(&[])));
        check(0, &[0], Ok(Some(&[])));
        check(0, &[1], Err(FrameError::TooLarge { length: 1, max: 0 }));
    }

    #[test]
    fn part_of_a_frame_asks_for_more() {
        check(300, &[], Ok(None));
        check(300, &[0x80], Ok(None));
        check(300, &[0x80, 0x01], Ok(None));
        check(300, &[2, 1], Ok(None));
    }

    #[test]
    fn prefixes_that_are_no_length() {
        check(300, &[0x80; 10], Err(FrameError::LengthOverlong));
        check(300, &[0x80; 9], Ok(None));
        let padded = [0x83, 0x80, 0x00, 1, 2, 3];
        check(300, &padded, Ok(Some(&[1, 2, 3])));
        let mut over_64_bits = [0x80; 10];
        over_64_bits[9] = 0x02;
        check(usize::MAX, &over_64_bits, Err(FrameError::LengthOverlong));
    }

    #[test]
    fn a_length_is_known_before_its_frame_has_come() {
        let reader = FrameReader::new(300);
        assert_eq!(reader.announced(&[]), Ok(None));
        assert_eq!(reader.announced(&[0x80]), Ok(None));
        assert_eq!(reader.announced(&[0x80, 0x01]), Ok(Some(130)));
        assert_eq!(reader.announced(&[2, 7, 8, 9]), Ok(Some(3)));
        let too_large = FrameError::TooLarge {
            length: 384,
            max: 300,
        };
        assert_eq!(reader.announced(&[0x80, 0x03]), Err(too_large));
    }

    #[test]
    fn an_announced_length_costs_no_memory_by_itself() {
        let mut buffer = BytesMut::from(&[0x80, 0x80, 0x80, 0x08][..]);
        let found = FrameReader::new(64 << 20).next_frame(&mut buffer);
        assert_eq!(found, Ok(None));
        assert!(
            buffer.capacity() <= 2 * RESERVE_BYTES_MAX,
            "{}",
            buffer.capacity()
        );
    }

    #[test]
    fn whose_frames_are_long_gets_room_for_the_next_at_once() {
        let length = 5 * RESERVE_BYTES_MAX;
        let mut stream = BytesMut::new();
        encode_varint(length as u64, &mut stream);
        stream.resize(stream.len() + length, 7);
        let mut reader = FrameReader::new(length);
        let mut whole = stream.clone();
        reader.next_frame(&mut whole).unwrap().unwrap();

        let mut buffer = BytesMut::from(&stream[..10]);
        assert_eq!(reader.next_frame(&mut buffer), Ok(None));
        let address = buffer.as_ptr();
        buffer.extend_from_slice(&stream[10..]);
        buffer.extend_from_slice(&stream[..10]);
        assert_eq!(buffer.as_ptr(), address, "the frame was moved");
        reader.next_frame(&mut buffer).unwrap().unwrap();
        assert_eq!(buffer, stream[..10]);
        assert!(buffer.capacity() < RESERVE_BYTES_MAX);
    }

    #[test]
    fn a_frame_is_not_copied() {
        let mut buffer = BytesMut::from(&[2, 7, 8, 1][..]);
        let address = buffer.as_ptr() as usize;
        let frame = FrameReader::new(10)
            .next_frame(&mut buffer)
            .unwrap()
            .unwrap();
        assert_eq!(frame.as_ptr() as usize, address + 1);
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
            step in 1usize..64,
        ) {
            let mut stream = BytesMut::new();
            for payload in &messages {
                let event = pb::Event { payload: payload.clone().into(), ..Default::default() };
                encode_frame(&event, &mut stream);
            }
            let mut reader = FrameReader::new(1024);
            let mut buffer = BytesMut::new();
            let mut found = Vec::new();
            for part in stream.chunks(step) {
                buffer.extend_from_slice(part);
                while let Some(frame) = reader.next_frame(&mut buffer).unwrap() {
                    found.push(decode::<pb::Event>(frame).unwrap().payload.to_vec());
                }
            }
            prop_assert_eq!(found, messages);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), max in 0usize..400) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut reader = FrameReader::new(max);
            while let Ok(Some(frame)) = reader.next_frame(&mut buffer) {
                prop_assert!(frame.len() <= max);
                let _ = decode::<pb::StreamOpen>(frame.clone());
                let _ = decode::<pb::HelloReply>(frame.clone());
                let _ = decode::<pb::GoAway>(frame.clone());
                let _ = decode::<pb::PublishOpened>(frame.clone());
                let _ = decode::<pb::PublishBatch>(frame.clone());
                let _ = decode::<pb::PublishReply>(frame.clone());
                let _ = decode::<pb::SubscribeOpened>(frame.clone());
                let _ = decode::<pb::ConsumerCommand>(frame.clone());
                let _ = decode::<pb::BrokerToConsumer>(frame.clone());
                let _ = decode::<pb::Event>(frame);
            }
        }
    }
}
