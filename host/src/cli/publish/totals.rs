//! What became of all that was published, for people and for scripts.

use serde::Serialize;
use tidegate_client::Published;

/// Of one topic.
#[derive(Debug, Default, Serialize)]
pub(super) struct Totals {
    pub(super) topic: String,
    pub(super) events: u64,
    pub(super) first_sequence: u64,
    pub(super) last_sequence: u64,
    /// Committed before; appended once all the same.
    pub(super) duplicates: u64,
    /// No subscription and no retention keeps them.
    pub(super) unkept: u64,
}

impl Totals {
    /// Another was published.
    pub(super) fn add(&mut self, published: Published) {
        if self.events == 0 {
            self.first_sequence = published.sequence;
        }
        self.events += 1;
        self.last_sequence = published.sequence;
        self.duplicates += u64::from(published.duplicate);
        self.unkept += u64::from(published.unkept);
    }

    /// For people.
    pub(super) fn told(&self) -> String {
        let Self {
            topic,
            events,
            first_sequence,
            last_sequence,
            ..
        } = self;
        match events {
            0 => "nothing to publish".to_owned(),
            1 => format!("{topic} #{last_sequence}"),
            _ => format!(
                "{events} events published to {topic}, #{first_sequence} to #{last_sequence}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_the_sequences() {
        let mut totals = Totals {
            topic: "a".to_owned(),
            ..Totals::default()
        };
        let published = |sequence| Published {
            sequence,
            duplicate: false,
            unkept: false,
        };
        assert_eq!(totals.told(), "nothing to publish");
        totals.add(published(7));
        assert_eq!(totals.told(), "a #7");
        totals.add(published(8));
        assert_eq!(totals.told(), "2 events published to a, #7 to #8");
    }
}
