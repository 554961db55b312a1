//! A filter that imports what no plugin may: its upload must be refused, and the refusal must name
//! `example:forbidden/secrets`.

wit_bindgen::generate!({
    path: ["../../../wit", "wit"],
    world: "example:forbidden/nosy-filter",
    generate_all,
});

use exports::tidegate::plugin::filtering::{Event, Guest, Match, Rule, Wants};
use tidegate::plugin::types::HeaderSet;

struct Nosy;

impl Guest for Nosy {
    fn configure(config: String) -> Result<(Rule, Wants), String> {
        if config == example::forbidden::secrets::read("password") {
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

export!(Nosy);
