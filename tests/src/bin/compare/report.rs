//! What the comparison says: one Markdown table per measurement, with medians, spreads and the ratio to one row of the
//! same runs, and the same as JSON with every sample.

use std::fmt::Write;

use serde_json::{Value, json};

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

    /// Whether a run failed.
    pub(crate) fn has_failures(&self) -> bool {
        self.rows
            .iter()
            .any(|row| row.runs.iter().any(Result::is_err))
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
}
