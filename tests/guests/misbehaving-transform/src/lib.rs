//! A transform whose configuration says what it does: `<behaviour> [<text>]`. It does so to events whose payload contains
//! the text (to all of them without one) and keeps every other event. The README lists the behaviours. It implements the
//! generated trait itself, since the SDK would not let it answer too few.

use std::cell::RefCell;
use std::hint::black_box;

use tidegate_plugin::bindings::transform as bindings;
use tidegate_plugin::bindings::transform::exports::tidegate::plugin::transforming::Guest;
use tidegate_plugin::{Emitted, Event, Failure, Outcome, Output, Rule, RuleTable, Wants};

struct Misbehaving {
    behaviour: String,
    text: String,
}

thread_local! {
    static RULES: RefCell<RuleTable<Misbehaving>> = RefCell::default();
}

struct Plugin;

impl Guest for Plugin {
    fn configure(config: String) -> Result<(Rule, Wants), String> {
        let (name, text) = config.trim().split_once(' ').unwrap_or((config.trim(), ""));
        let known = [
            "keep",
            "drop",
            "upper",
            "emit",
            "emit-none",
            "flood",
            "large",
            "reject",
            "retry",
            "trap",
            "loop",
            "allocate",
            "too-few",
            "too-many",
        ];
        if !known.contains(&name) {
            return Err(format!("unknown behaviour {name:?}"));
        }
        let misbehaving = Misbehaving {
            behaviour: name.to_string(),
            text: text.to_string(),
        };
        let rule = RULES.with_borrow_mut(|rules| rules.insert(misbehaving))?;
        Ok((rule, Wants::everything()))
    }

    fn release(rule: Rule) {
        RULES.with_borrow_mut(|rules| rules.remove(rule));
    }

    fn apply(rule: Rule, events: Vec<Event>) -> Vec<Result<Outcome, Failure>> {
        RULES.with_borrow(|rules| {
            let Some(misbehaving) = rules.get(rule) else {
                panic!("rule {rule} was never configured");
            };
            events
                .iter()
                .flat_map(|event| misbehaving.apply(event))
                .collect()
        })
    }
}

impl Misbehaving {
    /// One answer, unless told to give fewer or more.
    fn apply(&self, event: &Event) -> Vec<Result<Outcome, Failure>> {
        if !contains(&event.payload, self.text.as_bytes()) {
            return vec![Ok(Outcome::Keep)];
        }
        let same = || Output::like(event, event.payload.clone());
        let answer = match self.behaviour.as_str() {
            "drop" => Ok(Outcome::Drop),
            "upper" => Ok(Outcome::Replace(Output::like(
                event,
                event.payload.to_ascii_uppercase(),
            ))),
            "emit" => Ok(Outcome::Emit(vec![
                Emitted::to("one", same()),
                Emitted::to("two", same()),
                same().into(),
            ])),
            "emit-none" => Ok(Outcome::Emit(Vec::new())),
            "flood" => Ok(Outcome::Emit((0..100_000).map(|_| same().into()).collect())),
            "large" => Ok(Outcome::Replace(Output::like(event, vec![b'x'; 32 << 20]))),
            "reject" => Err(Failure::Reject("told to reject".into())),
            "retry" => Err(Failure::Retry("told to retry".into())),
            "trap" => panic!("told to trap on this event"),
            "loop" => loop {
                black_box(0);
            },
            "allocate" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(black_box(vec![1u8; 1 << 20]));
                }
            }
            "too-few" => return Vec::new(),
            "too-many" => return vec![Ok(Outcome::Keep), Ok(Outcome::Keep)],
            _ => Ok(Outcome::Keep),
        };
        vec![answer]
    }
}

fn contains(payload: &[u8], text: &[u8]) -> bool {
    text.is_empty() || payload.windows(text.len()).any(|window| window == text)
}

bindings::export_transform_world!(Plugin with_types_in bindings);
