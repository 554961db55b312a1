//! How strands end, and what is told of a run that cannot go on.

use std::cell::Cell;
use std::future::poll_fn;
use std::panic;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, RwLock};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{Said, beside, outcome, pause, said_by};
use crate::locks::{lock, read, write};
use crate::runtime::executor::{self, Workers, blocking, strand};
use crate::runtime::unfinished::Unfinished;
use crate::scheduler::{
    Failure, Manner, Options, Order, Waiting, kill, new_owner, run, running_of, start_owned,
};
use crate::simulation::{self, Point, message};

async fn rest(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}

fn rest_here(ms: u64) {
    pause(Point::Rest(Duration::from_millis(ms)));
}

#[test]
fn locks_that_are_taken_crosswise_are_found() {
    let crosswise = |seed| {
        let manner = Manner {
            order: Order::Even,
            preempted_once_in: 4,
        };
        let options = Options {
            manner,
            ..Options::of(seed)
        };
        run(options, || async {
            let (a, b) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(())));
            let (also_a, also_b) = (Arc::clone(&a), Arc::clone(&b));
            let forth = executor::thread("forth", move || {
                let _a = lock(&a);
                let _b = lock(&b);
            });
            let back = executor::thread("back", move || {
                let _b = lock(&also_b);
                let _a = lock(&also_a);
            });
            let both = [forth.unwrap(), back.unwrap()];
            let joined = beside(|| both.map(|thread| thread.join().unwrap()));
            joined.await.unwrap();
        })
    };
    let found = (0..50).find_map(|seed| crosswise(seed).failure);
    let Some(Failure::Deadlock(waiting)) = found else {
        panic!("{found:?}");
    };
    let names: Vec<&str> = waiting.iter().map(|of| of.strand.as_str()).collect();
    assert_eq!(names, ["forth.1", "back.2"]);
    let place = |of: &Waiting| of.at.contains("scheduler/tests/ends.rs:");
    assert!(waiting.iter().all(place), "{waiting:?}");
    // And where nobody is between the two locks, nothing is found.
    assert!((0..50).any(|seed| crosswise(seed).failure.is_none()));
}

#[test]
fn whoever_wants_its_own_lock_again_is_told() {
    let twice = outcome(0, || async {
        let both = RwLock::new(());
        let _read = read(&both);
        let _write = write(&both);
    });
    assert!(
        matches!(&twice.failure, Some(Failure::Deadlock(waiting)) if waiting[0].strand == "main.0"),
        "{:?}",
        twice.failure
    );
}

#[test]
fn a_strand_that_nobody_wants_ends_with_the_poll_it_is_in() {
    struct Gone(Said);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.say("dropped");
        }
    }
    for seed in 0..100 {
        let said = said_by(Options::of(seed), |said| async move {
            let shared = Arc::new(Mutex::new(()));
            let (held, gone) = (Arc::clone(&shared), Gone(said.clone()));
            let unwanted = strand(async move {
                let of_strand = gone;
                {
                    let _held = lock(&held);
                    of_strand.0.say("begins");
                    rest_here(50);
                    of_strand.0.say("lets go");
                }
                rest(1_000).await;
                of_strand.0.say("never");
            });
            rest(10).await;
            said.say("unwanted");
            drop(unwanted);
            drop(lock(&shared));
            said.say("taken");
            rest(100).await;
        });
        assert_eq!(said[..3], ["begins", "unwanted", "lets go"]);
        let mut last = said[3..].to_vec();
        last.sort();
        assert_eq!(last, ["dropped", "taken"], "seed {seed}");
    }
}

#[test]
fn a_strand_can_be_dropped_before_its_first_step() {
    let ran = run(Options::of(1), || async {
        let ran = Rc::new(Cell::new(false));
        let runs = Rc::clone(&ran);
        let owner = new_owner();
        drop(start_owned(owner, "never", async move { runs.set(true) }));
        rest(1).await;
        assert_eq!(running_of(owner), []);
        ran.get()
    });
    assert!(!ran.expect());
}

#[test]
fn what_blocks_runs_to_its_end_whoever_waits() {
    let said = said_by(Options::of(2), |said| async move {
        let saying = said.clone();
        drop(beside(move || {
            rest_here(20);
            saying.say("done");
        }));
        said.say("dropped");
    });
    assert_eq!(said, ["dropped", "done"]);
}

#[test]
fn the_end_of_an_owner_is_that_of_what_it_started() {
    let said = said_by(Options::of(5), |said| async move {
        let saying = said.clone();
        let owner = new_owner();
        let process = start_owned(owner, "process", async move {
            let (saying, blocks) = (saying.clone(), saying);
            let child = strand(async move {
                rest(1_000).await;
                saying.say("never");
            });
            let thread = beside(move || {
                rest_here(30);
                blocks.say("blocked until here");
            });
            child.await;
            thread.await.unwrap();
        });
        rest(10).await;
        assert_eq!(running_of(owner).len(), 3);
        kill(owner);
        rest(10).await;
        let left = running_of(owner);
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(left[0].at, "rests 30ms");
        rest(20).await;
        assert_eq!(running_of(owner), []);
        drop(process);
    });
    assert_eq!(said, ["blocked until here"]);
}

#[test]
fn workers_finish_what_nobody_waits_for_and_what_they_have_left_is_dropped() {
    let said = said_by(Options::of(14), |said| async move {
        let workers = Workers::start("worker", 2).unwrap();
        let (handle, saying) = (workers.handle().clone(), said.clone());
        drop(handle.spawn(async move {
            rest(5).await;
            saying.say("done");
        }));
        assert_eq!(handle.blocking(|| 7).await.unwrap(), 7);
        let unending = handle.spawn(std::future::pending::<()>());
        rest(10).await;
        drop(workers);
        let why = unending.await.unwrap_err();
        assert!(matches!(why, Unfinished::Stopped), "{why}");
        let late = handle.spawn(async {}).await.unwrap_err();
        assert!(matches!(late, Unfinished::Stopped), "{late}");
        said.say("stopped");
    });
    assert_eq!(said, ["done", "stopped"]);
}

#[test]
fn a_panic_goes_on_in_whoever_waits_and_is_noted() {
    let panics = outcome(6, || async {
        let died = blocking(|| panic!("in a call")).await;
        let Err(Unfinished::Panicked(panic)) = died else {
            panic!("it ended well");
        };
        assert_eq!(message(&*panic), "in a call");
        let thread = executor::thread("dies", || panic!("in a thread")).unwrap();
        let joined = blocking(|| thread.join()).await.unwrap();
        assert_eq!(message(&*joined.unwrap_err()), "in a thread");
        let task = tokio::spawn(strand(async { panic!("in a task") }));
        assert!(task.await.unwrap_err().is_panic());
        let unseen = simulation::start("unseen", async { panic!("nobody waits") });
        rest(10).await;
        drop(unseen);
        let caught = panic::catch_unwind(|| panic!("in somebody who tells nobody"));
        assert!(caught.is_err());
    });
    assert_eq!(panics.failure, None);
    let said: Vec<&str> = panics
        .panics
        .iter()
        .map(|(_, said)| said.as_str())
        .collect();
    assert_eq!(
        said,
        [
            "in a call",
            "in a thread",
            "in a task",
            "nobody waits",
            "in somebody who tells nobody"
        ]
    );
    assert!(panics.panics[1].0.starts_with("dies."));
    assert_eq!(panics.value, Some(()));
}

#[test]
fn a_panic_of_the_first_strand_ends_the_run() {
    let panics = outcome(6, || async { panic!("at once") });
    assert_eq!(panics.panics, [("main.0".to_owned(), "at once".to_owned())]);
    assert_eq!((panics.value, panics.failure), (None, None));
}

#[test]
fn a_lock_is_let_go_by_whoever_unwinds() {
    let value = run(Options::of(8), || async {
        let shared = Arc::new(Mutex::new(1));
        let held = Arc::clone(&shared);
        let died = beside(move || {
            let mut held = lock(&held);
            *held = 2;
            rest_here(5);
            panic!("with a lock");
        });
        rest(1).await;
        let seen = *lock(&shared);
        assert!(died.await.is_err());
        seen
    });
    assert_eq!((value.value, value.failure), (Some(2), None));
}

#[test]
fn whoever_unwinds_and_needs_a_lock_that_another_has_ends_the_run() {
    struct Locks(Arc<Mutex<()>>);
    impl Drop for Locks {
        fn drop(&mut self) {
            drop(lock(&self.0));
        }
    }
    let stuck = outcome(9, || async {
        let shared = Arc::new(Mutex::new(()));
        let (held, wanted) = (Arc::clone(&shared), Locks(Arc::clone(&shared)));
        let holder = beside(move || {
            let _held = lock(&held);
            rest_here(1_000);
        });
        rest(1).await;
        let dies = executor::thread("dies", move || {
            let _wanted = wanted;
            panic!("while another has the lock");
        });
        drop(dies);
        holder.await.unwrap();
    });
    let Some(Failure::StuckUnwinding(waiting)) = &stuck.failure else {
        panic!("{:?}", stuck.failure);
    };
    assert!(waiting.strand.starts_with("dies."), "{waiting:?}");
    assert!(
        waiting.at.contains("scheduler/tests/ends.rs:"),
        "{waiting:?}"
    );
    assert_eq!(stuck.took, Duration::from_millis(1));
}

#[test]
fn a_run_in_which_nothing_can_happen_ends_and_says_who_waits() {
    let still = outcome(10, || async {
        let (never, told) = oneshot::channel::<()>();
        let waits = simulation::start("waits", told);
        let _ = waits.await;
        drop(never);
    });
    let Some(Failure::Stalled(waiting)) = &still.failure else {
        panic!("{:?}", still.failure);
    };
    let names: Vec<&str> = waiting.iter().map(|of| of.strand.as_str()).collect();
    assert_eq!(names, ["main.0", "waits.1"]);
    assert_eq!(still.took, Options::of(10).still_max);
    let last = still.trace.last.last().unwrap();
    assert!(last.contains("pending"), "{last}");
}

#[test]
fn strands_that_outlive_the_first_one_by_much_are_told() {
    let left = outcome(11, || async {
        drop(executor::thread("forgotten", || {
            loop {
                rest_here(1_000);
            }
        }));
    });
    let Some(Failure::LeftOver(waiting)) = &left.failure else {
        panic!("{:?}", left.failure);
    };
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].strand, "forgotten.1");
    assert_eq!(left.took, Options::of(11).grace);
}

#[test]
fn whoever_never_rests_is_found() {
    for order in [Order::InTurn, Order::Even, Order::Slow] {
        let manner = Manner {
            order,
            ..Manner::PLAIN
        };
        let options = Options {
            steps_max: 2_000,
            manner,
            ..Options::of(12)
        };
        let busy = run(options, || async {
            let other = strand(rest(1));
            while running_of(new_owner()).is_empty() {
                tokio::task::yield_now().await;
            }
            other.await;
        });
        assert_eq!(busy.failure, Some(Failure::TooManySteps));
        assert_eq!((busy.steps, busy.took), (2_000, Duration::ZERO));
    }
}

#[test]
fn whoever_spins_within_one_step_is_found() {
    let options = Options {
        locks_in_step_max: 1_000,
        ..Options::of(14)
    };
    let spins = run(options, || async {
        let other = strand(rest(1));
        let _spins = executor::thread("spins", || {
            let mutex = Mutex::new(0);
            loop {
                *lock(&mutex) += 1;
            }
        });
        other.await;
    });
    let Some(Failure::NeverRests(Waiting { strand, at })) = &spins.failure else {
        panic!("{:?}", spins.failure);
    };
    assert!(
        strand.starts_with("spins") && at.contains("ends.rs"),
        "{at}"
    );
    // As many in several steps are nobody's fault.
    let rests = run(options, || async {
        let mutex = Mutex::new(0);
        for _ in 0..10 {
            for _ in 0..900 {
                *lock(&mutex) += 1;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(rests.failure, None);
}

#[test]
fn a_wake_from_another_thread_is_found() {
    let (tell, told) = oneshot::channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let outside = thread::spawn(move || {
        is_ready.recv().unwrap();
        tell.send(()).unwrap();
    });
    let woken = outcome(13, move || async move {
        strand(async move {
            let mut told = told;
            let polled = poll_fn(|context| Poll::Ready(Pin::new(&mut told).poll(context)));
            assert!(polled.await.is_pending());
            ready.send(()).unwrap();
            // It really waits, as nothing that is simulated does.
            outside.join().unwrap();
            told.await.unwrap();
        })
        .await;
    });
    assert_eq!(woken.failure, Some(Failure::WokenFromOutside));
}
