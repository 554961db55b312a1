//! What every part of a filter group or a transformer needs to run its plugin: the component, its limits and its account.

use std::sync::Arc;
use std::time::Duration;

use super::backoff::Backoff;
use super::checked_component::CheckedComponent;
use super::guest::Guest;
use super::guest_fault::Fault;
use super::instance_budget::{Account, Tenure};
use super::limits::PluginLimits;
use super::rule_names::RuleNames;

/// What they share.
pub(super) struct GuestSetup {
    pub(super) plugin: Arc<CheckedComponent>,
    pub(super) limits: Arc<PluginLimits>,
    pub(super) label: String,
    /// Whose the rules are; empty for a transformer.
    pub(super) rule_names: Arc<RuleNames>,
    pub(super) account: Account,
    /// What fails is not looked into here, but goes on in another group, see [`Undecided::apart`].
    pub(super) hands_over: bool,
    pub(super) rules_per_instance_max: usize,
    pub(super) replica_part_min: Duration,
    pub(super) pause_min: Duration,
    pub(super) pause_max: Duration,
}

impl GuestSetup {
    pub(super) async fn guest(&self) -> Result<Guest, Fault> {
        Guest::new(&self.plugin, &self.limits, &self.account, Tenure::Lasting).await
    }

    pub(super) fn pause(&self) -> Backoff {
        Backoff::new(self.pause_min, self.pause_max)
    }
}
