//! For how long nothing was heard of a client. One watcher for each connection looks once a second, for all its consumers that hold
//! something, and only while there are some. It tells them once the client is quiet; what follows from that is theirs to say.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tidegate_wire::stream::{Connection, Silence, Traffic};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::receive_window::ReceiveWindow;

/// How often to look. The pause between two looks is slept, and looks are counted instead of time, so that a process that stood still
/// does not take for silence what it has not read yet.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Who says nothing for so many looks is quiet.
pub(super) const QUIET_LOOKS: u32 = 3;

/// The watcher of one client.
pub(super) struct SilenceWatch<C> {
    window: Arc<ReceiveWindow<C>>,
    /// What was seen last. Who follows it has a receiver.
    seen: watch::Sender<Seen>,
    /// Somebody follows.
    followed: Notify,
}

/// What was seen of a client.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    silence: Silence,
    /// Somebody had it asked since the last look.
    is_asked: bool,
}

impl Seen {
    fn look(&mut self, traffic: Traffic) {
        self.silence.look(traffic);
        self.is_asked = false;
    }

    fn is_quiet(&self) -> bool {
        self.silence.quiet_looks() >= QUIET_LOOKS
    }

    /// For how long something is unanswered.
    pub(super) fn silence_lasts(&self) -> Duration {
        LOOK_EVERY.saturating_mul(self.silence.unanswered_looks().unwrap_or(0))
    }

    /// It is time to ask something.
    pub(super) fn is_to_be_asked(&self) -> bool {
        self.silence.unanswered_looks().is_none() && self.is_quiet()
    }
}

impl<C: Connection> SilenceWatch<C> {
    /// That of the client at the other end of the connection of `window`.
    pub(super) fn new(window: Arc<ReceiveWindow<C>>) -> Self {
        Self {
            window,
            seen: watch::Sender::default(),
            followed: Notify::new(),
        }
    }

    /// Follows what is seen, until the receiver is dropped: changes after each look that finds the client quiet, and after the first
    /// that does not any more.
    pub(super) fn follow(&self) -> watch::Receiver<Seen> {
        let follows = self.seen.subscribe();
        self.followed.notify_one();
        follows
    }

    /// Has the client say something, if nobody had since the last look.
    pub(super) fn ask(&self) {
        let mut is_first = false;
        self.seen.send_if_modified(|seen| {
            is_first = !std::mem::replace(&mut seen.is_asked, true);
            seen.silence.ask();
            false
        });
        if is_first {
            self.window.nudge();
        }
    }

    /// Looks for as long as somebody follows, and then waits until somebody does; says of each look that it was taken. For one task.
    pub(super) async fn run(&self, looked: impl Fn()) -> Infallible {
        loop {
            self.followed.notified().await;
            let silence = Silence::since(self.window.connection().traffic());
            self.seen.send_modify(|seen| {
                *seen = Seen {
                    silence,
                    is_asked: false,
                }
            });
            while self.seen.receiver_count() > 0 {
                sleep(LOOK_EVERY).await;
                let traffic = self.window.connection().traffic();
                self.seen.send_if_modified(|seen| {
                    let was_quiet = seen.is_quiet();
                    seen.look(traffic);
                    was_quiet || seen.is_quiet()
                });
                looked();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tidegate_wire::stream::memory::{MemoryOptions, pair};

    use super::*;

    #[test]
    fn who_is_quiet_and_was_not_asked_is_to_be_asked() {
        let mut seen = Seen::default();
        let mut traffic = Traffic::default();
        let mut look = |more_asked: u64, more_heard: u64| {
            traffic.asked += more_asked;
            traffic.heard += more_heard;
            seen.look(traffic);
            (seen.silence_lasts().as_secs(), seen.is_to_be_asked())
        };
        assert_eq!(look(1, 1), (0, false));
        for quiet in 1..10 {
            assert_eq!(look(0, 0), (0, quiet >= QUIET_LOOKS), "nobody asked");
        }
        assert_eq!(look(1, 0), (0, false));
        assert_eq!(look(0, 0), (1, false));
        assert_eq!(look(0, 1), (0, false), "it is heard");
    }

    // Runs what is ready, then lets the time for one look pass.
    async fn pass() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(LOOK_EVERY).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_follow_are_told_by_one_and_have_it_asked_once() {
        let (here, _there) = pair(MemoryOptions::default());
        here.set_silent(true);
        here.set_receive_window(super::super::receive_window::FIRST_WINDOW_BYTES);
        let window = Arc::new(ReceiveWindow::new(here.clone()));
        let watch = Arc::new(SilenceWatch::new(window));
        let runs = Arc::clone(&watch);
        let task = tokio::spawn(async move { runs.run(|| ()).await });
        let mut follow = [watch.follow(), watch.follow(), watch.follow()];
        pass().await;
        follow.iter_mut().for_each(|one| {
            one.mark_unchanged();
        });
        for _ in 2..QUIET_LOOKS {
            pass().await;
            assert!(!follow[0].has_changed().expect("there"), "not quiet yet");
        }
        pass().await;
        for one in &mut follow {
            assert!(one.changed().now_or_never().is_some(), "quiet");
            assert!(one.borrow_and_update().is_to_be_asked());
        }
        for _ in &follow {
            watch.ask();
        }
        // A nudge is a window that grows by a byte and shrinks again.
        assert_eq!(here.traffic().asked, 1);
        for seconds in 1..4 {
            pass().await;
            assert!(follow[2].changed().now_or_never().is_some(), "each look");
            assert_eq!(
                follow[2].borrow_and_update().silence_lasts().as_secs(),
                seconds
            );
        }
        here.set_silent(false);
        pass().await;
        assert!(follow[2].changed().now_or_never().is_some(), "heard again");
        assert_eq!(
            follow[2].borrow_and_update().silence_lasts(),
            Duration::ZERO
        );
        pass().await;
        assert!(!follow[2].has_changed().expect("there"), "no news");
        // Nobody looks for nobody.
        drop(follow);
        pass().await;
        here.set_silent(true);
        for _ in 0..20 {
            pass().await;
        }
        assert!(!watch.seen.borrow().is_quiet());
        let mut again = watch.follow();
        again.mark_unchanged();
        for _ in 0..QUIET_LOOKS {
            pass().await;
        }
        assert!(again.borrow_and_update().is_to_be_asked());
        task.abort();
    }
}
