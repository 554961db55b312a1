//! The pages of metrics, as those who scrape them read them: in both formats every line is one of the format, each name is
//! explained once and is called what its kind and its unit ask for. `promtool` looks as well, where there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::json;
use tidegate_tests::BrokerProcess;

use crate::support::publish;

/// Units that have a base unit, in which values are to be, and words that say what the kind says.
const NEVER_WORDS: [&str; 21] = [
    "milliseconds",
    "millis",
    "ms",
    "microseconds",
    "us",
    "nanoseconds",
    "ns",
    "minutes",
    "hours",
    "days",
    "kilobytes",
    "kb",
    "megabytes",
    "mb",
    "mib",
    "kib",
    "percent",
    "counter",
    "gauge",
    "histogram",
    "summary",
];

#[derive(Default)]
struct Page {
    open: bool,
    // By the name of the family.
    kinds: BTreeMap<String, String>,
    helps: BTreeSet<String>,
    units: BTreeMap<String, String>,
    // Name and labels of each sample.
    samples: BTreeMap<(String, String), f64>,
    // Families in the order in which they are spoken of.
    order: Vec<String>,
}

#[tokio::test]
async fn both_pages_are_what_scrapers_take() -> anyhow::Result<()> {
    let broker = BrokerProcess::start().await?;
    let admin = broker.admin();
    let pattern = r#"{"n":[{"numeric":[">",5]}]}"#;
    let spec = json!({"name": "s", "topics": ["in"], "filters": [{"plugin": "event-pattern", "config": pattern}]});
    admin.create(spec).await?;
    admin
        .create(json!({"name": "copy", "topics": ["in"], "outputs": {"out": "copies"}}))
        .await?;
    publish(&broker.client().await?, "in", 1..=10).await?;
    admin.wait_drained("copy").await?;
    admin.evaluated("s").await?;
    let (plain, open) = (admin.metrics().await?, admin.open_metrics().await?);
    let plain = lint(&plain, false).context("the plain page")?;
    let open = lint(&open, true).context("the OpenMetrics page")?;
    ensure!(plain.kinds.len() > 50, "{} families", plain.kinds.len());
    let names = |page: &Page| {
        let names = page.samples.keys().map(|(name, _)| name.clone());
        names.collect::<BTreeSet<_>>()
    };
    let (of_plain, of_open) = (names(&plain), names(&open));
    let differing: Vec<_> = of_plain.symmetric_difference(&of_open).collect();
    ensure!(differing.is_empty(), "not in both: {differing:?}");
    ensure!(of_plain.contains("tidegate_subscription_depth"));
    promtool(&admin.metrics().await?)
}

// Reads a page, and refuses whatever a scraper or `promtool check metrics` would complain of.
fn lint(text: &str, open: bool) -> anyhow::Result<Page> {
    let mut page = Page {
        open,
        ..Page::default()
    };
    let text = match open {
        true => text.strip_suffix("# EOF\n").context("no end")?,
        false => text,
    };
    ensure!(text.ends_with('\n'), "its last line does not end");
    for line in text.lines() {
        page.read(line).with_context(|| line.to_owned())?;
    }
    for family in &page.order {
        page.check(family).with_context(|| family.clone())?;
    }
    Ok(page)
}

impl Page {
    fn read(&mut self, line: &str) -> anyhow::Result<()> {
        let Some(about) = line.strip_prefix("# ") else {
            return self.sample(line);
        };
        let (word, rest) = about.split_once(' ').context("no comment of a format")?;
        let (name, rest) = rest.split_once(' ').context("says nothing")?;
        self.speak_of(name)?;
        let is_new = match word {
            "HELP" => {
                ensure!(rest.len() > 1 && !rest.ends_with(".."), "no help");
                self.helps.insert(name.to_owned())
            }
            "TYPE" => self
                .kinds
                .insert(name.to_owned(), rest.to_owned())
                .is_none(),
            "UNIT" if self.open => {
                ensure!(
                    name.ends_with(&format!("_{rest}")),
                    "its name lacks its unit"
                );
                self.units
                    .insert(name.to_owned(), rest.to_owned())
                    .is_none()
            }
            _ => bail!("no comment of this format"),
        };
        ensure!(is_new, "said twice");
        Ok(())
    }

    // All of a family stands together.
    fn speak_of(&mut self, family: &str) -> anyhow::Result<()> {
        if self.order.last().is_none_or(|last| last != family) {
            ensure!(
                !self.order.iter().any(|known| known == family),
                "in two places"
            );
            self.order.push(family.to_owned());
        }
        Ok(())
    }

    fn sample(&mut self, line: &str) -> anyhow::Result<()> {
        let (series, value) = line.rsplit_once(' ').context("no value")?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').context("labels do not end")?),
            None => (series, ""),
        };
        check_labels(labels)?;
        let value: f64 = value.parse()?;
        let family = self.order.last().context("nothing was said of it")?.clone();
        let kind = self.kinds.get(&family).context("it has no type")?;
        let suffixes: &[&str] = match (kind.as_str(), self.open) {
            ("counter", true) => &["_total"],
            ("counter" | "gauge", _) => &[""],
            ("histogram", _) => &["_bucket", "_sum", "_count"],
            _ => bail!("a {kind}"),
        };
        let belongs = |suffix: &&str| name == format!("{family}{suffix}");
        ensure!(suffixes.iter().any(belongs), "no sample of `{family}`");
        let is_new = self
            .samples
            .insert((name.to_owned(), labels.to_owned()), value);
        ensure!(is_new.is_none(), "twice");
        Ok(())
    }

    fn check(&self, family: &str) -> anyhow::Result<()> {
        let kind = self.kinds.get(family).context("no type")?;
        ensure!(self.helps.contains(family), "no help");
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        ensure!(
            family.starts_with("tidegate_") && family.chars().all(plain),
            "its name"
        );
        // In OpenMetrics the family is called without the ending of its samples.
        let is_total = family.ends_with("_total");
        ensure!(
            is_total == (kind == "counter" && !self.open),
            "a {kind} is not called so"
        );
        for suffix in ["_count", "_sum", "_bucket", "_info", "_created"] {
            ensure!(!family.ends_with(suffix), "ends like a part of a histogram");
        }
        let words: Vec<&str> = family.split('_').collect();
        let is_twice = words.windows(2).any(|pair| pair[0] == pair[1]);
        ensure!(!is_twice, "says a word twice");
        for word in words {
            ensure!(
                !NEVER_WORDS.contains(&word),
                "`{word}` is no base unit, or says the kind"
            );
        }
        match kind.as_str() {
            "histogram" => self.check_histogram(family),
            "counter" => self.check_counter(family),
            _ => Ok(()),
        }
    }

    fn check_counter(&self, family: &str) -> anyhow::Result<()> {
        let mut values = self.samples.iter().filter(|((name, _), _)| {
            name.strip_prefix(family)
                .is_some_and(|rest| rest.is_empty() || rest == "_total")
        });
        ensure!(values.all(|(_, value)| *value >= 0.0), "below zero");
        Ok(())
    }

    fn check_histogram(&self, family: &str) -> anyhow::Result<()> {
        let of = |suffix: &str| {
            self.samples
                .get(&(format!("{family}{suffix}"), String::new()))
        };
        let count = of("_count").context("no count")?;
        of("_sum").context("no sum")?;
        let bucket = format!("{family}_bucket");
        let mut buckets = Vec::new();
        for ((name, labels), value) in &self.samples {
            if *name == bucket {
                let le = labels
                    .strip_prefix("le=\"")
                    .and_then(|le| le.strip_suffix('"'));
                let le = le.context("a bucket without bound")?;
                buckets.push((le.parse::<f64>()?, *value));
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        ensure!(
            buckets.is_sorted_by(|a, b| a.1 <= b.1),
            "buckets do not add up"
        );
        ensure!(
            buckets.last() == Some(&(f64::INFINITY, *count)),
            "no bucket for all"
        );
        Ok(())
    }
}

fn check_labels(labels: &str) -> anyhow::Result<()> {
    let mut rest = labels;
    let mut names = BTreeSet::new();
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").context("a label without value")?;
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        ensure!(
            !name.is_empty() && name.chars().all(plain),
            "label `{name}`"
        );
        ensure!(names.insert(name), "label `{name}` twice");
        let mut escaped = false;
        let end = value.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = end.context("a value does not end")?;
        rest = &value[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    Ok(())
}

// Says so where there is none.
fn promtool(page: &str) -> anyhow::Result<()> {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("there is no promtool here, so it was not asked");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let mut stdin = child.stdin.take().context("a pipe")?;
    stdin.write_all(page.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success() && said.trim().is_empty(), "{said}");
    Ok(())
}

#[test]
fn the_lint_notices_what_it_is_for() {
    let check = |page: &str, open: bool, why: Option<&str>| {
        let error = lint(page, open).err().map(|error| format!("{error:#}"));
        match (why, &error) {
            (None, None) => {}
            (Some(why), Some(error)) if error.contains(why) => {}
            _ => panic!("{page}: {error:?}"),
        }
    };
    let good = "# HELP tidegate_a_total A.\n# TYPE tidegate_a_total counter\ntidegate_a_total 1\n";
    check(good, false, None);
    check(
        &good.replace("# HELP tidegate_a_total A.\n", ""),
        false,
        Some("no help"),
    );
    // What 0.0.4 calls a counter by its samples' name, OpenMetrics does not.
    check(&format!("{good}# EOF\n"), true, Some("no sample"));
    check(good, true, Some("no end"));
    let named = "# HELP tidegate_a A.\n# TYPE tidegate_a counter\ntidegate_a_total 1\n";
    check(&format!("{named}# EOF\n"), true, None);
    check(named, false, Some("no sample"));
    check(&format!("{good}{good}"), false, Some("twice"));
    check(&good.replace('1', "x"), false, Some("invalid float"));
    check(
        &good.replace("total 1", "total{a=\"b} 1"),
        false,
        Some("does not end"),
    );
    check(
        &good.replace("total 1", "total{a=\"b\\\"\",c=\"\"} 1"),
        false,
        None,
    );
    let ms = good.replace("_a_total", "_a_ms_total");
    check(&ms, false, Some("no base unit"));
    let histogram = "# HELP tidegate_h H.\n# TYPE tidegate_h histogram\ntidegate_h_sum 1\ntidegate_h_count 2\ntidegate_h_bucket{le=\"1\"} 1\n";
    check(histogram, false, Some("no bucket for all"));
    let whole = format!("{histogram}tidegate_h_bucket{{le=\"+Inf\"}} 2\n");
    check(&whole, false, None);
}
