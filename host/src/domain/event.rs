//! What a publisher says. The stored form of an event is its wire form, so the host's view of an event is the
//! wire crate's. This is the one place beside `net` that knows that crate, and it knows this one message of it and its limits.

/// Whether a header is for what the broker says.
pub use tidegate_wire::event::is_reserved_header;
/// A stored event, read in place without copying.
pub use tidegate_wire::event::{EventRef, EventRefError};
/// How large an event is at most unless the configuration says otherwise, and what the broker's headers may add to the largest.
pub use tidegate_wire::limits::{ADDED_BYTES_MAX, EVENT_BYTES_MAX, LETTER_BYTES_MAX};
/// An event to be encoded: one the broker makes itself (a dead letter, a transform's output).
pub use tidegate_wire::pb::Event;
/// One header of an [`Event`].
pub use tidegate_wire::pb::Header;
