//! The demo's live display: bars on a terminal, a line every other second elsewhere. Writes to stderr only, so
//! that the report on stdout can be piped.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::interests::Interest;
use super::ledger::Ledger;

/// How often a line is written when there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Shows how the run goes on.
pub(super) enum Progress {
    /// On a terminal.
    Bars {
        /// Owns the lines of the bars.
        multi: MultiProgress,
        /// Events answered, of all events.
        published: ProgressBar,
        /// Per interest: events that came, of those that should so far.
        interests: Vec<ProgressBar>,
    },
    /// Anywhere else.
    Lines {
        /// When the last line was written.
        last: Instant,
    },
}

impl Progress {
    /// Bars if stderr is a terminal, else lines.
    pub(super) fn new(events: u64, interests: &[Interest]) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines {
                last: Instant::now(),
            };
        }
        let multi = MultiProgress::new();
        let style = ProgressStyle::with_template("{prefix:>14} {wide_bar} {pos:>7}/{len:7} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = |name: &'static str, length| {
            let bar = multi.add(ProgressBar::new(length));
            bar.set_style(style.clone());
            bar.set_prefix(name);
            bar
        };
        let published = bar("published", events);
        let interests = interests
            .iter()
            .map(|interest| bar(interest.name, 0))
            .collect();
        Self::Bars {
            multi,
            published,
            interests,
        }
    }

    /// Shows the ledger's state.
    pub(super) fn update(&mut self, ledger: &Ledger, names: &[Interest]) {
        match self {
            Self::Bars {
                published,
                interests,
                ..
            } => {
                published.set_position(ledger.acked_count());
                for (index, bar) in interests.iter().enumerate() {
                    let (matched, delivered) = ledger.progress(index);
                    bar.set_length(matched);
                    bar.set_position(delivered);
                }
            }
            Self::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                let parts: Vec<String> = names
                    .iter()
                    .enumerate()
                    .map(|(index, interest)| {
                        let (matched, delivered) = ledger.progress(index);
                        format!("{} {delivered}/{matched}", interest.name)
                    })
                    .collect();
                eprintln!("published {} | {}", ledger.acked_count(), parts.join(" | "));
            }
            Self::Lines { .. } => {}
        }
    }

    /// Writes a line about something that happened.
    pub(super) fn note(&self, text: &str) {
        match self {
            // Without room for the line the bars still tell the story.
            Self::Bars { multi, .. } => multi.println(text).unwrap_or_default(),
            Self::Lines { .. } => eprintln!("{text}"),
        }
    }

    /// Ends the display; the bars stay as they are.
    pub(super) fn finish(&self) {
        if let Self::Bars {
            published,
            interests,
            ..
        } = self
        {
            interests
                .iter()
                .chain([published])
                .for_each(ProgressBar::abandon);
        }
    }
}
