//! Subscribe streams with a broker behind them.

use prost::Message;
use tidegate_wire::pb::broker_to_consumer::Message as ToConsumer;
use tidegate_wire::pb::consumer_command::Command;
use tidegate_wire::pb::{self, ErrorCode, stream_open};
use tidegate_wire::stream::memory::{MemoryConnection, MemorySend};
use tidegate_wire::stream::{Connection, SendHalf};

use super::client::{Client, Consuming, Publishing, batch, open};
use super::served::Served;
use super::until;
use crate::domain::{Principal, SubscriptionInfo};

// A broker with the subscription `s` to `orders.>`, a client of it, and its publisher, whose first batch had these events: none, if
// there are none.
async fn served_with(
    payloads: &[&str],
) -> (
    Served,
    Client<MemoryConnection>,
    Publishing<MemoryConnection>,
) {
    let served = Served::start(|_| {}).await;
    served.subscription("s", "orders.>").await;
    let client = served.sessions.welcomed().await;
    let mut publishing = Publishing::open(&client, &[], 0).await;
    if !payloads.is_empty() {
        let events = batch(1, "orders.eu", 0, payloads);
        publishing.write(&events).await;
        assert!(!publishing.ack().await.unkept);
    }
    (served, client, publishing)
}

#[tokio::test(start_paused = true)]
async fn events_are_delivered_acked_and_given_back() {
    let (served, client, _publishing) = served_with(&["a", "b"]).await;
    // Credit for one event, then for another.
    let mut first = Consuming::open(&client, "s", 1).await.expect("attached");
    let (payload, attempt, position) = first.event().await;
    assert_eq!((payload.as_str(), attempt), ("a", 1));
    first.ack_confirmed(position).await;
    first.grant(1, 0).await;
    assert_eq!(first.event().await.0, "b");
    // Not acked: whoever comes next gets it, as soon as this one is gone.
    first.stream.send.reset(0);
    let mut second = Consuming::open(&client, "s", 10).await.expect("attached");
    let (payload, _, position) = second.event().await;
    assert_eq!(payload, "b");
    second.ack_confirmed(position).await;
    assert_eq!(served.depth("s"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_is_told_that_its_subscription_is_paused_and_that_it_goes_on() {
    let (served, client, _publishing) = served_with(&[]).await;
    let found = served.broker.find("s").expect("there");
    let mut first = Consuming::open(&client, "s", 1).await.expect("attached");
    let paused = served.broker.pause_subscription(&found, "so").await;
    paused.expect("paused");
    let mut late = Consuming::open(&client, "s", 1).await.expect("attached");
    let told = |reason: Option<&str>| {
        let reason = reason.map(str::to_owned);
        ToConsumer::Paused(pb::Paused { reason })
    };
    assert_eq!(first.next().await, told(Some("so")));
    assert_eq!(late.next().await, told(Some("so")));
    let resumed = served.broker.resume_subscription(&found).await;
    resumed.expect("resumed");
    assert_eq!(first.next().await, told(None));
    assert_eq!(late.next().await, told(None));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_needs_a_subscription_and_the_right() {
    let served = Served::start(|_| {}).await;
    served.subscription("theirs", "invoices").await;
    let client = served.sessions.welcomed().await;
    let check = async |name: &str, code| {
        assert_eq!(
            Consuming::open(&client, name, 1).await.err(),
            Some(code),
            "{name}"
        );
    };
    check("theirs", ErrorCode::PermissionDenied).await;
    check("nobodys", ErrorCode::PermissionDenied).await;
    assert_eq!(
        served
            .broker
            .subscription("theirs")
            .expect("exists")
            .consumers,
        0
    );
}

#[tokio::test(start_paused = true)]
async fn a_malformed_command_closes_the_connection_and_gives_back() {
    // Two, so that neither was alone in the hands of a client that failed, and has to wait for that.
    let (served, client, _publishing) = served_with(&["a", "b"]).await;
    let mut consuming = Consuming::open(&client, "s", 2).await.expect("attached");
    assert!(matches!(consuming.next().await, ToConsumer::Deliver(_)));
    consuming.stream.write(&[3, 0xff, 0xff, 0xff]).await;
    assert_eq!(consuming.refusal().await, ErrorCode::Malformed);
    assert_eq!(client.close_code().await, Some(ErrorCode::Malformed));
    let other = served.sessions.welcomed().await;
    let mut consuming = Consuming::open(&other, "s", 1).await.expect("attached");
    assert_eq!(consuming.event().await.0, "a");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_can_still_ack() {
    let (served, _client, mut publishing) = served_with(&[]).await;
    let consumer = served.sessions.welcomed_narrow(1 << 20).await;
    let mut consuming = Consuming::open(&consumer, "s", 1_000_000)
        .await
        .expect("attached");
    consuming.grant(0, 1 << 40).await;
    // More than the stream's window takes, and none of it is read.
    let large = "x".repeat(100_000);
    for correlation in 1..=40 {
        publishing
            .write(&batch(correlation, "orders.eu", 0, &[&large]))
            .await;
        publishing.ack().await;
    }
    let positions = Some(pb::Positions {
        first: vec![1],
        more: vec![4],
    });
    consuming
        .say(Command::Ack(pb::Ack {
            positions,
            confirm: 0,
        }))
        .await;
    // Although nothing was read.
    until(|| served.depth("s") == 35).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_counts_nothing_when_the_connection_is_lost() {
    let (served, client, mut publishing) = served_with(&[]).await;
    let large = "x".repeat(4_000);
    for correlation in 1..=14 {
        let events = batch(correlation, "orders.eu", 0, &[&large]);
        publishing.write(&events).await;
        publishing.ack().await;
    }
    // Five are taken at once, which is more than the path carries. It reads none of them, so the next five wait behind them.
    let unread = served.sessions.welcomed_narrow(16 * 1024).await;
    let subscribe = pb::SubscribeOpen {
        subscription: "s".to_owned(),
        credit_events: 14,
        credit_bytes: 1 << 30,
        ..Default::default()
    };
    let subscribe = open(stream_open::Kind::Subscribe(subscribe));
    let _stream = unread.send(&subscribe).await;
    let holds = async |count: u64| {
        let held = || served.broker.subscription("s").expect("exists").in_flight;
        until(|| held() == count).await;
    };
    holds(10).await;
    unread.connection.close(0, "");
    holds(0).await;
    let mut second = Consuming::open(&client, "s", 1).await.expect("attached");
    let mut attempts = std::collections::BTreeMap::new();
    while attempts.len() < 14 {
        let (_, attempt, position) = second.event().await;
        attempts.insert(position, attempt);
        second.ack_confirmed(position).await;
        second.grant(1, 200_000).await;
    }
    let attempts: Vec<_> = attempts.into_values().collect();
    assert_eq!(attempts[..5], [2; 5], "sent, and it does not say more");
    assert_eq!(attempts[5..], [1; 9]);
}

#[tokio::test(start_paused = true)]
async fn other_grants_stop_and_start_what_runs() {
    let (served, client, mut publishing) = served_with(&[]).await;
    served.subscription("copies", "copies").await;
    let route =
        serde_json::json!({"name": "route", "topics": ["orders.>"], "outputs": {"out": "copies"}});
    let route = serde_json::from_value(route).expect("a specification");
    let local = Principal::local();
    let created = served.broker.create_subscription(&local, route).await;
    created.expect("created");
    let mut consuming = Consuming::open(&client, "s", 10).await.expect("granted");
    publishing.write(&batch(1, "orders.eu", 0, &["one"])).await;
    publishing.ack().await;
    let (payload, _, position) = consuming.event().await;
    assert_eq!(payload, "one");
    consuming.ack_confirmed(position).await;
    let until = async |name: &str, wanted: fn(&SubscriptionInfo) -> bool| {
        until(|| wanted(&served.broker.subscription(name).expect("exists"))).await;
    };
    until("copies", |info| info.depth == 1).await;

    // Nothing but publishing is left.
    let mut grants = served.grants.clone();
    grants.pop();
    grants[0].subscribe.clear();
    served.policy.reload(grants);
    assert_eq!(consuming.refusal().await, ErrorCode::PermissionDenied);
    publishing.write(&batch(2, "orders.eu", 0, &["two"])).await;
    publishing.ack().await;
    until("route", |info| info.stopped.is_some() && info.depth == 1).await;
    assert_eq!(served.depth("copies"), 1);
    let mut elsewhere = served.grants.clone();
    elsewhere[0].publish = vec!["elsewhere".parse().expect("a pattern")];
    served.policy.reload(elsewhere);
    publishing.write(&batch(3, "orders.eu", 0, &["no"])).await;
    assert_eq!(publishing.refusal().await, (3, ErrorCode::PermissionDenied));
    // Who may publish nothing at all has no stream any more.
    served.policy.reload(Vec::new());
    assert_eq!(publishing.refusal().await, (0, ErrorCode::PermissionDenied));

    served.policy.reload(served.grants.clone());
    until("copies", |info| info.depth == 2).await;
    let mut consuming = Consuming::open(&client, "s", 10)
        .await
        .expect("granted again");
    assert_eq!(consuming.event().await.0, "two");
}

// A consumer's stream ends in so many ways; in some of them what it had may have been what brought it down.
#[tokio::test(start_paused = true)]
async fn what_a_consumer_had_goes_back_however_it_ends() {
    type Ending = fn(&MemoryConnection, &mut MemorySend);
    let check = async |ending: Ending, suspect: bool| {
        let (served, client, _publishing) = served_with(&["a", "b"]).await;
        let other = served.sessions.welcomed().await;
        let mut consuming = Consuming::open(&other, "s", 2).await.expect("attached");
        assert!(matches!(consuming.next().await, ToConsumer::Deliver(_)));
        ending(&other.connection, &mut consuming.stream.send);
        until(|| {
            let info = served.broker.subscription("s").expect("exists");
            (info.consumers, info.in_flight) == (0, 0)
        })
        .await;
        let mut next = Consuming::open(&client, "s", 1).await.expect("attached");
        let ToConsumer::Deliver(deliver) = next.next().await else {
            panic!("not a delivery");
        };
        assert_eq!(deliver.suspect, suspect);
    };
    check(|_, stream| stream.finish(), false).await;
    check(|_, stream| stream.reset(0), false).await;
    check(|_, stream| stream.reset(1), true).await;
    check(|connection, _| connection.close(7, "good night"), false).await;
    check(|connection, _| connection.close(0, ""), true).await;
    check(|connection, _| connection.cut(), true).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_client_cannot_have_handed_over_when_it_was_lost_is_no_suspect() {
    // What it says when it opens the stream, and later.
    for (at_first, later, suspects) in [(0, 0, 6), (2, 0, 2), (1, 3, 3), (5, 3, 3)] {
        let (served, client, _publishing) = served_with(&["a", "b", "c", "d", "e", "f"]).await;
        let other = served.sessions.welcomed().await;
        let subscribe = pb::SubscribeOpen {
            subscription: "s".to_owned(),
            credit_events: 6,
            credit_bytes: 1 << 20,
            says_handed_over: true,
            handed_over_max: at_first,
            ..Default::default()
        };
        let mut lost = Consuming::open_with(&other, subscribe)
            .await
            .expect("attached");
        assert_eq!(payloads(&mut lost, 6).await.concat(), "abcdef");
        let credit = pb::Credit {
            handed_over: 1,
            handed_over_max: later,
            confirm_handed_over: true,
            ..Default::default()
        };
        lost.say(Command::Credit(credit)).await;
        assert!(matches!(lost.next().await, ToConsumer::HandedOver(_)));
        other.connection.cut();
        until(|| served.broker.subscription("s").expect("exists").consumers == 0).await;
        // One looks for the culprit among the suspects, and another gets the rest meanwhile.
        let mut first = Consuming::open(&client, "s", 6).await.expect("attached");
        let (payload, _, position) = first.event().await;
        assert_eq!(payload, "a");
        let mut second = Consuming::open(&client, "s", 6).await.expect("attached");
        let sound = payloads(&mut second, 6 - suspects).await.concat();
        assert_eq!(sound, "abcdef"[suspects..], "{at_first} {later}");
        first.ack(position, 0).await;
        // Two for its answer, if there are so many.
        let more = 2.min(suspects - 1);
        let suspected = payloads(&mut first, more).await.concat();
        assert_eq!(suspected, "abcdef"[1..1 + more]);
    }
}

// The payloads of so many events, in however many messages.
async fn payloads(consuming: &mut Consuming<MemoryConnection>, count: usize) -> Vec<String> {
    let mut payloads = Vec::new();
    while payloads.len() < count {
        let ToConsumer::Deliver(deliver) = consuming.next().await else {
            panic!("not a delivery");
        };
        for event in &deliver.events {
            let event = pb::Event::decode(event.clone()).expect("an event");
            payloads.push(String::from_utf8(event.payload.to_vec()).expect("text"));
        }
    }
    payloads
}

#[tokio::test(start_paused = true)]
async fn credit_for_bytes_holds_back_what_credit_for_events_would_let_go() {
    let (served, client, mut publishing) = served_with(&[]).await;
    let mut consuming = Consuming::open(&client, "s", 10).await.expect("attached");
    // The first is more than all credit, so the second has to wait for what is paid back.
    let larger = "x".repeat(1_000_000);
    for correlation in 1..=2 {
        let event = batch(correlation, "orders.eu", 0, &[&larger]);
        publishing.write(&event).await;
        publishing.ack().await;
    }
    publishing.write(&batch(3, "orders.eu", 0, &["a"])).await;
    publishing.ack().await;
    assert_eq!(consuming.event().await.0.len(), larger.len());
    assert_eq!(consuming.event().await.0.len(), larger.len());
    let info = served.broker.subscription("s").expect("exists");
    assert_eq!((info.in_flight, info.depth), (2, 3));
    consuming.grant(0, 1_000_000).await;
    assert_eq!(consuming.event().await.0, "a");
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_told_and_never_confirmed_as_if_it_were_none() {
    let (served, client, _publishing) = served_with(&["a", "b"]).await;
    for tell_not_held in [false, true] {
        let mut late = Consuming::open_as(&client, "s", 1, tell_not_held)
            .await
            .expect("attached");
        let (_, _, position) = late.event().await;
        // Its deadline passes.
        tokio::time::advance(std::time::Duration::from_secs(31)).await;
        until(|| served.broker.subscription("s").expect("exists").in_flight == 0).await;
        late.ack(position, 0).await;
        let not_held = Some(pb::Positions {
            first: vec![position],
            more: vec![0],
        });
        if tell_not_held {
            let told = pb::Confirmed {
                not_held: not_held.clone(),
                ..Default::default()
            };
            assert_eq!(late.next().await, ToConsumer::Confirmed(told));
        }
        late.ack(position, 5).await;
        // Told with the confirmation, or before it, which takes a sync.
        let mut is_told = false;
        loop {
            let ToConsumer::Confirmed(confirmed) = late.next().await else {
                panic!("nothing else is due");
            };
            is_told |= confirmed.not_held == not_held;
            if confirmed.confirm == [5] {
                break;
            }
        }
        assert!(is_told);
        assert_eq!(served.depth("s"), 2, "nothing changed");
        late.stream.send.reset(0);
        until(|| served.broker.subscription("s").expect("exists").consumers == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_client_gives_back_goes_to_the_next_and_counts_nothing() {
    let (served, client, _publishing) = served_with(&["a"]).await;
    // Both have credit left.
    let mut first = Consuming::open(&client, "s", 9).await.expect("attached");
    let (_, attempt, position) = first.event().await;
    assert_eq!(attempt, 1);
    let give_back = || {
        let positions = Some(pb::Positions {
            first: vec![position],
            more: vec![0],
        });
        Command::GiveBack(pb::GiveBack { positions })
    };
    first.say(give_back()).await;
    let mut second = Consuming::open(&client, "s", 9).await.expect("attached");
    assert_eq!(second.event().await.1, 1, "the first attempt, still");
    // The first goes on, and the second does not.
    first.grant(1, 0).await;
    second.say(give_back()).await;
    assert_eq!(first.event().await.1, 1);
    assert_eq!(
        served.broker.subscription("s").expect("exists").redelivered,
        0
    );
}
