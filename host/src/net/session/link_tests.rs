//! Tests of links: who may begin one now. A few go on at a time over all clients, one of a principal, and after it the principal rests
//! for as long as it was busy: so none of them alone keeps the broker's link busy, or others from testing; many together can. Clients
//! without a certificate count by their network. One in which nothing happens any more, since its client is gone without a word, gives way
//! to another. What a test does is not known here.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::domain::{Network, Principal};
use crate::locks::lock;

/// Tests at once, of all clients: each takes what the broker's link and a part of a core can do.
pub(super) const TESTS_MAX: usize = 4;

/// A test in which nothing has happened for so long gives way to another: an outage may be over by then, and a client that was killed never
/// says that it ends.
const SILENT_FOR: Duration = Duration::from_secs(6);

/// The tests that are under way, and who rests after one.
#[derive(Debug, Default)]
pub(super) struct LinkTests {
    testers: Mutex<HashMap<Tester, State>>,
}

/// Who tests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Tester {
    Principal(Principal),
    // Clients without a certificate in one network.
    Network(Network),
}

#[derive(Clone, Debug)]
enum State {
    Tests {
        since: Instant,
        /// When anything has happened in it last.
        busy_until: Instant,
        /// Cancelled when it has given way.
        over: CancellationToken,
    },
    RestsUntil(Instant),
}

/// One test. Over when it is dropped.
#[derive(Debug)]
pub(super) struct LinkTest<'a> {
    tests: &'a LinkTests,
    tester: Tester,
    over: CancellationToken,
}

/// Why none may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoTest {
    #[error("another connection of yours is being tested, and there is one test at a time")]
    Yours,
    #[error(
        "another connection of yours, or of another client without a certificate in your network, is being tested, and there is one test at a time"
    )]
    OfNetwork,
    #[error("your last test was busy for so long that the next begins in {0:.1?} at the earliest")]
    Rest(Duration),
    #[error("{TESTS_MAX} connections are being tested, which is as many as there may be at once")]
    All,
}

impl Tester {
    pub(super) fn new(who: &Principal, network: Network) -> Self {
        match *who == Principal::anonymous() {
            true => Self::Network(network),
            false => Self::Principal(who.clone()),
        }
    }

    fn tests(&self) -> NoTest {
        match self {
            Self::Principal(_) => NoTest::Yours,
            Self::Network(_) => NoTest::OfNetwork,
        }
    }
}

impl State {
    // What is left of a test that is over: only what it was busy for has to rest.
    fn rest(since: Instant, busy_until: Instant) -> Self {
        Self::RestsUntil(busy_until + busy_until.duration_since(since))
    }

    fn is_test(&self) -> bool {
        matches!(self, Self::Tests { .. })
    }

    // Ends it if it is a silent test.
    fn end_if_silent(&mut self, now: Instant) {
        if let Self::Tests {
            since,
            busy_until,
            over,
        } = self
            && now.duration_since(*busy_until) >= SILENT_FOR
        {
            over.cancel();
            *self = Self::rest(*since, *busy_until);
        }
    }
}

impl LinkTests {
    /// Begins one.
    ///
    /// # Errors
    ///
    /// Too many are under way, or the tester has just tested.
    pub(super) fn begin(&self, now: Instant, tester: Tester) -> Result<LinkTest<'_>, NoTest> {
        let mut testers = lock(&self.testers);
        if let Some(state) = testers.get_mut(&tester) {
            state.end_if_silent(now);
        }
        testers.retain(|_, state| match state {
            State::Tests { .. } => true,
            State::RestsUntil(until) => *until > now,
        });
        match testers.get(&tester) {
            Some(State::Tests { .. }) => return Err(tester.tests()),
            Some(State::RestsUntil(until)) => return Err(NoTest::Rest(*until - now)),
            None => {}
        }
        let is_full = |testers: &HashMap<Tester, State>| {
            testers.values().filter(|state| state.is_test()).count() >= TESTS_MAX
        };
        if is_full(&testers) {
            // One of somebody else whose client may come back is ended only for one that is there.
            testers
                .values_mut()
                .for_each(|state| state.end_if_silent(now));
        }
        if is_full(&testers) {
            return Err(NoTest::All);
        }
        let over = CancellationToken::new();
        let begun = State::Tests {
            since: now,
            busy_until: now,
            over: over.clone(),
        };
        testers.insert(tester.clone(), begun);
        Ok(LinkTest {
            tests: self,
            tester,
            over,
        })
    }
}

impl LinkTest<'_> {
    /// Something happens in it: the client has said something, or has taken what it wanted.
    pub(super) fn is_busy(&self, now: Instant) {
        if let Some(State::Tests { busy_until, .. }) = self.own(&mut lock(&self.tests.testers)) {
            *busy_until = now;
        }
    }

    /// Waits until it has given way to another.
    pub(super) fn gave_way(&self) -> WaitForCancellationFutureOwned {
        self.over.clone().cancelled_owned()
    }

    // Its state, as long as it has not given way.
    fn own<'t>(&self, testers: &'t mut HashMap<Tester, State>) -> Option<&'t mut State> {
        match self.over.is_cancelled() {
            true => None,
            false => testers.get_mut(&self.tester),
        }
    }
}

impl Drop for LinkTest<'_> {
    fn drop(&mut self) {
        let mut testers = lock(&self.tests.testers);
        if let Some(state) = self.own(&mut testers)
            && let State::Tests {
                since, busy_until, ..
            } = *state
        {
            *state = State::rest(since, busy_until);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const TOOK: Duration = Duration::from_secs(8);

    fn tester(name: &str) -> Tester {
        Tester::new(&Principal::common_name(name), network(1))
    }

    fn network(host: u8) -> Network {
        IpAddr::from([192, 0, 2, host]).into()
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_tested_rests_for_as_long_and_others_do_not() {
        let tests = LinkTests::default();
        let begin = |name: &str| tests.begin(Instant::now(), tester(name));
        let first = begin("a").expect("a place");
        assert_eq!(begin("a").err(), Some(NoTest::Yours));
        tokio::time::advance(TOOK).await;
        first.is_busy(Instant::now());
        drop(first);
        assert_eq!(begin("a").err(), Some(NoTest::Rest(TOOK)));
        assert!(begin("b").is_ok());
        tokio::time::advance(TOOK).await;
        assert!(begin("a").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn all_have_so_many_and_who_rests_takes_no_place() {
        let tests = LinkTests::default();
        let begin = |number: usize| tests.begin(Instant::now(), tester(&number.to_string()));
        let mut under_way: Vec<_> = (0..TESTS_MAX).map_while(|n| begin(n).ok()).collect();
        assert_eq!(under_way.len(), TESTS_MAX);
        assert_eq!(begin(TESTS_MAX).err(), Some(NoTest::All));
        tokio::time::advance(TOOK).await;
        under_way
            .iter()
            .for_each(|test| test.is_busy(Instant::now()));
        under_way.pop();
        assert!(begin(TESTS_MAX).is_ok());
        drop(under_way);
        tokio::time::advance(2 * TOOK).await;
        assert!(begin(0).is_ok());
        assert_eq!(lock(&tests.testers).len(), 1, "nobody is kept for longer");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_silent_gives_way_and_only_what_it_did_has_to_rest() {
        let tests = LinkTests::default();
        let begin = |name: &str| tests.begin(Instant::now(), tester(name));
        let second = Duration::from_secs(1);
        let killed = begin("a").expect("a place");
        tokio::time::advance(second).await;
        killed.is_busy(Instant::now());
        tokio::time::advance(SILENT_FOR - second).await;
        assert_eq!(begin("a").err(), Some(NoTest::Yours), "it may come back");
        tokio::time::advance(second).await;
        let next = begin("a").expect("its place, since a second was rest enough");
        killed.gave_way().await;
        // Whatever becomes of it now is nothing to the other.
        killed.is_busy(Instant::now());
        drop(killed);
        assert_eq!(begin("a").err(), Some(NoTest::Yours));
        tokio::time::advance(5 * second).await;
        next.is_busy(Instant::now());
        tokio::time::advance(second).await;
        drop(next);
        assert_eq!(begin("a").err(), Some(NoTest::Rest(4 * second)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_one_of_others_gives_way_where_no_place_is_left() {
        let tests = LinkTests::default();
        let begin = |number: usize| tests.begin(Instant::now(), tester(&number.to_string()));
        let under_way: Vec<_> = (0..TESTS_MAX).map_while(|n| begin(n).ok()).collect();
        tokio::time::advance(SILENT_FOR).await;
        under_way[1..]
            .iter()
            .for_each(|test| test.is_busy(Instant::now()));
        let next = begin(TESTS_MAX).expect("the place of the silent one");
        under_way[0].gave_way().await;
        assert!(!under_way[1].over.is_cancelled() && !next.over.is_cancelled());
        assert_eq!(begin(TESTS_MAX + 1).err(), Some(NoTest::All));
    }

    #[tokio::test(start_paused = true)]
    async fn clients_without_a_certificate_count_by_their_network() {
        let tests = LinkTests::default();
        let anonymous = |host| Tester::new(&Principal::anonymous(), network(host));
        let begin = |host| tests.begin(Instant::now(), anonymous(host));
        let first = begin(1).expect("a place");
        assert_eq!(begin(1).err(), Some(NoTest::OfNetwork));
        assert!(begin(2).is_ok());
        drop(first);
    }
}
