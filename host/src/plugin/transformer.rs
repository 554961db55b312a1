//! Transforms: one configuration of a transform plugin, applied to batches by a small pool of instances. An event fails only if a
//! fresh instance fails on it alone; what was not tried waits. What becomes of a failed event is the caller's business.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::abi;
use super::batch_size::BatchSize;
use super::call_input::{HeaderTable, Parsed, Wanted, next_call, parse};
use super::counters::Gauge;
use super::error::ConfigureError;
use super::evaluation::InputEvent;
use super::failure_budget::{FailureBudget, TRANSFORM_COST_BEFORE_PAUSE};
use super::filter_group::finished;
use super::guest::Guest;
use super::guest_fault::{Fault, FaultKind, clip};
use super::guest_setup::GuestSetup;
use super::instance::APPLY;
use crate::locks::lock;
use crate::runtime::executor::WorkersHandle;

// When to try again after the broker itself had no instance left.
const BUSY_RETRY: Duration = Duration::from_millis(100);
// A batch stops once its outputs are this many times what one call may answer, so that what a batch makes is bounded by the
// limits of the plugin and not by the number of its events.
const BATCH_OUTPUTS_MAX: usize = 2;

/// What becomes of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on unchanged.
    Keep,
    /// It is done with: nothing is delivered, and it counts as acked.
    Drop,
    /// This goes on in its place.
    Replace(OutputEvent),
    /// These go on in its place, in this order, each for the output of that name. None at all is the same as
    /// [`Drop`](Self::Drop).
    Emit(Vec<(Option<String>, OutputEvent)>),
}

impl Outcome {
    // What it takes in memory, in bytes, roughly.
    fn weight(&self) -> usize {
        match self {
            Self::Keep | Self::Drop => 0,
            Self::Replace(event) => event.weight(),
            Self::Emit(events) => events.iter().map(|(_, event)| event.weight()).sum(),
        }
    }
}

impl OutputEvent {
    fn weight(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.len() + value.len() + 64)
            .sum();
        self.payload.len() + self.key.as_ref().map_or(0, Bytes::len) + headers + 128
    }
}

/// An event that a transform made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputEvent {
    /// Key.
    pub key: Option<Bytes>,
    /// Media type of the payload.
    pub content_type: Option<String>,
    /// Headers, names and values.
    pub headers: Vec<(String, String)>,
    /// Payload.
    pub payload: Bytes,
}

/// Why a transform did not do its work on an event. Each holds a reason for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransformFailure {
    /// The plugin says that it never will: to the dead-letter topic.
    #[error("{0}")]
    Reject(String),
    /// Later it may: after the subscription's back-off.
    #[error("{0}")]
    Retry(String),
    /// A fresh instance with this event alone trapped, ran out of time or answered nonsense: what the subscription says of
    /// failures applies.
    #[error("{0}")]
    Fault(String),
    /// It was not tried, for no fault of the event: the plugin keeps failing and pauses, or no instance is free. This attempt
    /// does not count.
    #[error("not tried: {reason}")]
    Untried {
        /// Why.
        reason: String,
        /// When to try again.
        after: Duration,
    },
}

/// A configured transform. Cheap to clone; clones share their instances.
#[derive(Clone)]
pub struct Transformer {
    shared: Arc<Shared>,
    workers: WorkersHandle,
}

struct Shared {
    setup: GuestSetup,
    config: Arc<str>,
    // Whose it is.
    subscription: Arc<str>,
    // As many calls at a time as there are threads to run them.
    permits: Semaphore,
    idle: Mutex<Vec<Configured>>,
    state: Mutex<State>,
}

struct State {
    window: BatchSize,
    budget: FailureBudget,
    paused: Option<Gauge>,
}

// Why a call came to nothing.
enum CallFault {
    // Of the transform: a fresh instance failed on these events.
    Failed(Fault),
    // A fresh instance cannot be made or configured.
    NoInstance(Fault),
}

// An instance with its rule.
struct Configured {
    guest: Guest,
    rule: u32,
    wanted: Wanted,
}

impl Transformer {
    /// Configures a first instance, so that a bad configuration shows now.
    pub(super) async fn new(
        setup: GuestSetup,
        config: Arc<str>,
        subscription: Arc<str>,
        parallel: usize,
        workers: WorkersHandle,
    ) -> Result<Self, ConfigureError> {
        let task = workers.spawn(async move {
            let first = Configured::new(&setup, &config).await?;
            let state = State {
                window: BatchSize::default(),
                budget: FailureBudget::new(setup.pause(), TRANSFORM_COST_BEFORE_PAUSE),
                paused: None,
            };
            // Many that are seldom asked must not keep others from having one.
            let idle = match setup.account.is_short() {
                true => Vec::new(),
                false => vec![first],
            };
            Ok(Arc::new(Shared {
                setup,
                config,
                subscription,
                permits: Semaphore::new(parallel.max(1)),
                idle: Mutex::new(idle),
                state: Mutex::new(state),
            }))
        });
        let shared = finished(task)
            .await
            .unwrap_or(Err(ConfigureError::Stopped))?;
        Ok(Self { shared, workers })
    }

    /// Transforms a batch; the answer has one entry for each event, in the same order. It has fewer, but at least one, when
    /// the outputs so far are large: the caller passes the rest again later. Several calls may run at the same time.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe; transforming has no effect but its answer.
    pub async fn apply(&self, events: &[InputEvent]) -> Vec<Result<Outcome, TransformFailure>> {
        let shared = Arc::clone(&self.shared);
        let batch: Arc<[InputEvent]> = events.into();
        let task = self
            .workers
            .spawn(async move { shared.apply(&batch).await });
        finished(task).await.unwrap_or_else(|| {
            let stopped = || Err(untried("the plugin service is stopping", BUSY_RETRY));
            events.iter().map(|_| stopped()).collect()
        })
    }
}

impl Shared {
    async fn apply(&self, events: &[InputEvent]) -> Vec<Result<Outcome, TransformFailure>> {
        let stopped = || Err(untried("the plugin service is stopping", BUSY_RETRY));
        let mut results: Vec<_> = events.iter().map(|_| stopped()).collect();
        let Ok(_permit) = self.permits.acquire().await else {
            return results;
        };
        let (parsed, broken) = parse(events, 0..events.len());
        for (index, reason) in broken {
            results[index as usize] = Err(TransformFailure::Fault(reason));
        }
        let mut room = BATCH_OUTPUTS_MAX.saturating_mul(self.setup.limits.output_bytes_max);
        let mut rest = &parsed[..];
        while let Some(first) = rest.first() {
            if room == 0 {
                results.truncate(first.index as usize);
                break;
            }
            let window = match self.window() {
                Ok(window) => window,
                Err(left) => {
                    let reason = "the plugin keeps failing and is left alone for a while";
                    set_all(&mut results, rest, &untried(reason, left));
                    break;
                }
            };
            let of = next_call(rest, 1);
            let (call, behind) = rest.split_at(window.of(of));
            match self.call(call).await {
                Ok(outcomes) => {
                    for (event, outcome) in call.iter().zip(outcomes) {
                        room = room.saturating_sub(outcome.as_ref().map_or(0, Outcome::weight));
                        results[event.index as usize] = outcome;
                    }
                    self.went_well(call.len(), of);
                    rest = behind;
                }
                Err(CallFault::NoInstance(fault)) => {
                    let after = match fault.kind {
                        FaultKind::Busy => BUSY_RETRY,
                        _ => self.exhaust(&fault.reason),
                    };
                    set_all(&mut results, rest, &untried(&fault.reason, after));
                    break;
                }
                Err(CallFault::Failed(fault)) => {
                    self.failed(call.len(), &fault);
                    if let [event] = call {
                        let told =
                            fault.told(&self.setup.label, Some(&*self.subscription), &event.name());
                        set_all(&mut results, call, &TransformFailure::Fault(told));
                        rest = behind;
                    }
                }
            }
        }
        results
    }

    // In an instance that is there. If that fails, it may have itself to blame, so what counts is what a fresh one does.
    async fn call(
        &self,
        events: &[Parsed<'_>],
    ) -> Result<Vec<Result<Outcome, TransformFailure>>, CallFault> {
        let idle = lock(&self.idle).pop();
        if let Some(used) = idle
            && let Ok(outcomes) = self.call_in(used, events).await
        {
            return Ok(outcomes);
        }
        let fresh = Configured::new(&self.setup, &self.config).await;
        let fresh = fresh.map_err(|error| CallFault::NoInstance(error.into()))?;
        let outcomes = self.call_in(fresh, events).await;
        outcomes.map_err(|fault| match fault.kind {
            FaultKind::Busy => CallFault::NoInstance(fault),
            _ => CallFault::Failed(fault),
        })
    }

    async fn call_in(
        &self,
        mut configured: Configured,
        events: &[Parsed<'_>],
    ) -> Result<Vec<Result<Outcome, TransformFailure>>, Fault> {
        let table = HeaderTable::collect(events, &configured.wanted);
        let lowered = table.lower(events, &configured.wanted);
        let answer = configured.guest.apply(configured.rule, &lowered).await?;
        if answer.len() != events.len() {
            return Err(Fault::nonsense(format!(
                "it answered {} outcomes for a batch of {} events",
                answer.len(),
                events.len()
            ))
            .in_export(APPLY));
        }
        // Many transforms that are seldom asked must not keep every other plugin from running.
        if !self.setup.account.is_short() {
            lock(&self.idle).push(configured);
        }
        Ok(answer
            .into_iter()
            .map(|result| result.map(outcome).map_err(failure))
            .collect())
    }

    // How many events the next call may have, or how long nothing may be tried.
    fn window(&self) -> Result<BatchSize, Duration> {
        let mut state = self.state();
        if let Some(left) = state.budget.left() {
            return Err(left);
        }
        state.paused = None;
        Ok(state.window)
    }

    fn went_well(&self, events: usize, of: usize) {
        let mut state = self.state();
        state.window.went_well(events, of);
        state.budget.went_well(events);
    }

    fn failed(&self, events: usize, fault: &Fault) {
        let mut state = self.state();
        if events > 1 {
            state.window.failed(events);
        }
        if let Some(pause) = state.budget.spend(fault.kind) {
            self.pauses(&mut state, pause, &fault.reason);
        }
    }

    fn exhaust(&self, reason: &str) -> Duration {
        let mut state = self.state();
        let pause = state.budget.exhaust();
        self.pauses(&mut state, pause, reason);
        pause
    }

    fn pauses(&self, state: &mut State, pause: Duration, reason: &str) {
        let counters = &self.setup.plugin.counters;
        state
            .paused
            .get_or_insert_with(|| Gauge::new(counters, |counters| &counters.paused));
        tracing::warn!(
            plugin = %self.setup.label,
            subscription = %self.subscription,
            reason,
            pause_ms = pause.as_millis(),
            "a transform plugin keeps failing and is left alone for a while; its events wait"
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Configured {
    async fn new(setup: &GuestSetup, config: &str) -> Result<Self, ConfigureError> {
        let mut guest = setup.guest().await?;
        let (rule, wants) = guest
            .configure(config)
            .await?
            .map_err(ConfigureError::Refused)?;
        let mut wanted = Wanted::default();
        wanted.add(&wants);
        Ok(Self {
            guest,
            rule,
            wanted,
        })
    }
}

fn untried(reason: &str, after: Duration) -> TransformFailure {
    TransformFailure::Untried {
        reason: reason.to_owned(),
        after,
    }
}

fn set_all(
    results: &mut [Result<Outcome, TransformFailure>],
    events: &[Parsed<'_>],
    failure: &TransformFailure,
) {
    for event in events {
        results[event.index as usize] = Err(failure.clone());
    }
}

fn outcome(outcome: abi::Outcome) -> Outcome {
    match outcome {
        abi::Outcome::Keep => Outcome::Keep,
        abi::Outcome::Drop => Outcome::Drop,
        abi::Outcome::Replace(event) => Outcome::Replace(output(event)),
        abi::Outcome::Emit(parts) => Outcome::Emit(
            parts
                .into_iter()
                .map(|part| (part.output, output(part.event)))
                .collect(),
        ),
    }
}

fn output(event: abi::Output) -> OutputEvent {
    OutputEvent {
        key: event.key.map(Bytes::from),
        content_type: event.content_type,
        headers: event
            .headers
            .into_iter()
            .map(|header| (header.name, header.value))
            .collect(),
        payload: event.payload.into(),
    }
}

fn failure(failure: abi::Failure) -> TransformFailure {
    match failure {
        abi::Failure::Reject(reason) => TransformFailure::Reject(clip(reason)),
        abi::Failure::Retry(reason) => TransformFailure::Retry(clip(reason)),
    }
}
