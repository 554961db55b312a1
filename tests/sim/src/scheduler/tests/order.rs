//! That the seed, and nothing else, says in which order strands run.

use std::collections::BTreeSet;
use std::future::poll_fn;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{Said, beside, pause, said_by};
use crate::locks::lock;
use crate::runtime::executor::{strand, thread, wait_on};
use crate::scheduler::{Manner, Options, Order, run};
use crate::simulation::{self, Point};

#[test]
fn what_is_done_under_a_lock_is_done_by_one_at_a_time() {
    let mut first = BTreeSet::new();
    for seed in 0..1_000 {
        let said = said_by(Options::of(seed), |said| async move {
            let sum = Arc::new(Mutex::new(0));
            let add = |name: &'static str| {
                let (sum, said) = (Arc::clone(&sum), said.clone());
                thread(name, move || {
                    let mut sum = lock(&sum);
                    said.say(name);
                    let before = *sum;
                    pause(Point::Rest(Duration::from_millis(3)));
                    *sum = before + 1;
                })
            };
            let both = [add("a").unwrap(), add("b").unwrap()];
            beside(|| both.map(|thread| thread.join().unwrap()))
                .await
                .unwrap();
            assert_eq!(*lock(&sum), 2);
        });
        first.insert(said[0].clone());
    }
    assert_eq!(first.into_iter().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn who_is_woken_in_the_middle_of_a_poll_is_polled_again() {
    let mut polls = BTreeSet::new();
    for seed in 0..100 {
        let polled = run(Options::of(seed), || async {
            let (is_there, waits) = (AtomicBool::new(false), AtomicWaker::new());
            let state = Arc::new((is_there, waits));
            let seen = Arc::clone(&state);
            let mut polled = 0;
            let waiting = simulation::start("waits", async move {
                poll_fn(|context| {
                    let (is_there, waits) = &*seen;
                    polled += 1;
                    waits.register(context.waker());
                    let is_there = is_there.load(Ordering::Relaxed);
                    // Whoever comes here wakes a task that has looked already.
                    pause(Point::Yield);
                    match is_there {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    }
                })
                .await;
                polled
            });
            let waking = simulation::start("wakes", async move {
                let (is_there, waits) = &*state;
                is_there.store(true, Ordering::Relaxed);
                waits.wake();
            });
            waking.await;
            waiting.await
        });
        polls.insert(polled.expect());
    }
    assert_eq!(polls.into_iter().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_race_is_found_where_nothing_keeps_it_away() {
    let lost = |seed: u64| {
        let sum = run(Options::of(seed), || async {
            let sum = Arc::new(AtomicU64::new(0));
            let adds = [0, 1].map(|_| {
                let sum = Arc::clone(&sum);
                beside(move || {
                    let before = sum.load(Ordering::Relaxed);
                    pause(Point::Yield);
                    sum.store(before + 1, Ordering::Relaxed);
                })
            });
            join_all(adds).await;
            sum.load(Ordering::Relaxed)
        });
        sum.expect() == 1
    };
    let found = (0..100).filter(|seed| lost(*seed)).count();
    assert!((20..100).contains(&found), "{found}");
}

#[test]
fn others_come_first_at_a_free_lock_if_the_manner_says_so() {
    let orders = |preempted_once_in| {
        let manner = Manner {
            order: Order::InTurn,
            preempted_once_in,
        };
        let said = |seed| {
            let options = Options {
                manner,
                ..Options::of(seed)
            };
            said_by(options, |said| async move {
                let works = ["a", "b"].map(|name| {
                    let said = said.clone();
                    beside(move || {
                        let free = Mutex::new(());
                        for _ in 0..4 {
                            let _held = lock(&free);
                            said.say(name);
                        }
                    })
                });
                join_all(works).await;
            })
        };
        (0..50).map(said).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(orders(0), 1);
    assert!(orders(4) > 10);
}

// tokio wakes those who wait for a `watch` in an order that it draws by lot.
async fn crowd(said: Said) {
    let begun = Instant::now();
    let at = move || begun.elapsed().as_millis();
    let (tell, told) = watch::channel(0);
    let waiters = (0..6).map(|number| {
        let (mut told, said) = (told.clone(), said.clone());
        strand(async move {
            while told.changed().await.is_ok() {
                let value = *told.borrow_and_update();
                said.say(format!("{} ms: {number} sees {value}", at()));
            }
        })
    });
    let waiters: Vec<_> = waiters.collect();
    let storm = (0..20).map(|number| {
        let said = said.clone();
        strand(async move {
            sleep(Duration::from_millis(7)).await;
            said.say(format!("{} ms: timer {number}", at()));
        })
    });
    let storm: Vec<_> = storm.collect();
    // Tasks of tokio that wait for strands, as those of a library do.
    let mut tasks = JoinSet::new();
    for number in 1..=6 {
        let said = said.clone();
        tasks.spawn(strand(async move {
            for step in 0.. {
                sleep(Duration::from_millis(number)).await;
                said.say(format!("{} ms: task {number} at {step}", at()));
                tokio::task::yield_now().await;
            }
        }));
    }
    for value in 1..=5 {
        sleep(Duration::from_millis(3)).await;
        tell.send_replace(value);
    }
    drop(tasks);
    drop(tell);
    join_all(storm).await;
    join_all(waiters).await;
    said.say(format!("{} ms: over", at()));
}

#[test]
fn a_seed_gives_the_same_run_byte_for_byte() {
    let mut digests = BTreeSet::new();
    for seed in 0..40 {
        let options = Options {
            keeps_trace: true,
            ..Options::of(seed)
        };
        let twice = [0, 1].map(|_| {
            let said = Said::default();
            let of_run = said.clone();
            let outcome = run(options, move || crowd(of_run));
            assert!(outcome.failure.is_none(), "{:?}", outcome.failure);
            (outcome, said.all())
        });
        let [(one, said), (two, said_again)] = twice;
        assert!(said.len() > 60, "{said:#?}");
        assert_eq!(said, said_again);
        let steps = one.trace.all.as_ref().map(|all| all.lines().count());
        assert_eq!(steps, usize::try_from(one.steps).ok());
        assert_eq!(one.trace.digest, two.trace.digest);
        assert_eq!(one, two);
        digests.insert(one.trace.digest);
    }
    assert_eq!(digests.len(), 40, "each seed has a run of its own");
}

// What the shrinking of a run relies on.
#[test]
fn taking_a_strand_away_leaves_the_order_of_the_others_as_it_is() {
    let orders = [Order::Even, Order::Speeds, Order::Slow];
    for (seed, order) in (0..60).zip(orders.into_iter().cycle()) {
        let manner = Manner {
            order,
            preempted_once_in: 3,
        };
        let options = Options {
            manner,
            ..Options::of(seed)
        };
        let without = |absent: Option<&'static str>| {
            said_by(options, move |said| async move {
                let present = ["a", "b", "c", "d"].into_iter();
                let present = present.filter(|name| Some(*name) != absent);
                let threads = present.map(|name| {
                    let said = said.clone();
                    let run = move || {
                        for step in 0..20 {
                            let free = Mutex::new(());
                            let _held = lock(&free);
                            said.say(format!("{name}{step}"));
                            let rests = Duration::from_millis(u64::from(step % 5 == 4));
                            pause(Point::Rest(rests));
                        }
                    };
                    simulation::start_blocking(name, run)
                });
                join_all(threads).await;
            })
        };
        let mut all = without(None);
        all.retain(|word| !word.starts_with('c'));
        assert_eq!(all, without(Some("c")), "seed {seed}, {order:?}");
    }
}

#[test]
fn a_thread_that_rests_takes_no_time() {
    let outcome = run(Options::of(3), || async {
        let begun = Instant::now();
        let year = Duration::from_secs(365 * 24 * 3600);
        let rested = beside(move || {
            pause(Point::Rest(year));
            Instant::now()
        });
        let beside = strand(async move {
            sleep(Duration::from_secs(10)).await;
            Instant::now()
        });
        let beside = beside.await - begun;
        (beside, rested.await.unwrap() - begun == year)
    });
    assert_eq!(outcome.took, Duration::from_secs(365 * 24 * 3600));
    assert_eq!(outcome.expect(), (Duration::from_secs(10), true));
}

#[test]
fn a_thread_can_wait_for_what_is_a_future() {
    let said = said_by(Options::of(4), |said| async move {
        let (send, mut receive) = mpsc::channel::<u32>(4);
        let runtime = tokio::runtime::Handle::current();
        let waits = thread("waits", move || {
            wait_on(&runtime, async move {
                let late = timeout(Duration::from_millis(5), receive.recv()).await;
                said.say(if late.is_err() {
                    "nothing yet"
                } else {
                    "too early"
                });
                let mut sum = 0;
                while let Some(number) = receive.recv().await {
                    sum += number;
                }
                said.say(sum.to_string());
            });
        });
        sleep(Duration::from_millis(10)).await;
        // More than tokio lets a task receive before others get their turn.
        for number in 0..1_000 {
            send.send(number).await.unwrap();
        }
        drop(send);
        beside(move || waits.unwrap().join())
            .await
            .unwrap()
            .unwrap();
    });
    assert_eq!(said, ["nothing yet", "499500"]);
}

#[test]
fn a_wake_before_the_wait_is_not_lost() {
    for seed in 0..200 {
        let took = run(Options::of(seed), || async {
            let notify = Arc::new(Notify::new());
            let told = Arc::clone(&notify);
            let tells = beside(move || {
                for _ in 0..3 {
                    pause(Point::Yield);
                }
                told.notify_one();
            });
            let hears = strand(async move {
                let heard = notify.notified();
                // Suspended within a poll, while the other may tell.
                pause(Point::Yield);
                heard.await;
            });
            hears.await;
            tells.await.unwrap();
        });
        assert_eq!(took.took, Duration::ZERO);
        took.expect();
    }
}
