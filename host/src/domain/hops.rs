//! The hop count: how often the broker itself appended an event again, as a route's output or a dead letter. It
//! travels in a header and ends circles of routes; circles of dead letters are ended by their marks. A publisher that sets
//! the header can only shorten the way of its own event.

use super::{Event, EventRef, Header};

/// Header with the count, in decimal.
pub(crate) const HEADER: &str = "tidegate-hops";
/// An event with this many hops goes no further.
pub(crate) const MAX: u32 = 16;

/// The event's hop count; what is not a number counts as the limit.
pub(crate) fn of(event: &EventRef<'_>) -> u32 {
    match event.headers().find(|(name, _)| *name == HEADER) {
        Some((_, value)) => value.parse().unwrap_or(MAX),
        None => 0,
    }
}

/// Sets the count.
pub(crate) fn set(event: &mut Event, hops: u32) {
    event.headers.retain(|header| header.name != HEADER);
    event.headers.push(Header {
        name: HEADER.to_owned(),
        value: hops.to_string(),
    });
}
