//! What makes a plugin of the library: rule numbers, what rules want to see, and the loop over a batch.

use tidegate_plugin::{Event, FilterSet, Match, Rule, RuleTable, Wants};

use crate::{Pattern, PatternSet};

/// All rules of an instance.
#[derive(Debug, Default)]
pub(crate) struct EventPatterns {
    /// Gives out the numbers; the patterns are in the set.
    numbers: RuleTable<()>,
    set: PatternSet,
}

impl FilterSet for EventPatterns {
    fn configure(&mut self, config: &str) -> Result<(Rule, Wants), String> {
        let pattern = Pattern::parse(config).map_err(|error| error.to_string())?;
        let mut wants = Wants::nothing();
        wants.payload = pattern.wants_payload();
        let headers = pattern.header_names();
        if !headers.is_empty() {
            wants = wants.and_headers(headers);
        }
        let rule = self.numbers.insert(())?;
        self.set.insert(rule, pattern);
        Ok((rule, wants))
    }

    fn release(&mut self, rule: Rule) {
        if self.numbers.remove(rule).is_some() {
            self.set.remove(rule);
        }
    }

    fn evaluate(&mut self, events: &[Event], rules: &[Rule], matches: &mut Vec<Match>) {
        let mut is_asked = Vec::new();
        for &rule in rules {
            // A number that was never given out could ask for gigabytes here.
            if self.numbers.get(rule).is_none() {
                continue;
            }
            let place = rule as usize;
            if is_asked.len() <= place {
                is_asked.resize(place + 1, false);
            }
            is_asked[place] = true;
        }
        let mut headers = Vec::new();
        let mut matched = Vec::new();
        for (index, event) in (0..).zip(events) {
            headers.clear();
            headers.extend(
                event
                    .headers
                    .iter()
                    .map(|header| (header.name.as_str(), header.value.as_str())),
            );
            self.set.evaluate(&event.payload, &headers, &mut matched);
            matches.extend(
                matched
                    .drain(..)
                    .filter(|rule| is_asked.get(*rule as usize).is_some_and(|asked| *asked))
                    .map(|rule| Match { event: index, rule }),
            );
        }
    }
}

tidegate_plugin::export_filter_set!(EventPatterns);

#[cfg(test)]
mod tests {
    use tidegate_plugin::{Header, HeaderSet};

    use super::*;

    fn event(payload: &str, region: &str) -> Event {
        Event {
            topic: "orders".into(),
            sequence: 0,
            time: 0,
            key: None,
            content_type: None,
            headers: vec![Header {
                name: "region".into(),
                value: region.into(),
            }],
            payload: payload.into(),
        }
    }

    #[test]
    fn one_call_answers_for_all_rules_that_were_asked() {
        let mut plugin = EventPatterns::default();
        let (large, wants) = plugin
            .configure(r#"{"total": [{"numeric": [">", 100]}]}"#)
            .unwrap();
        assert_eq!((wants.payload, wants.headers), (true, HeaderSet::None));
        let (eu, wants) = plugin
            .configure(r#"{"$headers": {"region": ["eu"]}}"#)
            .unwrap();
        assert!(!wants.payload);
        assert_eq!(wants.headers, HeaderSet::Named(vec!["region".into()]));

        let events = [event(r#"{"total": 200}"#, "us"), event("not json", "eu")];
        let mut evaluate = |rules: &[Rule]| {
            let mut matches = Vec::new();
            plugin.evaluate(&events, rules, &mut matches);
            let mut pairs: Vec<_> = matches.iter().map(|m| (m.event, m.rule)).collect();
            pairs.sort_unstable();
            pairs
        };
        assert_eq!(evaluate(&[large, eu]), [(0, large), (1, eu)]);
        assert_eq!(evaluate(&[eu]), [(1, eu)]);
        assert_eq!(evaluate(&[u32::MAX]), []);

        plugin.release(eu);
        plugin.release(eu);
        let mut matches = Vec::new();
        plugin.evaluate(&events, &[large, eu], &mut matches);
        assert_eq!(matches.len(), 1);
    }

    #[test]
    fn a_bad_pattern_is_refused_with_its_path() {
        let error = EventPatterns::default()
            .configure(r#"{"a": {"b": [{"prefx": "x"}]}}"#)
            .unwrap_err();
        assert!(
            error.starts_with("at a.b[0].prefx (line 1, column 15): unknown operator"),
            "{error}"
        );
    }
}
