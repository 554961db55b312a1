//! Reads the policy again while the broker runs, whenever it is asked to. Either all of what the file grants holds from then on, or,
//! when anything in the file is wrong, all of what held before. Whoever has lost a right by it is told where they use it; nothing
//! of that happens here.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::auth::{Grant, Policy};
use crate::config::{Config, ConfigError};
use crate::runtime::spawn::Spawner;
use crate::telemetry::conditions::Condition;

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

/// Reads it each time that is wanted, until `shutdown`.
pub(super) async fn run(
    reload: Reload,
    mut config: Config,
    policy: Arc<Policy>,
    spawner: Spawner,
    shutdown: CancellationToken,
) {
    let conditions = spawner.conditions();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = reload.asked.notified() => {}
        }
        match read(&spawner, reload.file.clone()).await {
            Ok(fresh) => {
                tell_what_waits(&config, &fresh);
                let before = std::mem::replace(&mut config.policy, fresh.policy);
                policy.reload(config.policy.grants.clone());
                conditions.clear(&Condition::PolicyStale);
                tell(&before.grants, &config.policy.grants);
            }
            Err(error) => {
                tracing::error!(path = %reload.file.display(), error, "the policy is not read again, and the one before goes on; correct the file (`tidegate config check FILE`) and send SIGHUP again");
                conditions.raise(Condition::PolicyStale, error);
            }
        }
    }
}

async fn read(spawner: &Spawner, file: PathBuf) -> Result<Config, String> {
    let read = spawner.blocking("policy", move || Config::load(Some(&file)));
    read.await?.map_err(|error| reason(&error))
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
    use crate::telemetry::conditions::Conditions;

    #[tokio::test]
    async fn a_whole_file_holds_or_none_of_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("tidegate.toml");
        let grant = |who: &str| {
            format!("[[policy.grants]]\nprincipals = [\"cn:{who}\"]\npublish = [\">\"]\n")
        };
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

    #[test]
    fn what_changed_is_named() {
        let grants = |text: &str| Config::parse(text, "a text").expect("sound").policy.grants;
        let grant = |who: &str| {
            format!("[[policy.grants]]\nprincipals = [\"cn:{who}\"]\npublish = [\">\"]\n")
        };
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
