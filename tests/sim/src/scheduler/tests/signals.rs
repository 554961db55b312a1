//! Waits on signals: nothing is lost, everybody who waits may be the one who is woken, and waits end in time.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Said, beside, pause, said_by};
use crate::locks::{Signal, lock};
use crate::scheduler::{Options, run};
use crate::simulation::Point;

struct Queue {
    items: Mutex<(VecDeque<u32>, bool)>,
    filled: Signal,
}

impl Queue {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            items: Mutex::default(),
            filled: Signal::new(),
        })
    }

    fn put(&self, item: u32) {
        lock(&self.items).0.push_back(item);
        self.filled.notify_one();
    }

    fn close(&self) {
        lock(&self.items).1 = true;
        self.filled.notify_all();
    }

    fn take(&self, waits: &mut u32) -> Option<u32> {
        let mut items = lock(&self.items);
        loop {
            match items.0.pop_front() {
                Some(item) => return Some(item),
                None if items.1 => return None,
                None => {
                    *waits += 1;
                    items = self.filled.wait(&self.items, items);
                }
            }
        }
    }
}

async fn work_through(said: Said) {
    let queue = Queue::new();
    let workers = ["a", "b", "c"].map(|name| {
        let (queue, said) = (Arc::clone(&queue), said.clone());
        beside(move || {
            let mut waits = 0;
            while let Some(item) = queue.take(&mut waits) {
                said.say(format!("{name} takes {item}"));
                pause(Point::Rest(Duration::from_millis(2)));
            }
            waits
        })
    });
    let puts = beside(move || {
        for item in 0..30 {
            pause(Point::Rest(Duration::from_millis(1)));
            queue.put(item);
        }
        queue.close();
    });
    puts.await.unwrap();
    join_all(workers).await;
}

#[test]
fn nothing_that_is_signalled_is_lost() {
    let mut took_first = BTreeSet::new();
    for seed in 0..200 {
        let said = said_by(Options::of(seed), work_through);
        let mut items: Vec<u32> = Vec::new();
        for word in &said {
            items.push(word.rsplit(' ').next().unwrap().parse().unwrap());
        }
        items.sort_unstable();
        assert_eq!(items, (0..30).collect::<Vec<_>>());
        took_first.insert(said[0].clone());
    }
    let names = ["a takes 0", "b takes 0", "c takes 0"];
    assert!(
        names.iter().all(|name| took_first.contains(*name)),
        "{took_first:?}"
    );
}

#[test]
fn a_wait_is_woken_without_reason_now_and_then() {
    let waits = |seed| {
        run(Options::of(seed), || async {
            let queue = Queue::new();
            let taking = Arc::clone(&queue);
            let taken = beside(move || {
                let mut waits = 0;
                taking.take(&mut waits);
                waits
            });
            let put = beside(move || {
                pause(Point::Rest(Duration::from_millis(1)));
                queue.put(1);
            });
            put.await.unwrap();
            taken.await.unwrap()
        })
        .expect()
    };
    let waits: Vec<u32> = (0..400).map(waits).collect();
    let woken = waits.iter().filter(|waits| **waits > 1).count();
    assert!((1..30).contains(&woken), "{woken}");
}

#[test]
fn a_wait_ends_when_its_time_is_over() {
    for seed in 0..50 {
        let waited = run(Options::of(seed), || async {
            beside(|| {
                let (begun, time) = (Instant::now(), Duration::from_millis(250));
                let (nothing, signal) = (Mutex::new(()), Signal::new());
                let mut held = lock(&nothing);
                while begun.elapsed() < time {
                    let left = time - begun.elapsed();
                    held = signal.wait_timeout(&nothing, held, left);
                }
                begun.elapsed()
            })
            .await
        });
        assert_eq!(waited.expect().unwrap(), Duration::from_millis(250));
    }
}

#[test]
fn one_that_was_notified_does_not_wait_for_its_time() {
    let waited = run(Options::of(1), || async {
        let shared = Arc::new((Mutex::new(false), Signal::new()));
        let telling = Arc::clone(&shared);
        let waits = beside(move || {
            let begun = Instant::now();
            let mut is_told = lock(&shared.0);
            while !*is_told {
                let long = Duration::from_secs(3600);
                is_told = shared.1.wait_timeout(&shared.0, is_told, long);
            }
            begun.elapsed()
        });
        let tells = beside(move || {
            pause(Point::Rest(Duration::from_millis(40)));
            *lock(&telling.0) = true;
            telling.1.notify_one();
        });
        tells.await.unwrap();
        waits.await.unwrap()
    });
    assert_eq!(waited.expect(), Duration::from_millis(40));
}
