//! What threads tell the kernel about how they share cores with others: who gives way, and who is let in at once. All of it
//! is a request; refused, it costs speed and nothing else.

use std::time::Duration;

/// How far [`give_way`] steps back when cores are short: about a third of the share of everybody else.
const NICE: i32 = 5;
/// How far [`give_way_to_all`] does: about a tenth of the share of everybody else.
const NICEST: i32 = 10;
/// What the kernel lets a thread ask for at least.
const SHORTEST_SLICE: Duration = Duration::from_micros(100);

/// Lets others go first. Threads that this one starts inherit it.
pub(crate) fn give_way() {
    // On Linux this is about the calling thread alone.
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// Lets everybody go first, also those who give way. Threads and processes that this one starts inherit it.
pub(crate) fn give_way_to_all() {
    let _ = rustix::process::setpriority_process(None, NICEST);
}

/// Asks for short slices of time, in the thread's same share of the core: when it wakes up it need not wait until whoever
/// runs there has used up a whole slice of some milliseconds. For a thread that mostly waits, and for which others wait.
///
/// Linux takes `sched_runtime` of a thread without deadlines for the length of its slices since 6.12 (commit
/// 857b158dc5e8, "sched/eevdf: Use `sched_attr::sched_runtime` to set request/slice suggestion"); older ones ignore it.
pub(crate) fn take_short_turns() {
    // For real-time policies, which may be inherited, it has no meaning or another one.
    let is_ordinary = |attributes: &libc::sched_attr| {
        [libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&(attributes.sched_policy as i32))
    };
    if let Some(mut attributes) = attributes().filter(is_ordinary) {
        attributes.sched_runtime = SHORTEST_SLICE.as_nanos() as u64;
        // SAFETY: thread 0 is the calling one, and the kernel reads as many bytes of the struct as its `size` says, which the
        // kernel itself has set to no more than the struct has.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    }
}

// As the calling thread runs now, so that what is not to be changed is not.
fn attributes() -> Option<libc::sched_attr> {
    const SIZE: usize = size_of::<libc::sched_attr>();
    let mut attributes = libc::sched_attr {
        size: SIZE as u32,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let own = &raw mut attributes;
    // SAFETY: thread 0 is the calling one, and the kernel writes at most `SIZE` bytes to the struct, which has as many.
    let answer = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, own, SIZE, 0) };
    (answer == 0).then_some(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    // In threads of their own, since the test runner's may go on to other tests.
    fn on_a_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(run).join().expect("the thread ends")
    }

    #[test]
    fn short_turns_change_nothing_but_the_slice() {
        let (before, after) = on_a_thread(|| {
            give_way();
            let before = attributes().expect("Linux tells");
            take_short_turns();
            (before, attributes().expect("Linux tells"))
        });
        assert_eq!(after.sched_nice, before.sched_nice);
        assert_eq!(after.sched_policy, before.sched_policy);
        // Kernels that know nothing of slices say 0 for both.
        if before.sched_runtime > 0 {
            assert_eq!(
                u128::from(after.sched_runtime),
                SHORTEST_SLICE.as_nanos(),
                "{before:?}"
            );
        }
    }

    #[test]
    fn threads_inherit_that_others_go_first() {
        let (own, inherited) = on_a_thread(|| {
            give_way();
            let nice = || attributes().expect("Linux tells").sched_nice;
            (nice(), on_a_thread(nice))
        });
        assert_eq!((own, inherited), (NICE, NICE));
    }
}
