//! What the events of a load look like, how a consumer reads them back, and the account of which came.

use anyhow::{Context, ensure};
use async_nats::Subject;
use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::Deserialize;

/// Bytes of number and send time at the front of a plain event.
const PLAIN_HEAD_BYTES: usize = 16;
/// Where the 20 digits of number and send time are in a JSON event, which starts `{"number":"`.
const JSON_NUMBER_AT: usize = 11;
const JSON_SENT_AT: usize = JSON_NUMBER_AT + DIGITS + r#"","sent":""#.len();
const DIGITS: usize = 20;
/// Letters in whose pieces no two events of a block are alike: twice as many as a block has bytes.
const FILLING_BYTES: usize = 128 << 10;

/// A topic under the names that the clients want.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    /// For Tidegate, and for subscriptions of both.
    pub(crate) name: String,
    /// For NATS, whose client takes a shared one without copying.
    pub(crate) subject: Subject,
}

impl Topic {
    /// The topic called `name`.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self {
            subject: Subject::from(name.as_str()),
            name,
        }
    }
}

/// How a payload is made.
#[derive(Clone, Copy, Debug)]
enum Form {
    Plain,
    /// JSON whose field `group` goes round from 0 to this.
    Json(u64),
}

/// What publishers send.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    size: usize,
    form: Form,
    topics: Vec<Topic>,
    /// Events have one piece of it after the other.
    filling: Bytes,
}

/// What a consumer reads from the front of an event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// Counts the events of a publisher, from 0.
    pub(crate) number: u64,
    /// When it was meant to be sent, in microseconds of the load's clock.
    pub(crate) sent_us: u64,
}

impl Shape {
    /// Letters, in one topic.
    pub(crate) fn plain(size: usize, topic: &str) -> Self {
        Self::new(size, Form::Plain, vec![Topic::new(topic)])
    }

    /// JSON objects with a field `group` of `0..groups`, each as often as the next, in one topic.
    pub(crate) fn json(size: usize, groups: u64, topic: &str) -> Self {
        Self::new(size, Form::Json(groups), vec![Topic::new(topic)])
    }

    fn new(size: usize, form: Form, topics: Vec<Topic>) -> Self {
        Self {
            size,
            form,
            topics,
            filling: letters(FILLING_BYTES.max(size)),
        }
    }

    /// The same with the bytes of `filling` instead of random letters.
    ///
    /// # Errors
    ///
    /// It is shorter than an event.
    pub(crate) fn filled_with(mut self, filling: Bytes) -> anyhow::Result<Self> {
        let size = self.size;
        ensure!(
            filling.len() >= size,
            "{} bytes do not fill an event of {size}",
            filling.len()
        );
        self.filling = filling;
        Ok(self)
    }

    /// The same events over these topics in turn.
    pub(crate) fn over(mut self, topics: impl IntoIterator<Item = String>) -> Self {
        self.topics = topics.into_iter().map(Topic::new).collect();
        self
    }

    /// Topic of event `number`.
    pub(crate) fn topic(&self, number: u64) -> &Topic {
        &self.topics[(number % self.topics.len() as u64) as usize]
    }

    /// Value of the field `group` of event `number`.
    pub(crate) fn group(&self, number: u64) -> u64 {
        match self.form {
            Form::Plain => 0,
            Form::Json(groups) => number % groups,
        }
    }

    /// Payload of event `number`.
    pub(crate) fn payload(&self, number: u64, sent_us: u64) -> Bytes {
        let pieces = (self.filling.len() / self.size) as u64;
        let piece = &self.filling[(number % pieces) as usize * self.size..][..self.size];
        match self.form {
            Form::Plain => {
                let mut payload = Vec::with_capacity(self.size);
                payload.extend_from_slice(&number.to_le_bytes());
                payload.extend_from_slice(&sent_us.to_le_bytes());
                payload.extend_from_slice(&piece[PLAIN_HEAD_BYTES.min(self.size)..]);
                payload.into()
            }
            Form::Json(_) => {
                let group = self.group(number);
                let mut text = String::with_capacity(self.size);
                text += &format!(
                    r#"{{"number":"{number:020}","sent":"{sent_us:020}","group":{group},"source":"compare","pad":""#
                );
                let room = self.size.saturating_sub(text.len() + 2);
                let mut payload = text.into_bytes();
                payload.extend_from_slice(&piece[..room]);
                payload.extend_from_slice(br#""}"#);
                payload.into()
            }
        }
    }

    /// Reads number and send time, which are at fixed places, so that this costs all consumers the same.
    pub(crate) fn head(&self, payload: &[u8]) -> anyhow::Result<Head> {
        ensure!(payload.len() == self.size, "an event of another size");
        match self.form {
            Form::Plain => Ok(Head {
                number: u64::from_le_bytes(payload[..8].try_into()?),
                sent_us: u64::from_le_bytes(payload[8..PLAIN_HEAD_BYTES].try_into()?),
            }),
            Form::Json(_) => Ok(Head {
                number: digits(payload, JSON_NUMBER_AT)?,
                sent_us: digits(payload, JSON_SENT_AT)?,
            }),
        }
    }
}

/// The field `group` of a JSON event, found by parsing the body, as a client has to that filters by itself.
pub(crate) fn parse_group(payload: &[u8]) -> anyhow::Result<u64> {
    #[derive(Deserialize)]
    struct Body {
        group: u64,
    }
    Ok(serde_json::from_slice::<Body>(payload)?.group)
}

fn digits(payload: &[u8], at: usize) -> anyhow::Result<u64> {
    let text = payload
        .get(at..at + DIGITS)
        .context("an event that is too short")?;
    Ok(std::str::from_utf8(text)?.parse()?)
}

// Letters that hardly compress.
fn letters(count: usize) -> Bytes {
    let mut random = StdRng::seed_from_u64(0);
    let letters = (0..count).map(|_| random.random_range(b'a'..=b'z'));
    letters.collect::<Vec<_>>().into()
}

/// Which events came, one bit each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    bits: Vec<u64>,
    distinct: u64,
    repeated: u64,
}

impl Tally {
    /// Event `number` came.
    pub(crate) fn came(&mut self, number: u64) {
        let word = (number / 64) as usize;
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        let bit = 1 << (number % 64);
        if self.bits[word] & bit == 0 {
            self.bits[word] |= bit;
            self.distinct += 1;
        } else {
            self.repeated += 1;
        }
    }

    /// Checks that of the events below `published` exactly those came that `wanted` says, each once.
    pub(crate) fn check(&self, published: u64, wanted: impl Fn(u64) -> bool) -> anyhow::Result<()> {
        let mut expected = 0;
        let mut missing = 0;
        for number in (0..published).filter(|number| wanted(*number)) {
            expected += 1;
            missing += u64::from(!self.has(number));
        }
        ensure!(missing == 0, "{missing} of {expected} events did not come");
        let surplus = self.distinct - expected;
        ensure!(surplus == 0, "{surplus} events came that should not");
        ensure!(
            self.repeated == 0,
            "{} events came more than once",
            self.repeated
        );
        Ok(())
    }

    /// Checks that everything below `published` came, whatever else did.
    pub(crate) fn check_reached(&self, published: u64) -> anyhow::Result<()> {
        let missing = (0..published).filter(|number| !self.has(*number)).count();
        ensure!(missing == 0, "{missing} of {published} events did not come");
        Ok(())
    }

    fn has(&self, number: u64) -> bool {
        self.bits
            .get((number / 64) as usize)
            .is_some_and(|word| word & (1 << (number % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_back_from_both_forms() {
        for shape in [Shape::plain(256, "t"), Shape::json(256, 10, "t")] {
            let payload = shape.payload(1_234_567, 89);
            assert_eq!(payload.len(), 256);
            let head = shape.head(&payload).expect("an event of this shape");
            assert_eq!((head.number, head.sent_us), (1_234_567, 89));
        }
        let payload = Shape::json(256, 10, "t").payload(17, 0);
        assert_eq!(parse_group(&payload).expect("valid JSON"), 7);
    }

    #[test]
    fn a_tally_finds_what_is_missing_surplus_or_repeated() {
        let tally = |numbers: &[u64]| {
            let mut tally = Tally::default();
            numbers.iter().for_each(|number| tally.came(*number));
            tally
        };
        let even = |number: u64| number.is_multiple_of(2);
        assert!(tally(&[0, 2, 4]).check(6, even).is_ok());
        for wrong in [&[0, 2][..], &[0, 2, 3, 4], &[0, 2, 4, 6], &[0, 2, 4, 4]] {
            assert!(tally(wrong).check(6, even).is_err(), "{wrong:?}");
        }
        assert!(tally(&[0, 1, 2, 7]).check_reached(3).is_ok());
        assert!(tally(&[0, 2]).check_reached(3).is_err());
    }
}
