//! Reads the policy again while the broker runs, whenever it is asked to. Either all of what the file grants holds from then on, or,
//! when anything in the file is wrong, all of what held before. Whoever has lost a right by it is told where they use it; nothing
//! of that happens here.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::auth::{Grant, Policy};
use crate::config::{Config, ConfigError};
use crate::runtime::spawn::Spawner;
use crate::runtime::unwaited::unwaited;
use crate::telemetry::conditions::{Condition, Conditions};

/// What takes so long is told. A disk needs milliseconds, and a file of a network that is gone takes for ever.
const LATE: Duration = Duration::from_secs(5);
/// How many may hang at a time: each has a thread.
const HANGING_MAX: usize = 4;
const SEE_TO_IT: &str = "see to the disk or the network that it is on, and send SIGHUP again";

/// Grants that a line of the log names on either side; the others are counted.
const GRANTS_NAMED_MAX: usize = 16;

/// How a running broker is asked to read its policy again.
#[derive(Clone, Debug)]
pub struct Reload {
    /// The configuration, whose `[[policy.grants]]` are read.
    pub file: PathBuf,
    /// Told when it is wanted. Several wishes that come while it is being read are one.
    pub asked: Arc<Notify>,
}

/// Reads it with `read` each time that is wanted, until `shutdown`, which waits for no disk.
pub(super) async fn run<R>(
    reload: Reload,
    read: R,
    mut config: Config,
    policy: Arc<Policy>,
    spawner: Spawner,
    shutdown: CancellationToken,
) where
    R: Fn(&Path) -> Result<Config, ConfigError> + Clone + Send + 'static,
{
    let conditions = spawner.conditions();
    let file = reload.file.as_path();
    // As many more as there are threads that read.
    let readers = Arc::new(());
    let mut reading: Option<Reading> = None;
    loop {
        let is_awaited = reading.as_ref().is_some_and(|reading| !reading.is_late);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            // One that hangs is given up for another, since by now there may be another file.
            () = reload.asked.notified(), if !is_awaited => {
                if Arc::strong_count(&readers) > HANGING_MAX {
                    let why = format!("{HANGING_MAX} attempts to read it hang; {SEE_TO_IT}");
                    stays_as_it_was(file, conditions, why);
                } else {
                    let (file, read, held) = (file.to_owned(), read.clone(), readers.clone());
                    reading = Some(Reading::start(move || {
                        let read = read(&file).map_err(|error| reason(&error));
                        drop(held);
                        read
                    }));
                }
            }
            news = news_of(&mut reading) => match news {
                News::Late => {
                    let why = format!("reading it has taken {LATE:?} and is not done; {SEE_TO_IT}");
                    stays_as_it_was(file, conditions, why);
                }
                News::Read(Ok(fresh)) => {
                    tell_what_waits(&config, &fresh);
                    let before = std::mem::replace(&mut config.policy, fresh.policy);
                    policy.reload(config.policy.grants.clone());
                    conditions.clear(&Condition::PolicyStale);
                    tell(&before.grants, &config.policy.grants);
                }
                News::Read(Err(why)) => stays_as_it_was(file, conditions, why),
            },
        }
    }
}

fn stays_as_it_was(file: &Path, conditions: &Conditions, why: String) {
    tracing::error!(path = %file.display(), error = why, "the policy is not read again, and the one before goes on; correct the file (`tidegate config check FILE`) and send SIGHUP again");
    conditions.raise(Condition::PolicyStale, why);
}

/// A configuration that is being read.
struct Reading {
    done: BoxFuture<'static, Result<Config, String>>,
    late: Pin<Box<Sleep>>,
    /// That it takes long was told, and another may begin.
    is_late: bool,
}

#[expect(clippy::large_enum_variant, reason = "there is one of them at a time")]
enum News {
    Late,
    Read(Result<Config, String>),
}

impl Reading {
    fn start(read: impl FnOnce() -> Result<Config, String> + Send + 'static) -> Self {
        Self {
            done: Box::pin(async { unwaited("policy", read).await? }),
            late: Box::pin(sleep(LATE)),
            is_late: false,
        }
    }
}

// What is to be told of what is being read. Cancel-safe.
async fn news_of(reading: &mut Option<Reading>) -> News {
    let Some(now) = reading else {
        return std::future::pending().await;
    };
    tokio::select! {
        biased;
        read = &mut now.done => {
            *reading = None;
            News::Read(read)
        }
        () = &mut now.late, if !now.is_late => {
            now.is_late = true;
            News::Late
        }
    }
}

fn reason(error: &ConfigError) -> String {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    // One line for the log and for `/readyz`; `tidegate config check` shows the place.
    let lines: Vec<&str> = reason.lines().map(str::trim).collect();
    lines.join(" ")
}

// Only the policy is taken from the file; whoever changed more is to know.
fn tell_what_waits(config: &Config, fresh: &Config) {
    let differing = config.differing_sections(fresh);
    if !differing.is_empty() {
        tracing::warn!(
            ?differing,
            "only the policy is read again: what else has changed in the configuration takes a restart"
        );
    }
    for warning in fresh.warnings() {
        tracing::warn!("{warning}");
    }
}

fn tell(before: &[Grant], after: &[Grant]) {
    let gone = lacking(before, after);
    let new = lacking(after, before);
    if gone.is_empty() && new.is_empty() {
        tracing::info!(
            grants = after.len(),
            "the policy was read again; it is the same"
        );
        return;
    }
    tracing::info!(
        grants = after.len(),
        new = new.len(),
        gone = gone.len(),
        first_new = ?named(&new),
        first_gone = ?named(&gone),
        "the policy was read again, and holds from now on"
    );
}

fn lacking<'a>(these: &'a [Grant], those: &[Grant]) -> Vec<&'a Grant> {
    these.iter().filter(|one| !those.contains(one)).collect()
}

fn named(grants: &[&Grant]) -> Vec<String> {
    let named = grants.iter().take(GRANTS_NAMED_MAX);
    named
        .map(|grant| serde_json::to_string(grant).unwrap_or_default())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::authorize;
    use crate::domain::Principal;

    fn grant(who: &str) -> String {
        format!("[[policy.grants]]\nprincipals = [\"cn:{who}\"]\npublish = [\">\"]\n")
    }

    fn load(file: &Path) -> Result<Config, ConfigError> {
        Config::load(Some(file))
    }

    #[tokio::test]
    async fn a_whole_file_holds_or_none_of_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("tidegate.toml");
        let write = |text: String| std::fs::write(&file, text).expect("written");
        write(grant("a"));
        let config = Config::load(Some(&file)).expect("sound");
        let policy = Arc::new(Policy::new(config.policy.grants.clone()));
        let (conditions, shutdown) = (Conditions::default(), CancellationToken::new());
        let spawner = Spawner::new(conditions.clone(), shutdown.clone());
        let reload = Reload {
            file: file.clone(),
            asked: Arc::default(),
        };
        let may =
            |who: &str| authorize::publish_anything(&policy, &Principal::common_name(who)).is_ok();
        let mut news = policy.watch();
        let running = run(
            reload.clone(),
            load,
            config,
            policy.clone(),
            spawner,
            shutdown.clone(),
        );
        let asking = async {
            write(grant("b"));
            reload.asked.notify_one();
            news.changed().await.expect("reloaded");
            assert_eq!((may("a"), may("b")), (false, true));

            write(grant("c") + "[limits]\nno_such_key = 1\n");
            reload.asked.notify_one();
            while conditions.reason(&Condition::PolicyStale).is_none() {
                tokio::task::yield_now().await;
            }
            let why = conditions.reason(&Condition::PolicyStale).expect("raised");
            assert!(why.contains("no_such_key"), "{why}");
            assert_eq!((may("b"), may("c")), (true, false));
            assert!(!news.has_changed().expect("it lives"));

            write(grant("c"));
            reload.asked.notify_one();
            while conditions.reason(&Condition::PolicyStale).is_some() {
                tokio::task::yield_now().await;
            }
            assert_eq!((may("b"), may("c")), (false, true));
            shutdown.cancel();
        };
        tokio::join!(running, asking);
    }

    // Files that hang are those called so.
    #[tokio::test(start_paused = true)]
    async fn a_file_that_hangs_is_told_of_and_keeps_neither_another_nor_the_end_back() {
        let (conditions, shutdown) = (Conditions::default(), CancellationToken::new());
        let spawner = Spawner::new(conditions.clone(), shutdown.clone());
        let policy = Arc::new(Policy::new(Vec::new()));
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Arc::new(std::sync::Mutex::new(released));
        let hanging = Arc::new(std::sync::atomic::AtomicUsize::new(usize::MAX));
        let read = {
            let hanging = hanging.clone();
            move |_: &Path| {
                let hangs = |left: usize| left.checked_sub(1);
                let order = std::sync::atomic::Ordering::SeqCst;
                if hanging.fetch_update(order, order, hangs).is_ok() {
                    let _ = crate::locks::lock(&released).recv();
                }
                Ok(Config::parse(&grant("b"), "a text").expect("sound"))
            }
        };
        let reload = Reload {
            file: PathBuf::from("tidegate.toml"),
            asked: Arc::default(),
        };
        let config = Config::development();
        let running = run(
            reload.clone(),
            read,
            config,
            policy.clone(),
            spawner,
            shutdown.clone(),
        );
        let stale = async |words: &str| loop {
            let why = conditions.reason(&Condition::PolicyStale);
            if why.is_some_and(|why| why.contains(words)) {
                return;
            }
            tokio::time::sleep(LATE / 10).await;
        };
        let asking = async {
            for _ in 0..HANGING_MAX {
                reload.asked.notify_one();
                stale("is not done").await;
                conditions.clear(&Condition::PolicyStale);
            }
            reload.asked.notify_one();
            stale("4 attempts").await;
            // One of them comes back, and then there is room for another, which does not hang.
            hanging.store(0, std::sync::atomic::Ordering::SeqCst);
            let mut news = policy.watch();
            release.send(()).expect("one waits");
            while !news.has_changed().expect("it lives") {
                reload.asked.notify_one();
                tokio::task::yield_now().await;
            }
            news.mark_unchanged();
            let who = Principal::common_name("b");
            assert!(authorize::publish_anything(&policy, &who).is_ok());
            assert_eq!(conditions.reason(&Condition::PolicyStale), None);
            // The others still hang.
            shutdown.cancel();
        };
        tokio::join!(running, asking);
        drop(release);
    }

    #[test]
    fn what_changed_is_named() {
        let grants = |text: &str| Config::parse(text, "a text").expect("sound").policy.grants;
        let (before, after) = (
            grants(&(grant("a") + &grant("b"))),
            grants(&(grant("b") + &grant("c"))),
        );
        let of = |grants: Vec<&Grant>| named(&grants).join(" ");
        assert!(of(lacking(&before, &after)).contains("cn:a"));
        assert!(of(lacking(&after, &before)).contains("cn:c"));
        assert_eq!(lacking(&after, &after).len(), 0);
    }
}
