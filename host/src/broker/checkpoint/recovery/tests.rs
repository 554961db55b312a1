//! Tests of what recovery makes of the groups of a journal, also where some of them are lost.

use bytes::Bytes;

use super::*;
use crate::domain::{BlockOrigin, CommitNumber, TopicSpec};
use crate::state::catalog::Json;
use crate::state::{CameBack, Next, Producers};

fn group(number: u64, notes: &[Note], blocks: &[(u64, u64, u64)]) -> Result<Replayed, ReadError> {
    group_at(Millis(0), number, notes, blocks)
}

fn group_at(
    time: Millis,
    number: u64,
    notes: &[Note],
    blocks: &[(u64, u64, u64)],
) -> Result<Replayed, ReadError> {
    let mut bytes = Vec::new();
    notes
        .iter()
        .for_each(|one| journal_note::push(one, &mut bytes));
    let block = |(topic, position, sequence): &(u64, u64, u64)| BlockMeta {
        first_position: Position(*position),
        last_position: Position(position + 1),
        topic: TopicId(*topic),
        mark: BlockOrigin::Ordinary,
        first_sequence: Sequence(*sequence),
        count: 2,
        time,
    };
    Ok(Replayed::Group(ReplayedGroup {
        number: CommitNumber(number),
        notes: bytes.into(),
        blocks: blocks.iter().map(block).collect(),
    }))
}

fn create_topic(id: u64, name: &str) -> Note {
    Note::Change(Change::CreateTopic {
        id: TopicId(id),
        spec: Json(TopicSpec {
            name: name.parse().expect("valid"),
            durability: Durability::Sync,
            created_by: None,
        }),
    })
}

fn create_subscription(id: u64) -> Note {
    let spec = serde_json::json!({"name": format!("s{id}"), "topics": ["a"]});
    Note::Change(Change::CreateSubscription {
        id: SubscriptionId(id),
        spec: Json(serde_json::from_value(spec).expect("valid")),
        start: Position(1),
    })
}

fn acks(subscription: u64) -> Note {
    Note::Acks {
        subscription: SubscriptionId(subscription),
        ranges: vec![(1, 0)],
    }
}

fn recovered(
    pairs: &[(bytes::Bytes, bytes::Bytes)],
    pieces: Vec<Result<Replayed, ReadError>>,
    sealed: &[(u64, u64)],
) -> Recovered {
    let sealed = || {
        sealed
            .iter()
            .map(|(id, events)| (TopicId(*id), *events))
            .collect()
    };
    recover(pairs, pieces.into_iter(), sealed, true, 10).expect("readable")
}

fn orphans(recovered: &Recovered) -> Vec<(u64, u64)> {
    let orphans = recovered.orphans.iter();
    orphans.map(|(topic, events)| (topic.0, *events)).collect()
}

#[test]
fn what_came_back_and_what_stands_still_is_read_again() {
    let back = |handed, next| Note::CameBack {
        subscription: SubscriptionId(1),
        at: Millis(5_000),
        events: vec![CameBack {
            first: 1,
            more: 0,
            failed: handed,
            handed,
            suspect: false,
            next,
        }],
    };
    let paused = |why: Option<&str>| Note::Paused {
        subscription: SubscriptionId(1),
        why: why.map(Into::into),
    };
    let pieces = |last: Option<&str>| {
        vec![
            group(
                1,
                &[create_topic(1, "a"), create_subscription(1)],
                &[(1, 1, 1)],
            ),
            group(2, &[back(1, Next::Ready), paused(Some("so"))], &[]),
            group(3, &[back(2, Next::At(Millis(9_000)))], &[]),
            group(4, &[paused(last)], &[]),
            group(5, &[Note::Stopped { at: Millis(9_500) }], &[]),
        ]
    };
    for last in [Some("again"), None] {
        let recovered = recovered(&[], pieces(last), &[]);
        let state = &recovered.subscriptions[0].0.state;
        assert_eq!(state.paused(), last);
        assert_eq!((state.depth(), state.delayed()), (2, 1));
        assert_eq!(state.delayed_until(), Some(Millis(9_000)));
        assert_eq!(recovered.last_time, Millis(9_500));
    }
}

#[test]
fn a_clock_that_was_set_back_while_the_broker_ran_shortens_no_delay_and_makes_none_longer() {
    const MINUTE: u64 = 60_000;
    let minute = |minutes: u64| Millis(minutes * MINUTE);
    let back = |position, at, due| Note::CameBack {
        subscription: SubscriptionId(1),
        at: minute(at),
        events: vec![CameBack {
            first: position,
            more: 0,
            failed: 1,
            handed: 1,
            suspect: false,
            next: Next::At(minute(due)),
        }],
    };
    // Half an hour each: one before the clock is set back by 55 minutes, one after it.
    let (before, after) = (back(1, 800, 830), back(2, 746, 776));
    let recovered = |before: &[Note], after: &[Note]| {
        let created = [create_topic(1, "a"), create_subscription(1)];
        let pieces = vec![
            group_at(minute(799), 1, &created, &[(1, 1, 1)]),
            group_at(minute(800), 2, before, &[(1, 3, 3)]),
            group_at(minute(745), 3, &[], &[(1, 5, 5)]),
            group_at(minute(746), 4, after, &[]),
            group_at(minute(747), 5, &[], &[(1, 7, 7)]),
        ];
        recovered(&[], pieces, &[])
    };
    let first = |mut recovered: Recovered| {
        assert_eq!(recovered.last_time, minute(747));
        let resting = &mut recovered.subscriptions[0].0;
        resting.wake_at(minute(748), recovered.last_time);
        // Long waits end some seconds later than they say.
        let due = resting.state.delayed_until().expect("it waits");
        (resting.state.delayed(), due.0 / MINUTE)
    };
    assert_eq!(
        first(recovered(std::slice::from_ref(&before), &[])),
        (1, 775)
    );
    assert_eq!(
        first(recovered(&[], std::slice::from_ref(&after))),
        (1, 776)
    );
    assert_eq!(first(recovered(&[before], &[after])), (2, 775));
}

#[test]
fn every_id_that_is_seen_raises_the_counters() {
    let highest = |pieces| {
        let catalog = recovered(&[], pieces, &[]).catalog;
        (catalog.last_topic.0, catalog.last_subscription.0)
    };
    let reserved = Note::Reserved {
        next_position: Position(1),
        next_sequences: vec![(TopicId(8), Sequence(1))],
    };
    let change = |change| vec![group(1, &[Note::Change(change)], &[])];
    assert_eq!(highest(vec![group(1, &[], &[(7, 1, 1)])]), (7, 0));
    assert_eq!(highest(vec![group(1, &[acks(9)], &[])]), (0, 9));
    assert_eq!(highest(vec![group(1, &[reserved], &[])]), (8, 0));
    assert_eq!(highest(change(Change::DeleteTopic(TopicId(5)))), (5, 0));
    assert_eq!(
        highest(change(Change::DeleteSubscription(SubscriptionId(4)))),
        (0, 4)
    );
}

#[test]
fn blocks_of_an_unknown_topic_are_counted_and_those_of_a_deleted_one_are_not() {
    let delete = Note::Change(Change::DeleteTopic(TopicId(1)));
    let pieces = vec![
        group(1, &[create_topic(1, "a")], &[(1, 1, 1)]),
        group(2, &[delete], &[(1, 3, 3), (2, 5, 1)]),
        group(3, &[create_topic(4, "b")], &[(2, 7, 3), (4, 9, 1)]),
    ];
    assert_eq!(orphans(&recovered(&[], pieces, &[])), [(2, 4)]);
}

#[test]
fn where_groups_are_lost_numbers_are_skipped_alike_at_every_start() {
    let pieces = || {
        vec![
            group(
                1,
                &[create_topic(1, "a"), create_subscription(1)],
                &[(1, 1, 1)],
            ),
            Ok(Replayed::Gap),
            group(9, &[create_topic(3, "c")], &[(2, 20, 1), (1, 22, 9)]),
        ]
    };
    let first = recovered(&[], pieces(), &[(2, 3), (77, 5)]);
    let catalog = &first.catalog;
    assert_eq!(catalog.next_topic_id(), TopicId(LOST_CEILING + 2));
    assert_eq!(
        catalog.next_subscription_id(),
        SubscriptionId(LOST_CEILING + 2)
    );
    let next = |id: u64| catalog.topics_by_id[&TopicId(id)].next_sequence().0;
    assert_eq!((next(1), next(3)), (LOST_CEILING + 3, LOST_CEILING + 1));
    assert_eq!(first.next_position, Position(LOST_CEILING + 3));
    // It was fed by the router, and has not been shown what generations hold of the groups that are lost.
    let (resting, routed) = &first.subscriptions[0];
    assert_eq!(
        (resting.state.evaluated_through(), *routed),
        (Position(2), false)
    );
    // In the journal and in generations.
    assert_eq!(orphans(&first), [(2, 5), (77, 5)]);
    let again = recovered(&[], pieces(), &[]);
    assert_eq!(again.next_position, first.next_position);
    assert_eq!(again.catalog.next_topic_id(), catalog.next_topic_id());

    // A checkpoint keeps it, once the gap has left the journal.
    let producers = Producers::new(1).snapshot();
    let end = first.next_position;
    let mark = CommitNumber(0);
    let pairs = saved_state::encode(catalog, end, end, mark, producers, Vec::new(), Millis(0));
    let later = vec![group(10, &[create_topic(LOST_CEILING + 2, "d")], &[])];
    let later = recovered(&pairs, later, &[(2, 3)]);
    let topic = &later.catalog.topics_by_id[&TopicId(LOST_CEILING + 2)];
    assert_eq!(topic.next_sequence(), Sequence(LOST_CEILING + 1));
    assert!(later.orphans.is_empty());
}

#[test]
fn groups_that_the_state_has_in_it_are_there_for_their_events_only() {
    // Topic 7 was deleted before the mark, in a group that is there too.
    let replayed = |mark| {
        let producers = Producers::new(1).snapshot();
        let (catalog, end) = (Catalog::default(), Position(9));
        let pairs = saved_state::encode(&catalog, end, end, mark, producers, Vec::new(), Millis(0));
        let deleted = Note::Change(Change::DeleteTopic(TopicId(7)));
        let pieces = vec![
            group(3, &[create_subscription(1)], &[(7, 1, 1)]),
            group(4, &[deleted], &[]),
            group(5, &[create_topic(8, "new")], &[(8, 9, 1)]),
        ];
        recovered(&pairs, pieces, &[])
    };
    let recovered = replayed(CommitNumber(5));
    assert!(recovered.orphans.is_empty());
    assert!(recovered.subscriptions.is_empty());
    let topic = &recovered.catalog.topics_by_id[&TopicId(8)];
    assert_eq!(topic.next_sequence(), Sequence(3));
    assert_eq!(recovered.next_position, Position(11));
    // Without a mark all of them say something.
    let all = replayed(CommitNumber(0));
    assert_eq!((orphans(&all), all.subscriptions.len()), (vec![(7, 2)], 1));
}

fn created(id: u64, spec: serde_json::Value) -> Note {
    let spec: SubscriptionSpec = serde_json::from_value(spec).expect("valid specification");
    Note::Change(Change::CreateSubscription {
        id: SubscriptionId(id),
        spec: Json(spec),
        start: Position(1),
    })
}

fn block(position: u64, mark: BlockOrigin) -> BlockMeta {
    BlockMeta {
        first_position: Position(position),
        last_position: Position(position),
        topic: TopicId(1),
        mark,
        first_sequence: Sequence(position),
        count: 1,
        time: Millis(0),
    }
}

#[test]
fn unfiltered_subscriptions_get_the_letters_they_ask_for_as_the_router_does_it() {
    let topic: TopicSpec =
        serde_json::from_value(serde_json::json!({"name": "dead.s"})).expect("valid topic");
    let subscriptions = [
        ("old", serde_json::json!({"topics": [">"]})),
        (
            "new",
            serde_json::json!({"topics": [">"], "include_dead_letters": false}),
        ),
        (
            "prefix",
            serde_json::json!({"topics": ["dead.>"], "include_dead_letters": false}),
        ),
        // Its own letters.
        ("s", serde_json::json!({"topics": [">"]})),
    ];
    let mut notes = vec![Note::Change(Change::CreateTopic {
        id: TopicId(1),
        spec: Json(topic),
    })];
    for (id, (name, spec)) in (1..).zip(subscriptions) {
        let mut spec = spec;
        spec["name"] = name.into();
        notes.push(created(id, spec));
    }
    let mut encoded = Vec::new();
    for note in &notes {
        journal_note::push(note, &mut encoded);
    }
    let group = ReplayedGroup {
        number: CommitNumber(1),
        notes: Bytes::from(encoded),
        blocks: vec![
            block(1, BlockOrigin::Ordinary),
            block(2, BlockOrigin::Letter),
            block(3, BlockOrigin::LastLetter),
        ],
    };
    let recovered = recover(
        &[],
        [Ok(Replayed::Group(group))].into_iter(),
        Vec::new,
        true,
        1,
    )
    .expect("readable");
    let depth = |name: &str| {
        let mut subscriptions = recovered.subscriptions.iter().map(|(resting, _)| resting);
        let resting = subscriptions.find(|resting| resting.name.as_str() == name);
        resting.expect("recovered").state.depth()
    };
    let depths = ["old", "new", "prefix", "s"].map(depth);
    assert_eq!(depths, [3, 1, 3, 0]);
}
