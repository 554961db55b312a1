//! Tests of links: who may begin one now. A few go on at a time over all clients, one of a principal, and after it the principal rests
//! for as long as it took: so none of them alone keeps the broker's link busy, or others from testing; many together can. Clients without
//! a certificate count by their network. What a test does is not known here.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::{Network, Principal};
use crate::locks::lock;

/// Tests at once, of all clients: each takes what the broker's link and a part of a core can do.
pub(super) const TESTS_MAX: usize = 4;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Tests,
    RestsUntil(Instant),
}

/// One test. Over when it is dropped.
#[derive(Debug)]
pub(super) struct LinkTest<'a> {
    tests: &'a LinkTests,
    tester: Tester,
    since: Instant,
}

/// Why none may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoTest {
    #[error(
        "a connection of yours, or of another client without a certificate in your network, is being tested already; wait until that test is over"
    )]
    Yours,
    #[error("your last test took so long that the next may begin in {0:.1?}; try again then")]
    Rest(Duration),
    #[error(
        "{TESTS_MAX} connections are being tested, which is as many as there may be at once; try again later"
    )]
    All,
}

impl Tester {
    pub(super) fn new(who: &Principal, network: Network) -> Self {
        match *who == Principal::anonymous() {
            true => Self::Network(network),
            false => Self::Principal(who.clone()),
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
        testers.retain(|_, state| match state {
            State::Tests => true,
            State::RestsUntil(until) => *until > now,
        });
        match testers.get(&tester) {
            Some(State::Tests) => return Err(NoTest::Yours),
            Some(State::RestsUntil(until)) => return Err(NoTest::Rest(*until - now)),
            None => {}
        }
        let under_way = testers.values().filter(|state| **state == State::Tests);
        if under_way.count() >= TESTS_MAX {
            return Err(NoTest::All);
        }
        testers.insert(tester.clone(), State::Tests);
        Ok(LinkTest {
            tests: self,
            tester,
            since: now,
        })
    }

    fn ended(&self, now: Instant, tester: &Tester, since: Instant) {
        let rests = State::RestsUntil(now + now.duration_since(since));
        lock(&self.testers).insert(tester.clone(), rests);
    }
}

impl Drop for LinkTest<'_> {
    fn drop(&mut self) {
        self.tests.ended(Instant::now(), &self.tester, self.since);
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
        under_way.pop();
        assert!(begin(TESTS_MAX).is_ok());
        drop(under_way);
        tokio::time::advance(2 * TOOK).await;
        assert!(begin(0).is_ok());
        assert_eq!(lock(&tests.testers).len(), 1, "nobody is kept for longer");
    }

    #[tokio::test(start_paused = true)]
    async fn clients_without_a_certificate_count_by_their_network() {
        let tests = LinkTests::default();
        let anonymous = |host| Tester::new(&Principal::anonymous(), network(host));
        let begin = |host| tests.begin(Instant::now(), anonymous(host));
        let first = begin(1).expect("a place");
        assert_eq!(begin(1).err(), Some(NoTest::Yours));
        assert!(begin(2).is_ok());
        drop(first);
    }
}
