//! JSON content patterns with the semantics of Amazon EventBridge rules and SNS filter policies, as a filter plugin and
//! as a library.
//!
//! [`Pattern`] is one pattern and the plain way to evaluate it; [`PatternSet`] holds many and evaluates them together.
//! The README describes the language. Nothing here does I/O.

mod conjunction;
mod error;
mod evaluate;
mod extract;
mod fast_hash;
mod fold;
mod guest;
mod index;
mod matcher;
mod node;
mod number;
mod parse;
mod pattern;

pub use error::PatternError;
pub use index::PatternSet;
pub use pattern::Pattern;
