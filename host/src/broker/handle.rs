//! The broker as the outside sees it: a handle that any number of connections share. What it does is done by those behind it; what
//! is decided here is who may ask for what, and whether it can be asked for.

mod changes;
mod deleted_topics;
mod plugins;
mod queries;

use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::checkpoint::checkpointer::Decision;
use super::commit::inbox::{Inbox, LastCame};
use super::commit::producer_streams::ProducerStreams;
use super::commit::publish_reply::PublishReplies;
use super::commit::publisher::Publisher;
use super::commit::request::Control;
use super::delivery::consumer::Consumer;
use super::delivery::context::DeliveryContext;
use super::delivery::fetcher::Manner;
use super::error::{ChangeError, ConsumeError, NotFound, PublishError, ShowError, Unavailable};
use super::event_log::tail::Log;
use super::plugin_store::store::PluginStore;
use super::subscriptions::live_subscription::LiveSubscription;
use super::subscriptions::registry::Registry;
use crate::auth::{Policy, authorize};
use crate::domain::{
    LogLine, Principal, ProducerId, SubscriptionId, SubscriptionSpec, UnreadableInfo,
};
use crate::locks;
use crate::runtime::clock::Clock;
use crate::runtime::executor::ThreadEnd;
use crate::runtime::spawn::Spawner;
use crate::state::catalog::Catalog;
use crate::store::{StoreReader, StoreUsage};
use crate::telemetry::conditions::{Conditions, Raised};
use crate::telemetry::error_line::with_causes;

/// How the broker fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Publishes are taken and everything runs that has to.
    pub ready: bool,
    /// The broker is on its way down.
    pub stopping: bool,
    /// What is wrong, what makes it unready first.
    pub conditions: Vec<Raised>,
}

/// A subscription or route that was looked up, so that what is done to it is done to this one, though another may have its name by
/// then.
#[derive(Clone, Debug)]
pub struct FoundSubscription {
    id: SubscriptionId,
    /// What it was asked to be.
    pub spec: Arc<SubscriptionSpec>,
}

pub use queries::Counts;

/// The running broker. Cheap to clone.
#[derive(Clone)]
pub struct Broker(pub(super) Arc<Inner>);

/// What the handles share.
pub(super) struct Inner {
    pub(super) subscription_patterns_max: usize,
    pub(super) registry: Arc<Registry>,
    pub(super) log: Log,
    pub(super) inbox: Arc<Inbox>,
    pub(super) catalog: Arc<RwLock<Catalog>>,
    pub(super) policy: Arc<Policy>,
    pub(super) context: Arc<DeliveryContext>,
    pub(super) streams: Arc<ProducerStreams>,
    pub(super) plugins: Arc<PluginStore>,
    pub(super) reader: StoreReader,
    /// To the checkpointer.
    pub(super) decide: mpsc::Sender<Decision>,
    pub(super) spawner: Spawner,
    /// Ends routes, lanes and consumers, before the committer is closed.
    pub(super) shutdown: CancellationToken,
    /// Those of the committer and the checkpointer, until the shutdown waits for them.
    pub(super) threads: Mutex<Vec<ThreadEnd>>,
}

impl Broker {
    /// Opens a publish stream. A stream of the same producer with the same or a lower epoch is fenced.
    /// Returns the publisher and the highest number committed for this producer, all of which is durable. Replies go to
    /// `replies`, in any order; their number is bounded by what the caller lets be outstanding.
    ///
    /// # Errors
    ///
    /// The producer is another principal's, a stream of it with a higher epoch has been open, or its last events cannot be
    /// made durable. No other stream is fenced then, unless the disk fills up in the very moment in which it is.
    pub async fn publisher(
        &self,
        who: &Principal,
        producer: Option<(ProducerId, u32)>,
        replies: PublishReplies,
    ) -> Result<(Publisher, u64), PublishError> {
        let (stream, last_number) = match producer {
            Some((id, epoch)) => {
                // What would refuse this does so before anybody is fenced for it.
                if self.0.streams.may_open(id, epoch, who.digest())? > 0 {
                    self.0
                        .inbox
                        .ask::<(), Unavailable>(Control::ConfirmAcks)
                        .await?;
                }
                let (stream, last) = self.0.streams.open(id, epoch, who.digest())?;
                (Some(stream), last)
            }
            None => (None, 0),
        };
        let publisher = Publisher {
            inbox: self.0.inbox.clone(),
            streams: self.0.streams.clone(),
            stream,
            by: who.clone(),
            replies,
            last_came: LastCame::default(),
        };
        let last_number = match last_number {
            0 => 0,
            _ => publisher.last_durable_number().await?,
        };
        Ok((publisher, last_number))
    }

    /// Takes the room for publishes but for what costs `left`, for as long as the answer lives.
    #[cfg(test)]
    pub(crate) async fn take_publish_room(&self, left: usize) -> impl Send + use<> {
        let taken = super::commit::inbox::PUBLISH_COST_MAX - left;
        self.0.inbox.publish_room(taken).await
    }

    /// Attaches a consumer of `who` to the subscription `name`, perhaps only to `look`: then nothing that it does counts
    /// as an attempt.
    ///
    /// # Errors
    ///
    /// `who` may not, there is none of that name, it is a route, or its transforms cannot be set up. Who may not learns
    /// nothing else.
    pub async fn attach(
        &self,
        who: &Principal,
        name: &str,
        manner: Manner,
    ) -> Result<Consumer, ConsumeError> {
        // Looked at first: what changes from here on is noticed by the consumer.
        let let_in_by = self.0.policy.version();
        let live = self.0.registry.by_name(name);
        let settings = live.as_ref().map(|live| live.settings());
        let spec = settings.as_ref().map(|settings| &*settings.spec);
        let is_there = authorize::attach(&self.0.policy, who, name, spec)?;
        let Some((live, settings)) = live.zip(settings).filter(|_| is_there) else {
            return Err(NotFound::Subscription(name.to_owned()).into());
        };
        if settings.spec.is_route() {
            return Err(ConsumeError::Invalid(format!(
                "`{name}` is a route, which the broker consumes itself; subscribe to its output topics"
            )));
        }
        let transforms = self.0.context.chains.of(&live, &settings).await;
        transforms.map_err(|error| ConsumeError::Invalid(with_causes(&error)))?;
        let context = self.0.context.clone();
        Ok(Consumer::attach(
            context,
            live,
            manner,
            who.clone(),
            let_in_by,
        ))
    }

    /// What lately went wrong with a subscription, the oldest first. It may quote events, so it is for those who may receive
    /// them.
    ///
    /// # Errors
    ///
    /// There is none of that name, or `who` may not consume it.
    pub fn subscription_log(&self, who: &Principal, name: &str) -> Result<Vec<LogLine>, ShowError> {
        let live = self.live(name)?;
        let spec = live.settings().spec.clone();
        authorize::read_log(&self.0.policy, who, &spec)?;
        Ok(live.log_limits.told.lines())
    }

    /// What could not be read when that was last tried.
    #[must_use]
    pub fn unreadable(&self) -> Vec<UnreadableInfo> {
        let list = self.0.reader.unreadable().into_iter();
        list.map(|one| UnreadableInfo {
            path: one.path.display().to_string(),
            first: Some(one.first),
            last: Some(one.last),
            damage: one.why.is_damage(),
            reason: Some(with_causes(&*one.why)),
            kept_as: None,
        })
        .collect()
    }

    /// Gives up what is damaged of that in generations, for all subscriptions and for good. With `dead_letters`, those for which
    /// events of it are pending get a letter for each, with what is known. Answers what was given up. Damage of the journal takes a
    /// start that accepts losses.
    ///
    /// # Errors
    ///
    /// The disk failed, or the broker is shutting down.
    ///
    /// # Cancel safety
    ///
    /// Dropped before completion, it is still done.
    pub async fn give_up_unreadable(
        &self,
        dead_letters: bool,
    ) -> Result<Vec<UnreadableInfo>, Unavailable> {
        let (done, answer) = oneshot::channel();
        let decision = Decision { dead_letters, done };
        let gone = || {
            match self.0.shutdown.is_cancelled() {
            true => Unavailable::ShuttingDown,
            false => Unavailable::Internal(
                "nothing was decided: the checkpointer ended by a fault of its own; restart the broker".into(),
            ),
        }
        };
        let told = self.0.decide.send(decision).await;
        told.map_err(|_| gone())?;
        let losses = answer.await.map_err(|_| gone())?;
        let losses = losses
            .map_err(|why| Unavailable::Internal(format!("nothing was given up: {why}")))?
            .into_iter();
        Ok(losses
            .map(|loss| UnreadableInfo {
                path: loss.path.display().to_string(),
                first: loss.positions.map(|(first, _)| first),
                last: loss.positions.map(|(_, last)| last),
                damage: true,
                reason: None,
                kept_as: loss.kept_aside.map(|path| path.display().to_string()),
            })
            .collect())
    }

    /// How the broker fares.
    #[must_use]
    pub fn health(&self) -> Health {
        let stopping = self.0.shutdown.is_cancelled();
        Health {
            ready: !stopping && self.conditions().is_ready(),
            stopping,
            conditions: self.conditions().all(),
        }
    }

    /// Where whoever notices that something is wrong says so.
    #[must_use]
    pub fn conditions(&self) -> &Conditions {
        self.0.spawner.conditions()
    }

    /// The time that everything here goes by.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.registry.clock
    }

    /// Starts what runs beside its caller, so that its end is seen.
    #[must_use]
    pub fn spawner(&self) -> &Spawner {
        &self.0.spawner
    }

    /// What the store takes.
    #[must_use]
    pub fn usage(&self) -> StoreUsage {
        self.0.reader.usage()
    }

    // An error that names a subscription in the way only to who may see that one.
    fn named_to(&self, who: &Principal, error: ChangeError) -> ChangeError {
        match error {
            ChangeError::InUse { what, by } => ChangeError::InUse {
                what,
                by: by.told(|name| self.sees_subscription(who, name)),
            },
            other => other,
        }
    }

    fn sees_subscription(&self, who: &Principal, name: &str) -> bool {
        let live = self.0.registry.by_name(name);
        live.is_some_and(|live| {
            authorize::sees_subscription(&self.0.policy, who, &live.settings().spec)
        })
    }

    fn live(&self, name: &str) -> Result<Arc<LiveSubscription>, NotFound> {
        let live = self.0.registry.by_name(name);
        live.ok_or_else(|| NotFound::Subscription(name.to_owned()))
    }

    fn found(&self, found: &FoundSubscription) -> Result<Arc<LiveSubscription>, NotFound> {
        let live = self.0.registry.by_id(found.id);
        live.ok_or_else(|| NotFound::Subscription(found.spec.name.to_string()))
    }

    fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        locks::read(&self.0.catalog)
    }
}
