//! The committer, driven turn by turn on one thread: with a journal in memory that fails when a test says so, and with time that
//! only goes when a test lets it.

pub(in crate::broker) mod fixture;

use std::time::Duration;

use futures_util::FutureExt as _;

use super::committer::TurnEnd;
use super::journal_note::{self, Note};
use super::request::{ChangeRequest, Control, Mark, Outputs, Update};
use crate::broker::error::{
    ChangeError, OutputError, PublishError, Refusal, RefusalKind, Unavailable,
};
use crate::broker::subscriptions::dead_letter_counts::DeadLetterCounts;
use crate::broker::subscriptions::effect_targets::AckSink as _;
use crate::domain::{
    ConsumerId, Durability, Millis, Name, Position, Sequence, SubscriptionSpec, TopicId, TopicName,
};
use crate::runtime::clock::Clock;
use crate::state::Next;
use crate::state::catalog::Change;
use crate::store::tests::memory_store::{Call, Fault};
use crate::telemetry::conditions::Condition;
use fixture::{Fixture, INTERVAL, Stream, answered, observe, outputs, spec};

#[tokio::test(start_paused = true)]
async fn what_several_streams_send_meanwhile_is_one_group_and_one_sync() {
    let mut fixture = Fixture::new();
    let (mut one, mut other) = (fixture.stream(None), fixture.stream(Some((7, 1))));
    one.publish("a", 1);
    other.publish("b", 1);
    one.publish("a", 2);
    assert!(
        one.answers().is_empty(),
        "nothing is told before it is written"
    );
    fixture.turn().await;
    assert_eq!(fixture.journal.groups().len(), 1);
    assert_eq!(fixture.journal.syncs(), 1);
    let sequences = |stream: &mut Stream| -> Vec<u64> {
        let answers = stream.answers().into_iter();
        let sequences = answers.map(|answer| answer.expect("appended").first_sequence.0);
        sequences.collect()
    };
    assert_eq!(sequences(&mut one), [1, 2]);
    assert_eq!(sequences(&mut other), [1]);
    assert_eq!(fixture.log.end(), Position(4));
    assert_eq!(fixture.shared.read().expect("sound").topics.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_and_what_stands_still_is_written_down() {
    let mut fixture = Fixture::new();
    let id = fixture.subscribe("s").await;
    fixture.stream(None).publish("a", 1);
    fixture.turn().await;
    observe(&fixture, id, 1);
    let live = fixture.registry.by_id(id).expect("it runs");
    let here = [Position(1)..=Position(1)];
    live.apply(|state, now| {
        let one = ConsumerId(1);
        state.attach(one);
        state.lease(one, 1, now, &mut Vec::new());
        state.nack(one, &here, Some(30_000), now);
    });
    fixture.turn().await;
    let pause = |why: Option<&str>| {
        let why = why.map(str::to_owned);
        let name = "s".parse().expect("a name");
        |reply| ChangeRequest::Pause(id, name, why, reply)
    };
    let paused = fixture.change(pause(Some("so")));
    assert_eq!(live.read().paused(), None, "not before it is written");
    fixture.turn().await;
    answered(paused).expect("paused");
    assert_eq!(live.read().paused(), Some("so"));
    let resumed = fixture.change(pause(None));
    fixture.turn().await;
    answered(resumed).expect("resumed");
    assert_eq!(live.read().paused(), None);
    fixture.turn().await;
    let told = fixture.notes().into_iter().filter_map(|note| match note {
        Note::CameBack { events, .. } => {
            let back = &events[0];
            let waits = matches!(back.next, Next::At(_));
            Some(format!("{} {} {waits}", back.first, back.handed))
        }
        Note::Paused { why, .. } => Some(format!("{why:?}")),
        _ => None,
    });
    // What was asked for, and after it how it is with the state by then, so that nothing that the state said before comes last.
    let [so, none] = ["Some(\"so\")", "None"];
    assert_eq!(Vec::from_iter(told), ["1 1 true", so, so, none, none]);
}

#[tokio::test(start_paused = true)]
async fn events_bear_the_time_on_the_wall_however_it_is_set() {
    let clock = Clock::standing_at(Millis(1_000_000));
    let mut fixture = Fixture::with(clock.clone());
    let stream = fixture.stream(None);
    for by_ms in [0, 86_400_000, -86_500_000] {
        clock.turn_wall(by_ms);
        stream.publish("a", 1);
        fixture.turn().await;
    }
    let groups = fixture.journal.groups().into_iter();
    let times = groups.flat_map(|group| group.blocks.into_iter().map(|block| block.time.0));
    assert_eq!(Vec::from_iter(times), [1_000_000, 87_400_000, 900_000]);
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_is_not_made_again_by_a_publish_for_a_while() {
    let clock = Clock::standing_at(Millis(1_000_000));
    let mut fixture = Fixture::with(clock.clone());
    let mut stream = fixture.stream(None);
    let created = fixture.create_topic("a", Durability::Interval);
    stream.publish("a", 1);
    stream.publish("a", 2);
    fixture.turn().await;
    answered(created).expect("created");
    let named = || -> TopicName { "a".parse().expect("a name") };
    let delete = |id| move |reply| ChangeRequest::DeleteTopic(TopicId(id), named(), reply);
    let another = fixture.change(delete(7));
    let deleted = fixture.change(delete(1));
    fixture.turn().await;
    assert!(matches!(answered(another), Err(ChangeError::NotFound(_))));
    answered(deleted).expect("deleted");
    stream.answers();

    let refused = async |fixture: &mut Fixture, stream: &mut Stream| {
        stream.publish("a", 3);
        fixture.turn().await;
        stream.answer().map(|outcome| outcome.first_sequence)
    };
    clock.advance(Duration::from_secs(599));
    let refusal = refused(&mut fixture, &mut stream)
        .await
        .expect_err("too soon");
    assert_eq!(refusal.kind(), RefusalKind::NotFound);
    assert!(
        refusal.to_string().contains("deleted 599 s ago"),
        "{refusal}"
    );
    clock.advance(Duration::from_secs(1));
    let sequence = refused(&mut fixture, &mut stream)
        .await
        .expect("made again");
    assert_eq!(sequence, Sequence(3));
    let shared = fixture.shared.read().expect("sound");
    let topic = &shared.topics[&named()];
    assert_eq!(
        (topic.id, topic.spec.durability),
        (TopicId(2), Durability::Interval)
    );
}

#[tokio::test(start_paused = true)]
async fn what_comes_with_a_subscription_is_kept_and_what_comes_with_its_end_is_not() {
    let mut fixture = Fixture::new();
    let mut stream = fixture.stream(None);
    let mut unkept_with = async |fixture: &mut Fixture, topic: &str| {
        stream.publish(topic, 1);
        fixture.turn().await;
        stream.answer().expect("appended").unkept
    };
    let s: Name = "s".parse().expect("a name");
    assert!(unkept_with(&mut fixture, "a").await, "there is nobody");
    let request = |name: &str| {
        let spec = spec(name, &[]);
        |reply| ChangeRequest::CreateSubscription(spec, reply)
    };
    let created = fixture.change(request("s"));
    assert!(!unkept_with(&mut fixture, "a").await);
    let id = answered(created).expect("created");
    assert!(!unkept_with(&mut fixture, "a").await);
    let deleted = fixture.change(|reply| ChangeRequest::DeleteSubscription(id, s.clone(), reply));
    assert!(unkept_with(&mut fixture, "a").await);
    answered(deleted).expect("deleted");
    let created = fixture.change(request("s"));
    assert!(!unkept_with(&mut fixture, "a").await);
    let first = answered(created).expect("created");
    let other = fixture.change(request("other"));
    let deleted =
        fixture.change(|reply| ChangeRequest::DeleteSubscription(first, s.clone(), reply));
    assert!(!unkept_with(&mut fixture, "a").await, "the other keeps it");
    answered(other).expect("created");
    answered(deleted).expect("deleted");
}

// A counter that falls would look like a restart to whoever draws it.
#[tokio::test(start_paused = true)]
async fn letters_are_counted_when_they_are_written_and_not_before() {
    let mut fixture = Fixture::new();
    let id = fixture.subscribe("s").await;
    observe(&fixture, id, 1);
    let live = fixture.registry.by_id(id).expect("it runs");
    let letters = DeadLetterCounts {
        written: 1,
        dropped: 2,
    };
    for (fault, expected) in [
        (Some(Fault::Retry), DeadLetterCounts::default()),
        (None, letters),
    ] {
        if let Some(fault) = fault {
            fixture.journal.fail_next(Call::Append, fault);
        }
        let (outputs, done) = outputs(id, 1);
        let outputs = Outputs { letters, ..outputs };
        drop(fixture.ask::<(), Unavailable>(|_| Control::Outputs(outputs)));
        assert_eq!(live.letters(), DeadLetterCounts::default());
        fixture.turn().await;
        assert_eq!(answered(done).is_ok(), fault.is_none());
        assert_eq!(live.letters(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_that_finds_no_room_changes_nothing_and_may_come_again() {
    let mut fixture = Fixture::new();
    let mut stream = fixture.stream(Some((7, 1)));
    for (epoch, call, fault, condition) in [
        (2, Call::MakeRoom, Fault::Full, None),
        (3, Call::Append, Fault::Retry, Some(Condition::OutOfFiles)),
    ] {
        fixture.journal.fail_next(call, fault);
        stream.publish("a", 1);
        let created = fixture.create_topic("new", Durability::Sync);
        let confirmed = fixture.ask(Control::ConfirmAcks);
        fixture.turn().await;
        let refusals: [Box<dyn Refusal>; 3] = [
            Box::new(stream.answer().expect_err("no room")),
            Box::new(answered(created).expect_err("no room")),
            Box::new(answered::<(), Unavailable>(confirmed).expect_err("no room")),
        ];
        for refusal in refusals {
            assert!(refusal.is_retryable(), "{refusal}");
        }
        assert_eq!(fixture.journal.groups(), []);
        assert!(fixture.shared.read().expect("sound").topics.is_empty());
        let raised = |condition: &Condition| fixture.conditions.reason(condition).is_some();
        assert!(condition.iter().all(raised));
        // What is behind a batch that was refused must not overtake it.
        stream.publish("a", 2);
        fixture.turn().await;
        assert!(stream.answer().is_err_and(|error| error.is_retryable()));
        stream = fixture.stream(Some((7, epoch)));
    }
    stream.publish("a", 1);
    let created = fixture.create_topic("new", Durability::Sync);
    fixture.turn().await;
    let appended = stream.answer().expect("there is room");
    assert!(!appended.duplicate);
    assert_eq!(appended.first_sequence, Sequence(1));
    answered(created).expect("created");
    assert_eq!(fixture.conditions.all(), []);
    let shared = fixture.shared.read().expect("sound");
    let ids: Vec<u64> = shared.topics_by_id.keys().map(|id| id.0).collect();
    assert!(ids.iter().all(|id| *id <= 2), "no id was used up: {ids:?}");
    drop(shared);
    // Whose the producer is, is said although it was told to a group that is gone.
    let owners = fixture.notes();
    let owners = owners
        .iter()
        .filter(|note| matches!(note, Note::ProducerOwner { .. }));
    assert_eq!(owners.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_synced_in_time_although_nothing_more_can_be_written() {
    for call in [Call::MakeRoom, Call::Append] {
        let mut fixture = Fixture::new();
        let id = fixture.subscribe("s").await;
        let created = fixture.create_topic("a", Durability::Interval);
        fixture.turn().await;
        answered(created).expect("created");
        let mut stream = fixture.stream(None);
        stream.publish("a", 1);
        fixture.turn().await;
        stream.answer().expect("written");
        let (written, syncs) = (fixture.journal.groups().len(), fixture.journal.syncs());
        // Acks wait as long as they cannot be written.
        tokio::time::advance(INTERVAL).await;
        fixture
            .inbox
            .acked(id, Vec::from([Position(1)..=Position(1)]));
        fixture.journal.fail_next(call, Fault::Retry);
        fixture.turn().await;
        assert_eq!(fixture.journal.groups().len(), written);
        assert_eq!(fixture.journal.syncs(), syncs + 1, "{call:?}");
        let soon = Duration::from_millis(20);
        assert!(fixture.is_idle_for(soon).await, "it looks again at once");
        fixture.turn().await;
        assert_eq!(fixture.journal.groups().len(), written + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_good_answers_everybody() {
    let mut fixture = Fixture::new();
    let id = fixture.subscribe("s").await;
    let (mut numbered, mut other) = (fixture.stream(Some((7, 1))), fixture.stream(None));
    fixture.journal.fail_next(Call::Sync, Fault::Final);
    numbered.publish("a", 1);
    other.publish("b", 1);
    let created = fixture.create_topic("new", Durability::Sync);
    let (outputs, done) = outputs(id, 1);
    observe(&fixture, id, 1);
    drop(fixture.ask::<(), Unavailable>(|_| Control::Outputs(outputs)));
    let mark = fixture.ask(Control::Mark);
    let TurnEnd::Failed(error) = fixture.committer.step().await else {
        panic!("it goes on");
    };
    let refusals: [Box<dyn Refusal>; 5] = [
        Box::new(numbered.answer().expect_err("it failed")),
        Box::new(other.answer().expect_err("it failed")),
        Box::new(answered(created).expect_err("it failed")),
        Box::new(answered::<Mark, _>(mark).err().expect("it failed")),
        Box::new(fixture.committer.fail(&error)),
    ];
    for refusal in refusals {
        assert_eq!(refusal.kind(), RefusalKind::StoreUnavailable, "{refusal}");
    }
    let done = answered(done).expect_err("it failed");
    assert!(
        matches!(done, OutputError::Unavailable(Unavailable::Store(_))),
        "{done}"
    );
    assert!(fixture.conditions.reason(&Condition::StoreFailed).is_some());
    assert_eq!(fixture.log.end(), Position(1), "nobody sees what is lost");
}

#[tokio::test(start_paused = true)]
async fn a_topic_with_interval_durability_is_synced_when_its_interval_is_over() {
    let mut fixture = Fixture::new();
    let created = fixture.create_topic("a", Durability::Interval);
    fixture.turn().await;
    answered(created).expect("created");
    let syncs = fixture.journal.syncs();
    let mut stream = fixture.stream(None);
    stream.publish("a", 1);
    fixture.turn().await;
    stream.answer().expect("answered before it is synced");
    assert_eq!(fixture.journal.syncs(), syncs);
    assert!(fixture.is_idle_for(INTERVAL / 2).await);
    stream.publish("a", 2);
    fixture.turn().await;
    assert_eq!(fixture.journal.syncs(), syncs, "the first one's counts");
    fixture.turn().await;
    assert_eq!(fixture.journal.syncs(), syncs + 1);
    assert!(fixture.is_idle_for(100 * INTERVAL).await, "nothing is left");
}

#[tokio::test(start_paused = true)]
async fn acks_wait_for_company_and_are_synced_when_somebody_asks() {
    let mut fixture = Fixture::new();
    let id = fixture.subscribe("s").await;
    let stream = fixture.stream(None);
    for number in 1..=2 {
        stream.publish("a", number);
        fixture.turn().await;
        observe(&fixture, id, number);
    }
    let (groups, syncs) = (fixture.journal.groups().len(), fixture.journal.syncs());
    let live = fixture.registry.by_id(id).expect("it runs");
    let ack = |position| Position(position)..=Position(position);
    live.apply(|state, _| state.finish(&[ack(1)]));
    assert!(fixture.is_idle_for(Duration::from_millis(40)).await);
    fixture.turn().await;
    assert_eq!(fixture.journal.groups().len(), groups + 1);
    assert_eq!(fixture.journal.syncs(), syncs);
    live.apply(|state, _| state.finish(&[ack(2)]));
    let confirmed = fixture.ask(Control::ConfirmAcks);
    fixture.turn().await;
    answered(confirmed).expect("on disk");
    assert_eq!(fixture.journal.groups().len(), groups + 2);
    assert_eq!(fixture.journal.syncs(), syncs + 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_journal_asks_for_a_checkpoint_and_lets_acks_marks_and_changes_pass() {
    let mut fixture = Fixture::new();
    let id = fixture.subscribe("s").await;
    fixture.journal.set_bytes_max(0);
    assert!(fixture.checkpoint_due.notified().now_or_never().is_none());
    let mut stream = fixture.stream(None);
    stream.publish("a", 1);
    let confirmed = fixture.ask(Control::ConfirmAcks);
    fixture.turn().await;
    answered(confirmed).expect("there is room for it");
    assert!(fixture.checkpoint_due.notified().now_or_never().is_some());
    assert!(stream.answers().is_empty(), "it waits");
    let mark = fixture.ask(Control::Mark);
    let created = fixture.create_topic("b", Durability::Sync);
    fixture.turn().await;
    answered(created).expect("there is room for it");
    let mark = answered(mark).expect("it waits for nothing");
    assert_eq!(mark.end, Position(1));
    assert!(mark.catalog.subscriptions.contains_key(&id));
    // Why no checkpoint comes is what publishers are told then.
    fixture
        .conditions
        .raise(Condition::CheckpointFails, "no room".to_owned());
    fixture.turn().await;
    let refusal = stream.answer().expect_err("for now").to_string();
    assert!(refusal.contains("no room"), "{refusal}");
    fixture.conditions.clear(&Condition::CheckpointFails);
    fixture.journal.set_bytes_max(u64::MAX);
    stream.publish("a", 2);
    fixture.turn().await;
    stream.answer().expect("there is room again");
    assert_eq!(fixture.conditions.all(), []);
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_waits_while_the_journal_is_full_even_for_outputs() {
    let mut fixture = Fixture::new();
    let id = fixture.subscribe("s").await;
    let stream = fixture.stream(None);
    for number in 1..=12 {
        stream.publish_event("a", number, &[7; 128 * 1024]);
        fixture.turn().await;
    }
    observe(&fixture, id, 1);
    let live = fixture.registry.by_id(id).expect("it runs");
    live.apply(|state, now| {
        let (one, here) = (ConsumerId(1), Position(1)..=Position(1));
        state.attach(one);
        state.lease(one, 1, now, &mut Vec::new());
        state.nack(one, &[here], Some(30_000), now);
        state.pause("so");
    });
    fixture.turn().await;
    let said = |fixture: &Fixture| {
        let notes = fixture.notes();
        let came_back = |note: &Note| matches!(note, Note::CameBack { .. });
        let paused = |note: &Note| matches!(note, Note::Paused { .. });
        (notes.iter().any(came_back), notes.iter().any(paused))
    };
    assert_eq!(said(&fixture), (false, true));
    fixture.inbox.close();
    assert!(matches!(fixture.committer.step().await, TurnEnd::Closed));
    assert_eq!(said(&fixture), (true, true));
}

#[tokio::test(start_paused = true)]
async fn outputs_append_and_ack_in_one_group_or_not_at_all() {
    let mut fixture = Fixture::new();
    let id = fixture.subscribe("s").await;
    let mut stream = fixture.stream(None);
    stream.publish("a", 1);
    fixture.turn().await;
    stream.answer().expect("appended");
    observe(&fixture, id, 1);
    // Two for the same event: what comes first counts.
    let (first, first_done) = outputs(id, 1);
    let (second, second_done) = outputs(id, 1);
    for one in [first, second] {
        drop(fixture.ask::<(), Unavailable>(|_| Control::Outputs(one)));
    }
    fixture.turn().await;
    answered(first_done).expect("appended");
    let refusal = answered(second_done).expect_err("it is done with");
    assert!(matches!(refusal, OutputError::Conflict), "{refusal}");
    let group = fixture.journal.groups().pop().expect("a group");
    let notes = journal_note::decode(&group.notes).expect("readable");
    let acks = notes
        .iter()
        .filter(|note| matches!(note, Note::Acks { subscription, .. } if *subscription == id));
    assert_eq!((acks.count(), group.blocks.len()), (1, 1));
    let live = fixture.registry.by_id(id).expect("it runs");
    assert_eq!(live.read().depth(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_filters_holds_behind_what_is_in_its_group_before_it() {
    let mut fixture = Fixture::new();
    let id = fixture.subscribe("s").await;
    let mut stream = fixture.stream(None);
    stream.publish("a", 1);
    fixture.turn().await;
    stream.answer().expect("appended");
    let update = |from_revision| Update {
        id,
        from_revision,
        spec: SubscriptionSpec {
            include_dead_letters: from_revision % 2 == 1,
            ..spec("s", &[])
        },
    };
    let (changed, stale) = (
        fixture.change(|reply| ChangeRequest::UpdateSubscription(update(0), reply)),
        fixture.change(|reply| ChangeRequest::UpdateSubscription(update(0), reply)),
    );
    stream.publish("a", 2);
    fixture.turn().await;
    answered(changed).expect("changed");
    let refusal = answered(stale).expect_err("somebody was first");
    assert_eq!(refusal.kind(), RefusalKind::Conflict, "{refusal}");
    let fences: Vec<_> = fixture
        .notes()
        .into_iter()
        .filter_map(|note| match note {
            Note::Change(Change::UpdateSubscription { fence, .. }) => fence,
            _ => None,
        })
        .collect();
    // Publishes of a group come after its changes.
    assert_eq!(fences, [Position(2)]);
}

#[tokio::test(start_paused = true)]
async fn filters_that_are_asked_for_again_hold_at_once_where_those_before_them_have_paused() {
    let mut fixture = Fixture::new();
    let id = fixture.subscribe("s").await;
    let stream = fixture.stream(None);
    stream.publish("a", 1);
    stream.publish("a", 2);
    fixture.turn().await;
    let update = |from_revision| Update {
        id,
        from_revision,
        spec: SubscriptionSpec {
            include_dead_letters: false,
            ..spec("s", &[])
        },
    };
    let pause = |why: Option<&str>| {
        let (name, why) = ("s".parse().expect("a name"), why.map(str::to_owned));
        move |reply| ChangeRequest::Pause(id, name, why, reply)
    };
    for (revision, paused, expected) in [
        (0, None, Some(Position(3))),
        // Nothing is in their way.
        (1, None, None),
        (2, Some("a filter failed"), Some(Position(1))),
        (3, Some("a filter failed"), None),
    ] {
        let changed = fixture.change(pause(paused));
        fixture.turn().await;
        answered(changed).expect("changed");
        let changed =
            fixture.change(|reply| ChangeRequest::UpdateSubscription(update(revision), reply));
        fixture.turn().await;
        answered(changed).expect("changed");
        let fences = fixture.notes().into_iter().filter_map(|note| match note {
            Note::Change(Change::UpdateSubscription { fence, .. }) => Some(fence),
            _ => None,
        });
        assert_eq!(fences.last(), Some(expected), "revision {revision}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fenced_stream_and_numbers_that_go_backwards_are_refused_and_a_resend_is_recognised() {
    let mut fixture = Fixture::new();
    let mut older = fixture.stream(Some((7, 1)));
    older.publish("a", 1);
    older.publish("a", 3);
    fixture.turn().await;
    assert!(older.answers().iter().all(Result::is_ok));
    older.publish("a", 4);
    let mut newer = fixture.stream(Some((7, 2)));
    newer.publish("a", 3);
    newer.publish("a", 2);
    fixture.turn().await;
    let fenced = older.answer().expect_err("another took over");
    assert!(matches!(fenced, PublishError::Fenced), "{fenced}");
    let answers = newer.answers();
    assert!(answers[0].as_ref().is_ok_and(|outcome| outcome.duplicate));
    assert!(
        matches!(
            answers[1],
            Err(PublishError::OutOfOrder { committed: 3, .. })
        ),
        "{answers:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn on_the_way_down_nothing_waits_for_room_that_nobody_makes() {
    let mut fixture = Fixture::new();
    let id = fixture.subscribe("s").await;
    fixture.journal.set_bytes_max(0);
    let mut stream = fixture.stream(None);
    stream.publish("a", 1);
    let confirmed = fixture.ask(Control::ConfirmAcks);
    fixture.turn().await;
    answered(confirmed).expect("there is room for it");
    assert!(stream.answers().is_empty(), "it waits");
    fixture.inbox.close_publishes();
    fixture.turn().await;
    let refusal = stream.answer().expect_err("refused");
    assert!(
        matches!(
            refusal,
            PublishError::Unavailable(Unavailable::ShuttingDown)
        ),
        "{refusal}"
    );
    // What drains is still recorded.
    let confirmed = fixture.ask(Control::ConfirmAcks);
    fixture.turn().await;
    answered(confirmed).expect("there is room for it");
    assert!(fixture.registry.by_id(id).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_closed_inbox_is_emptied_before_the_committer_ends() {
    let mut fixture = Fixture::new();
    let mut stream = fixture.stream(None);
    stream.publish("a", 1);
    fixture.inbox.close_publishes();
    let created = fixture.create_topic("b", Durability::Sync);
    fixture.inbox.close();
    let turn = fixture.committer.step().await;
    assert!(matches!(turn, TurnEnd::Closed));
    stream.answer().expect("appended");
    answered(created).expect("created");
    fixture.committer.close();
    assert!(fixture.journal.is_closed());
}
