//! The scheduler as strands see it: how they start others, wait, and let go. And owners: a strand belongs to what started it, a life of a
//! process for example, so that all that is left of one can be ended or told.

use std::cell::RefCell;
use std::panic::Location;
use std::rc::Rc;
use std::task::Waker;
use std::thread;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::time::Instant;

use super::report::Waiting;
use super::strand::{Resume, Stop, Suspended, Work, suspend};
use super::{Failure, Scheduler};
use crate::simulation::{self, Conductor, Handed, Point, StrandId};

thread_local! {
    static CURRENT: RefCell<Option<Rc<Scheduler>>> = const { RefCell::new(None) };
}

/// What strands belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner(u64);

/// One that nothing belongs to yet.
///
/// # Panics
///
/// This is not a simulated run.
pub fn new_owner() -> Owner {
    let scheduler = current();
    let mut inner = scheduler.inner.borrow_mut();
    inner.next_owner += 1;
    Owner(inner.next_owner)
}

/// Starts a task that belongs to `owner`, as will whatever it starts.
///
/// # Panics
///
/// This is not a simulated run.
pub fn start_owned<T: Send + 'static>(
    owner: Owner,
    name: &str,
    task: impl Future<Output = T> + 'static,
) -> Handed<T> {
    let scheduler = current();
    let before = scheduler.inner.borrow_mut().starts_for.replace(owner.0);
    let handed = simulation::start(name, task);
    scheduler.inner.borrow_mut().starts_for = before;
    handed
}

/// Ends what belongs to `owner` as the end of a process does: its tasks are dropped. What blocks runs to its end; it has to find that
/// nothing it reaches answers any more.
///
/// # Panics
///
/// This is not a simulated run.
pub fn kill(owner: Owner) {
    let scheduler = current();
    let of_owner = scheduler.ids_of(Some(owner));
    of_owner.into_iter().for_each(|id| scheduler.abandon(id));
}

/// What of `owner` has not ended, and what it waits for.
///
/// # Panics
///
/// This is not a simulated run.
pub fn running_of(owner: Owner) -> Vec<Waiting> {
    current().waiting_of(Some(owner))
}

fn current() -> Rc<Scheduler> {
    let current = CURRENT.with(|current| current.borrow().clone());
    current.expect("owners are there in a simulated run only")
}

/// Puts a scheduler in charge of this thread, or nobody.
pub(super) fn install(scheduler: Option<&Rc<Scheduler>>) {
    CURRENT.with(|current| *current.borrow_mut() = scheduler.cloned());
    simulation::install(scheduler.map(|scheduler| Rc::clone(scheduler) as Rc<dyn Conductor>));
}

impl Scheduler {
    pub(super) fn ids_of(&self, owner: Option<Owner>) -> Vec<StrandId> {
        let inner = self.inner.borrow();
        let of = |id: &&StrandId| owner.is_none_or(|owner| inner.strands[*id].owner == owner.0);
        inner.strands.keys().filter(of).copied().collect()
    }

    pub(super) fn waiting_of(&self, owner: Option<Owner>) -> Vec<Waiting> {
        let ids = self.ids_of(owner).into_iter();
        let inner = self.inner.borrow();
        ids.map(|id| inner.waits(id)).collect()
    }

    // Whoever runs, and how often it was asked for choices of this kind before.
    fn asked(&self, what: &'static str) -> (u64, u64) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let running = inner.running.as_ref().map(|(id, _)| *id);
        let strand = running.and_then(|id| inner.strands.get_mut(&id));
        let (key, asked) = match strand {
            Some(strand) => (strand.key, &mut strand.asked),
            None => (0, &mut inner.asked),
        };
        let times = asked.entry(what).or_default();
        *times += 1;
        (key, *times)
    }

    // Whether whoever runs has taken more locks in this step than anybody does who comes to its end.
    fn never_rests(&self, at: &'static Location<'static>) -> bool {
        let taken = self.locks_in_step.get() + 1;
        self.locks_in_step.set(taken);
        let is_too_long = taken > self.options.locks_in_step_max;
        if is_too_long {
            let mut inner = self.inner.borrow_mut();
            if let Some((id, _)) = inner.running.clone() {
                let waiting = inner.waiting(id, format!("takes the lock at {at} again"));
                inner.fail(Failure::NeverRests(waiting));
            }
        }
        is_too_long
    }

    fn gives_way(&self) -> bool {
        self.options.manner.preempted_once_in > 0 && {
            let (key, time) = self.asked("preempted");
            self.choice.is_preempted(key, time)
        }
    }
}

impl Conductor for Scheduler {
    fn start(&self, name: &str, task: LocalBoxFuture<'static, ()>) -> StrandId {
        self.begin(name, Work::Task(task))
    }

    fn start_blocking(&self, name: &str, run: Box<dyn FnOnce()>) -> StrandId {
        self.begin(name, Work::Blocking(run))
    }

    fn abandon(&self, id: StrandId) {
        let mut inner = self.inner.borrow_mut();
        if let Some(strand) = inner.strands.get_mut(&id)
            && strand.is_task
        {
            strand.is_abandoned = true;
            // Elsewhere it comes to the end of its poll by itself.
            if strand.may_be_dropped() && strand.routine.is_some() {
                inner.enter(self.choice, id);
            }
        }
    }

    fn pause(&self, at: Point<'_>) {
        let running = self.inner.borrow().running.clone();
        let Some((_, place)) = running.filter(|_| !thread::panicking()) else {
            return self.pause_nowhere(&at);
        };
        if let Point::Lock(at) = at
            && self.never_rests(at)
        {
            // The run ends here, and this stack is never used again.
            loop {
                suspend(&place, Suspended::At(Stop::Spins(at)));
            }
        }
        let stop = match at {
            Point::Lock(_) if !self.gives_way() => return,
            Point::Lock(_) => Stop::Lock,
            Point::Yield | Point::Rest(Duration::ZERO) => Stop::Yield,
            Point::Rest(time) => match Instant::now().checked_add(time) {
                Some(end) => Stop::Rest(time, end),
                // Longer than any run.
                None => Stop::Woken(None),
            },
            Point::Woken(end) => Stop::Woken(end),
            Point::Taken { at, is_free } => {
                let mut resume = suspend(&place, Suspended::At(Stop::Taken(at)));
                while matches!(resume, Resume::Probe) {
                    resume = suspend(&place, Suspended::Free(is_free()));
                }
                return;
            }
        };
        suspend(&place, Suspended::At(stop));
    }

    fn waker(&self) -> Waker {
        let inner = self.inner.borrow();
        let running = inner.running.as_ref().map(|(id, _)| *id);
        let strand = running.and_then(|id| inner.strands.get(&id));
        strand.expect("only strands wait").waker.clone()
    }

    fn once_in(&self, what: &'static str, n: u32) -> bool {
        let (key, time) = self.asked(what);
        self.choice.once_in(what, key, time, n)
    }

    fn choose(&self, what: &'static str, among: usize) -> usize {
        let (key, time) = self.asked(what);
        self.choice.among(what, key, time, among)
    }

    fn panicked(&self, said: &str) {
        // One of the scheduler itself ends the run, and needs no note.
        let Ok(mut inner) = self.inner.try_borrow_mut() else {
            return;
        };
        if let Some((id, _)) = inner.running.clone() {
            inner.panicked(id, said);
        }
    }
}

impl Scheduler {
    // Where nobody can be suspended: outside of strands, and while one unwinds, since std counts panics by thread.
    fn pause_nowhere(&self, at: &Point<'_>) {
        let (at, running) = match at {
            Point::Lock(_) | Point::Yield | Point::Rest(_) => return,
            Point::Taken { at, .. } => (*at, self.inner.borrow().running.clone()),
            Point::Woken(_) => (Location::caller(), self.inner.borrow().running.clone()),
        };
        let Some((_, place)) = running else {
            panic!(
                "what is no strand waits for one, at {at}: it holds a lock or a signal where it is suspended"
            );
        };
        // The run ends here, and this stack is never used again.
        loop {
            suspend(&place, Suspended::At(Stop::Stuck(at)));
        }
    }

    pub(super) fn fail(&self, failure: Failure) {
        self.inner.borrow_mut().fail(failure);
    }
}
