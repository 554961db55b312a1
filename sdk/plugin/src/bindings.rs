//! What wit-bindgen generates from `wit/`: one module per world, sharing the types. Nothing below is written by hand
//! (`tests/it/generated.rs` keeps it equal to what `wit/` says), and authors meet it only through the SDK's own names.

/// The `filter` world.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    reason = "generated code"
)]
#[rustfmt::skip]
pub mod filter;

/// The `transform` world.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    reason = "generated code"
)]
#[rustfmt::skip]
pub mod transform;
