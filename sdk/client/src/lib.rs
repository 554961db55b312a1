//! Async Rust client for Tidegate over QUIC.
