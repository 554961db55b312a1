//! The word about bounds of plugins, which says what they cannot have because others hold it: a condition for each bound that refuses instances or memory, with who holds
//! the most. A bound counts as reached until it has refused nothing for some seconds, since what takes turns is refused again and
//! again. Decides nothing; the bounds are the plugin service's.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::Owner;
use crate::plugin::{PluginLimit, Plugins, ReachedLimit};
use crate::telemetry::conditions::{Condition, Conditions};

/// How often it is looked whether a bound is still reached.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Runs until the shutdown.
pub(crate) async fn run(
    plugins: Arc<Plugins>,
    conditions: Conditions,
    shutdown: CancellationToken,
) {
    let mut raised = Vec::new();
    loop {
        let next = async {
            match raised.is_empty() {
                true => plugins.limit_reached().await,
                false => tokio::time::sleep(LOOK_AGAIN).await,
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = next => {}
        }
        raised = tell(&conditions, &raised, plugins.reached_limits());
    }
}

// Answers what is raised from now on.
fn tell(
    conditions: &Conditions,
    raised: &[Condition],
    reached: Vec<ReachedLimit>,
) -> Vec<Condition> {
    let mut now = Vec::with_capacity(reached.len());
    for ReachedLimit { limit, why } in reached {
        let condition = Condition::PluginLimit(subject(&limit));
        conditions.raise(condition.clone(), why);
        now.push(condition);
    }
    for over in raised.iter().filter(|condition| !now.contains(condition)) {
        conditions.clear(over);
    }
    now
}

fn subject(limit: &PluginLimit) -> Cow<'static, str> {
    let of = |owner: &Option<Owner>| match owner {
        Some(owner) => owner.to_string(),
        None => "the broker".to_owned(),
    };
    match limit {
        PluginLimit::Instances => "plugin instances".into(),
        PluginLimit::Memory => "plugin memory".into(),
        PluginLimit::OwnerInstances(owner) => format!("plugin instances of {}", of(owner)).into(),
        PluginLimit::OwnerMemory(owner) => format!("plugin memory of {}", of(owner)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_named_while_it_is_reached() {
        let conditions = Conditions::default();
        let owner: Owner = "cn:team".parse().expect("an owner");
        let reached = |limit| ReachedLimit {
            limit,
            why: "because".to_owned(),
        };
        let both = vec![
            reached(PluginLimit::Memory),
            reached(PluginLimit::OwnerInstances(Some(owner))),
        ];
        let raised = tell(&conditions, &[], both);
        let share = Condition::PluginLimit("plugin instances of cn:team".into());
        assert_eq!(conditions.reason(&share).as_deref(), Some("because"));
        assert!(conditions.is_ready());
        let raised = tell(&conditions, &raised, vec![reached(PluginLimit::Memory)]);
        assert_eq!(conditions.reason(&share), None);
        assert_eq!(tell(&conditions, &raised, Vec::new()), []);
        assert_eq!(conditions.all(), []);
    }
}
