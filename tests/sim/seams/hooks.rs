//! What a simulated library asks of whoever drives it: to start a strand, and to let others run where it would block. A strand is
//! what was a task, a thread or a blocking call; it is suspended wherever it asks, also in the middle of blocking code. There is one
//! conductor for each thread that simulates, for the length of a run. Nothing here decides what runs next.

// An enumeration that knows its names.
macro_rules! named {
    ($(#[$about:meta])* $type:ident { $($(#[$said:meta])* $name:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $type {
            $($(#[$said])* $name,)*
        }

        impl $type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What it is called.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

mod bugs;
pub mod rules;
mod states;

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::panic::{self, AssertUnwindSafe, Location};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::time::Instant;

pub use bugs::{Bug, is_planted, plant};
pub use states::{Reached, State, reached, take_reached, times_reached};

/// A strand, by the order in which they were started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StrandId(pub u64);

/// Where a strand may be suspended.
pub enum Point<'a> {
    /// Before a lock that may be free, where it is taken: now and then others come first.
    Lock(&'static Location<'static>),
    /// At a lock that somebody has, until it is free.
    Taken {
        /// Who wants it.
        at: &'static Location<'static>,
        /// Whether it could be taken now.
        is_free: &'a dyn Fn() -> bool,
    },
    /// Until the strand's [`waker`](Conductor::waker) is called, or until then.
    Woken(Option<Instant>),
    /// So long.
    Rest(Duration),
    /// Others may come first.
    Yield,
}

/// Who decides what runs next.
pub trait Conductor {
    /// Starts a task.
    fn start(&self, name: &str, task: LocalBoxFuture<'static, ()>) -> StrandId;

    /// Starts what was a thread or a blocking call.
    fn start_blocking(&self, name: &str, run: Box<dyn FnOnce()>) -> StrandId;

    /// Says that nobody waits for a task any more: it is dropped at the end of the poll it is in. What blocks runs to its end.
    fn abandon(&self, strand: StrandId);

    /// Suspends the strand that calls. Outside of a strand, and while it unwinds, nothing may be waited for, and it comes back at once.
    fn pause(&self, at: Point<'_>);

    /// What wakes the strand that calls from [`Point::Woken`].
    fn waker(&self) -> Waker;

    /// Whether something happens this time that happens once in `n` times, by the seed.
    fn once_in(&self, what: &'static str, n: u32) -> bool;

    /// One of `among`, from 0, by the seed.
    fn choose(&self, what: &'static str, among: usize) -> usize;

    /// Notes that a strand panics. Whoever catches that may tell nobody.
    fn panicked(&self, said: &str);
}

thread_local! {
    static CONDUCTOR: RefCell<Option<Rc<dyn Conductor>>> = const { RefCell::new(None) };
}

/// Puts a conductor in charge of this thread, or nobody.
pub fn install(conductor: Option<Rc<dyn Conductor>>) {
    CONDUCTOR.with(|current| *current.borrow_mut() = conductor);
}

/// Who is in charge of this thread.
pub fn conductor() -> Option<Rc<dyn Conductor>> {
    // A thread that ends has none.
    CONDUCTOR
        .try_with(|current| current.borrow().clone())
        .ok()
        .flatten()
}

/// Who is in charge, where there has to be somebody.
///
/// # Panics
///
/// There is nobody: this is not a simulated run.
pub fn in_charge() -> Rc<dyn Conductor> {
    conductor().expect("strands are started in a simulated run only")
}

/// Runs a future as a strand of its own, whoever polls what is returned. It is dropped with that.
///
/// # Panics
///
/// This is not a simulated run.
pub fn start<T: Send + 'static>(name: &str, task: impl Future<Output = T> + 'static) -> Handed<T> {
    let (slot, conductor) = (Arc::new(Mutex::new(Slot::Open(None))), in_charge());
    let fills = Fills(Arc::clone(&slot));
    let task = async move {
        let ended = AssertUnwindSafe(task).catch_unwind().await;
        fills.fill(ended.map_err(End::Panicked));
    };
    let strand = conductor.start(name, task.boxed_local());
    Handed {
        slot,
        strand,
        is_wanted: true,
    }
}

/// Runs what blocks as a strand of its own. It runs to its end, whether somebody waits or not.
///
/// # Panics
///
/// This is not a simulated run.
pub fn start_blocking<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + 'static,
) -> Handed<T> {
    let (slot, conductor) = (Arc::new(Mutex::new(Slot::Open(None))), in_charge());
    let fills = Fills(Arc::clone(&slot));
    let run = move || {
        let ended = panic::catch_unwind(AssertUnwindSafe(run));
        fills.fill(ended.map_err(End::Panicked));
    };
    let strand = conductor.start_blocking(name, Box::new(run));
    Handed {
        slot,
        strand,
        is_wanted: true,
    }
}

/// Blocks the strand that calls until a future is ready.
pub fn wait_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let waker = in_charge().waker();
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        in_charge().pause(Point::Woken(None));
    }
}

/// What a strand comes to. Dropped before, it abandons the strand.
pub struct Handed<T> {
    slot: Arc<Mutex<Slot<T>>>,
    strand: StrandId,
    is_wanted: bool,
}

/// How a strand ended without a value.
#[derive(Debug)]
pub enum End {
    /// It panicked, with this.
    Panicked(Box<dyn Any + Send>),
    /// It was dropped.
    Dropped,
}

enum Slot<T> {
    Open(Option<Waker>),
    Filled(Result<T, End>),
    Taken,
}

impl<T> Handed<T> {
    /// Waits for the end, also for one without a value.
    ///
    /// # Errors
    ///
    /// It panicked, or was dropped.
    pub async fn ended(mut self) -> Result<T, End> {
        std::future::poll_fn(|context| self.poll_ended(context)).await
    }

    /// Lets the strand run to its end, whether somebody waits or not.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.is_wanted = false;
        self
    }

    /// The strand that it is about.
    pub fn strand(&self) -> StrandId {
        self.strand
    }

    fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<Result<T, End>> {
        let mut slot = held(&self.slot);
        match std::mem::replace(&mut *slot, Slot::Taken) {
            Slot::Open(_) => {
                *slot = Slot::Open(Some(context.waker().clone()));
                Poll::Pending
            }
            Slot::Filled(ended) => Poll::Ready(ended),
            Slot::Taken => panic!("a strand ends once"),
        }
    }
}

impl<T> Future for Handed<T> {
    type Output = T;

    // As if the strand ran in whoever waits for it: a panic goes on there, and after it was dropped nothing comes.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match self.poll_ended(context) {
            Poll::Ready(Ok(value)) => Poll::Ready(value),
            Poll::Ready(Err(End::Panicked(panic))) => panic::resume_unwind(panic),
            Poll::Ready(Err(End::Dropped)) => {
                *held(&self.slot) = Slot::Open(None);
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T> Drop for Handed<T> {
    fn drop(&mut self) {
        let is_open = matches!(&*held(&self.slot), Slot::Open(_));
        if let (true, true, Some(conductor)) = (self.is_wanted, is_open, conductor()) {
            conductor.abandon(self.strand);
        }
    }
}

/// What a panic says.
pub fn message(panic: &(dyn Any + Send)) -> &str {
    let said = panic.downcast_ref::<&'static str>().copied();
    let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    said.unwrap_or("something that is no text")
}

/// Fills the slot of a strand, at the latest when it is dropped.
struct Fills<T>(Arc<Mutex<Slot<T>>>);

impl<T> Fills<T> {
    fn fill(&self, ended: Result<T, End>) {
        let before = std::mem::replace(&mut *held(&self.0), Slot::Filled(ended));
        if let Slot::Open(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> Drop for Fills<T> {
    fn drop(&mut self) {
        let is_open = matches!(&*held(&self.0), Slot::Open(_));
        if is_open {
            self.fill(Err(End::Dropped));
        }
    }
}

// Never across a suspension, so nobody waits here.
fn held<T>(slot: &Mutex<Slot<T>>) -> MutexGuard<'_, Slot<T>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
