//! From stored events to what a guest is given: parsed in place, reduced to what the rules want, cut into calls of
//! bounded size. Borrows everything; knows nothing of instances.

use std::collections::BTreeSet;
use std::ops::Range;

use super::abi;
use super::evaluation::InputEvent;
use crate::domain::EventRef;

/// Pairs of event and rule in one call. Bounds how long a call may run, how much it can answer, and what is
/// repeated when it fails.
pub(super) const CALL_PAIRS_MAX: usize = 32_768;
/// Events in one call.
pub(super) const CALL_EVENTS_MAX: usize = 1024;
/// Encoded bytes in one call; a single larger event still goes.
pub(super) const CALL_BYTES_MAX: usize = 4 << 20;

/// An event of the batch, parsed.
#[derive(Clone)]
pub(super) struct Parsed<'a> {
    /// Index in the caller's batch.
    pub(super) index: u32,
    input: &'a InputEvent,
    event: EventRef<'a>,
}

impl Parsed<'_> {
    /// Which event it is, for people.
    pub(super) fn name(&self) -> String {
        format!("event #{} of {}", self.input.sequence.0, self.input.topic)
    }
}

/// Parses these events of a batch. What cannot be parsed comes back with the reason.
pub(super) fn parse(
    events: &[InputEvent],
    range: Range<usize>,
) -> (Vec<Parsed<'_>>, Vec<(u32, String)>) {
    let mut parsed = Vec::with_capacity(range.len());
    let mut broken = Vec::new();
    for (index, input) in (0..).zip(events).take(range.end).skip(range.start) {
        match EventRef::parse(&input.bytes) {
            Ok(event) => parsed.push(Parsed {
                index,
                input,
                event,
            }),
            Err(error) => broken.push((index, format!("the stored event cannot be read: {error}"))),
        }
    }
    (parsed, broken)
}

/// How many of a batch's events the next call takes; at least one, if there is one.
pub(super) fn next_call(events: &[Parsed<'_>], rules: usize) -> usize {
    let events_max = (CALL_PAIRS_MAX / rules.max(1)).clamp(1, CALL_EVENTS_MAX);
    let mut bytes = 0;
    let fits = |(at, event): &(usize, &Parsed<'_>)| {
        bytes += event.input.bytes.len();
        *at == 0 || (*at < events_max && bytes <= CALL_BYTES_MAX)
    };
    events.iter().enumerate().take_while(fits).count()
}

/// Cuts a batch into the ranges that single calls take.
pub(super) fn calls(events: &[Parsed<'_>], rules: usize) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    while start < events.len() {
        let end = start + next_call(&events[start..], rules);
        ranges.push(start..end);
        start = end;
    }
    ranges
}

/// What a set of rules needs to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    headers: Headers,
    payload: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Headers {
    All,
    Named(BTreeSet<String>),
}

impl Default for Headers {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl Wanted {
    /// Adds what one more rule wants.
    pub(super) fn add(&mut self, wants: &abi::Wants) {
        self.payload |= wants.payload;
        match (&mut self.headers, &wants.headers) {
            (_, abi::HeaderSet::None) | (Headers::All, _) => {}
            (headers, abi::HeaderSet::All) => *headers = Headers::All,
            (Headers::Named(names), abi::HeaderSet::Named(more)) => {
                names.extend(more.iter().cloned())
            }
        }
    }

    fn takes(&self, name: &str) -> bool {
        match &self.headers {
            Headers::All => true,
            Headers::Named(names) => names.contains(name),
        }
    }

    fn no_headers(&self) -> bool {
        matches!(&self.headers, Headers::Named(names) if names.is_empty())
    }
}

/// The headers of a batch that are wanted, in one list, and where each event's begin and end.
pub(super) struct HeaderTable<'a> {
    headers: Vec<abi::Header<'a>>,
    ends: Vec<usize>,
}

impl<'a> HeaderTable<'a> {
    pub(super) fn collect(events: &[Parsed<'a>], wanted: &Wanted) -> Self {
        let mut headers = Vec::new();
        let mut ends = Vec::new();
        if !wanted.no_headers() {
            for event in events {
                let of_event = event.event.headers().filter(|(name, _)| wanted.takes(name));
                headers.extend(of_event.map(|(name, value)| abi::Header { name, value }));
                ends.push(headers.len());
            }
        }
        Self { headers, ends }
    }

    fn of(&self, ordinal: usize) -> &[abi::Header<'a>] {
        let start = ordinal
            .checked_sub(1)
            .and_then(|before| self.ends.get(before))
            .copied();
        let end = self.ends.get(ordinal).copied();
        self.headers
            .get(start.unwrap_or(0)..end.unwrap_or(0))
            .unwrap_or(&[])
    }

    /// The events as a guest takes them.
    pub(super) fn lower<'t>(
        &'t self,
        events: &[Parsed<'t>],
        wanted: &Wanted,
    ) -> Vec<abi::Event<'t>> {
        let lower = |(ordinal, event): (usize, &Parsed<'t>)| {
            let content_type = event.event.content_type();
            abi::Event {
                topic: &event.input.topic,
                sequence: event.input.sequence.0,
                time: event.input.time.0,
                key: event.event.key(),
                content_type: (!content_type.is_empty()).then_some(content_type),
                headers: self.of(ordinal),
                payload: if wanted.payload {
                    event.event.payload()
                } else {
                    &[]
                },
            }
        };
        events.iter().enumerate().map(lower).collect()
    }
}
