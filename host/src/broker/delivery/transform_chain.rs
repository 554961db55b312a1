//! The transforms of one subscription, one after the other, applied to a batch of events. What becomes of each
//! event is decided here; what that means for the subscription is its caller's business.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use crate::domain::{Event, EventRef, FailurePolicy, Header, Name, PluginUse, is_reserved_header};
use crate::plugin::{
    ConfigureError, InputEvent, Outcome, OutputEvent, Plugins, TransformFailure, Transformer,
};

/// Configured transforms, in order. Empty: events go on as they are.
#[derive(Default)]
pub(crate) struct TransformChain {
    steps: Vec<Step>,
}

struct Step {
    transformer: Transformer,
    // What it is called.
    plugin: Arc<str>,
    on_failure: FailurePolicy,
}

/// An event that comes out of a chain.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// The output a transform named, if one did.
    pub(crate) name: Option<String>,
    /// Encoded.
    pub(crate) event: Bytes,
}

impl Output {
    pub(crate) fn unchanged(event: Bytes) -> Self {
        Self { name: None, event }
    }
}

/// What becomes of an event.
#[derive(Debug)]
pub(crate) enum Disposition {
    /// These go on; none at all: the event is done with.
    Outputs(Vec<Output>),
    /// It can never be transformed.
    Reject(String),
    /// It may be later, says the plugin.
    Retry { plugin: Arc<str>, reason: String },
    /// The plugin failed on it.
    Fault {
        plugin: Arc<str>,
        on_failure: FailurePolicy,
        reason: String,
    },
    /// It was not tried with the plugin. After so long it may be, and this time does not count.
    Untried {
        plugin: Arc<str>,
        reason: String,
        after: Duration,
    },
}

impl Disposition {
    /// Whether its subscription stands still at the event.
    pub(crate) fn pauses(&self) -> bool {
        let policy = match self {
            Self::Fault { on_failure, .. } => on_failure,
            _ => return false,
        };
        *policy == FailurePolicy::Pause
    }
}

impl TransformChain {
    /// That of `subscription`. With each plugin goes what it is called, which also says on whose account it is.
    pub(crate) async fn configure(
        plugins: &Plugins,
        subscription: &Name,
        uses: Vec<(&PluginUse, String)>,
    ) -> Result<Self, ConfigureError> {
        let mut steps = Vec::with_capacity(uses.len());
        for (used, label) in uses {
            let Some(digest) = &used.digest else { continue };
            let transformer =
                plugins.transformer(digest, &used.config, &label, subscription.as_str());
            steps.push(Step {
                transformer: transformer.await?,
                plugin: label.into(),
                on_failure: used.on_failure,
            });
        }
        Ok(Self { steps })
    }

    /// One disposition for each event, in order. Fewer, but at least one, when what the transforms made of these is large:
    /// the caller passes the rest again later.
    pub(crate) async fn apply(&self, events: &[InputEvent]) -> Vec<Disposition> {
        let mut dispositions: Vec<Disposition> = events
            .iter()
            .map(|event| Disposition::Outputs(vec![Output::unchanged(event.bytes.clone())]))
            .collect();
        for step in &self.steps {
            let mut inputs = Vec::new();
            for (event, disposition) in events.iter().zip(&dispositions) {
                let Disposition::Outputs(outputs) = disposition else {
                    continue;
                };
                inputs.extend(outputs.iter().map(|output| input(event, output)));
            }
            let mut results = step.transformer.apply(&inputs).await.into_iter();
            for index in 0..dispositions.len() {
                let Disposition::Outputs(outputs) = &mut dispositions[index] else {
                    continue;
                };
                if results.len() < outputs.len() {
                    dispositions.truncate(index);
                    break;
                }
                let outputs = std::mem::take(outputs);
                dispositions[index] = step.take(outputs, &mut results);
            }
            // Not even the first event got through: alone it makes more than a batch may.
            if dispositions.is_empty() && !events.is_empty() {
                dispositions.push(Disposition::Fault {
                    plugin: step.plugin.clone(),
                    on_failure: step.on_failure,
                    reason: "the transforms before this one made more of the event than one batch may hold; let them emit less".into(),
                });
            }
        }
        dispositions
    }
}

// What the transforms so far have made of an event, in its place.
fn input(event: &InputEvent, output: &Output) -> InputEvent {
    InputEvent {
        topic: event.topic.clone(),
        sequence: event.sequence,
        time: event.time,
        bytes: output.event.clone(),
    }
}

impl Step {
    // For the outputs of one event. They share its fate: the first that fails decides.
    fn take(
        &self,
        outputs: Vec<Output>,
        results: &mut impl Iterator<Item = Result<Outcome, TransformFailure>>,
    ) -> Disposition {
        let mut next = Vec::with_capacity(outputs.len());
        let mut failed = None;
        for output in outputs {
            let result = results.next().unwrap_or_else(|| {
                Err(TransformFailure::Fault(
                    "the plugin answered for fewer events than it was given".into(),
                ))
            });
            match result {
                Ok(Outcome::Keep) => next.push(output),
                Ok(Outcome::Drop) => {}
                Ok(Outcome::Replace(event)) => match encode(&output.event, event) {
                    Ok(event) => next.push(Output {
                        name: output.name,
                        event,
                    }),
                    Err(failure) => failed = failed.or(Some(failure)),
                },
                Ok(Outcome::Emit(events)) => {
                    for (name, event) in events {
                        match encode(&output.event, event) {
                            Ok(event) => next.push(Output {
                                name: name.or_else(|| output.name.clone()),
                                event,
                            }),
                            Err(failure) => failed = failed.or(Some(failure)),
                        }
                    }
                }
                Err(failure) => failed = failed.or(Some(failure)),
            }
        }
        let Some(failure) = failed else {
            return Disposition::Outputs(next);
        };
        let plugin = self.plugin.clone();
        match failure {
            TransformFailure::Reject(reason) => Disposition::Reject(reason),
            TransformFailure::Retry(reason) => Disposition::Retry { plugin, reason },
            TransformFailure::Fault(reason) => Disposition::Fault {
                plugin,
                on_failure: self.on_failure,
                reason,
            },
            TransformFailure::Untried { reason, after } => Disposition::Untried {
                plugin,
                reason,
                after,
            },
        }
    }
}

// A transform's output keeps the id of the event it was made of. What the broker says in headers no transform says in its place;
// it may leave what came in as it is, or drop it.
fn encode(original: &[u8], output: OutputEvent) -> Result<Bytes, TransformFailure> {
    let original = EventRef::parse(original).ok();
    let came_in = |name: &str, value: &str| {
        original.is_some_and(|event| event.headers().any(|header| header == (name, value)))
    };
    let mut reserved = output.headers.iter();
    let forged = reserved.find(|(name, value)| is_reserved_header(name) && !came_in(name, value));
    if let Some((name, _)) = forged {
        return Err(TransformFailure::Reject(format!(
            "the transform sets header `{name}`; names that begin with `tidegate-` are for what the broker says"
        )));
    }
    let id = original
        .map(|event| event.id().to_owned())
        .unwrap_or_default();
    let event = Event {
        id,
        key: output.key,
        headers: output
            .headers
            .into_iter()
            .map(|(name, value)| Header { name, value })
            .collect(),
        content_type: output.content_type.unwrap_or_default(),
        payload: output.payload,
    };
    Ok(event.encode_to_vec().into())
}
