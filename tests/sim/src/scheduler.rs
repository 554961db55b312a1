//! What runs next. All strands of a run share one thread and tokio's paused clock below them; a step resumes one of those that are
//! runnable, and the seed says which. Only when none is does time pass, to the next timer or the end of a rest. The order in which
//! tokio wakes somebody does not matter, since who is runnable is a set. A run in which nothing can happen any more ends, and says who
//! waits for what.

mod choice;
mod conductor;
mod report;
mod root;
mod strand;
mod trace;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use tokio::time::Instant;

use crate::simulation::{Bug, StrandId};
use choice::Choice;
use root::Progress;
use strand::{Place, Resume, Stacks, Stepped, Stop, Strand, Suspended, Work};
use trace::Trace;

pub(crate) use choice::{mix, text};

pub use choice::{Manner, Order};
pub use conductor::{Owner, kill, new_owner, running_of, start_owned};
pub use report::{Failure, Outcome, Waiting};
pub use root::run;
pub use trace::Traced;

/// How a run is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What all choices follow from.
    pub seed: u64,
    /// How the order is chosen.
    pub manner: Manner,
    /// Whether each step is kept, and not the last ones only.
    pub keeps_trace: bool,
    /// Steps before a run counts as one that never ends.
    pub steps_max: u64,
    /// Locks that a strand takes in one step before it counts as one that never rests.
    pub locks_in_step_max: u64,
    /// Whoever waits for a lock so long of virtual time never gets it.
    pub blocked_max: Duration,
    /// How much virtual time may pass after a step before another has to follow.
    pub still_max: Duration,
    /// How much virtual time strands have for their end after that of the first one.
    pub grace: Duration,
    /// A fault that is planted in the broker.
    pub planted: Option<Bug>,
}

impl Options {
    /// Those of a seed.
    pub fn of(seed: u64) -> Self {
        Self {
            seed,
            manner: Manner::of(seed),
            keeps_trace: false,
            steps_max: 2_000_000,
            locks_in_step_max: 1_000_000,
            blocked_max: Duration::from_secs(600),
            still_max: Duration::from_secs(3600),
            grace: Duration::from_secs(60),
            planted: None,
        }
    }
}

/// Who was woken. Wakers may be called by tokio's timers and channels at any time, so this is all that they do.
#[derive(Debug)]
struct Ready {
    woken: Mutex<BTreeSet<StrandId>>,
    root: Mutex<Option<Waker>>,
    thread: ThreadId,
    // Somebody on another thread woke a strand: then when it ran was not the seed's choice.
    from_outside: AtomicBool,
}

struct StrandWaker {
    id: StrandId,
    ready: Arc<Ready>,
}

impl Wake for StrandWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if thread::current().id() != self.ready.thread {
            self.ready.from_outside.store(true, Ordering::Relaxed);
        }
        held(&self.ready.woken).insert(self.id);
        let root = held(&self.ready.root).clone();
        if let Some(root) = root {
            root.wake();
        }
    }
}

// Never across a suspension.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All strands of a run.
struct Scheduler {
    options: Options,
    choice: Choice,
    ready: Arc<Ready>,
    progress: Arc<Progress>,
    inner: RefCell<Inner>,
    /// Since the step that is made began.
    locks_in_step: Cell<u64>,
}

struct Inner {
    strands: BTreeMap<StrandId, Strand>,
    next: u64,
    next_owner: u64,
    /// Whose strand starts now, if not its parent's.
    starts_for: Option<u64>,
    /// Strands without a parent, by name.
    started: BTreeMap<String, u64>,
    /// Who can make a step, by when they come.
    runnable: BTreeSet<(u64, StrandId)>,
    /// Who waits for a moment, or for a waker and a moment.
    resting: BTreeSet<(Instant, StrandId)>,
    /// Who waits for a lock, since when.
    blocked: BTreeMap<StrandId, Instant>,
    /// Choices that were made for nobody, by kind.
    asked: BTreeMap<&'static str, u64>,
    /// Where the race is: when the last one came. It begins anew whenever nobody is runnable.
    race: u64,
    running: Option<(StrandId, Place)>,
    steps: u64,
    stepped_at: Instant,
    began: Instant,
    trace: Trace,
    panics: Vec<(String, String)>,
    failure: Option<Failure>,
    stacks: Stacks,
}

/// What a look at the strands came to.
enum Turn {
    /// One made a step.
    Stepped,
    /// Nobody can; somebody could at the moment, if there is one.
    Idle(Option<Instant>),
}

impl Scheduler {
    fn new(options: Options, progress: Arc<Progress>) -> Rc<Self> {
        let (now, choice) = (Instant::now(), Choice::new(options.seed, options.manner));
        let inner = Inner {
            strands: BTreeMap::new(),
            next: 0,
            next_owner: 0,
            starts_for: None,
            started: BTreeMap::new(),
            runnable: BTreeSet::new(),
            resting: BTreeSet::new(),
            blocked: BTreeMap::new(),
            asked: BTreeMap::new(),
            race: 0,
            running: None,
            steps: 0,
            stepped_at: now,
            began: now,
            trace: Trace::new(options.keeps_trace),
            panics: Vec::new(),
            failure: None,
            stacks: Stacks::default(),
        };
        let ready = Ready {
            woken: Mutex::default(),
            root: Mutex::default(),
            thread: thread::current().id(),
            from_outside: AtomicBool::new(false),
        };
        Rc::new(Self {
            options,
            choice,
            ready: Arc::new(ready),
            progress,
            inner: RefCell::new(inner),
            locks_in_step: Cell::new(0),
        })
    }

    fn begin(&self, name: &str, work: Work) -> StrandId {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let id = StrandId(inner.next);
        inner.next += 1;
        let parent = inner.running.as_ref().map(|(id, _)| *id);
        let parent = parent.and_then(|parent| inner.strands.get_mut(&parent));
        let (parent_key, parent_owner, started) = match parent {
            Some(parent) => (parent.key, parent.owner, &mut parent.started),
            None => (0, 0, &mut inner.started),
        };
        let ordinal = started.entry(name.to_owned()).or_default();
        *ordinal += 1;
        let waker = Waker::from(Arc::new(StrandWaker {
            id,
            ready: Arc::clone(&self.ready),
        }));
        let place = Place::default();
        let key = mix(&[parent_key, text(name), *ordinal]);
        let name = format!("{name}.{}", id.0);
        let stack = inner.stacks.take().expect("memory for one more stack");
        let strand = Strand {
            name: name.clone(),
            key,
            owner: inner.starts_for.unwrap_or(parent_owner),
            is_task: work.is_task(),
            routine: Some(work.on(stack, &place, waker.clone())),
            waker,
            place,
            steps: 0,
            is_runnable: false,
            is_abandoned: false,
            is_woken: false,
            stop: None,
            asked: BTreeMap::new(),
            started: BTreeMap::new(),
        };
        inner.strands.insert(id, strand);
        inner.enter(self.choice, id);
        held(&self.progress.names).push(name);
        id
    }

    /// Lets one strand make a step, if any can.
    fn turn(&self) -> Turn {
        self.look();
        loop {
            let next = self.inner.borrow_mut().next_runnable();
            let Some((due, id)) = next else {
                let mut inner = self.inner.borrow_mut();
                inner.race = 0;
                return Turn::Idle(inner.resting.first().map(|(at, _)| *at));
            };
            // Whoever came before it may have taken the lock again.
            let is_at_lock = self.inner.borrow().blocked.contains_key(&id);
            if is_at_lock && !self.is_free(id) {
                continue;
            }
            self.inner.borrow_mut().race = due;
            self.step(id);
            return Turn::Stepped;
        }
    }

    /// Makes those runnable who were woken, whose rest is over, or whose lock is free.
    fn look(&self) {
        let woken = std::mem::take(&mut *held(&self.ready.woken));
        let blocked: Vec<StrandId> = {
            let mut inner = self.inner.borrow_mut();
            for id in woken {
                inner.wake(self.choice, id);
            }
            let now = Instant::now();
            while let Some((at, id)) = inner.resting.first().copied()
                && at <= now
            {
                inner.resting.remove(&(at, id));
                inner.enter(self.choice, id);
            }
            inner.blocked.keys().copied().collect()
        };
        for id in blocked {
            if self.is_free(id) {
                self.inner.borrow_mut().enter(self.choice, id);
            }
        }
    }

    fn step(&self, id: StrandId) {
        self.locks_in_step.set(0);
        let why = {
            let mut inner = self.inner.borrow_mut();
            inner.steps += 1;
            self.progress.step(id, inner.steps);
            inner.stepped_at = Instant::now();
            inner.blocked.remove(&id);
            let Some(strand) = inner.strands.get_mut(&id) else {
                return;
            };
            let is_over = strand.is_abandoned && strand.may_be_dropped();
            strand.steps += 1;
            if strand.stop.is_some_and(Stop::takes_wakes) {
                strand.is_woken = false;
            }
            strand.stop = None;
            if is_over { Resume::Drop } else { Resume::Go }
        };
        let is_dropped = matches!(why, Resume::Drop);
        let stepped = self.resume(id, why);
        let mut inner = self.inner.borrow_mut();
        let said = match stepped {
            Ok(Stepped::Suspended(Suspended::At(stop))) => inner.stopped(self.choice, id, stop),
            Ok(Stepped::Suspended(Suspended::Free(_))) => unreachable!("it was not asked"),
            Ok(Stepped::Ended) if is_dropped => "dropped".to_owned(),
            Ok(Stepped::Ended) => "ended".to_owned(),
            Err(_) => "panicked".to_owned(),
        };
        inner.say(id, &said);
        let is_over = |strand: &Strand| strand.routine.as_ref().is_none_or(|of| of.done());
        if inner.strands.get(&id).is_some_and(is_over) {
            let strand = inner.strands.remove(&id);
            if let Some(routine) = strand.and_then(|strand| strand.routine) {
                inner.stacks.give_back(routine);
            }
        }
        if self.ready.from_outside.load(Ordering::Relaxed) {
            inner.fail(Failure::WokenFromOutside);
        }
    }

    /// Runs a strand until it is suspended or has ended.
    fn resume(&self, id: StrandId, why: Resume) -> thread::Result<Stepped> {
        let (mut routine, place) = {
            let mut inner = self.inner.borrow_mut();
            let strand = inner.strands.get_mut(&id).expect("who runs is there");
            let routine = strand.routine.take().expect("it does not run yet");
            let place = Rc::clone(&strand.place);
            inner.running = Some((id, Rc::clone(&place)));
            (routine, place)
        };
        let stepped = panic::catch_unwind(AssertUnwindSafe(|| strand::resume(&mut routine, why)));
        let mut inner = self.inner.borrow_mut();
        inner.running = None;
        if routine.done() {
            place.set(std::ptr::null());
        }
        if let Some(strand) = inner.strands.get_mut(&id) {
            strand.routine = Some(routine);
        }
        stepped
    }

    // Asks a strand that waits for a lock. That is no step: nothing of it depends on how often it is asked.
    fn is_free(&self, id: StrandId) -> bool {
        match self.resume(id, Resume::Probe) {
            Ok(Stepped::Suspended(Suspended::Free(is_free))) => is_free,
            _ => unreachable!("a strand at a lock answers, and goes nowhere"),
        }
    }
}

impl Inner {
    /// Somebody is runnable: draws when they come.
    fn enter(&mut self, choice: Choice, id: StrandId) {
        if let Some(strand) = self.strands.get_mut(&id)
            && !strand.is_runnable
        {
            strand.is_runnable = true;
            let delay = choice.delay(strand.key, strand.steps);
            self.runnable.insert((self.race.saturating_add(delay), id));
        }
    }

    fn next_runnable(&mut self) -> Option<(u64, StrandId)> {
        let (due, id) = self.runnable.pop_first()?;
        if let Some(strand) = self.strands.get_mut(&id) {
            strand.is_runnable = false;
        }
        Some((due, id))
    }

    fn wake(&mut self, choice: Choice, id: StrandId) {
        // It may have ended.
        let Some(strand) = self.strands.get_mut(&id) else {
            return;
        };
        match strand.stop {
            Some(Stop::Pending) if !strand.is_woken => {}
            Some(Stop::Woken(end)) if !strand.is_woken => {
                if let Some(end) = end {
                    self.resting.remove(&(end, id));
                }
            }
            // It is elsewhere, and will see it when it comes to wait.
            _ => return strand.is_woken = true,
        }
        strand.is_woken = true;
        self.enter(choice, id);
    }

    /// A strand was suspended: where it waits. Answers what is said of it.
    fn stopped(&mut self, choice: Choice, id: StrandId, stop: Stop) -> String {
        let now = Instant::now();
        let Some(strand) = self.strands.get_mut(&id) else {
            return String::new();
        };
        strand.stop = Some(stop);
        let goes_on = match stop {
            Stop::Yield | Stop::Lock => true,
            // Woken while it was polled.
            Stop::Pending => strand.is_woken || strand.is_abandoned,
            Stop::Woken(_) => strand.is_woken,
            Stop::Rest(..) | Stop::Taken(_) | Stop::Stuck(_) | Stop::Spins(_) => false,
        };
        match stop {
            Stop::Woken(Some(at)) if !goes_on => drop(self.resting.insert((at, id))),
            Stop::Rest(_, at) => drop(self.resting.insert((at, id))),
            Stop::Taken(_) => drop(self.blocked.insert(id, now)),
            _ if goes_on => self.enter(choice, id),
            _ => {}
        }
        if let Stop::Stuck(at) = stop {
            let waiting = self.waiting(id, at.to_string());
            self.fail(Failure::StuckUnwinding(waiting));
        }
        match stop {
            Stop::Yield => "gives way".to_owned(),
            Stop::Lock => "gives way at a lock".to_owned(),
            Stop::Pending => "pending".to_owned(),
            Stop::Woken(_) => "waits".to_owned(),
            Stop::Rest(time, _) => format!("rests {time:?}"),
            Stop::Taken(at) | Stop::Stuck(at) => format!("finds a lock taken at {at}"),
            Stop::Spins(at) => format!("never rests, at the lock at {at}"),
        }
    }

    fn all_waiting(&self) -> Vec<Waiting> {
        self.strands.keys().map(|id| self.waits(*id)).collect()
    }

    /// What a strand waits for, in words.
    fn waits(&self, id: StrandId) -> Waiting {
        let stop = self.strands.get(&id).and_then(|strand| strand.stop);
        let at = match stop {
            None | Some(Stop::Yield | Stop::Lock) => "for its turn".to_owned(),
            Some(Stop::Pending) => "its task is pending".to_owned(),
            Some(Stop::Woken(_)) => "for a signal".to_owned(),
            Some(Stop::Rest(time, _)) => format!("rests {time:?}"),
            Some(Stop::Taken(at) | Stop::Stuck(at)) => format!("for the lock at {at}"),
            Some(Stop::Spins(at)) => format!("never rests, at the lock at {at}"),
        };
        self.waiting(id, at)
    }

    fn waiting(&self, id: StrandId, at: String) -> Waiting {
        let strand = self.strands.get(&id).map(|strand| strand.name.clone());
        Waiting {
            strand: strand.unwrap_or_default(),
            at,
        }
    }

    fn say(&mut self, id: StrandId, said: &str) {
        let ms = (Instant::now() - self.began).as_millis();
        let name = self.strands.get(&id).map_or("", |strand| &strand.name);
        let line = format!("{} {ms} {name}: {said}", self.steps);
        self.trace.line(line);
    }

    fn panicked(&mut self, id: StrandId, said: &str) {
        let name = self.strands.get(&id).map(|strand| strand.name.clone());
        self.panics
            .push((name.unwrap_or_default(), said.to_owned()));
    }

    /// The first failure is the one that is told.
    fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }
}
