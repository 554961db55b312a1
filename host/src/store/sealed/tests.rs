//! Tests of what only this room knows.

mod sled_facts;
