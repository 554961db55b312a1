//! A strand: a coroutine with a stack of its own, which is resumed and suspended wherever it is, also in the middle of blocking code. It
//! is never unwound by force: a task is dropped between two polls, and what blocks runs to its end.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::panic::Location;
use std::ptr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use futures_util::future::LocalBoxFuture;
use tokio::time::Instant;

/// As much as std gives a thread; only what is used of it takes memory.
const STACK_BYTES: usize = 2 << 20;
/// Stacks of ended strands that are kept for others.
const KEPT_STACKS_MAX: usize = 256;

/// Why a strand is resumed.
pub(super) enum Resume {
    /// It may go on.
    Go,
    /// It shall say whether the lock that it wants is free.
    Probe,
    /// Its task shall be dropped.
    Drop,
}

/// Why a strand was suspended.
pub(super) enum Suspended {
    At(Stop),
    /// The answer to [`Resume::Probe`].
    Free(bool),
}

/// What a suspended strand waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// Nothing: others may come first.
    Yield,
    /// The same, before a free lock.
    Lock,
    /// Its task is not ready, and will be woken.
    Pending,
    /// A waker, or a moment.
    Woken(Option<Instant>),
    /// A moment, in so long.
    Rest(Duration, Instant),
    /// A lock that somebody has.
    Taken(&'static Location<'static>),
    /// A lock that somebody has, while it unwinds: nothing else may run now, so it never gets it.
    Stuck(&'static Location<'static>),
    /// Nothing, for ever: it came to this lock so often in one step that it would never rest.
    Spins(&'static Location<'static>),
}

impl Stop {
    /// Whether a wake is what it waits for. Elsewhere one that comes is kept for the wait after it.
    pub(super) fn takes_wakes(self) -> bool {
        matches!(self, Self::Pending | Self::Woken(_))
    }
}

/// What a resumed strand came to.
pub(super) enum Stepped {
    Suspended(Suspended),
    Ended,
}

type Routine = Coroutine<Resume, Suspended, (), DefaultStack>;
pub(super) type YielderOf = Yielder<Resume, Suspended>;

/// Where the code of a strand finds what suspends it. Null before the strand's first step.
pub(super) type Place = Rc<Cell<*const YielderOf>>;

/// Runs of one strand.
pub(super) struct Strand {
    pub(super) name: String,
    /// Told from all others by name, parent, and the order among those of one name and parent.
    pub(super) key: u64,
    pub(super) owner: u64,
    pub(super) waker: Waker,
    pub(super) place: Place,
    pub(super) is_task: bool,
    /// How often it was resumed.
    pub(super) steps: u64,
    /// Whether it waits for its turn.
    pub(super) is_runnable: bool,
    /// Nobody waits for it any more.
    pub(super) is_abandoned: bool,
    /// Its waker was called since it was last resumed from a wait for that.
    pub(super) is_woken: bool,
    /// What it waits for; `None` before its first step and while it runs.
    pub(super) stop: Option<Stop>,
    /// How often it was asked for each kind of choice.
    pub(super) asked: BTreeMap<&'static str, u64>,
    /// How many it started, by name.
    pub(super) started: BTreeMap<String, u64>,
    /// `None` while it runs.
    pub(super) routine: Option<Routine>,
}

/// What runs in a strand.
pub(super) enum Work {
    Task(LocalBoxFuture<'static, ()>),
    Blocking(Box<dyn FnOnce()>),
}

impl Work {
    pub(super) fn is_task(&self) -> bool {
        matches!(self, Self::Task(_))
    }

    /// On a stack of its own. Nothing of it runs yet.
    pub(super) fn on(self, stack: DefaultStack, place: &Place, waker: Waker) -> Routine {
        let place = Rc::clone(place);
        Coroutine::with_stack(stack, move |yielder, resume| {
            place.set(ptr::from_ref(yielder));
            match self {
                Self::Blocking(run) => run(),
                Self::Task(task) => poll(task, &waker, yielder, resume),
            }
        })
    }
}

fn poll(
    mut task: LocalBoxFuture<'static, ()>,
    waker: &Waker,
    yielder: &YielderOf,
    mut resume: Resume,
) {
    let mut context = Context::from_waker(waker);
    while !matches!(resume, Resume::Drop) {
        match task.as_mut().poll(&mut context) {
            Poll::Ready(()) => return,
            Poll::Pending => resume = yielder.suspend(Suspended::At(Stop::Pending)),
        }
    }
}

impl Strand {
    /// Whether it is between two polls, so that its task can be dropped.
    pub(super) fn may_be_dropped(&self) -> bool {
        self.is_task && matches!(self.stop, None | Some(Stop::Pending))
    }
}

/// Suspends the code that runs, at a place whose strand is the one that runs.
pub(super) fn suspend(place: &Place, suspended: Suspended) -> Resume {
    let yielder = place.get();
    assert!(!yielder.is_null(), "only what runs can be suspended");
    // SAFETY: the strand that runs is inside of the function that `Work::on` gave its coroutine, which set the pointer to what
    // lives on the coroutine's own stack until that function returns. Whoever calls this runs on that stack.
    unsafe { &*yielder }.suspend(suspended)
}

/// Resumes a routine once. A panic of what runs in it goes on here.
pub(super) fn resume(routine: &mut Routine, resume: Resume) -> Stepped {
    match routine.resume(resume) {
        CoroutineResult::Yield(suspended) => Stepped::Suspended(suspended),
        CoroutineResult::Return(()) => Stepped::Ended,
    }
}

/// Stacks to be used again.
#[derive(Default)]
pub(super) struct Stacks(Vec<DefaultStack>);

impl Stacks {
    pub(super) fn take(&mut self) -> io::Result<DefaultStack> {
        match self.0.pop() {
            Some(stack) => Ok(stack),
            None => DefaultStack::new(STACK_BYTES),
        }
    }

    pub(super) fn give_back(&mut self, routine: Routine) {
        if routine.done() && self.0.len() < KEPT_STACKS_MAX {
            self.0.push(routine.into_stack());
        }
    }
}

/// Lets go of a strand that is in the middle of something, with its stack and all that is on it: it can neither go on nor be unwound
/// without running what other strands would have to run before.
pub(super) fn forget(routine: Routine) {
    match routine.started() && !routine.done() {
        true => std::mem::forget(routine),
        false => drop(routine),
    }
}
