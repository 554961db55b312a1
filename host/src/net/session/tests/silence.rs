//! Clients that are gone without a word, and what becomes of what their consumers hold.

use std::time::Duration;

use tidegate_wire::pb::broker_to_consumer::Message as ToConsumer;
use tidegate_wire::stream::Connection;
use tidegate_wire::stream::memory::MemoryConnection;

use super::client::{Client, Consuming, Publishing, batch};
use super::served::Served;
use super::until;
use crate::net::session::options::SessionOptions;
use crate::net::session::silence_watch::{LOOK_EVERY, QUIET_LOOKS};
use crate::net::session::subscribe::silence::HEARD_LOOKS;

/// How long a client that says nothing by itself is left alone before it is asked, and the look that still finds what was heard before.
const ASKED_AFTER: u32 = QUIET_LOOKS + 1;
/// And then until it is given up.
const SILENT_LOOKS: u32 = 6;
const GIVEN_UP_AFTER: u32 = ASKED_AFTER + SILENT_LOOKS;

/// A broker with the subscription `s`, and a client of it whose consumer holds two events.
struct Holding {
    served: Served,
    publishing: Publishing<MemoryConnection>,
    _publisher: Client<MemoryConnection>,
    client: Client<MemoryConnection>,
    consuming: Consuming<MemoryConnection>,
    /// The position of the first event.
    first: u64,
}

async fn holding(change: impl FnOnce(&mut SessionOptions)) -> Holding {
    let served = Served::start(change).await;
    served.subscription("s", "orders.>").await;
    let publisher = served.sessions.welcomed().await;
    let mut publishing = Publishing::open(&publisher, &[], 0).await;
    publishing
        .write(&batch(1, "orders.eu", 0, &["a", "b"]))
        .await;
    publishing.ack().await;
    let client = served.sessions.welcomed().await;
    let mut consuming = Consuming::open(&client, "s", 3).await.expect("attached");
    let ToConsumer::Deliver(deliver) = consuming.next().await else {
        panic!("no delivery");
    };
    assert_eq!(deliver.events.len(), 2);
    Holding {
        served,
        publishing,
        _publisher: publisher,
        client,
        consuming,
        first: deliver.positions[0],
    }
}

impl Holding {
    async fn takes_over(&self) -> (Client<MemoryConnection>, Consuming<MemoryConnection>) {
        let other = self.served.sessions.welcomed().await;
        let consuming = Consuming::open(&other, "s", 10).await;
        (other, consuming.expect("attached"))
    }

    fn in_flight(&self) -> u64 {
        self.served
            .broker
            .subscription("s")
            .expect("exists")
            .in_flight
    }

    fn set_silent(&self, is_silent: bool) {
        self.client.connection.set_silent(is_silent);
    }
}

// So many looks.
async fn pass(looks: u32) {
    for _ in 0..looks {
        tokio::time::advance(LOOK_EVERY).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn others_get_what_a_client_holds_that_answers_nothing() {
    let mut holding = holding(|_| {}).await;
    let (_other, mut takes_over) = holding.takes_over().await;
    holding.set_silent(true);
    pass(ASKED_AFTER + SILENT_LOOKS - 2).await;
    assert_eq!(holding.in_flight(), 2, "it has some time to answer");
    pass(2).await;
    // One of them may be what brought it down.
    let (payload, _, position) = takes_over.event().await;
    assert_eq!((payload.as_str(), position), ("a", holding.first));
    takes_over.ack(position, 0).await;
    let (_, _, position) = takes_over.event().await;
    takes_over.ack_confirmed(position).await;
    assert_eq!(holding.served.depth("s"), 0);
    // Its connection goes on, and so does the client after an outage.
    assert_eq!(holding.client.connection.end(), None);
    holding.set_silent(false);
    let ended = holding.consuming.message().await;
    assert_eq!(ended, None, "its stream does not");
    let again = Consuming::open(&holding.client, "s", 2).await;
    assert!(again.is_ok(), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn who_is_alone_keeps_what_it_holds_and_its_answers_count_after_an_outage() {
    let mut holding = holding(|_| {}).await;
    // Of the same client.
    let _beside = Consuming::open(&holding.client, "s", 10)
        .await
        .expect("attached");
    holding.set_silent(true);
    pass(20).await;
    assert_eq!(holding.in_flight(), 2);
    holding.set_silent(false);
    holding.consuming.ack_confirmed(holding.first).await;
    assert_eq!(holding.served.depth("s"), 1, "it was not late");
    // And nobody is silent who answers now.
    let _takes_over = holding.takes_over().await;
    pass(20).await;
    assert_eq!(holding.in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_comes_next_gets_at_once_what_a_silent_client_holds() {
    let mut holding = holding(|_| {}).await;
    holding.set_silent(true);
    // Something that is not answered.
    let more = batch(2, "orders.eu", 0, &["c"]);
    holding.publishing.write(&more).await;
    holding.publishing.ack().await;
    until(|| holding.in_flight() == 3).await;
    pass(SILENT_LOOKS + 2).await;
    assert_eq!(holding.in_flight(), 3);
    let (_other, mut takes_over) = holding.takes_over().await;
    // It is asked whether it is there, and the other has some time to be heard after that.
    pass(1 + HEARD_LOOKS).await;
    assert_eq!(takes_over.event().await.0, "a");
}

#[tokio::test(start_paused = true)]
async fn whatever_is_heard_of_a_client_says_that_it_is_there() {
    let mut holding = holding(|_| {}).await;
    let _takes_over = holding.takes_over().await;
    for _ in 0..3 {
        holding.set_silent(true);
        pass(ASKED_AFTER + SILENT_LOOKS - 2).await;
        holding.set_silent(false);
        holding.consuming.grant(1, 1).await;
        pass(1).await;
    }
    assert_eq!(holding.in_flight(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_may_be_silent_for_longer_is_waited_for() {
    let longer = Duration::from_secs(15);
    let holding = holding(|options| options.silent_after = longer).await;
    let (_other, mut takes_over) = holding.takes_over().await;
    holding.set_silent(true);
    pass(ASKED_AFTER + 13).await;
    assert_eq!(holding.in_flight(), 2);
    pass(3).await;
    assert_eq!(takes_over.event().await.0, "a");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_given_up_for_one_that_is_silent_itself() {
    let mut holding = holding(|_| {}).await;
    let (other, _beside) = holding.takes_over().await;
    // More than the first has credit for, so both hold some.
    let more = batch(2, "orders.eu", 0, &["c", "d", "e"]);
    holding.publishing.write(&more).await;
    holding.publishing.ack().await;
    until(|| holding.in_flight() == 5).await;
    // All of it is over before the deadline of the acks is.
    holding.set_silent(true);
    other.connection.set_silent(true);
    pass(GIVEN_UP_AFTER + 1).await;
    // The outage is over for one of them a little earlier.
    other.connection.set_silent(false);
    pass(HEARD_LOOKS - 1).await;
    holding.set_silent(false);
    pass(HEARD_LOOKS).await;
    assert_eq!(holding.in_flight(), 5, "nothing was cut");
    holding.consuming.ack(holding.first, 7).await;
    while !matches!(holding.consuming.next().await, ToConsumer::Confirmed(_)) {}
    assert_eq!(holding.served.depth("s"), 4);
    // And who is not back after that is given up.
    holding.set_silent(true);
    pass(GIVEN_UP_AFTER).await;
    let ended = holding.consuming.message().await;
    assert_eq!(ended, None);
}

#[tokio::test(start_paused = true)]
async fn who_has_no_credit_takes_nothing_over() {
    let holding = holding(|_| {}).await;
    let other = holding.served.sessions.welcomed().await;
    let mut beside = Consuming::open(&other, "s", 0).await.expect("attached");
    holding.set_silent(true);
    pass(GIVEN_UP_AFTER + 1).await;
    assert_eq!(holding.in_flight(), 2);
    beside.grant(10, 1_000).await;
    // It was not asked until now.
    pass(1 + SILENT_LOOKS).await;
    assert_eq!(beside.event().await.0, "a");
}
