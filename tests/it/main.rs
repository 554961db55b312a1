//! Tests of the whole broker, as one binary: each starts brokers of its own as processes and looks at them only
//! from outside. No test depends on how long something takes.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

mod support;

mod architecture;
mod command_line;
mod compact;
mod compiling;
mod contexts;
mod crash;
mod dead_letters;
mod documents;
mod durability;
mod end_to_end;
mod filters;
mod generated;
mod late_answers;
mod limits;
mod logging;
mod lost_connections;
mod managing;
mod measuring;
mod metrics;
mod overtaking;
mod plugins;
mod promises;
mod reload;
mod rights;
mod routes;
mod security;
mod storms;
mod subscription_changes;
mod transforms;
mod wire_abuse;
