//! The reader's end of a compact stream. What a peer announces is checked before memory is taken for it.

use bytes::Bytes;
use lz4_flex::block::decompress_into_with_dict;

use super::history::History;
use super::topic_numbers::ToldNumbers;
use super::unpacked_max;
use crate::batch::{ReceivedBatch, element_len, elements, encoded};
use crate::limits::{
    PACKED_DENSITY_MAX, PACKED_HEAD_BYTES, REMEMBERED_BYTES_MAX, TOPIC_BYTES_MAX,
    TOPIC_NUMBERS_BYTES_MAX, TOPIC_NUMBERS_MAX, UNPACKED_BYTES_MAX,
};
use crate::pb::{self, ErrorCode};

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
    /// Too many names have numbers.
    #[error(
        "the names of topics that have a topic_number are {bytes} bytes together; give the numbers of others again when that would be more than {TOPIC_NUMBERS_BYTES_MAX}"
    )]
    NamesTooLong {
        /// Bytes of all of them.
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
    /// Too much is said by too little.
    #[error(
        "unpacked_bytes is {announced}, and `packed` has {packed} bytes; at most {PACKED_DENSITY_MAX} times as many are accepted, where {PACKED_HEAD_BYTES} more count, so send it unpacked"
    )]
    TooDense {
        /// What is announced.
        announced: u64,
        /// Bytes of the block.
        packed: usize,
    },
    /// More is to be remembered than may be.
    #[error(
        "a batch of {bytes} bytes says `remember`; say that of batches of at most {REMEMBERED_BYTES_MAX}"
    )]
    RememberedTooLarge {
        /// Bytes of its elements.
        bytes: usize,
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
            CompactError::TooLarge { .. } | CompactError::TooDense { .. } => ErrorCode::TooLarge,
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

    /// Says in `batch`, which is the next of its stream, what its topic is, checks what it announces, and returns how many bytes its events
    /// will take once they are unpacked; `None` when they are not packed. Nothing is unpacked yet, and a batch that does not say `remember`
    /// never has to be.
    ///
    /// # Errors
    /// It is not compact as the protocol says. The stream is of no more use then.
    pub fn resolve(&mut self, batch: &mut ReceivedBatch) -> Result<Option<usize>, CompactError> {
        let number = std::mem::take(&mut batch.topic_number);
        self.numbers.resolve(&mut batch.topic, number)?;
        let announced = self.check(batch.unpacked_bytes, &batch.packed, batch.events.is_empty())?;
        let bytes = announced.unwrap_or(batch.events.len());
        check_remembered(batch.remember, bytes)?;
        Ok(announced)
    }

    /// Makes of `batch`, which is the next of its stream, what it would be had it been sent plainly.
    ///
    /// # Errors
    /// As there.
    pub fn unpack_batch(&mut self, batch: &mut ReceivedBatch) -> Result<(), CompactError> {
        if let Some(bytes) = self.resolve(batch)? {
            batch.events = self.unpack(&batch.packed, bytes)?;
            batch.packed = Bytes::new();
            batch.unpacked_bytes = 0;
        }
        if std::mem::take(&mut batch.remember) {
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
                check_remembered(deliver.remember, bytes)?;
                let unpacked = self.unpack(packed, bytes)?;
                if deliver.remember {
                    self.history.push(&unpacked);
                }
                deliver.events = elements(&unpacked).ok_or(CompactError::NoEvents)?;
                deliver.packed = Bytes::new();
            }
            None if deliver.remember => {
                let lengths = deliver.events.iter().map(|event| element_len(event.len()));
                check_remembered(true, lengths.sum())?;
                self.history.push(&encoded(&deliver.events));
            }
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
        let packed = packed.len();
        if bytes == 0 || packed == 0 {
            return Err(CompactError::Impossible { announced, packed });
        }
        if bytes > unpacked_max(packed) {
            return Err(CompactError::TooDense { announced, packed });
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

fn check_remembered(remember: bool, bytes: usize) -> Result<(), CompactError> {
    match remember && bytes > REMEMBERED_BYTES_MAX {
        true => Err(CompactError::RememberedTooLarge { bytes }),
        false => Ok(()),
    }
}
