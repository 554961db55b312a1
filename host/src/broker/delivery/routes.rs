//! Routes: subscriptions that the broker itself consumes. One task for each leases events, transforms them, and
//! hands outputs and acks to the committer as one item of a group, so their effect is exactly once: after a
//! crash either both are there or neither, and what was not there is done again.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;

use super::context::DeliveryContext;
use super::fetcher::Fetcher;
use super::leased_events::{LeasedEvent, LeasedSlice};
use super::route_rights::RouteRights;
use super::transform_chain::{Output, Room};
use crate::broker::commit::request::{Appended, Control, Outputs};
use crate::broker::error::{OutputError, Unavailable};
use crate::broker::subscriptions::dead_letter_counts::DeadLetterCounts;
use crate::broker::subscriptions::live_subscription::LiveSubscription;
use crate::domain::hops;
use crate::domain::{BlockOrigin, Event, EventRef, Position, SubscriptionSpec, TopicName};
use crate::plugin::ConfigureError;
use crate::state::GiveUpReason;
use crate::state::range_map::push_range;

/// Events and bytes of input that go into one group.
const BATCH_EVENTS_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of output that are handed to the committer as one item, or as many as one event makes: what becomes of an event is never
/// split. Transforms may make much of little, and one item is in one group.
const ITEM_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long it waits after what was no fault of an event.
const RETRY: Duration = Duration::from_secs(1);

/// Runs one route until it is deleted or the broker stops.
///
/// # Errors
///
/// Its transforms cannot be set up.
pub(crate) async fn run(
    context: Arc<DeliveryContext>,
    live: Arc<LiveSubscription>,
) -> Result<(), ConfigureError> {
    if let Err(error) = context.chains.of(&live, &live.settings()).await
        && !error.is_passing()
    {
        return Err(error);
    }
    let fetcher = Fetcher::attach_untimed(context, live);
    let mut standing = RouteRights::default();
    let mut bytes_max = BATCH_BYTES_MAX;
    loop {
        if !standing.regained(&fetcher).await {
            return Ok(());
        }
        match round(&fetcher, &mut standing, bytes_max).await {
            Ok(()) => bytes_max = (2 * bytes_max).min(BATCH_BYTES_MAX),
            Err(Failed::Transforms(error)) if error.is_passing() => {
                tracing::warn!(%error, "a route's transforms cannot be set up now; it tries again");
                if !rest(&fetcher).await {
                    return Ok(());
                }
            }
            Err(Failed::Transforms(error)) => return Err(error),
            Err(
                Failed::Ended | Failed::Write(OutputError::Unavailable(Unavailable::ShuttingDown)),
            ) => return Ok(()),
            Err(Failed::Write(error)) => {
                tracing::warn!(%error, "a route could not write; it tries again");
                // On a full disk there may be room for less, which may make some.
                bytes_max = (bytes_max / 2).max(1);
                if !rest(&fetcher).await {
                    return Ok(());
                }
            }
        }
    }
}

// Before another try; false when the broker stops.
async fn rest(fetcher: &Fetcher) -> bool {
    tokio::select! {
        biased;
        () = fetcher.context.shutdown.cancelled() => false,
        () = tokio::time::sleep(RETRY) => true,
    }
}

/// Why a round came to nothing.
enum Failed {
    Transforms(ConfigureError),
    /// There is nothing more to take.
    Ended,
    Write(OutputError),
}

async fn round(
    fetcher: &Fetcher,
    standing: &mut RouteRights,
    bytes_max: usize,
) -> Result<(), Failed> {
    let taken = fetcher.take(BATCH_EVENTS_MAX, bytes_max).await;
    let slices = taken.map_err(|_| Failed::Ended)?;
    let mut leased: Vec<LeasedEvent> = slices
        .into_iter()
        .flat_map(LeasedSlice::into_events)
        .collect();
    // The same for the whole batch, though the route be changed meanwhile.
    let settings = fetcher.live.settings();
    // It may have waited for these events for long.
    if !standing.is_good(fetcher, &settings) {
        fetcher.give_back(leased.iter().map(|leased| leased.position));
        return Ok(());
    }
    let transforms = match fetcher.context.chains.of(&fetcher.live, &settings).await {
        Ok(transforms) => transforms,
        Err(error) => {
            fetcher.give_back(leased.iter().map(|leased| leased.position));
            return Err(Failed::Transforms(error));
        }
    };
    leased.retain(|leased| within_hops(fetcher, leased));
    let inputs: Vec<_> = leased.iter().map(LeasedEvent::input).collect();
    let room = Room::Each(fetcher.context.event_bytes_max);
    let dispositions = transforms.apply_within(&inputs, room).await;
    let rest = leased.get(dispositions.len()..).unwrap_or_default();
    fetcher.give_back(rest.iter().map(|leased| leased.position));
    let mut items = Items::default();
    // In rising order: ranges are joined by that, and redeliveries come first from a lease.
    let mut results: Vec<_> = leased.into_iter().zip(dispositions).collect();
    results.sort_by_key(|(leased, _)| leased.position);
    for (leased, outputs) in fetcher.conclude_all(results) {
        match place(&settings.spec, &leased, outputs) {
            Ok(placed) => {
                items.add(leased.position, placed);
            }
            Err(reason) => {
                fetcher.give_up(
                    leased.position,
                    GiveUpReason::TransformRejected(reason.into()),
                );
            }
        }
    }
    hand_over(fetcher, items).await
}

// One item after the other. When one is refused, it and those after it are tried again.
async fn hand_over(fetcher: &Fetcher, items: Items) -> Result<(), Failed> {
    let subscription = fetcher.live.id;
    let mut items = items.0.into_iter();
    while let Some(Item { acks, events, .. }) = items.next() {
        let mut again = acks.clone();
        let outputs = |done| {
            Control::Outputs(Outputs {
                subscription,
                acks,
                events,
                letters: DeadLetterCounts::default(),
                done,
            })
        };
        let handed = tokio::select! {
            biased;
            handed = fetcher.context.inbox.ask(outputs) => handed,
            // Written or not, the events are acked in the same group or not at all, so there is nothing to wait for.
            () = fetcher.context.shutdown.cancelled() => return Err(Failed::Ended),
        };
        if let Err(error) = handed {
            again.extend(items.flat_map(|item| item.acks));
            // It says nothing about the events that what they make of them cannot be written.
            fetcher.put_back(&again, 1_000);
            return Err(Failed::Write(error));
        }
    }
    Ok(())
}

/// What a round appends, in items of a bounded size.
#[derive(Default)]
struct Items(Vec<Item>);

#[derive(Default)]
struct Item {
    acks: Vec<RangeInclusive<Position>>,
    events: Vec<Appended>,
    bytes: usize,
}

impl Items {
    // Adds what became of the event at `position`, which is behind those before it.
    fn add(&mut self, position: Position, placed: Vec<Appended>) {
        if self
            .0
            .last()
            .is_none_or(|item| item.bytes >= ITEM_BYTES_MAX)
        {
            self.0.push(Item::default());
        }
        let Some(item) = self.0.last_mut() else {
            return;
        };
        item.bytes += placed.iter().map(|event| event.event.len()).sum::<usize>();
        item.events.extend(placed);
        push_range(&mut item.acks, position..=position);
    }
}

fn within_hops(fetcher: &Fetcher, leased: &LeasedEvent) -> bool {
    let hops = EventRef::parse(&leased.event).map_or(0, |event| hops::of(&event));
    if hops < hops::MAX {
        return true;
    }
    fetcher.give_up(leased.position, GiveUpReason::HopLimit);
    false
}

// Which output goes to which topic. What a route makes of a dead letter is an ordinary event again, whose hops go on counting.
fn place(
    spec: &SubscriptionSpec,
    leased: &LeasedEvent,
    outputs: Vec<Output>,
) -> Result<Vec<Appended>, String> {
    let hops = EventRef::parse(&leased.event).map_or(0, |event| hops::of(&event)) + 1;
    let mut placed = Vec::with_capacity(outputs.len());
    for output in outputs {
        let topic = output_topic(spec, output.name.as_deref())?;
        let mut event = Event::decode(output.event)
            .map_err(|error| format!("the event cannot be read again: {error}"))?;
        hops::set(&mut event, hops);
        if planted!(RouteOutputLost) && !placed.is_empty() {
            continue;
        }
        placed.push(Appended {
            topic,
            mark: BlockOrigin::Ordinary,
            event: event.encode_to_vec().into(),
        });
    }
    Ok(placed)
}

fn output_topic(spec: &SubscriptionSpec, name: Option<&str>) -> Result<TopicName, String> {
    let known = || {
        spec.outputs
            .keys()
            .map(|name| name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    match name {
        Some(name) => match spec.outputs.get(name) {
            Some(topic) => Ok(topic.clone()),
            None => Err(format!(
                "output `{name}` is not one of this route's: {}",
                known()
            )),
        },
        None if spec.outputs.len() == 1 => Ok(spec
            .outputs
            .values()
            .next()
            .cloned()
            .expect("one output was counted")),
        None => Err(format!(
            "the transform named no output, and this route has several: {}",
            known()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(outputs: &[(&str, &str)]) -> SubscriptionSpec {
        let outputs: serde_json::Map<_, _> = outputs
            .iter()
            .map(|(name, topic)| ((*name).to_owned(), (*topic).into()))
            .collect();
        serde_json::from_value(
            serde_json::json!({"name": "r", "topics": ["a"], "outputs": outputs}),
        )
        .expect("valid specification")
    }

    #[test]
    fn what_transforms_make_is_handed_over_in_bounded_items() {
        let topic: TopicName = "a".parse().expect("a name");
        let output = |bytes| Appended {
            topic: topic.clone(),
            mark: BlockOrigin::default(),
            event: vec![0; bytes].into(),
        };
        let mut items = Items::default();
        for position in 1..=10 {
            let quarter = || output(ITEM_BYTES_MAX / 4);
            items.add(Position(position), vec![quarter(), quarter()]);
        }
        items.add(Position(11), vec![]);
        items.add(Position(13), vec![output(3 * ITEM_BYTES_MAX)]);
        items.add(Position(14), vec![output(1)]);
        let found = items.0.iter().map(|item| (item.acks.clone(), item.bytes));
        let pair = |first| (vec![Position(first)..=Position(first + 1)], ITEM_BYTES_MAX);
        let mut expected: Vec<_> = (0..5).map(|number| pair(2 * number + 1)).collect();
        let large = vec![Position(11)..=Position(11), Position(13)..=Position(13)];
        expected.push((large, 3 * ITEM_BYTES_MAX));
        expected.push((vec![Position(14)..=Position(14)], 1));
        assert!(found.eq(expected));
    }

    #[test]
    fn outputs_go_where_their_names_say() {
        let one = spec(&[("won", "auction.won")]);
        let two = spec(&[("won", "auction.won"), ("lost", "auction.lost")]);
        let topic = |spec, name| output_topic(spec, name).map(|topic| topic.to_string());
        assert_eq!(topic(&one, None).as_deref(), Ok("auction.won"));
        assert_eq!(topic(&two, Some("lost")).as_deref(), Ok("auction.lost"));
        assert!(
            topic(&two, None)
                .expect_err("ambiguous")
                .contains("several")
        );
        assert!(
            topic(&one, Some("lost"))
                .expect_err("unknown")
                .contains("`lost`")
        );
    }
}
