//! A filter that imports what no plugin may: its upload must be refused, and the refusal must name
//! `example:forbidden/secrets`.

/// What wit-bindgen makes of `wit/`; `tests/it/generated.rs` keeps it so.
#[rustfmt::skip]
mod bindings;

use bindings::example::forbidden::secrets;
use bindings::exports::tidegate::plugin::filtering::{Event, Guest, Match, Rule, Wants};
use bindings::tidegate::plugin::types::HeaderSet;

struct Nosy;

impl Guest for Nosy {
    fn configure(config: String) -> Result<(Rule, Wants), String> {
        if config == secrets::read("password") {
            return Err("that is the password".into());
        }
        let wants = Wants {
            headers: HeaderSet::None,
            payload: false,
        };
        Ok((0, wants))
    }

    fn release(_: Rule) {}

    fn evaluate(_: Vec<Event>, _: Vec<Rule>) -> Vec<Match> {
        Vec::new()
    }
}

bindings::export!(Nosy with_types_in bindings);
