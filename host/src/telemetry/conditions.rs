//! What is wrong with the running broker, in one place: named conditions that whoever notices one raises and clears, with a
//! reason in words. `/readyz` and the metrics are read from here and from nowhere else. What went wrong and is over, such as the
//! panic of a task that served one request, is counted here instead. Nothing is decided here but what a condition means for
//! readiness, and nothing that happens to every event belongs here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tracing::field::display;

use super::metrics_registry::{Family, Kind, Labels};
use crate::locks::lock;

/// Conditions of one kind beyond this are shown as one, since there may be one for each subscription. All of them are kept: they are
/// as many as there are subscriptions, plugins and files. What the broker itself names is always shown.
const SHOWN_OF_KIND_MAX: usize = 32;
/// What those beyond are shown to hold for.
const OTHERS: &str = "others";

/// A kind of thing that can be wrong, and with what. Those of them that can hold for several things name which.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Condition {
    /// A write or sync failed for good: nothing is written until a restart.
    StoreFailed,
    /// The store's folder, or one in it, is not any more where it was opened: nothing is written until it is back.
    FolderLost,
    /// The disk has no room but what is kept for draining: publishes are refused until it has.
    DiskFull,
    /// The journal is full, and no checkpoint makes room: publishes are refused until one does.
    JournalFull,
    /// The last checkpoint failed. The journal keeps everything meanwhile, and it is tried again.
    CheckpointFails,
    /// A task or thread that runs as long as the broker ended before it. What it did is not done until a restart.
    TaskDied(Cow<'static, str>),
    /// A file of the journal was removed or replaced under the running broker: what is in it is lost with the process, unless a
    /// checkpoint saves it before.
    JournalFileLost,
    /// Something stored cannot be read; what needs it waits.
    Unreadable(Cow<'static, str>),
    /// The policy could not be read again when that was asked for; the one before goes on.
    PolicyStale,
    /// A plugin does not load; the subscriptions that use it are paused.
    PluginBroken(Cow<'static, str>),
    /// A bound of what plugins, or those of one owner, may hold refuses them instances or memory. What waits for it is not judged.
    PluginLimit(Cow<'static, str>),
    /// The system lets the broker open no further file: nothing can be written until it does.
    OutOfFiles,
    /// The broker's certificate ends within days.
    CertificateEnding,
    /// The broker's certificate has ended: clients refuse it.
    CertificateEnded,
}

impl Condition {
    /// Its kind, as metrics and `/readyz` call it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::StoreFailed => "store_failed",
            Self::FolderLost => "folder_lost",
            Self::DiskFull => "disk_full",
            Self::JournalFull => "journal_full",
            Self::CheckpointFails => "checkpoint_fails",
            Self::JournalFileLost => "journal_file_lost",
            Self::TaskDied(_) => "task_died",
            Self::Unreadable(_) => "unreadable",
            Self::PolicyStale => "policy_stale",
            Self::PluginBroken(_) => "plugin_broken",
            Self::PluginLimit(_) => "plugin_limit",
            Self::OutOfFiles => "out_of_files",
            Self::CertificateEnding => "certificate_ending",
            Self::CertificateEnded => "certificate_ended",
        }
    }

    /// What it holds for, where there can be several.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.named().map(AsRef::as_ref)
    }

    // Which plugin it is about.
    fn plugin(&self) -> Option<&str> {
        match self {
            Self::PluginBroken(plugin) => Some(plugin),
            _ => None,
        }
    }

    // Whether there may be any number of its kind: what it holds for is not a name of the broker's own.
    fn is_one_of_many(&self) -> bool {
        matches!(self.named(), Some(Cow::Owned(_)))
    }

    fn named(&self) -> Option<&Cow<'static, str>> {
        match self {
            Self::StoreFailed
            | Self::FolderLost
            | Self::DiskFull
            | Self::JournalFull
            | Self::CheckpointFails
            | Self::OutOfFiles
            | Self::CertificateEnding
            | Self::CertificateEnded
            | Self::JournalFileLost
            | Self::PolicyStale => None,
            Self::TaskDied(subject)
            | Self::Unreadable(subject)
            | Self::PluginBroken(subject)
            | Self::PluginLimit(subject) => Some(subject),
        }
    }

    // What stands for the rest of its kind.
    fn others(&self) -> Self {
        match self {
            Self::TaskDied(_) => Self::TaskDied(OTHERS.into()),
            Self::Unreadable(_) => Self::Unreadable(OTHERS.into()),
            Self::PluginBroken(_) => Self::PluginBroken(OTHERS.into()),
            Self::PluginLimit(_) => Self::PluginLimit(OTHERS.into()),
            single => single.clone(),
        }
    }

    /// Whether the broker is unready while it holds: it does not do what its clients come for. Otherwise it is degraded,
    /// which `/readyz` only notes.
    #[must_use]
    pub fn is_unready(&self) -> bool {
        match self {
            Self::StoreFailed
            | Self::FolderLost
            | Self::DiskFull
            | Self::JournalFull
            | Self::CertificateEnded
            | Self::TaskDied(_) => true,
            Self::CheckpointFails
            | Self::PolicyStale
            | Self::JournalFileLost
            | Self::Unreadable(_)
            | Self::PluginBroken(_)
            | Self::PluginLimit(_)
            | Self::CertificateEnding
            | Self::OutOfFiles => false,
        }
    }
}

/// A condition that holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    /// Which.
    pub condition: Condition,
    /// Why, in a sentence for the operator.
    pub why: String,
    /// How many it stands for: more than one only of those that are not shown one by one.
    pub count: usize,
}

/// All conditions that hold. Cheap to clone; all clones are one registry.
#[derive(Clone, Debug, Default)]
pub struct Conditions(Arc<Registry>);

#[derive(Debug, Default)]
struct Registry {
    raised: Mutex<BTreeMap<Condition, String>>,
    // Kept beside, so that asking costs a load.
    unready: AtomicBool,
    // Of what served one connection, request or call, by its name.
    panics: Mutex<BTreeMap<Cow<'static, str>, u64>>,
}

impl Conditions {
    /// Says that a condition holds, and why. Raising it again replaces the reason and is not logged again. Returns whether
    /// it is new.
    pub fn raise(&self, condition: Condition, why: impl Into<String>) -> bool {
        let why = why.into();
        let mut raised = self.lock();
        let kind = condition.kind();
        let is_new = !raised.contains_key(&condition);
        if is_new {
            let (subject, plugin) = (condition.subject(), condition.plugin().map(display));
            match condition.is_unready() {
                true => {
                    tracing::error!(condition = kind, subject, plugin, reason = %why, "the broker is not ready");
                }
                false => {
                    tracing::warn!(condition = kind, subject, plugin, reason = %why, "the broker is degraded");
                }
            }
        }
        raised.insert(condition, why);
        self.judge(&raised);
        is_new
    }

    /// Says that a condition does not hold, or not any more.
    pub fn clear(&self, condition: &Condition) {
        let mut raised = self.lock();
        if raised.remove(condition).is_some() {
            tracing::info!(
                condition = condition.kind(),
                subject = condition.subject(),
                plugin = condition.plugin().map(display),
                "a condition is over"
            );
            self.judge(&raised);
        }
    }

    /// Why a condition holds, if it does.
    #[must_use]
    pub fn reason(&self, condition: &Condition) -> Option<String> {
        self.lock().get(condition).cloned()
    }

    /// Whether none holds that makes the broker unready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.0.unready.load(Ordering::Acquire)
    }

    /// All that hold, those that make the broker unready first. Where there are very many of a kind, the last one of it stands for
    /// the rest.
    #[must_use]
    pub fn all(&self) -> Vec<Raised> {
        let raised = self.lock();
        let mut all: Vec<Raised> = Vec::new();
        // By kind: those of many so far, and those that are not shown one by one.
        let mut many: BTreeMap<&'static str, (usize, Option<Raised>)> = BTreeMap::new();
        for (condition, why) in raised.iter() {
            let (shown, others) = many.entry(condition.kind()).or_default();
            if condition.is_one_of_many() {
                *shown += 1;
            }
            if !condition.is_one_of_many() || *shown <= SHOWN_OF_KIND_MAX {
                all.push(Raised {
                    condition: condition.clone(),
                    why: why.clone(),
                    count: 1,
                });
                continue;
            }
            let others = others.get_or_insert_with(|| Raised {
                condition: condition.others(),
                why: String::new(),
                count: 0,
            });
            others.count += 1;
        }
        drop(raised);
        for mut others in many.into_values().filter_map(|(_, others)| others) {
            let count = others.count;
            others.why = format!(
                "{count} more of this kind; the log has each, and they are shown when others are over"
            );
            all.push(others);
        }
        all.sort_by_key(|raised| !raised.condition.is_unready());
        all
    }

    /// A task that serves one connection, request or call panicked. Nothing else was touched, so nothing is wrong from then on; the
    /// name is one of a few.
    pub(crate) fn count_panic(&self, name: Cow<'static, str>) {
        let mut panics = lock(&self.0.panics);
        *panics.entry(name).or_default() += 1;
    }

    fn judge(&self, raised: &BTreeMap<Condition, String>) {
        let unready = raised.keys().any(Condition::is_unready);
        self.0.unready.store(unready, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Condition, String>> {
        lock(&self.0.raised)
    }
}

/// The conditions that hold, as one metric. What they hold for is named to those only who may read it.
pub(crate) fn gauge(conditions: &Conditions, is_named: bool) -> Family {
    let mut samples: BTreeMap<Labels, f64> = BTreeMap::new();
    for raised in conditions.all() {
        let mut labels = vec![("condition", raised.condition.kind().to_owned())];
        if let Some(subject) = raised.condition.subject().filter(|_| is_named) {
            labels.push(("subject", subject.to_owned()));
        }
        *samples.entry(labels).or_default() += raised.count as f64;
    }
    Family {
        name: "condition",
        help: "1 for each condition that holds, and how many `others` of a kind are not named; /readyz says why and which of them make the broker unready",
        kind: Kind::Gauge,
        samples: samples.into_iter().collect(),
    }
}

/// Panics that concerned one connection, request or call.
pub(crate) fn panics(conditions: &Conditions) -> Family {
    let panics = lock(&conditions.0.panics);
    let sample = |(name, count): (&Cow<'static, str>, &u64)| {
        (vec![("task", name.clone().into_owned())], *count as f64)
    };
    Family {
        name: "task_panics",
        help: "Faults of the broker's own that ended one connection, stream, request or call; the log has each",
        kind: Kind::Counter,
        samples: panics.iter().map(sample).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_raised_is_shown_until_it_is_cleared() {
        let conditions = Conditions::default();
        let router = Condition::TaskDied("router".into());
        assert!(conditions.is_ready() && conditions.all().is_empty());
        assert!(conditions.raise(Condition::CheckpointFails, "no room"));
        assert!(conditions.is_ready(), "degraded only");
        assert!(conditions.raise(router.clone(), "it panicked"));
        assert!(!conditions.raise(router.clone(), "it panicked: x"));
        assert!(!conditions.is_ready());
        let kinds = |conditions: &Conditions| -> Vec<&'static str> {
            let all = conditions.all();
            all.iter().map(|raised| raised.condition.kind()).collect()
        };
        assert_eq!(kinds(&conditions), ["task_died", "checkpoint_fails"]);
        assert_eq!(
            conditions.reason(&router).as_deref(),
            Some("it panicked: x")
        );
        conditions.clear(&Condition::TaskDied("timers".into()));
        assert!(!conditions.is_ready(), "another task's");
        conditions.clear(&router);
        assert!(conditions.is_ready());
        assert_eq!(kinds(&conditions), ["checkpoint_fails"]);
    }

    #[test]
    fn of_many_subjects_some_are_shown_and_none_is_forgotten() {
        let conditions = Conditions::default();
        let damaged = |number: usize| Condition::Unreadable(format!("{number:03}").into());
        for number in 0..3 * SHOWN_OF_KIND_MAX {
            assert!(conditions.raise(damaged(number), "damaged"));
        }
        conditions.raise(Condition::DiskFull, "full");
        let all = conditions.all();
        assert_eq!(all.len(), 1 + SHOWN_OF_KIND_MAX + 1);
        let total = || -> usize { conditions.all().iter().map(|raised| raised.count).sum() };
        assert_eq!(total(), 1 + 3 * SHOWN_OF_KIND_MAX);
        let others = all.last().expect("some");
        assert_eq!(others.condition, Condition::Unreadable(OTHERS.into()));
        let text = crate::telemetry::metrics_registry::Metrics::default()
            .page(vec![gauge(&conditions, true)]);
        let line = "tidegate_condition{condition=\"unreadable\",subject=\"others\"} 64\n";
        assert!(text.contains(line), "{text}");
        // Those that were not shown are shown when there is room, without being raised again.
        for number in 0..SHOWN_OF_KIND_MAX {
            conditions.clear(&damaged(number));
        }
        assert_eq!(total(), 1 + 2 * SHOWN_OF_KIND_MAX);
        let first = &conditions.all()[1];
        assert_eq!(first.condition, damaged(SHOWN_OF_KIND_MAX));
        for number in SHOWN_OF_KIND_MAX..3 * SHOWN_OF_KIND_MAX {
            conditions.clear(&damaged(number));
        }
        assert_eq!(total(), 1);
    }

    #[test]
    fn what_the_broker_names_is_shown_however_many_others_there_are() {
        let conditions = Conditions::default();
        for number in 0..2 * SHOWN_OF_KIND_MAX {
            conditions.raise(Condition::TaskDied(format!("route {number}").into()), "x");
        }
        let router = Condition::TaskDied("router".into());
        conditions.raise(router.clone(), "it panicked");
        assert_eq!(conditions.reason(&router).as_deref(), Some("it panicked"));
        let all = conditions.all();
        assert!(all.iter().any(|raised| raised.condition == router));
        assert_eq!(all.len(), SHOWN_OF_KIND_MAX + 2);
    }

    #[test]
    fn the_metric_names_each() {
        let conditions = Conditions::default();
        conditions.raise(Condition::DiskFull, "full");
        conditions.raise(Condition::TaskDied("router".into()), "it panicked");
        let text = crate::telemetry::metrics_registry::Metrics::default()
            .page(vec![gauge(&conditions, true)]);
        assert!(
            text.contains("tidegate_condition{condition=\"disk_full\"} 1\n"),
            "{text}"
        );
        let died = "tidegate_condition{condition=\"task_died\",subject=\"router\"} 1\n";
        assert!(text.contains(died), "{text}");
    }
}
