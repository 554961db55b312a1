//! What happened in a run, as far as anybody outside of the broker could see it: one entry for each request, answer, delivery, life of the
//! broker and fault, in order. An entry is one line of text with fixed fields, so that two runs are compared byte for byte and a history
//! can be written by hand. Moments are milliseconds of virtual time since the run began.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::disk::Operation;
use crate::plan::Fault;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub ms: u64,
    /// Who says so: an actor of the plan, or `broker`.
    pub who: Text,
    /// What.
    pub what: What,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $word:literal { $($(#[$about:meta])* $field:ident: $type:ty),* $(,)? })*) => {
        /// What can happen.
        #[expect(missing_docs, reason = "a field says what it is by its name, which stands in each line of a history")]
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum What {
            $($(#[$doc])* $name { $($(#[$about])* $field: $type),* },)*
        }

        impl fmt::Display for What {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name { $($field),* } => {
                        f.write_str($word)?;
                        $(write!(f, concat!(" ", stringify!($field), "={}"), $field)?;)*
                        Ok(())
                    })*
                }
            }
        }

        impl What {
            fn parse(word: &str, fields: &mut Fields<'_>) -> Result<Self, String> {
                match word {
                    $($word => Ok(Self::$name { $($field: fields.next(stringify!($field))?),* }),)*
                    _ => Err(format!("{word} is nothing that happens")),
                }
            }
        }
    };
}

macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$about:meta])* $name:ident $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type { $($(#[$about])* $name),* }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$name => $word),* })
            }
        }

        impl std::str::FromStr for $type {
            type Err = String;

            fn from_str(word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok(Self::$name),)*
                    _ => Err(format!("{word} is no {}", stringify!($type))),
                }
            }
        }
    };
}

pub(crate) use words;

words! {
    /// What an answered publish to a topic has survived.
    Durability {
        /// Everything.
        Sync "sync",
        /// The end of the process, and that of the machine after a moment.
        Interval "interval",
    }
}
words! {
    /// How a life of the broker was ended from outside.
    Cause {
        /// Its process was killed.
        Kill "kill",
        /// The machine lost its power.
        Power "power",
    }
}
words! {
    /// What a consumer says of a delivery.
    Answer {
        /// Done.
        Ack "ack",
        /// Again.
        Nack "nack",
        /// Never again.
        Term "term",
        /// Not yet.
        Extend "extend",
    }
}
words! {
    /// Why an operation of the disk failed.
    Blow {
        /// The disk reported an error.
        Io "io",
        /// No file could be opened.
        NoFiles "no-files",
        /// There was no room.
        NoRoom "no-room",
    }
}
words! {
    /// Where a subscription begins.
    Start {
        /// With what comes.
        Latest "latest",
        /// With what is there.
        Earliest "earliest",
    }
}

kinds! {
    /// A life of the broker begins.
    Starts "starts" { life: u64 }
    /// It serves. What it syncs at intervals it syncs so often.
    Serves "serves" { life: u64, interval_ms: u64 }
    /// It refused to start.
    Refuses "refuses" { life: u64, why: Text }
    /// It is to start without what the one before it said is lost.
    Accepts "accepts" { life: u64 }
    /// It goes on without this, as it says.
    Loses "loses" { what: Text }
    /// What was on the disk before a life, or after one that refused to start.
    Image "image" { life: u64, digest: u64 }
    /// A life is told to stop.
    Stops "stops" { life: u64 }
    /// It has.
    Stopped "stopped" { life: u64 }
    /// A life was ended.
    Crashed "crashed" { life: u64, cause: Cause }
    /// A task or thread panicked.
    Panicked "panicked" { strand: Text, said: Text }
    /// Long after the end of what it belonged to, something still waits.
    Left "left" { strand: Text, waits: Text }
    /// The run was ended: something in it never rests.
    NeverRests "never-rests" { why: Text }

    /// Something is wrong, by plan, until then.
    Troubled "troubled" { what: Fault, until_ms: u64 }
    /// It has done what it does once, and is over.
    Lifted "lifted" { what: Fault }
    /// An operation of the disk has failed by plan, or some of a kind on one path.
    Struck "struck" { on: Operation, by: Blow, path: Text }
    /// All that is wrong by plan is over.
    Healed "healed" {}
    /// The broker says that something is wrong with it, of which nobody knew.
    IsWrong "is-wrong" { condition: Text, why: Text }
    /// It says so no more.
    IsOver "is-over" { condition: Text }
    /// Since the life that there is began, its disk or journal was so full at some time that attempts and delays were not written.
    HeldBack "held-back" {}
    /// A gauge says more of it than before in this life.
    Fills "fills" { gauge: Text, is: u64, at_most: u64 }
    /// There are sectors of these files that the disk will never read.
    Torn "torn" { files: Text }
    /// These files were copied, with zeros where they cannot be read.
    Rescued "rescued" { files: Text }
    /// All faults are over, and nobody publishes any more: what is there will be consumed.
    Drains "drains" {}
    /// A subscription holds nothing any more.
    Drained "drained" { subscription: Text }
    /// One that held nothing does again, after a start.
    CameBack "came-back" { subscription: Text }
    /// The run is over, its last life excepted.
    Over "over" {}

    /// Creates a topic.
    CreatesTopic "creates-topic" { op: u64, topic: Text, durability: Durability }
    /// Deletes one.
    DeletesTopic "deletes-topic" { op: u64, topic: Text }
    /// Creates a subscription to a topic.
    CreatesSubscription "creates-subscription" {
        op: u64, subscription: Text, topic: Text, start: Start, ack_deadline_ms: u64,
    }
    /// Creates a route.
    CreatesRoute "creates-route" { op: u64, route: Text }
    /// Deletes one.
    DeletesSubscription "deletes-subscription" { op: u64, subscription: Text }
    /// Lets one stand still.
    Pauses "pauses" { op: u64, subscription: Text, why: Text }
    /// Lets one go on.
    Resumes "resumes" { op: u64, subscription: Text }
    /// Changes how one hands out events.
    Changes "changes" { op: u64, subscription: Text, ack_deadline_ms: u64, in_flight_max: u64 }
    /// The subscription that is created by this request has these filters.
    ChoosesFilters "chooses-filters" { op: u64, chain: Text }
    /// It gives an event up after so many attempts that count, if not 0, and waits so long before each but the first.
    ChoosesAttempts "chooses-attempts" { op: u64, attempts_max: u64, backoff_ms: Text }
    /// Changes what its events have to pass. It is done with the fence.
    ChangesFilters "changes-filters" { op: u64, subscription: Text, chain: Text }
    /// Uploads a plugin.
    Uploads "uploads" { op: u64, plugin: Text, tag: u64 }
    /// What a subscription's events have to pass, as the broker says when a life has begun, and from where on.
    SeesFilters "sees-filters" { subscription: Text, chain: Text, fence: u64 }
    /// A filter failed on an event, as the broker says.
    Blames "blames" { subscription: Text, position: u64 }
    /// A topic is there, or is not, as the broker says when a life has begun. The id is 0 if it is not.
    SeesTopic "sees-topic" { topic: Text, id: u64 }
    /// So is a subscription.
    SeesSubscription "sees-subscription" {
        subscription: Text, is_there: bool, is_paused: bool, ack_deadline_ms: u64, in_flight_max: u64,
    }
    /// A change was made. Of what was created, the id, or 0.
    Done "done" { op: u64, id: u64 }
    /// It was not, for sure or as far as is known.
    NotDone "not-done" { op: u64, code: Text, is_sure: bool }

    /// Hands an event to the client, which knows the producer by a name of its own.
    Publishes "publishes" { op: u64, producer: Text, topic: Text, n: u64, hash: u64 }
    /// It was answered.
    Published "published" { op: u64, sequence: u64, is_duplicate: bool }
    /// It failed, for sure or as far as is known.
    NotPublished "not-published" { op: u64, code: Text, is_sure: bool }

    /// Attaches to a subscription.
    Attaches "attaches" { op: u64, subscription: Text }
    /// Its client asks the broker for what a subscription has: at first, and again after each connection that it lost. Whatever the
    /// broker sent before that and nobody has taken is forgotten.
    Opens "opens" { subscription: Text }
    /// Attached, or not.
    Attached "attached" { op: u64 }
    /// Refused.
    NotAttached "not-attached" { op: u64, code: Text }
    /// Is told why nothing comes, or that something may come again, if nothing is said.
    Hears "hears" { subscription: Text, why: Text }
    /// Takes no more.
    Detached "detached" { subscription: Text }
    /// Got an event.
    Delivered "delivered" {
        subscription: Text, topic: Text, position: u64, sequence: u64, attempt: u64, n: u64, hash: u64,
    }
    /// Got a dead letter: of which subscription, for which event of which topic, after how many attempts, and why.
    Letter "letter" {
        subscription: Text, topic: Text, position: u64, sequence: u64, attempt: u64, n: u64, hash: u64,
        of: Text, from: Text, was: u64, attempts: u64, why: Text,
    }
    /// Got what a route has made of an event.
    Output "output" {
        subscription: Text, topic: Text, position: u64, sequence: u64, attempt: u64, n: u64, hash: u64,
    }
    /// Answers a delivery so that it is left alone for so long, at least.
    Waits "waits" { subscription: Text, position: u64, delay_ms: u64 }
    /// Answered a delivery.
    Says "says" { subscription: Text, position: u64, answer: Answer }
    /// Wants to know that all that it has said is on disk.
    Flushes "flushes" { op: u64, subscription: Text }
    /// An answer before that was too late.
    Late "late" { op: u64, position: u64 }
    /// All others are on disk.
    Confirmed "confirmed" { op: u64 }
    /// That is not known.
    NotConfirmed "not-confirmed" { op: u64, code: Text }
    /// An actor's process ends without a word.
    Dies "dies" {}
}

/// A word or several; on a line they are one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(String);

impl<T: Into<String>> From<T> for Text {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

const ESCAPED: [(char, &str); 4] = [('%', "%25"), (' ', "%20"), ('\n', "%0A"), ('=', "%3D")];

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match ESCAPED.iter().find(|(escaped, _)| *escaped == char) {
                Some((_, text)) => f.write_str(text)?,
                None => write!(f, "{char}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Text {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut read = text.to_owned();
        for (char, escaped) in ESCAPED.iter().rev() {
            read = read.replace(escaped, &char.to_string());
        }
        Ok(Self(read))
    }
}

// As JSON, in which it is in plans.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        write!(f, "{}", Text(json))
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let json: Text = text.parse()?;
        serde_json::from_str(&json).map_err(|error| error.to_string())
    }
}

struct Fields<'a>(std::str::SplitAsciiWhitespace<'a>);

impl Fields<'_> {
    fn next<T: FromStr>(&mut self, name: &str) -> Result<T, String> {
        let field = self.0.next().ok_or_else(|| format!("{name} is missing"))?;
        let value = field.split_once('=').filter(|(is, _)| *is == name);
        let (_, value) = value.ok_or_else(|| format!("{field} stands where {name} belongs"))?;
        let read = value.parse();
        read.map_err(|_| format!("{value} is no {name}"))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ms, who, what } = self;
        write!(f, "{ms} {who} {what}")
    }
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = line.split_ascii_whitespace();
        let mut next = |what: &str| words.next().ok_or_else(|| format!("no {what}"));
        let (ms, who, word) = (next("time")?, next("name")?, next("kind")?);
        let mut fields = Fields(words);
        let what = What::parse(word, &mut fields)?;
        match fields.0.next() {
            Some(more) => Err(format!("{more} is too much")),
            None => Ok(Self {
                ms: ms.parse().map_err(|_| format!("{ms} is no time"))?,
                who: who.parse()?,
                what,
            }),
        }
    }
}

/// Where a history is kept, so that it is there whatever becomes of its run.
pub type Kept = Arc<Mutex<Vec<Entry>>>;

/// The history of a run, while it goes on. Clones are one.
#[derive(Clone)]
pub struct History {
    entries: Kept,
    begun: Instant,
}

impl History {
    /// One that begins now, and is kept there.
    #[must_use]
    pub fn begin(kept: Kept) -> Self {
        Self {
            entries: kept,
            begun: Instant::now(),
        }
    }

    /// Something happens now.
    pub fn note(&self, who: &str, what: What) {
        let ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let who = Text::from(who);
        self.locked().push(Entry { ms, who, what });
    }

    /// Milliseconds since it began.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A history as text.
#[must_use]
pub fn text(entries: &[Entry]) -> String {
    entries.iter().map(|entry| format!("{entry}\n")).collect()
}

/// The history that a text is.
///
/// # Errors
///
/// Which line is none, and why.
pub fn read(text: &str) -> Result<Vec<Entry>, String> {
    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty());
    let entries = lines.map(|(at, line)| {
        let entry: Result<Entry, String> = line.parse();
        entry.map_err(|why| format!("line {}: {why}: {line}", at + 1))
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let written = "0 broker starts life=1\n\
            5 broker refuses life=1 why=no%20room%20%3D%20100%25%0Aat%20all\n\
            6 p1 publishes op=1 producer=a topic=t n=7 hash=9\n\
            7 p1 not-published op=1 code=full is_sure=true\n\
            8 c%201 says subscription=s position=3 answer=nack\n\
            9 broker crashed life=1 cause=power\n\
            9 o creates-subscription op=2 subscription=s topic=t start=latest ack_deadline_ms=30000\n\
            10 stage troubled what={\"disk\":{\"errors\":{\"on\":\"sync\",\"path\":\"a%20b\",\"times\":1,\"lasts_ms\":9}}} until_ms=19\n\
            11 stage struck on=sync-folder by=io path=/data/a%20b\n\
            12 o drains\n";
        let entries = read(written).unwrap();
        assert_eq!(text(&entries), written);
        let why = What::Refuses {
            life: 1,
            why: "no room = 100%\nat all".into(),
        };
        assert_eq!((&entries[1].what, &*entries[4].who), (&why, "c 1"));
    }

    #[test]
    fn what_is_no_history_is_told() {
        for (line, expected) in [
            ("0 b", "line 1: no kind: 0 b"),
            ("x b drains", "line 1: x is no time: x b drains"),
            (
                "0 b sings",
                "line 1: sings is nothing that happens: 0 b sings",
            ),
            ("0 b starts", "line 1: life is missing: 0 b starts"),
            (
                "0 b starts live=1",
                "line 1: live=1 stands where life belongs: 0 b starts live=1",
            ),
            (
                "0 b starts life=-1",
                "line 1: -1 is no life: 0 b starts life=-1",
            ),
            (
                "0 b drains life=1",
                "line 1: life=1 is too much: 0 b drains life=1",
            ),
        ] {
            assert_eq!(read(line).unwrap_err(), expected);
        }
    }
}
