//! How filters are drawn: mostly sound ones, and some that fail, alone or only in company.

use super::Draw;
use crate::plan::filter::{Filter, OnFailure, Plugin};

impl Draw {
    pub(super) fn plugins(self) -> Vec<Plugin> {
        if !self.has("filters") {
            return Vec::new();
        }
        let plugins = 0..1 + self.number("plugins", 0, 2);
        let plugins = plugins.map(|of| Plugin {
            name: format!("f{of}"),
            compiles_ms: self.among("compiles", of, &[(0, 2), (40, 1), (900, 1)]),
        });
        plugins.collect()
    }

    /// The filters of what has this number: none, one or two.
    pub(super) fn chain(self, of: u64, plugins: &[Plugin]) -> Vec<Filter> {
        let many = match plugins.is_empty() {
            true => 0,
            false => self.among("chain", of, &[(0, 2), (1, 3), (2, 2)]),
        };
        let filters = (0..many).map(|at| self.filter(of * 4 + at, plugins));
        filters.collect()
    }

    fn filter(self, of: u64, plugins: &[Plugin]) -> Filter {
        let plugin = self.number("plugin", of, plugins.len() as u64);
        let plugin = &plugins[usize::try_from(plugin).unwrap_or_default()];
        let mut rule = match self.number("takes", of, 8) {
            0 => "all".to_owned(),
            1 => format!("topic t.{}", self.number("of topic", of, 2)),
            2 => "none".to_owned(),
            _ => {
                let rest = self.number("rest", of, 2);
                format!("mod {} {rest}", 2 + self.number("divided", of, 3))
            }
        };
        if self.has("plugin faults") {
            for at in 0..self.among("plugin faults", of, &[(0, 2), (1, 2), (2, 1)]) {
                rule.push_str(&self.fault(of * 4 + at));
            }
        }
        Filter {
            plugin: plugin.name.clone(),
            on_failure: self.among(
                "on failure",
                of,
                &[
                    (OnFailure::DeadLetter, 3),
                    (OnFailure::Drop, 2),
                    (OnFailure::Pass, 2),
                    (OnFailure::Pause, 1),
                ],
            ),
            rule,
        }
    }

    fn fault(self, of: u64) -> String {
        let first = 1 + self.number("fails from", of, 150);
        let many = self.among("fails on", of, &[(0, 3), (3, 2), (40, 1)]);
        let fault = match self.number("plugin fault", of, 7) {
            0 | 1 => "trap",
            2 => "once-trap",
            3 => "together x",
            4 => "slow 20",
            5 => "slow 80",
            _ => "nonsense",
        };
        // What takes too long is not tried often.
        let many = match fault {
            "slow 80" => many.min(3),
            _ => many,
        };
        format!(" {fault} on {first}..{}", first + many)
    }
}
