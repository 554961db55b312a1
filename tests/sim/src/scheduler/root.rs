//! A run from its beginning to its end, on a thread of its own so that nothing of an earlier one is left in it. The future at the root of
//! tokio's runtime makes one step each time it is polled. Whoever waits for the run watches that it goes on in real time: a strand that
//! really blocks would be waited for in vain.

use std::cell::RefCell;
use std::future::poll_fn;
use std::mem;
use std::panic;
use std::process;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, Once};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::{Instant, Sleep, sleep};

use super::conductor::install;
use super::report::{Failure, Outcome};
use super::strand::{Work, forget};
use super::trace::Trace;
use super::{Options, Scheduler, Turn, held};
use crate::simulation::{self, Conductor, StrandId};

/// Real time without a step after which the program ends: no step computes that long on any machine.
const HANGS_AFTER: Duration = Duration::from_secs(120);
/// Steps that strands may take to let go of what they have once a run is over.
const LAST_STEPS_MAX: u64 = 1_000_000;

/// Where a run is, for whoever watches it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    steps: AtomicU64,
    strand: AtomicU64,
    pub(super) names: Mutex<Vec<String>>,
}

impl Progress {
    pub(super) fn step(&self, id: StrandId, steps: u64) {
        self.strand.store(id.0, Ordering::Relaxed);
        self.steps.store(steps, Ordering::Relaxed);
    }

    fn name(&self) -> String {
        let names = held(&self.names);
        let strand = usize::try_from(self.strand.load(Ordering::Relaxed));
        let name = strand.ok().and_then(|strand| names.get(strand));
        name.cloned().unwrap_or_default()
    }
}

/// Runs a program of strands to its end: `main` makes the task of the first one, in a runtime whose time is virtual, and the run is over
/// when all that was started has ended, too.
///
/// # Panics
///
/// The machine has no memory for another thread. If a strand blocks for real, the program is aborted, with its name.
pub fn run<T, F>(options: Options, main: impl FnOnce() -> F + Send + 'static) -> Outcome<T>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    let progress = Arc::new(Progress::default());
    let shown = Arc::clone(&progress);
    let (done, ended) = mpsc::channel();
    let thread = thread::Builder::new().name("simulation".into());
    let run = move || drop(done.send(run_here(options, shown, main)));
    let running = thread.spawn(run).expect("room for another thread");
    let mut seen = (0, 0);
    let look_every = HANGS_AFTER / 20;
    loop {
        match ended.recv_timeout(look_every) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let steps = progress.steps.load(Ordering::Relaxed);
                let looks = if seen.0 == steps { seen.1 + 1 } else { 0 };
                seen = (steps, looks);
                if looks >= 20 {
                    let name = progress.name();
                    eprintln!(
                        "seed {}: {name} has not come back from step {steps}: it blocks for real",
                        options.seed
                    );
                    process::abort();
                }
            }
        }
    }
    match running.join() {
        Err(panic) => std::panic::resume_unwind(panic),
        Ok(()) => unreachable!("it sends what it came to"),
    }
}

// From now on each panic of a strand is noted when it begins, whoever catches it.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if let Some(conductor) = simulation::conductor() {
                conductor.panicked(simulation::message(info.payload()));
            }
            before(info);
        }));
    });
}

fn run_here<T, F>(options: Options, progress: Arc<Progress>, main: impl FnOnce() -> F) -> Outcome<T>
where
    T: 'static,
    F: Future<Output = T> + 'static,
{
    note_panics();
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime of this thread alone takes nothing of the machine");
    let (outcome, scheduler) = runtime.block_on(async {
        let scheduler = Scheduler::new(options, progress);
        install(Some(&scheduler));
        simulation::plant(options.planted);
        drop(simulation::take_reached());
        let value = Rc::new(RefCell::new(None));
        let (main, result) = (main(), Rc::clone(&value));
        let main = async move {
            let came_to = main.await;
            *result.borrow_mut() = Some(came_to);
        };
        let main = scheduler.begin("main", Work::Task(Box::pin(main)));
        conduct(&scheduler, main).await;
        let outcome = scheduler.outcome(value.take());
        scheduler.let_go();
        (outcome, scheduler)
    });
    match &outcome.failure {
        // Where the count of panics is wrong, nothing of it may run any more.
        Some(Failure::StuckUnwinding(_)) => mem::forget(runtime),
        _ => drop(runtime),
    }
    install(None);
    simulation::plant(None);
    drop(scheduler);
    outcome
}

async fn conduct(scheduler: &Scheduler, main: StrandId) {
    let mut alarm = std::pin::pin!(sleep(Duration::ZERO));
    let mut main_ended = None;
    poll_fn(|context| {
        *held(&scheduler.ready.root) = Some(context.waker().clone());
        if main_ended.is_none() && !scheduler.inner.borrow().strands.contains_key(&main) {
            main_ended = Some(Instant::now());
        }
        if scheduler.is_over(main_ended) {
            return Poll::Ready(());
        }
        match scheduler.turn() {
            Turn::Stepped => context.waker().wake_by_ref(),
            Turn::Idle(rest) => {
                let until = scheduler.looks_again(rest, main_ended);
                Sleep::reset(alarm.as_mut(), until);
                if Future::poll(alarm.as_mut(), context).is_ready() {
                    context.waker().wake_by_ref();
                }
            }
        }
        Poll::Pending
    })
    .await;
}

impl Scheduler {
    fn is_over(&self, main_ended: Option<Instant>) -> bool {
        let (now, options) = (Instant::now(), &self.options);
        let inner = self.inner.borrow();
        if inner.failure.is_some() {
            return true;
        }
        let is_long = |since: Instant, max: Duration| now - since >= max;
        let failure = if main_ended.is_some() && inner.strands.is_empty() {
            return true;
        } else if main_ended.is_some_and(|at| is_long(at, options.grace)) {
            Failure::LeftOver(inner.all_waiting())
        } else if inner.steps >= options.steps_max {
            Failure::TooManySteps
        } else if let Some(since) = inner.blocked.values().min()
            && is_long(*since, options.blocked_max)
        {
            let blocked = inner.blocked.keys();
            Failure::Deadlock(blocked.map(|id| inner.waits(*id)).collect())
        } else if inner.resting.is_empty() && is_long(inner.stepped_at, options.still_max) {
            Failure::Stalled(inner.all_waiting())
        } else {
            return false;
        };
        drop(inner);
        self.fail(failure);
        true
    }

    // When somebody can make a step, or the run is over.
    fn looks_again(&self, rest: Option<Instant>, main_ended: Option<Instant>) -> Instant {
        let options = &self.options;
        let inner = self.inner.borrow();
        let blocked = inner.blocked.values().min();
        let ends = [
            main_ended.map(|at| at + options.grace),
            blocked.map(|since| *since + options.blocked_max),
        ];
        // Whoever rests long is not still.
        let still = match rest {
            Some(rest) => rest,
            None => inner.stepped_at + options.still_max,
        };
        ends.into_iter().flatten().fold(still, Instant::min)
    }

    fn outcome<T>(&self, value: Option<T>) -> Outcome<T> {
        let mut inner = self.inner.borrow_mut();
        Outcome {
            value,
            failure: inner.failure.clone(),
            panics: inner.panics.clone(),
            reached: simulation::take_reached(),
            steps: inner.steps,
            took: Instant::now() - inner.began,
            trace: mem::replace(&mut inner.trace, Trace::new(false)).ended(),
        }
    }

    // Of a run that failed, some strands cannot end: their stacks are left as they are.
    fn let_go(&self) {
        let is_stuck = matches!(
            self.inner.borrow().failure,
            Some(Failure::StuckUnwinding(_))
        );
        if !is_stuck {
            let all = self.ids_of(None);
            all.into_iter().for_each(|id| self.abandon(id));
            let end = self.inner.borrow().steps + LAST_STEPS_MAX;
            while self.inner.borrow().steps < end && matches!(self.turn(), Turn::Stepped) {}
        }
        let strands = mem::take(&mut self.inner.borrow_mut().strands);
        let routines = strands.into_values().filter_map(|strand| strand.routine);
        routines.for_each(forget);
    }
}
