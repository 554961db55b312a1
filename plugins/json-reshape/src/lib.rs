//! Transform plugin: reshape JSON payloads.
