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
    /// the caller passes the rest again later. Whoever makes more of an event than there is room for has failed on it.
    pub(crate) async fn apply_within(&self, events: &[InputEvent], room: Room) -> Vec<Disposition> {
        let mut dispositions = self.apply(events).await;
        let Some(last) = self.steps.last() else {
            return dispositions;
        };
        for (event, disposition) in events.iter().zip(&mut dispositions) {
            if let Disposition::Outputs(outputs) = &*disposition
                && let Some((bytes, max)) = room.exceeded_by(outputs, event.bytes.len())
            {
                let reason = match room {
                    Room::Together(_) => format!(
                        "what the transforms made of the event has {bytes} bytes in {} parts, and a delivery may have {max} (limits.frame_bytes_max); let them emit less",
                        outputs.len()
                    ),
                    Room::Each(_) => format!(
                        "the transforms made an event of {bytes} bytes; limits.event_bytes_max allows {max}"
                    ),
                };
                *disposition = last.fault(reason);
            }
        }
        dispositions
    }

    async fn apply(&self, events: &[InputEvent]) -> Vec<Disposition> {
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
                dispositions.push(step.fault("the transforms before this one made more of the event than one batch may hold; let them emit less".into()));
            }
        }
        dispositions
    }
}

/// Bytes that an event takes in a delivery beside its own: its tag, its length and its place.
const PART_BYTES: usize = 32;

/// How much transforms may make of an event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Room {
    /// For a consumer: all parts of a delivery travel together, in one frame.
    Together(usize),
    /// For the topics of a route: each is an event of its own.
    Each(usize),
}

impl Room {
    // Bytes that are too many, if `outputs` are, and those that are allowed. What goes on as it came in is never too much: a
    // dead letter may be larger than what a publisher sends.
    fn exceeded_by(self, outputs: &[Output], input_bytes: usize) -> Option<(usize, usize)> {
        let (bytes, max) = match self {
            Self::Together(max) => {
                let bytes = outputs.iter().map(|output| output.event.len() + PART_BYTES);
                (bytes.sum(), max.max(input_bytes + PART_BYTES))
            }
            Self::Each(max) => {
                let bytes = outputs.iter().map(|output| output.event.len());
                (bytes.max().unwrap_or_default(), max.max(input_bytes))
            }
        };
        (bytes > max).then_some((bytes, max))
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
    fn fault(&self, reason: String) -> Disposition {
        Disposition::Fault {
            plugin: self.plugin.clone(),
            on_failure: self.on_failure,
            reason,
        }
    }

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
            TransformFailure::Fault(reason) => self.fault(reason),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(lengths: &[usize]) -> Vec<Output> {
        let output = |length: &usize| Output::unchanged(vec![7; *length].into());
        lengths.iter().map(output).collect()
    }

    #[test]
    fn parts_of_a_delivery_share_its_room_and_events_of_a_route_do_not() {
        let exceeded = |room: Room, lengths: &[usize], input_bytes| {
            room.exceeded_by(&outputs(lengths), input_bytes)
        };
        let together = Room::Together(1_000);
        assert_eq!(exceeded(together, &[1_000 - PART_BYTES], 10), None);
        assert_eq!(
            exceeded(together, &[500, 500], 10),
            Some((1_000 + 2 * PART_BYTES, 1_000))
        );
        assert_eq!(exceeded(together, &[5_000], 5_000), None, "as it came in");
        assert_eq!(exceeded(together, &[], 5_000), None);
        let each = Room::Each(1_000);
        assert_eq!(exceeded(each, &[1_000, 1_000], 10), None);
        assert_eq!(exceeded(each, &[10, 1_001], 10), Some((1_001, 1_000)));
        assert_eq!(exceeded(each, &[5_000], 5_000), None, "as it came in");
    }
}
