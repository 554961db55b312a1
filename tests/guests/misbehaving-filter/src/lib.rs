//! A filter whose configuration says how it misbehaves: `<behaviour> [<text>]`. It misbehaves on events whose payload
//! contains the text (on all of them without one) and matches every other event. The README lists the behaviours.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use tidegate_plugin::{Event, FilterSet, Match, Rule, RuleTable, Wants};

/// Rounds of [`burn`] that take about 100 µs at 3 GHz.
const BURN_ROUNDS: u64 = 75_000;

#[derive(Clone, Copy)]
enum Behaviour {
    Contains,
    Loop,
    Allocate,
    Trap,
    NonsenseRule,
    NonsenseEvent,
    Twice,
    Burn,
    Flood,
}

struct Misbehaving {
    behaviour: Behaviour,
    text: String,
}

#[derive(Default)]
struct Rules(RuleTable<Misbehaving>);

impl FilterSet for Rules {
    fn configure(&mut self, config: &str) -> Result<(Rule, Wants), String> {
        let (name, text) = config.trim().split_once(' ').unwrap_or((config.trim(), ""));
        let behaviour = match name {
            "contains" => Behaviour::Contains,
            "loop" => Behaviour::Loop,
            "allocate" => Behaviour::Allocate,
            "trap" => Behaviour::Trap,
            "nonsense-rule" => Behaviour::NonsenseRule,
            "nonsense-event" => Behaviour::NonsenseEvent,
            "twice" => Behaviour::Twice,
            "burn" => Behaviour::Burn,
            "flood" => Behaviour::Flood,
            "configure-trap" => panic!("told to trap in configure"),
            "configure-loop" => spin(),
            "curious" => {
                IS_CURIOUS.store(true, Ordering::Relaxed);
                Behaviour::Contains
            }
            _ => return Err(format!("unknown behaviour {name:?}")),
        };
        let text = text.to_string();
        let rule = self.0.insert(Misbehaving { behaviour, text })?;
        Ok((rule, Wants::payload()))
    }

    fn release(&mut self, rule: Rule) {
        self.0.remove(rule);
    }

    fn evaluate(&mut self, events: &[Event], rules: &[Rule], matches: &mut Vec<Match>) {
        for (index, event) in (0..).zip(events) {
            for &rule in rules {
                if let Some(misbehaving) = self.0.get(rule) {
                    misbehaving.evaluate(event, Match { event: index, rule }, matches);
                }
            }
        }
    }
}

impl Misbehaving {
    fn evaluate(&self, event: &Event, honest: Match, matches: &mut Vec<Match>) {
        let is_meant = contains(&event.payload, self.text.as_bytes());
        if let Behaviour::Contains = self.behaviour {
            if is_meant {
                matches.push(honest);
            }
            return;
        }
        if !is_meant {
            matches.push(honest);
            return;
        }
        let with = |event, rule| Match { event, rule };
        match self.behaviour {
            Behaviour::Contains => {}
            Behaviour::Loop => spin(),
            Behaviour::Allocate => allocate(),
            Behaviour::Trap => panic!("told to trap on this event"),
            Behaviour::NonsenseRule => matches.push(with(honest.event, u32::MAX)),
            Behaviour::NonsenseEvent => matches.push(with(u32::MAX, honest.rule)),
            Behaviour::Twice => matches.extend([honest, honest]),
            Behaviour::Burn => {
                burn();
                matches.push(honest);
            }
            Behaviour::Flood => matches.extend(std::iter::repeat_n(honest, 1 << 20)),
        }
    }
}

/// Memory as usual; but once it is curious, clocks are looked at whenever there is to be more of it, as runtimes with a collector do.
struct Memory;

#[global_allocator]
static MEMORY: Memory = Memory;

static IS_CURIOUS: AtomicBool = AtomicBool::new(false);

// SAFETY: all of it is the system's allocator; what comes before does not allocate.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        look_at_clocks();
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        look_at_clocks();
        unsafe { System.realloc(memory, layout, size) }
    }
}

fn look_at_clocks() {
    if IS_CURIOUS.load(Ordering::Relaxed) {
        let (begin, wall) = (Instant::now(), SystemTime::now());
        if Instant::now() <= begin || wall <= SystemTime::UNIX_EPOCH {
            std::process::abort();
        }
    }
}

fn contains(payload: &[u8], text: &[u8]) -> bool {
    text.is_empty() || payload.windows(text.len()).any(|window| window == text)
}

fn spin() -> ! {
    loop {
        black_box(0);
    }
}

fn allocate() {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(vec![1u8; 1 << 20]));
    }
}

fn burn() {
    let mut value = 1u64;
    for round in 0..BURN_ROUNDS {
        value = black_box(
            value
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(round),
        );
    }
    black_box(value);
}

tidegate_plugin::export_filter_set!(Rules);
