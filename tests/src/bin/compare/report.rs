//! What the comparison says: one Markdown table per measurement, with medians, spreads and the ratio to one row of the
//! same runs, and the same as JSON with every sample.

use std::fmt::Write;

use serde_json::{Value, json};

/// Pairs of runs that a verdict takes.
pub(crate) const PAIRS_MIN: usize = 7;
/// A build whose median ratio to the one before it is at least this is not slower: the noise of a shared machine.
const RATIO_MIN: f64 = 0.97;

/// What a figure is in, which decides how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A count, or a rate of events.
    Count,
    /// Microseconds of processor time per event, with two decimals.
    FineMicroseconds,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Bytes, written as MiB.
    Mebibytes,
    /// A part of something else.
    Fraction,
}

/// One number of a measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    /// Head of its column.
    pub(crate) name: &'static str,
    /// How it is written.
    pub(crate) unit: Unit,
    /// The number.
    pub(crate) value: f64,
}

/// What one run of a measurement found. The first figure is the one that ratios are about.
pub(crate) type Sample = Vec<Figure>;

/// A figure.
pub(crate) fn figure(name: &'static str, unit: Unit, value: f64) -> Figure {
    Figure { name, unit, value }
}

/// All runs of one measurement.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    workload: &'static str,
    title: String,
    rows: Vec<Row>,
}

/// All runs of one broker, or of one variant.
#[derive(Clone, Debug)]
struct Row {
    label: String,
    /// The row that its ratio is to.
    base: Option<usize>,
    /// Whether it must not be slower than that.
    is_judged: bool,
    runs: Vec<Result<Sample, String>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(workload: &'static str, title: impl Into<String>) -> Self {
        Self {
            workload,
            title: title.into(),
            rows: Vec::new(),
        }
    }

    /// Adds a row and answers its index.
    pub(crate) fn row(&mut self, label: impl Into<String>) -> usize {
        self.rows.push(Row {
            label: label.into(),
            base: None,
            is_judged: false,
            runs: Vec::new(),
        });
        self.rows.len() - 1
    }

    /// Compares these rows with row `base`.
    pub(crate) fn compare(&mut self, rows: impl IntoIterator<Item = usize>, base: usize) {
        for row in rows {
            self.rows[row].base = Some(base);
        }
    }

    /// Asks of a row with a rate that it is not slower than the one that it is compared with.
    pub(crate) fn judge(&mut self, row: usize) {
        self.rows[row].is_judged = true;
    }

    /// What the row calls itself.
    pub(crate) fn label(&self, row: usize) -> &str {
        &self.rows[row].label
    }

    /// What the table is about.
    pub(crate) fn title(&self) -> String {
        format!("{}: {}", self.workload, self.title)
    }

    /// Adds the next run of a row.
    pub(crate) fn record(&mut self, row: usize, run: anyhow::Result<Sample>) {
        let run = run.map_err(|error| format!("{error:#}"));
        self.rows[row].runs.push(run);
    }

    /// The figure called `name` in each run of a row that did not fail.
    pub(crate) fn values(&self, row: usize, name: &str) -> Vec<f64> {
        self.rows[row].values(name)
    }

    /// Whether a run failed, or a row is slower that must not be.
    pub(crate) fn has_failures(&self) -> bool {
        let failed = |row: &Row| row.runs.iter().any(Result::is_err);
        self.rows.iter().any(failed)
            || self
                .verdicts()
                .any(|(_, verdict)| verdict == Verdict::Slower)
    }

    // The ratios of each row that is judged, and what they say. Where less is better, nothing is said.
    fn verdicts(&self) -> impl Iterator<Item = (Vec<f64>, Verdict)> {
        let is_rate = |row: &&Row| {
            let first = row.runs.iter().find_map(|run| run.as_ref().ok()?.first());
            first.is_some_and(|figure| figure.unit == Unit::Count)
        };
        let judged = self.rows.iter().filter(|row| row.is_judged);
        judged.filter(is_rate).map(|row| {
            let ratios = self.ratios(row);
            let verdict = Verdict::of(&ratios);
            (ratios, verdict)
        })
    }

    /// For people: median (lowest–highest) of each figure.
    pub(crate) fn markdown(&self) -> String {
        let columns = self.columns();
        let has_ratio = self.rows.iter().any(|row| row.base.is_some());
        let mut text = format!("### {}\n\n|  |", self.title());
        for figure in &columns {
            let _ = write!(text, " {} |", figure.name);
        }
        text += if has_ratio { " ratio |\n" } else { "\n" };
        text += "|---|";
        text += &"---:|".repeat(columns.len() + usize::from(has_ratio));
        for row in &self.rows {
            let _ = write!(text, "\n| {} |", row.label);
            for figure in &columns {
                let _ = write!(text, " {} |", spread(&row.values(figure.name), figure.unit));
            }
            if has_ratio {
                let ratios = spread(&self.ratios(row), Unit::Fraction);
                let _ = write!(text, " {ratios} |");
            }
        }
        text += "\n";
        for row in &self.rows {
            for error in row.runs.iter().filter_map(|run| run.as_ref().err()) {
                let _ = write!(text, "\n**{} failed**: {}\n", row.label, error);
            }
        }
        text
    }

    /// For programs: every run.
    pub(crate) fn json(&self) -> Value {
        let run = |run: &Result<Sample, String>| match run {
            Ok(sample) => sample
                .iter()
                .map(|figure| (figure.name.to_owned(), json!(figure.value)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            Err(error) => json!({ "error": error }),
        };
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "label": row.label,
                    "runs": row.runs.iter().map(run).collect::<Vec<_>>(),
                    "ratios": self.ratios(row),
                })
            })
            .collect();
        json!({"workload": self.workload, "title": self.title, "rows": rows})
    }

    // Rows may have different figures: those of the fullest one come first.
    fn columns(&self) -> Vec<Figure> {
        let mut samples: Vec<&Sample> = self
            .rows
            .iter()
            .flat_map(|row| row.runs.iter().filter_map(|run| run.as_ref().ok()))
            .collect();
        samples.sort_by_key(|sample| std::cmp::Reverse(sample.len()));
        let mut columns: Vec<Figure> = Vec::new();
        for figure in samples.into_iter().flatten() {
            if columns.iter().all(|column| column.name != figure.name) {
                columns.push(*figure);
            }
        }
        columns
    }

    // Of the first figure, run by run: what was measured side by side is compared.
    fn ratios(&self, row: &Row) -> Vec<f64> {
        let Some(base) = row.base.map(|base| &self.rows[base]) else {
            return Vec::new();
        };
        let first = |run: &Result<Sample, String>| {
            let figure = *run.as_ref().ok()?.first()?;
            (figure.value > 0.0).then_some(figure.value)
        };
        let pairs = row.runs.iter().zip(&base.runs);
        pairs
            .filter_map(|(own, base)| Some(first(own)? / first(base)?))
            .collect()
    }
}

impl Row {
    fn values(&self, name: &str) -> Vec<f64> {
        let figures = self.runs.iter().filter_map(|run| run.as_ref().ok());
        figures
            .flatten()
            .filter(|figure| figure.name == name)
            .map(|figure| figure.value)
            .collect()
    }
}

/// Whether a build is slower than the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    NotSlower,
    Slower,
    TooFewPairs,
}

impl Verdict {
    fn of(ratios: &[f64]) -> Self {
        match ratios.len() {
            few if few < PAIRS_MIN => Self::TooFewPairs,
            _ if median(ratios) >= RATIO_MIN => Self::NotSlower,
            _ => Self::Slower,
        }
    }
}

/// Whether the new build is slower than the old one, measurement by measurement.
pub(crate) fn verdict(tables: &[Table]) -> String {
    let mut text = format!(
        "### new / old\n\nSlower is a median of at least {PAIRS_MIN} paired ratios below {RATIO_MIN}.\n\n\
         | | pairs | ratio | |\n|---|---:|---:|---|"
    );
    for table in tables {
        for (ratios, verdict) in table.verdicts() {
            let verdict = match verdict {
                Verdict::NotSlower => "not slower",
                Verdict::Slower => "**slower**",
                Verdict::TooFewPairs => "too few pairs to say",
            };
            let (title, pairs) = (table.title(), ratios.len());
            let ratio = spread(&ratios, Unit::Fraction);
            let _ = write!(text, "\n| {title} | {pairs} | {ratio} | {verdict} |");
        }
    }
    text + "\n"
}

/// The median; 0 of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[middle],
        _ => sorted[middle - 1].midpoint(sorted[middle]),
    }
}

fn spread(values: &[f64], unit: Unit) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match values {
        [] => "-".to_owned(),
        [value] => unit.write(*value),
        _ => format!(
            "{} ({}–{})",
            unit.write(median(values)),
            unit.write(least),
            unit.write(most)
        ),
    }
}

impl Unit {
    fn write(self, value: f64) -> String {
        match self {
            Self::Count | Self::Microseconds => grouped(value.round() as i64),
            Self::Milliseconds => format!("{value:.0}"),
            Self::Mebibytes => format!("{:.0}", value / f64::from(1 << 20)),
            Self::FineMicroseconds | Self::Fraction => format!("{value:.2}"),
        }
    }
}

fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_reading() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(-999), "-999");
        assert_eq!(spread(&[3.0, 1.0, 2.0], Unit::Count), "2 (1–3)");
        assert_eq!(spread(&[], Unit::Count), "-");
        assert_eq!(median(&[1.0, 2.0, 4.0, 3.0]), 2.5);
    }

    #[test]
    fn ratios_pair_the_runs() {
        let rate = |value| Ok(vec![figure("events/s", Unit::Count, value)]);
        let mut table = Table::new("W", "t");
        let (own, base) = (table.row("a"), table.row("b"));
        table.compare([own, base], base);
        table.record(own, rate(20.0));
        table.record(base, rate(10.0));
        table.record(own, Err(anyhow::anyhow!("broken")));
        table.record(base, rate(10.0));
        assert_eq!(table.ratios(&table.rows[own]), [2.0]);
        assert!(table.has_failures());
        let text = table.markdown();
        assert!(text.contains("| a | 20 | 2.00 |"), "{text}");
        assert!(text.contains("**a failed**: broken"), "{text}");
    }

    #[test]
    fn a_build_is_slower_when_most_pairs_say_so() {
        let judged = |rates: &[f64]| {
            let mut table = Table::new("W", "t");
            let (old, new) = (table.row("old"), table.row("new"));
            table.compare([old, new], old);
            table.judge(new);
            for rate in rates {
                table.record(old, Ok(vec![figure("events/s", Unit::Count, 100.0)]));
                table.record(new, Ok(vec![figure("events/s", Unit::Count, *rate)]));
            }
            table
        };
        let slower = judged(&[96.0, 96.0, 96.0, 96.0, 150.0, 150.0, 150.0]);
        assert!(slower.has_failures());
        assert!(verdict(&[slower]).contains("| W: t | 7 | 0.96 (0.96–1.50) | **slower** |"));
        let noise = judged(&[97.0, 97.0, 97.0, 97.0, 50.0, 50.0, 50.0]);
        assert!(!noise.has_failures());
        assert!(verdict(&[noise]).contains("| not slower |"));
        let few = judged(&[10.0; 6]);
        assert!(!few.has_failures());
        assert!(verdict(&[few]).contains("| too few pairs to say |"));
    }
}
