//! Filters: the two traits an author chooses from, and the loop of rules × events that serves the simpler one.

use crate::{Event, Match, Rule, RuleTable, Wants};

/// One rule of a filter: what one subscription configured.
///
/// The broker evaluates events again after a restart, and in several instances when there are many, so a filter must be
/// pure: the same rule and event give the same answer, always.
pub trait Filter: Sized + 'static {
    /// Makes a rule from a subscription's configuration.
    ///
    /// # Errors
    /// What is wrong and where; the subscription's author reads it.
    fn configure(config: &str) -> Result<Self, String>;

    /// What the rule needs to see of an event. Less is faster. The default is everything: all headers and the
    /// payload.
    fn wants(&self) -> Wants {
        Wants::everything()
    }

    /// Whether the subscription gets this event.
    fn matches(&self, event: &Event) -> bool;
}

/// All rules of an instance at once, for a filter that shares work between them: one parse per event, or an index over
/// the rules. [`RuleTable`] gives out rule numbers.
pub trait FilterSet: Default + 'static {
    /// Makes a rule from a subscription's configuration, and says what it needs to see of an event.
    ///
    /// # Errors
    /// What is wrong and where; the subscription's author reads it.
    fn configure(&mut self, config: &str) -> Result<(Rule, Wants), String>;

    /// Forgets a rule. A number that is not in use is nothing.
    fn release(&mut self, rule: Rule);

    /// Adds to `matches` which of `rules` want which of `events`, each pair once, in any order. A rule that is not among
    /// `rules` must not be named, even if it is configured.
    fn evaluate(&mut self, events: &[Event], rules: &[Rule], matches: &mut Vec<Match>);
}

/// The [`FilterSet`] of a [`Filter`]: asks every rule about every event.
#[derive(Debug)]
pub struct EachRule<F>(RuleTable<F>);

impl<F> Default for EachRule<F> {
    fn default() -> Self {
        Self(RuleTable::default())
    }
}

impl<F: Filter> FilterSet for EachRule<F> {
    fn configure(&mut self, config: &str) -> Result<(Rule, Wants), String> {
        let filter = F::configure(config)?;
        let wants = filter.wants();
        Ok((self.0.insert(filter)?, wants))
    }

    fn release(&mut self, rule: Rule) {
        self.0.remove(rule);
    }

    fn evaluate(&mut self, events: &[Event], rules: &[Rule], matches: &mut Vec<Match>) {
        for (index, event) in (0..).zip(events) {
            for &rule in rules {
                if self.0.get(rule).is_some_and(|filter| filter.matches(event)) {
                    matches.push(Match { event: index, rule });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HeaderSet;

    struct Longer(usize);

    impl Filter for Longer {
        fn configure(config: &str) -> Result<Self, String> {
            config
                .trim()
                .parse()
                .map(Longer)
                .map_err(|error| format!("want a number of bytes, got {config:?}: {error}"))
        }

        fn matches(&self, event: &Event) -> bool {
            event.payload.len() > self.0
        }
    }

    fn event(payload: &str) -> Event {
        Event {
            topic: "t".into(),
            sequence: 0,
            time: 0,
            key: None,
            content_type: None,
            headers: Vec::new(),
            payload: payload.into(),
        }
    }

    #[test]
    fn every_rule_sees_every_event() {
        let mut set = EachRule::<Longer>::default();
        let (one, wants) = set.configure("1").unwrap();
        assert_eq!(wants.headers, HeaderSet::All);
        let (three, _) = set.configure(" 3 ").unwrap();
        let events = [event("a"), event("ab"), event("abcd")];

        let mut matches = Vec::new();
        set.evaluate(&events, &[one, three], &mut matches);
        let pairs = |matches: &[Match]| -> Vec<(u32, Rule)> {
            matches.iter().map(|m| (m.event, m.rule)).collect()
        };
        assert_eq!(pairs(&matches), [(1, one), (2, one), (2, three)]);

        matches.clear();
        set.evaluate(&events, &[three], &mut matches);
        assert_eq!(pairs(&matches), [(2, three)], "only the rules asked for");

        matches.clear();
        set.release(three);
        set.evaluate(&events, &[one, three, 99], &mut matches);
        assert_eq!(pairs(&matches), [(1, one), (2, one)]);
    }

    #[test]
    fn a_bad_configuration_is_refused_with_the_authors_words() {
        let error = EachRule::<Longer>::default().configure("x").unwrap_err();
        assert!(error.starts_with("want a number of bytes"), "{error}");
    }
}
