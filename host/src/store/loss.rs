//! The loss: committed data that is gone, as an operator is told of it who may have to accept it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::domain::{CommitNumber, Position, Sequence, TopicId};

/// Committed data that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The damaged file or folder.
    pub path: PathBuf,
    /// What is wrong with it, where that is not plain damage to its content.
    pub why: Option<String>,
    /// Where a copy was kept; only when the loss was accepted and there was something to copy.
    pub kept_aside: Option<PathBuf>,
    /// First and last group concerned; the last is unknown when the end of the journal itself is gone.
    pub groups: Option<(CommitNumber, Option<CommitNumber>)>,
    /// First and last position concerned, where known.
    pub positions: Option<(Position, Position)>,
    /// Events concerned, as far as they can be named.
    pub ranges: Vec<LostRange>,
    /// Names of the topics of these events, as far as whoever knows them has said.
    pub topics: BTreeMap<TopicId, String>,
    /// Whether notes (acks, catalog changes) of these groups are gone too.
    pub notes: bool,
}

impl Loss {
    /// What is at `path` is gone, with what was noted in it. Everything else is to be said yet.
    pub(super) fn of(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            why: None,
            kept_aside: None,
            groups: None,
            positions: None,
            ranges: Vec::new(),
            topics: BTreeMap::new(),
            notes: true,
        }
    }

    /// Says what the topics are called whose events are lost.
    pub fn name_topics(&mut self, name: impl Fn(TopicId) -> Option<String>) {
        let named = self.ranges.iter();
        let named = named.filter_map(|range| Some((range.topic, name(range.topic)?)));
        self.topics.extend(named);
    }
}

/// Consecutive events of one topic that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// Their topic.
    pub topic: TopicId,
    /// The first one.
    pub first: Sequence,
    /// The last one.
    pub last: Sequence,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some(why) = &self.why {
            let more = self.groups.is_some() || self.positions.is_some();
            write!(f, " {why}{}", if more { ";" } else { "" })?;
        }
        match self.groups {
            Some((first, Some(last))) => {
                write!(f, " groups {first} to {last} ({})", count(first.0, last.0))?;
            }
            Some((first, None)) => write!(f, " groups from {first} on (nobody knows how many)")?,
            None => {}
        }
        match self.positions {
            // Not every position is that of an event which was still there.
            Some((first, last)) => {
                let events = count(first.0, last.0);
                write!(f, " positions {first} to {last} (at most {events} events)")?;
            }
            None if self.groups.is_some() && self.ranges.is_empty() => {
                f.write_str(" with a number of events that nobody knows")?;
            }
            None => {}
        }
        for range in self.ranges.iter().take(8) {
            let LostRange { topic, first, last } = range;
            match self.topics.get(topic) {
                Some(name) => write!(f, ", topic `{name}`")?,
                None => write!(f, ", topic number {topic}, whose name is not known,")?,
            }
            let events = count(first.0, last.0);
            write!(f, " sequences {first} to {last} ({events} events)")?;
        }
        if self.ranges.len() > 8 {
            write!(f, " and {} more ranges", self.ranges.len() - 8)?;
        }
        if self.notes && self.groups.is_some() {
            f.write_str(", with the acks and changes committed there")?;
        }
        if let Some(kept) = &self.kept_aside {
            write!(f, " (kept as {})", kept.display())?;
        }
        Ok(())
    }
}

fn count(first: u64, last: u64) -> u64 {
    last.saturating_sub(first).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_with_names_and_counts_or_that_nobody_knows_them() {
        let path = Path::new("journal/7.log");
        let range = |topic, first, last| LostRange {
            topic: TopicId(topic),
            first: Sequence(first),
            last: Sequence(last),
        };
        let mut loss = Loss {
            groups: Some((CommitNumber(7), Some(CommitNumber(9)))),
            positions: Some((Position(20), Position(24))),
            ranges: vec![range(4, 11, 13), range(5, 1, 2)],
            ..Loss::of(path)
        };
        loss.name_topics(|topic| (topic == TopicId(4)).then(|| "orders.new".to_owned()));
        assert_eq!(
            loss.to_string(),
            "journal/7.log: groups 7 to 9 (3) positions 20 to 24 (at most 5 events), topic `orders.new` sequences 11 to 13 \
             (3 events), topic number 5, whose name is not known, sequences 1 to 2 (2 events), with the acks and changes \
             committed there"
        );
        let open = Loss {
            groups: Some((CommitNumber(7), None)),
            ..Loss::of(path)
        };
        assert_eq!(
            open.to_string(),
            "journal/7.log: groups from 7 on (nobody knows how many) with a number of events that nobody knows, with the acks \
             and changes committed there"
        );
        let state = Loss {
            why: Some("missing".to_owned()),
            ..Loss::of(Path::new("state"))
        };
        assert_eq!(state.to_string(), "state: missing");
    }
}
