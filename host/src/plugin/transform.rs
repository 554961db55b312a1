//! Transforms: one configuration of a transform plugin, applied to batches by a small pool of instances. A failed
//! batch is bisected down to the guilty event. What becomes of a failed event is the caller's business.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::filter::{InputEvent, Kit, finished};
use super::guest::{Fault, FaultKind, Guest, clip};
use super::lower::{HeaderTable, Parsed, Wanted, calls, parse};
use super::pause::Pause;
use super::stats::Gauge;
use super::{ConfigureError, abi};

// Failed calls in one batch, after which the rest is not tried. One guilty event of 256 costs 9.
const FAULTS_MAX: u32 = 32;
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
    /// It trapped, ran out of time or answered nonsense: what the subscription says of failures applies.
    #[error("{0}")]
    Fault(String),
}

/// A configured transform. Cheap to clone; clones share their instances.
#[derive(Clone)]
pub struct Transformer {
    shared: Arc<Shared>,
    runtime: Handle,
}

struct Shared {
    kit: Kit,
    config: Arc<str>,
    // As many calls at a time as there are threads to run them.
    permits: Semaphore,
    idle: Mutex<Vec<Configured>>,
    state: Mutex<State>,
}

struct State {
    pause: Pause,
    paused: Option<Gauge>,
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
        kit: Kit,
        config: Arc<str>,
        parallel: usize,
        runtime: Handle,
    ) -> Result<Self, ConfigureError> {
        let task = runtime.spawn(async move {
            let first = Configured::new(&kit, &config).await?;
            let state = State {
                pause: kit.pause(),
                paused: None,
            };
            Ok(Arc::new(Shared {
                kit,
                config,
                permits: Semaphore::new(parallel.max(1)),
                idle: Mutex::new(vec![first]),
                state: Mutex::new(state),
            }))
        });
        let shared = finished(task)
            .await
            .unwrap_or(Err(ConfigureError::Stopped))?;
        Ok(Self { shared, runtime })
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
            .runtime
            .spawn(async move { shared.apply(&batch).await });
        finished(task).await.unwrap_or_else(|| {
            let stopped = || {
                Err(TransformFailure::Retry(
                    "the plugin service is stopping".into(),
                ))
            };
            events.iter().map(|_| stopped()).collect()
        })
    }
}

impl Shared {
    async fn apply(&self, events: &[InputEvent]) -> Vec<Result<Outcome, TransformFailure>> {
        let untried = || {
            Err(TransformFailure::Retry(
                "the plugin service is stopping".into(),
            ))
        };
        let mut results: Vec<_> = events.iter().map(|_| untried()).collect();
        let Ok(_permit) = self.permits.acquire().await else {
            return results;
        };
        if let Some(left) = self.paused() {
            let reason = format!(
                "the plugin keeps failing and is left alone for {} ms more",
                left.as_millis()
            );
            results.fill_with(|| Err(TransformFailure::Retry(reason.clone())));
            return results;
        }

        let (parsed, broken) = parse(events, 0..events.len());
        for (index, reason) in broken {
            results[index as usize] = Err(TransformFailure::Fault(reason));
        }
        let mut faults = 0;
        let mut room = BATCH_OUTPUTS_MAX.saturating_mul(self.kit.limits.output_bytes_max);
        // The next range is at the end.
        let mut open: Vec<&[Parsed<'_>]> = calls(&parsed, 1)
            .into_iter()
            .map(|range| &parsed[range])
            .collect();
        open.reverse();
        while let Some(range) = open.pop() {
            if room == 0 {
                results.truncate(range.first().map_or(0, |event| event.index as usize));
                break;
            }
            if faults >= FAULTS_MAX {
                let reason = "not tried, since the plugin failed too often on this batch";
                set_all(&mut results, range, &TransformFailure::Fault(reason.into()));
                continue;
            }
            match self.call(range).await {
                Ok(outcomes) => {
                    for (event, outcome) in range.iter().zip(outcomes) {
                        room = room.saturating_sub(outcome.as_ref().map_or(0, Outcome::weight));
                        results[event.index as usize] = outcome;
                    }
                }
                Err(fault) if fault.kind == FaultKind::Busy => {
                    set_all(&mut results, range, &TransformFailure::Retry(fault.reason));
                }
                Err(fault) => {
                    faults += 1;
                    if range.len() == 1 {
                        set_all(&mut results, range, &TransformFailure::Fault(fault.reason));
                    } else {
                        let (left, right) = range.split_at(range.len() / 2);
                        open.extend([right, left]);
                    }
                }
            }
        }
        self.judge(faults, &results);
        results
    }

    async fn call(
        &self,
        events: &[Parsed<'_>],
    ) -> Result<Vec<Result<Outcome, TransformFailure>>, Fault> {
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        let mut configured = match idle {
            Some(configured) => configured,
            None => Configured::new(&self.kit, &self.config)
                .await
                .map_err(Fault::from)?,
        };
        let table = HeaderTable::collect(events, &configured.wanted);
        let lowered = table.lower(events, &configured.wanted);
        let answer = configured.guest.apply(configured.rule, &lowered).await?;
        if answer.len() != events.len() {
            return Err(Fault::nonsense(format!(
                "it answered {} outcomes for a batch of {} events",
                answer.len(),
                events.len()
            )));
        }
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(configured);
        }
        Ok(answer
            .into_iter()
            .map(|result| result.map(outcome).map_err(failure))
            .collect())
    }

    fn paused(&self) -> Option<Duration> {
        let mut state = self.state.lock().ok()?;
        let left = state.pause.left();
        if left.is_none() {
            state.paused = None;
        }
        left
    }

    // A transform on which every event failed is left alone for a while.
    fn judge(&self, faults: u32, results: &[Result<Outcome, TransformFailure>]) {
        let Ok(mut state) = self.state.lock() else {
            return;
        };
        let failed = |result: &Result<_, _>| matches!(result, Err(TransformFailure::Fault(_)));
        if faults == 0 {
            state.pause.clear();
        } else if faults > 1 && results.iter().all(failed) || faults >= FAULTS_MAX {
            let pause = state.pause.strike();
            state.paused = Some(Gauge::new(&self.kit.plugin.counters, |counters| {
                &counters.paused
            }));
            tracing::warn!(
                plugin = %self.kit.label,
                pause_ms = pause.as_millis(),
                "a transform plugin keeps failing and is left alone for a while"
            );
        }
    }
}

impl Configured {
    async fn new(kit: &Kit, config: &str) -> Result<Self, ConfigureError> {
        let mut guest = Guest::new(&kit.plugin, &kit.limits).await?;
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
