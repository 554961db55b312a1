//! The inbox: who is taken in which order, who waits for room, and who is told what at the end.

use futures_util::FutureExt;

use super::*;
use crate::broker::commit::publish_reply::Promise;
use crate::broker::commit::request::ChangeRequest;
use crate::broker::error::PublishError;
use crate::domain::TopicId;
use crate::domain::{EncodedEvents, Principal};

const ACK_DELAY: Duration = Duration::from_millis(1);

// Of a stream that was never here before.
fn publish(inbox: &Inbox, number: u64, cost: usize) {
    publish_of(inbox, &LastCame::default(), number, cost);
}

fn publish_of(inbox: &Inbox, stream: &LastCame, number: u64, cost: usize) {
    let room = inbox.publish_room.clone().try_acquire_owned();
    let item = PublishItem {
        topic: "a".parse().expect("a name"),
        entries: EncodedEvents::of([vec![0; cost].as_slice()]),
        cost,
        first_number: number,
        resolved_through: 0,
        stream: None,
        by: Principal::local(),
        promise: Promise::new(number, cost, tokio::sync::mpsc::unbounded_channel().0),
        _room: room.expect("room"),
    };
    inbox.publish(item, stream).expect("open");
}

fn all() -> Appetite {
    Appetite {
        publishes: true,
        cost_max: usize::MAX,
        ack_delay: ACK_DELAY,
        idle_until: None,
    }
}

fn take(inbox: &Inbox, cost_max: usize) -> Vec<u64> {
    let taken = inbox.take(&Appetite { cost_max, ..all() });
    let correlations = taken.publish.iter().map(|item| item.promise.correlation());
    correlations.collect()
}

#[test]
fn of_much_that_waits_half_is_taken_in_order() {
    let inbox = Inbox::new(Clock::start());
    for number in 0..6 {
        publish(&inbox, number, WHOLE_BYTES_MAX / 3 - 8);
    }
    assert_eq!(take(&inbox, usize::MAX), [0, 1, 2]);
    assert_eq!(take(&inbox, usize::MAX), [3, 4, 5]);
    publish(&inbox, 6, 10 * WHOLE_BYTES_MAX);
    assert_eq!(take(&inbox, usize::MAX), [6], "a batch is not split");
    for number in 7..10 {
        publish(&inbox, number, WHOLE_BYTES_MAX);
    }
    assert_eq!(take(&inbox, 1), [7], "the caller's limit holds as well");
}

#[test]
fn no_more_is_taken_than_the_limit_but_always_one() {
    let inbox = Inbox::new(Clock::start());
    for number in 0..3 {
        publish(&inbox, number, 1_000);
    }
    assert_eq!(take(&inbox, 1_999), [0], "the next one would be beyond");
    assert_eq!(take(&inbox, 2_000), [1, 2]);
    publish(&inbox, 3, 5_000);
    assert_eq!(take(&inbox, 1), [3]);
}

#[test]
fn what_is_put_back_comes_first() {
    let inbox = Inbox::new(Clock::start());
    let topic = |name: &str| {
        let name = name.parse().expect("a name");
        let reply = Reply::new(oneshot::channel().0, None);
        Control::Change(ChangeRequest::DeleteTopic(TopicId(1), name, reply))
    };
    inbox.hand_over(topic("c")).expect("open");
    inbox.put_back([topic("a"), topic("b")].into());
    let control = inbox.take(&all()).control;
    let names = control.iter().map(|item| match item {
        Control::Change(ChangeRequest::DeleteTopic(_, name, _)) => name.as_str(),
        _ => "another",
    });
    assert_eq!(names.collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[test]
fn what_nobody_waits_for_any_more_takes_its_room_until_it_is_answered() {
    let inbox = Inbox::new(Clock::start());
    let ask = || inbox.ask::<(), Unavailable>(Control::ConfirmAcks);
    for _ in 0..CONTROL_ITEMS_MAX {
        assert!(ask().now_or_never().is_none());
    }
    let mut next = Box::pin(ask());
    assert!(next.as_mut().now_or_never().is_none());
    let mut taken = inbox.take(&all()).control;
    assert_eq!(taken.len(), CONTROL_ITEMS_MAX, "and no more");
    assert!(next.as_mut().now_or_never().is_none());
    assert!(inbox.lock().control.is_empty(), "nothing is answered yet");
    if let Some(Control::ConfirmAcks(reply)) = taken.pop_front() {
        assert!(reply.send(Ok(())).is_err(), "nobody waits for it");
    }
    assert!(next.now_or_never().is_none());
    assert_eq!(inbox.lock().control.len(), 1);
}

#[test]
fn whoever_adds_something_wakes_a_committer_that_waits() {
    let adding: [fn(&Inbox); 4] = [
        |inbox| publish(inbox, 1, 1),
        |inbox| inbox.wake(),
        |inbox| drop(inbox.ask_mark().now_or_never()),
        |inbox| inbox.close(),
    ];
    for add in adding {
        let inbox = Inbox::new(Clock::start());
        let never = Duration::from_secs(3_600);
        let waiting = std::thread::spawn({
            let inbox = inbox.clone();
            move || {
                let ack_delay = never;
                inbox.take(&Appetite { ack_delay, ..all() })
            }
        });
        while !inbox.lock().waiting {
            std::thread::yield_now();
        }
        add(&inbox);
        assert!(!inbox.lock().waiting, "woken once, not again");
        waiting.join().expect("no panic");
    }
}

#[test]
fn at_the_end_whoever_still_waits_is_told() {
    let inbox = Inbox::new(Clock::start());
    let (replies, mut answers) = tokio::sync::mpsc::unbounded_channel();
    publish(&inbox, 1, 1);
    inbox.lock().publish[0].promise = Promise::new(7, 1, replies);
    inbox.close_publishes();
    assert!(answers.try_recv().is_err(), "the committer may come to it");
    inbox.refuse_late_publishes();
    let told = answers.try_recv().expect("told");
    assert_eq!(told.len(), 1);
    assert!(matches!(
        told[0].result,
        Err(PublishError::Unavailable(Unavailable::ShuttingDown))
    ));
    let taken = inbox.take(&all());
    assert!(taken.publish.is_empty() && taken.stopping && !taken.closing);
}

#[tokio::test]
async fn room_for_publishes_is_taken_at_once_or_not_at_all() {
    let inbox = Inbox::new(Clock::start());
    let all = inbox.publish_room(usize::MAX).await.expect("open");
    assert!(inbox.publish_room_now(1).expect("open").is_none());
    drop(all);
    assert!(inbox.publish_room_now(usize::MAX).expect("open").is_some());
    inbox.close_publishes();
    assert!(matches!(
        inbox.publish_room_now(1),
        Err(Unavailable::ShuttingDown)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_task_waits_as_a_thread_does() {
    let inbox = Inbox::new(Clock::start());
    assert!(inbox.taken(&all()).now_or_never().is_none());
    publish(&inbox, 1, 1);
    assert_eq!(inbox.taken(&all()).await.publish.len(), 1);
    let begin = tokio::time::Instant::now();
    inbox.acked(SubscriptionId(1), every_second(1));
    inbox.taken(&all()).await;
    assert!(begin.elapsed() >= ACK_DELAY);
    let wanted = all();
    let never = inbox.taken(&wanted);
    assert!(
        tokio::time::timeout(1_000 * ACK_DELAY, never)
            .await
            .is_err()
    );
}

#[test]
fn acks_are_due_after_their_delay_however_long_the_committer_would_sleep() {
    let inbox = Inbox::new(Clock::start());
    for idle_until in [None, Some(Instant::now() + Duration::from_secs(3_600))] {
        let waiting = std::thread::spawn({
            let inbox = inbox.clone();
            move || {
                inbox.take(&Appetite {
                    idle_until,
                    ..all()
                })
            }
        });
        while !inbox.lock().sleeping {
            std::thread::yield_now();
        }
        inbox.acked(SubscriptionId(1), every_second(1));
        let taken = waiting.join().expect("no panic");
        assert!(taken.publish.is_empty() && taken.control.is_empty());
        assert_eq!(taken.acks.len(), 1);
    }
}

#[test]
fn acks_that_came_before_the_committer_sleeps_are_due_all_the_same() {
    let inbox = Inbox::new(Clock::start());
    inbox.acked(SubscriptionId(1), every_second(1));
    let taken = inbox.take(&all());
    assert_eq!(taken.acks.len(), 1);
    assert!(inbox.lock().acks_since.is_none());
}

fn every_second(count: u64) -> Vec<RangeInclusive<Position>> {
    let single = |number| Position(2 * number)..=Position(2 * number);
    (0..count).map(single).collect()
}

#[test]
fn while_too_many_acks_wait_nothing_more_is_handed_out() {
    let inbox = Inbox::with_ack_room(Clock::start(), 10);
    inbox.acked(SubscriptionId(1), every_second(9));
    assert!(inbox.ack_room().now_or_never().is_some());
    inbox.acked(SubscriptionId(2), every_second(1));
    let mut room = Box::pin(inbox.ack_room());
    assert!(room.as_mut().now_or_never().is_none());
    assert_eq!(inbox.take(&all()).acks.len(), 2);
    assert!(room.now_or_never().is_some());
}

#[test]
fn neighbours_count_once_and_a_deleted_subscription_not_at_all() {
    let inbox = Inbox::with_ack_room(Clock::start(), 2);
    for number in 0..100 {
        inbox.acked(SubscriptionId(1), vec![Position(number)..=Position(number)]);
    }
    assert!(inbox.ack_room().now_or_never().is_some());
    inbox.acked(SubscriptionId(2), every_second(5));
    assert!(inbox.ack_room().now_or_never().is_none());
    inbox.forget(SubscriptionId(2));
    assert!(inbox.ack_room().now_or_never().is_some());
    assert_eq!(inbox.take(&all()).acks.len(), 1);
}

// Many streams that publish one batch each, in turn, and a committer with virtual time.
struct Many {
    inbox: Arc<Inbox>,
    streams: Vec<LastCame>,
    next: usize,
}

impl Many {
    // So many that publish in groups of four: each was here before.
    fn publishing(streams: usize) -> Self {
        Self::with_clock(streams, Clock::start())
    }

    fn with_clock(streams: usize, clock: Clock) -> Self {
        let mut many = Self {
            inbox: Inbox::new(clock),
            streams: (0..streams).map(|_| LastCame::default()).collect(),
            next: 0,
        };
        while many.next < streams {
            many.publish(4);
            let taken = many.inbox.taken(&all()).now_or_never();
            assert_eq!(taken.expect("nobody is known yet").publish.len(), 4);
        }
        many
    }

    fn publish(&mut self, batches: usize) {
        for _ in 0..batches {
            let stream = self.next % self.streams.len();
            publish_of(&self.inbox, &self.streams[stream], self.next as u64, 100);
            self.next += 1;
        }
    }

    // How many batches are taken, and after how long.
    async fn take(&self) -> (usize, Duration) {
        let begin = tokio::time::Instant::now();
        let taken = self.inbox.taken(&all()).await;
        (taken.publish.len(), begin.elapsed())
    }
}

fn is_longest_wait(wait: Duration) -> bool {
    // Timers have whole milliseconds.
    (seldom_publishers::WAIT_MAX..=2 * seldom_publishers::WAIT_MAX).contains(&wait)
}

#[tokio::test(start_paused = true)]
async fn batches_of_many_streams_wait_for_as_many_as_two_groups_had() {
    let mut many = Many::publishing(400);
    many.publish(8);
    assert_eq!(many.take().await, (8, Duration::ZERO));
    many.publish(11);
    let (taken, wait) = many.take().await;
    assert!(taken == 11 && is_longest_wait(wait), "{taken} {wait:?}");
    // Eight and eleven were there, so eighteen still wait, and whoever makes them nineteen wakes the committer.
    many.publish(1);
    let wanted = all();
    let inbox = many.inbox.clone();
    let mut waiting = Box::pin(inbox.taken(&wanted));
    assert!(waiting.as_mut().now_or_never().is_none());
    many.publish(17);
    assert!(inbox.lock().waiting, "nobody woke it");
    many.publish(1);
    assert!(!inbox.lock().waiting);
    let begin = tokio::time::Instant::now();
    assert_eq!(waiting.await.publish.len(), 19);
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_committer_that_was_idle_waits_for_nobody() {
    let mut many = Many::publishing(400);
    let inbox = many.inbox.clone();
    let wanted = all();
    let mut waiting = Box::pin(inbox.taken(&wanted));
    assert!(waiting.as_mut().now_or_never().is_none());
    tokio::time::advance(seldom_publishers::WAIT_MAX).await;
    assert!(
        waiting.as_mut().now_or_never().is_none(),
        "there is nothing"
    );
    many.publish(1);
    assert_eq!(waiting.now_or_never().expect("at once").publish.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_who_comes_often_is_not_made_to_wait() {
    for streams in [1_usize, 2, 16, 256] {
        let mut many = Many {
            inbox: Inbox::new(Clock::start()),
            streams: (0..streams).map(|_| LastCame::default()).collect(),
            next: 0,
        };
        // Half of them publish while the other half is written.
        for _ in 0..100 {
            let half = streams.div_ceil(2);
            many.publish(half);
            assert_eq!(many.take().await, (half, Duration::ZERO), "{streams}");
        }
    }
    let mut many = Many::publishing(400);
    let often = LastCame::default();
    for _ in 0..10 {
        many.publish(4);
        publish_of(&many.inbox, &often, 0, 100);
        assert_eq!(
            many.take().await,
            (5, Duration::ZERO),
            "the others go along"
        );
    }
    many.publish(4);
    let (taken, wait) = many.take().await;
    assert!(taken == 4 && is_longest_wait(wait), "{taken} {wait:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_but_batches_waits_for_company() {
    let adding: [fn(&Inbox); 5] = [
        |inbox| inbox.wake(),
        |inbox| drop(inbox.ask_mark().now_or_never()),
        |inbox| inbox.close_publishes(),
        |inbox| inbox.close(),
        |inbox| publish(inbox, 0, WHOLE_BYTES_MAX),
    ];
    for (index, add) in adding.into_iter().enumerate() {
        let mut many = Many::publishing(400);
        many.publish(4);
        let (inbox, wanted) = (many.inbox.clone(), all());
        let mut waiting = Box::pin(inbox.taken(&wanted));
        assert!(waiting.as_mut().now_or_never().is_none(), "{index}");
        add(&inbox);
        let taken = waiting.now_or_never().expect("at once");
        assert!(taken.publish.len() >= 4, "{index}");
    }
}

#[tokio::test]
async fn a_thread_lets_them_gather_as_a_task_does() {
    // A clock that stands: the longest wait is never over.
    let mut many = Many::with_clock(400, Clock::standing_at(crate::domain::Millis(0)));
    let inbox = many.inbox.clone();
    many.publish(1);
    let waiting = std::thread::spawn(move || inbox.take(&all()).publish.len());
    while !many.inbox.lock().gathering {
        std::thread::yield_now();
    }
    many.publish(7);
    assert_eq!(waiting.join().expect("no panic"), 8);
}
