//! The wire protocol of Tidegate: schema, generated types, framing, limits and error codes. No I/O.

/// The messages of `proto/tidegate.proto`.
#[allow(missing_docs, clippy::all, reason = "generated; the schema is the documentation")]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/tidegate.v1.rs"));
}

pub mod event {
    //! Reading an encoded event in place.

    /// An encoded event, read without copying.
    pub struct EventRef<'a>(pub &'a [u8]);

    /// Why bytes are not an event.
    #[derive(Debug, thiserror::Error)]
    #[error("malformed event")]
    pub struct EventRefError;
}
