//! The pattern language through its public interface: a table of cases per operator, and agreement of the set with the
//! plain evaluator on random patterns and events.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

mod agreement;
mod conformance;
mod refusals;
