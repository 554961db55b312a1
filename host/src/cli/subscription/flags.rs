//! Flags that `tidegate subscription` and `tidegate route` share, and what they mean: which one is meant, what a new one does with
//! its events, and what is to be changed.

use crate::cli::admin_flags::ManageFlags;
use crate::cli::chain_flags::Chain;
use crate::cli::confirm::ConfirmFlags;
use crate::cli::human_values;
use crate::domain::{
    DeliveryPatch, DeliveryPolicy, Name, Owner, PluginPatch, StartAt, SubscriptionPatch,
    SubscriptionSpec, TopicName, TopicPattern,
};

/// Which one.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct NamedArgs {
    /// Its name
    pub(in crate::cli) name: String,
    #[command(flatten)]
    pub(in crate::cli) flags: ManageFlags,
}

/// Which one is to go.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct DeleteArgs {
    /// Its name. Repeatable
    #[arg(required = true, value_name = "NAME")]
    pub(in crate::cli) names: Vec<String>,
    #[command(flatten)]
    pub(in crate::cli) confirm: ConfirmFlags,
    #[command(flatten)]
    pub(in crate::cli) flags: ManageFlags,
}

/// Which one is to stand still, and why.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct PauseArgs {
    /// Its name
    pub(in crate::cli) name: String,
    /// Why, for whoever looks at it
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) reason: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) flags: ManageFlags,
}

/// What a new one does with its events, and for whom.
#[derive(Clone, Debug, Default, clap::Args)]
pub(in crate::cli) struct SpecFlags {
    #[command(flatten)]
    chain: Chain,
    /// Take in the dead letters of all topics that the patterns match
    ///
    /// Without it a pattern that begins with a wildcard (`>`, `*.eu`) takes in none, so that who reads everything does
    /// not read, and give up, what others gave up. One that spells out at least the first token of their topic
    /// (`dead.>`, `dead.orders`) always takes them in.
    #[arg(long)]
    include_dead_letters: bool,
    #[command(flatten)]
    delivery: DeliveryFlags,
    /// Whose it is: a principal, or with `*` for any characters a group of them. Only the owner, and who has a consume
    /// right on its name, may attach; and the broker does what it does by itself with the owner's rights
    #[arg(long, value_name = "PRINCIPAL")]
    owner: Option<Owner>,
}

/// Who gets it.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ChownArgs {
    /// Its name
    pub(in crate::cli) name: String,
    /// Whose it is from now on: a principal, or with `*` for any characters a group of them
    #[arg(required_unless_present = "nobody")]
    pub(in crate::cli) owner: Option<Owner>,
    /// It belongs to nobody: who may subscribe to its topics may attach
    #[arg(long, conflicts_with = "owner")]
    nobody: bool,
    #[command(flatten)]
    pub(in crate::cli) flags: ManageFlags,
}

/// What to change.
#[derive(Clone, Debug, Default, clap::Args)]
pub(in crate::cli) struct ChangeFlags {
    #[command(flatten)]
    chain: Chain,
    /// Let every event of its topics pass
    #[arg(long, conflicts_with = "filter", help_heading = "Plugins")]
    no_filters: bool,
    /// Deliver events as they are
    #[arg(long, conflicts_with = "transform", help_heading = "Plugins")]
    no_transforms: bool,
    /// Take in the dead letters of all topics that the patterns match, or no longer (`=false`)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    include_dead_letters: Option<bool>,
    #[command(flatten)]
    policy: PolicyFlags,
}

/// How events are handed out. What is not given is left to the broker's defaults.
#[derive(Clone, Debug, Default, clap::Args)]
struct DeliveryFlags {
    /// Where it starts: new (the next event) or earliest (the oldest that is kept)
    #[arg(long, default_value = "new", value_parser = human_values::word::<StartAt>, help_heading = "Delivery")]
    start: StartAt,
    #[command(flatten)]
    policy: PolicyFlags,
}

/// How events are handed out, as far as that can be changed later.
#[derive(Clone, Debug, Default, clap::Args)]
struct PolicyFlags {
    /// Time a consumer has for an event before it is handed out again [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = human_values::duration_ms, help_heading = "Delivery")]
    ack_deadline: Option<u64>,
    /// Times an event is handed out before it goes to the dead-letter topic; 0: without end [default: 10]
    #[arg(long, value_name = "N", help_heading = "Delivery")]
    attempts: Option<u32>,
    /// Waits before the second, third … attempt; the last repeats [default: 1s,5s,30s]
    #[arg(long, value_name = "TIMES", value_delimiter = ',', value_parser = human_values::duration_ms, help_heading = "Delivery")]
    backoff: Option<Vec<u64>>,
    /// Topic for events that were given up [default: dead.NAME]
    #[arg(long, value_name = "TOPIC", help_heading = "Delivery")]
    dead_letter: Option<TopicName>,
    /// Events handed out and not acked, over all consumers [default: 65536]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Delivery")]
    in_flight: Option<u32>,
}

impl DeliveryFlags {
    fn policy(&self) -> DeliveryPolicy {
        let mut policy = DeliveryPolicy::default();
        self.policy.patch().apply(&mut policy);
        policy
    }
}

impl PolicyFlags {
    fn patch(&self) -> DeliveryPatch {
        DeliveryPatch {
            ack_deadline_ms: self.ack_deadline,
            attempts_max: self.attempts,
            backoff_ms: self.backoff.clone(),
            dead_letter: self.dead_letter.clone(),
            in_flight_events_max: self.in_flight,
        }
    }
}

impl ChangeFlags {
    pub(in crate::cli) fn patch(&self) -> anyhow::Result<SubscriptionPatch> {
        let chain = self.chain.clone().with_files_read()?;
        let named = |uses: Vec<PluginPatch>, none: bool| (none || !uses.is_empty()).then_some(uses);
        Ok(SubscriptionPatch {
            filters: named(chain.filters, self.no_filters),
            transforms: named(chain.transforms, self.no_transforms),
            delivery: self.policy.patch(),
            outputs: None,
            include_dead_letters: self.include_dead_letters,
        })
    }
}

impl SpecFlags {
    /// The specification of `name`, which reads `topics` and has no outputs.
    ///
    /// # Errors
    ///
    /// A file that a flag names cannot be read.
    pub(in crate::cli) fn spec(
        &self,
        name: &Name,
        topics: &[TopicPattern],
    ) -> anyhow::Result<SubscriptionSpec> {
        let (filters, transforms) = self.chain.clone().with_files_read()?.of_new();
        Ok(SubscriptionSpec {
            filters,
            transforms,
            start: self.delivery.start,
            delivery: self.delivery.policy(),
            owner: self.owner.clone(),
            include_dead_letters: self.include_dead_letters,
            ..SubscriptionSpec::new(name.clone(), topics.to_vec())
        })
    }
}
