//! The reader's end of a compact stream. What a peer announces is checked before memory is taken for it.

use bytes::{Bytes, BytesMut};
use lz4_flex::block::decompress_into_with_dict;

use super::history::History;
use super::topic_numbers::ToldNumbers;
use crate::batch::{ReceivedBatch, element_len, elements, push_encoded};
use crate::limits::{REMEMBERED_BYTES_MAX, TOPIC_BYTES_MAX, TOPIC_NUMBERS_MAX, UNPACKED_BYTES_MAX};
use crate::pb::{self, ErrorCode};

/// A byte of a block stands for so many bytes at most, whatever the block is.
const BYTES_OF_A_BYTE_MAX: usize = 255;

/// The reader's end of one direction of a stream.
#[derive(Debug)]
pub struct Unpacker {
    numbers: ToldNumbers,
    history: History,
    unpacked_bytes_max: usize,
}

/// What came is not compact as the protocol says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompactError {
    /// No topic has this number.
    #[error(
        "topic_number {number} stands for no topic; name the topic beside its number the first time, on each stream"
    )]
    UnknownNumber {
        /// It.
        number: u32,
    },
    /// There is no such number.
    #[error("topic_number is {number}; give numbers from 1 to {TOPIC_NUMBERS_MAX}")]
    NumberTooHigh {
        /// It.
        number: u32,
    },
    /// What has a number is no name of a topic.
    #[error("a topic of {bytes} bytes has a topic_number; a topic has at most {TOPIC_BYTES_MAX}")]
    TopicTooLong {
        /// Bytes of its name.
        bytes: usize,
    },
    /// Events came in both forms.
    #[error("there are both `events` and `packed`; send one of them")]
    BothForms,
    /// `unpacked_bytes` and `packed` do not fit together.
    #[error(
        "unpacked_bytes is {announced}, and `packed` has {packed} bytes, which cannot be; send both or none, and the bytes before packing"
    )]
    Impossible {
        /// What is announced.
        announced: u64,
        /// Bytes of the block.
        packed: usize,
    },
    /// More than this end takes.
    #[error(
        "unpacked_bytes is {announced}; at most {max} are accepted, so send it unpacked or in parts"
    )]
    TooLarge {
        /// What is announced.
        announced: u64,
        /// What may be.
        max: usize,
    },
    /// The block is none, or another dictionary was meant.
    #[error(
        "`packed` is no block that unpacks to {announced} bytes with what is remembered of this stream"
    )]
    Corrupt {
        /// What was announced.
        announced: u64,
    },
    /// What was unpacked is something else.
    #[error(
        "what was packed are no elements of `events`, with tags and lengths no longer than they need be"
    )]
    NoEvents,
}

impl From<&CompactError> for pb::Error {
    fn from(error: &CompactError) -> Self {
        let code = match error {
            CompactError::TooLarge { .. } => ErrorCode::TooLarge,
            _ => ErrorCode::Malformed,
        };
        Self::new(code, error.to_string())
    }
}

impl Unpacker {
    /// That of a stream on which nothing was said, whose frames may have so many bytes.
    #[must_use]
    pub fn new(frame_bytes_max: usize) -> Self {
        Self {
            numbers: ToldNumbers::default(),
            history: History::default(),
            unpacked_bytes_max: frame_bytes_max.min(UNPACKED_BYTES_MAX),
        }
    }

    /// Bytes that the events of `batch` will take once they are unpacked; `None` when they are not packed. Nothing is done yet.
    ///
    /// # Errors
    /// What it announces cannot be, or may not.
    pub fn announced(&self, batch: &ReceivedBatch) -> Result<Option<usize>, CompactError> {
        self.check(batch.unpacked_bytes, &batch.packed, batch.events.is_empty())
    }

    /// Makes of `batch`, which is the next of its stream, what it would be had it been sent plainly.
    ///
    /// # Errors
    /// It is not compact as the protocol says. The stream is of no more use then.
    pub fn unpack_batch(&mut self, batch: &mut ReceivedBatch) -> Result<(), CompactError> {
        self.numbers.resolve(&mut batch.topic, batch.topic_number)?;
        if let Some(bytes) = self.announced(batch)? {
            batch.events = self.unpack(&batch.packed, bytes)?;
            batch.packed = Bytes::new();
        }
        if batch.remember {
            self.history.push(&batch.events);
        }
        Ok(())
    }

    /// The same of a delivery.
    ///
    /// # Errors
    /// As there.
    pub fn unpack_deliver(&mut self, deliver: &mut pb::Deliver) -> Result<(), CompactError> {
        self.numbers
            .resolve(&mut deliver.topic, deliver.topic_number)?;
        let (announced, packed) = (deliver.unpacked_bytes, &deliver.packed);
        match self.check(announced, packed, deliver.events.is_empty())? {
            Some(bytes) => {
                let unpacked = self.unpack(packed, bytes)?;
                if deliver.remember {
                    self.history.push(&unpacked);
                }
                deliver.events = elements(&unpacked).ok_or(CompactError::NoEvents)?;
                deliver.packed = Bytes::new();
            }
            None if deliver.remember => self.history.push(&last_elements(&deliver.events)),
            None => {}
        }
        Ok(())
    }

    fn check(
        &self,
        announced: u64,
        packed: &[u8],
        has_no_events: bool,
    ) -> Result<Option<usize>, CompactError> {
        if packed.is_empty() && announced == 0 {
            return Ok(None);
        }
        if !has_no_events {
            return Err(CompactError::BothForms);
        }
        let max = self.unpacked_bytes_max;
        let bytes = usize::try_from(announced).unwrap_or(usize::MAX);
        if bytes > max {
            return Err(CompactError::TooLarge { announced, max });
        }
        if bytes == 0 || bytes > packed.len().saturating_mul(BYTES_OF_A_BYTE_MAX) {
            let packed = packed.len();
            return Err(CompactError::Impossible { announced, packed });
        }
        Ok(Some(bytes))
    }

    // `bytes` was checked.
    fn unpack(&self, packed: &[u8], bytes: usize) -> Result<Bytes, CompactError> {
        let mut unpacked = vec![0; bytes];
        let length = decompress_into_with_dict(packed, &mut unpacked, self.history.bytes());
        match length {
            Ok(length) if length == bytes => Ok(unpacked.into()),
            _ => Err(CompactError::Corrupt {
                announced: bytes as u64,
            }),
        }
    }
}

// The elements of the last of `events`: as many as can be remembered, and no more than one beyond that.
fn last_elements(events: &[Bytes]) -> BytesMut {
    let mut bytes = 0;
    let mut first = events.len();
    while first > 0 && bytes < REMEMBERED_BYTES_MAX {
        first -= 1;
        bytes += element_len(events[first].len());
    }
    let mut last = BytesMut::with_capacity(bytes);
    for event in &events[first..] {
        push_encoded(&mut last, event);
    }
    last
}
