//! Which consumers of a subscription could take over what another one holds, and what is heard of their clients. A consumer is one if it
//! could be handed events, has credit for them, and is not of the same client. Who they are and what was heard of them is looked at
//! for all together, so that it costs no more when a thousand are silent at once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex};

use tidegate_wire::stream::Connection;
use tokio::time::Instant;

use super::super::credit::ConsumerCredit;
use super::super::receive_window::ReceiveWindow;
use super::super::silence_watch::LOOK_EVERY;
use crate::broker::Consumer;
use crate::domain::{ConnectionId, ConsumerId, SubscriptionId};
use crate::locks::lock;

/// Who was heard once they were called is asked again, for so many looks: who takes over is there then, and not only was.
const ASKED_AGAIN_LOOKS: u64 = 4;

/// The consumers of all clients.
#[derive(Default)]
pub(in super::super) struct Successors(Mutex<BTreeMap<SubscriptionId, Counted>>);

/// Those of one subscription, and how many are listed.
#[derive(Default)]
struct Counted {
    consumers: Arc<Mutex<Consumers>>,
    listed: usize,
}

/// The consumers of one subscription.
#[derive(Default)]
struct Consumers {
    members: BTreeMap<ConsumerId, Member>,
    /// Those of them that could take over. Looked for seldom.
    successors: Vec<ConsumerId>,
    found: Pace,
    /// The clients of two of them, if there are so many: enough to say of each client whether there is another.
    clients: Vec<ConnectionId>,
    heard: Pace,
    /// How often all successors were listened to.
    looks: u64,
    /// In which of these the two clients were heard that were heard last.
    answers: Vec<(ConnectionId, u64)>,
    /// The look after which all were asked last.
    asked: Option<u64>,
}

struct Member {
    /// Whose it is.
    client: ConnectionId,
    credit: Arc<ConsumerCredit>,
    path: Arc<dyn Path>,
    /// What had come of it by the last look.
    heard: u64,
    /// The last look that found more than the one before, if one did.
    answered: u64,
    /// It was asked, whenever.
    is_asked: bool,
}

/// The way to a client.
trait Path: Send + Sync {
    /// What came of it until now.
    fn heard(&self) -> u64;
    /// Has it answer.
    fn ask(&self);
}

impl<C: Connection> Path for ReceiveWindow<C> {
    fn heard(&self) -> u64 {
        self.connection().traffic().heard
    }

    fn ask(&self) {
        self.nudge();
    }
}

/// When something was done that is not done again at once.
#[derive(Default)]
struct Pace(Option<Instant>);

impl Pace {
    // Half of the time between two looks at a client, which may come a little early.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.0.is_none_or(|last| now >= last + LOOK_EVERY / 2);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

/// A consumer that is there until this is dropped.
pub(super) struct Listed<'a> {
    successors: &'a Successors,
    consumers: Arc<Mutex<Consumers>>,
    client: ConnectionId,
    subscription: SubscriptionId,
    consumer: ConsumerId,
}

impl Successors {
    /// The client has this consumer.
    pub(super) fn list<C: Connection>(
        &self,
        client: ConnectionId,
        window: &Arc<ReceiveWindow<C>>,
        consumer: &Consumer,
        credit: &Arc<ConsumerCredit>,
    ) -> Listed<'_> {
        let (subscription, consumer) = (consumer.subscription_id(), consumer.id());
        let path = window.clone();
        let member = Member::new(client, Arc::clone(credit), path);
        // The lock of all is never held while that of one subscription is waited for.
        let consumers = {
            let mut all = lock(&self.0);
            let counted = all.entry(subscription).or_default();
            counted.listed += 1;
            Arc::clone(&counted.consumers)
        };
        lock(&consumers).members.insert(consumer, member);
        Listed {
            successors: self,
            consumers,
            client,
            subscription,
            consumer,
        }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        lock(&self.consumers).members.remove(&self.consumer);
        let mut all = lock(&self.successors.0);
        if let Entry::Occupied(mut counted) = all.entry(self.subscription) {
            counted.get_mut().listed -= 1;
            if counted.get().listed == 0 {
                counted.remove();
            }
        }
    }
}

impl Listed<'_> {
    /// Whether one of another client could have what `consumer`, which is this one, holds.
    pub(super) fn others_could_take(&self, consumer: &Consumer) -> bool {
        let mut consumers = lock(&self.consumers);
        consumers.find(|| consumer.successors());
        consumers
            .clients
            .iter()
            .any(|client| *client != self.client)
    }

    /// Asks the clients that could take over whether they are there themselves; returns when that was.
    pub(super) fn call(&self, consumer: &Consumer) -> u64 {
        let mut consumers = lock(&self.consumers);
        consumers.find(|| consumer.successors());
        consumers.call()
    }

    /// Whether one of another client could take over, was heard after it was called, or after it came, and was so in the last two looks.
    /// Who has come since is asked, and whoever was heard is asked again.
    pub(super) fn one_was_heard(&self, consumer: &Consumer, called: u64) -> bool {
        let mut consumers = lock(&self.consumers);
        consumers.find(|| consumer.successors());
        consumers.listen();
        consumers.heard_another(self.client, called)
    }
}

impl Member {
    fn new(client: ConnectionId, credit: Arc<ConsumerCredit>, path: Arc<dyn Path>) -> Self {
        Self {
            client,
            credit,
            heard: path.heard(),
            path,
            answered: 0,
            is_asked: false,
        }
    }

    fn ask(&mut self) {
        self.is_asked = true;
        self.path.ask();
    }

    // Whether it was heard after it was `asked`, and not too many of all `looks` ago.
    fn answered_lately(&self, asked: u64, looks: u64) -> bool {
        self.answered > asked && self.answered + ASKED_AGAIN_LOOKS > looks
    }
}

impl Consumers {
    // Looks which of those that could be handed something have credit for it.
    fn find(&mut self, successors: impl FnOnce() -> Vec<ConsumerId>) {
        if !self.found.is_due() {
            return;
        }
        let Self {
            members, clients, ..
        } = self;
        let mut successors = successors();
        clients.clear();
        successors.retain(|id| {
            let member = members.get(id).filter(|member| member.credit.is_there());
            if let Some(Member { client, .. }) = member
                && clients.len() < 2
                && !clients.contains(client)
            {
                clients.push(*client);
            }
            member.is_some()
        });
        self.successors = successors;
    }

    // Asks all, once between two looks.
    fn call(&mut self) -> u64 {
        self.listen();
        if self.asked != Some(self.looks) {
            self.asked = Some(self.looks);
            for id in &self.successors {
                if let Some(member) = self.members.get_mut(id) {
                    member.ask();
                }
            }
        }
        self.looks
    }

    // Looks who was heard since the look before.
    fn listen(&mut self) {
        if !self.heard.is_due() {
            return;
        }
        self.looks += 1;
        self.answers.clear();
        for id in &self.successors {
            let Some(member) = self.members.get_mut(id) else {
                continue;
            };
            let heard = member.path.heard();
            if heard > member.heard {
                (member.heard, member.answered) = (heard, self.looks);
            }
            // Before the first call nobody is.
            if let Some(asked) = self.asked
                && (!member.is_asked || member.answered_lately(asked, self.looks))
            {
                member.ask();
            }
            keep_last_two(&mut self.answers, (member.client, member.answered));
        }
    }

    // Whether another client was heard after `called`, and not only then: of two looks its answer may miss one.
    fn heard_another(&self, client: ConnectionId, called: u64) -> bool {
        let others = self.answers.iter().filter(|(one, _)| *one != client);
        let mut heard = others.map(|(_, at)| *at);
        heard.any(|at| at > called && at + 1 >= self.looks)
    }
}

// Of different clients, the later one first.
fn keep_last_two(last: &mut Vec<(ConnectionId, u64)>, (client, at): (ConnectionId, u64)) {
    match last.iter_mut().find(|(one, _)| *one == client) {
        Some((_, before)) => *before = at.max(*before),
        None => last.push((client, at)),
    }
    last.sort_unstable_by_key(|(_, at)| std::cmp::Reverse(*at));
    last.truncate(2);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    /// A client that answers when it is asked, unless it is silent.
    #[derive(Default)]
    struct Fake {
        asked: AtomicU64,
        heard: AtomicU64,
        is_silent: AtomicBool,
    }

    impl Path for Fake {
        fn heard(&self) -> u64 {
            self.heard.load(Ordering::Relaxed)
        }

        fn ask(&self) {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if !self.is_silent.load(Ordering::Relaxed) {
                self.heard.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A consumer for each client, all with credit.
    struct Many {
        consumers: Consumers,
        paths: Vec<Arc<Fake>>,
        credits: Vec<Arc<ConsumerCredit>>,
        /// How often the subscription was looked at.
        found: usize,
    }

    fn many(count: u64) -> Many {
        let mut many = Many {
            consumers: Consumers::default(),
            paths: Vec::new(),
            credits: Vec::new(),
            found: 0,
        };
        for id in 0..count {
            many.come(id, id);
        }
        many
    }

    impl Many {
        fn come(&mut self, id: u64, client: u64) {
            let path = Arc::new(Fake::default());
            let credit = Arc::new(ConsumerCredit::new(1, 1));
            let member = Member::new(ConnectionId(client), Arc::clone(&credit), path.clone());
            self.consumers.members.insert(ConsumerId(id), member);
            self.paths.push(path);
            self.credits.push(credit);
        }

        fn find(&mut self) {
            let Self {
                consumers, found, ..
            } = self;
            let members = || consumers.members.keys().copied().collect::<Vec<_>>();
            let all = members();
            consumers.find(|| {
                *found += 1;
                all
            });
        }

        fn call(&mut self) -> u64 {
            self.find();
            self.consumers.call()
        }

        fn hears(&mut self, called: u64, but: u64) -> bool {
            self.find();
            self.consumers.listen();
            self.consumers.heard_another(ConnectionId(but), called)
        }

        fn asked(&self) -> Vec<u64> {
            let asked = self.paths.iter();
            asked
                .map(|path| path.asked.load(Ordering::Relaxed))
                .collect()
        }

        fn set_silent(&self, is_silent: bool) {
            for path in &self.paths {
                path.is_silent.store(is_silent, Ordering::Relaxed);
            }
        }
    }

    async fn pass() {
        tokio::time::advance(Duration::from_secs(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_that_are_silent_at_once_are_each_asked_once() {
        let mut many = many(1_000);
        many.set_silent(true);
        let calls: Vec<_> = (0..1_000).map(|_| many.call()).collect();
        assert!(calls.iter().all(|call| *call == 1));
        assert!(many.asked().iter().all(|asked| *asked == 1));
        assert_eq!(many.found, 1, "the subscription is looked at once");
        for _ in 0..10 {
            pass().await;
            assert!((0..1_000).all(|client| !many.hears(1, client)));
        }
        assert!(many.asked().iter().all(|asked| *asked == 1));
        assert_eq!(many.found, 11);
        // One is heard: all but that one have somebody.
        many.paths[7].heard.fetch_add(1, Ordering::Relaxed);
        pass().await;
        assert!((0..1_000).all(|client| many.hears(1, client) == (client != 7)));
        many.paths[9].heard.fetch_add(1, Ordering::Relaxed);
        pass().await;
        assert!((0..1_000).all(|client| many.hears(1, client)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_heard_before_the_call_is_no_answer() {
        let mut many = many(2);
        assert!(!many.hears(1, 0), "nothing was");
        pass().await;
        many.paths[1].heard.fetch_add(10, Ordering::Relaxed);
        many.set_silent(true);
        let called = many.call();
        for _ in 0..10 {
            pass().await;
            assert!(!many.hears(called, 0));
        }
        // Nor does an answer to one call answer the next one.
        many.set_silent(false);
        let called = many.call();
        many.set_silent(true);
        pass().await;
        assert!(many.hears(called, 0));
        let called = many.call();
        pass().await;
        assert!(!many.hears(called, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_heard_once_and_is_silent_since_counts_no_more() {
        let mut many = many(2);
        let called = many.call();
        many.set_silent(true);
        for hears in [true, true, false, false, false, false, false, false] {
            pass().await;
            assert_eq!(many.hears(called, 0), hears);
        }
        assert_eq!(many.asked(), [5, 5], "nobody is asked for ever");
        // Who is heard is asked again, and counts for as long as it answers.
        many.set_silent(false);
        many.paths[1].heard.fetch_add(1, Ordering::Relaxed);
        for _ in 0..10 {
            pass().await;
            assert!(many.hears(called, 0));
        }
        assert_eq!(many.asked(), [5, 15]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_later_is_asked_and_who_has_no_credit_or_left_does_not_count() {
        let mut many = many(1);
        let called = many.call();
        many.come(1, 1);
        pass().await;
        assert!(!many.hears(called, 0));
        assert_eq!(many.asked(), [2, 1]);
        pass().await;
        assert!(many.hears(called, 0));
        many.credits[1].spend(1, 1);
        pass().await;
        assert!(!many.hears(called, 0));
        assert_eq!(many.consumers.clients, [ConnectionId(0)]);
        many.credits[1].grow(1, 1);
        pass().await;
        assert!(many.hears(called, 0));
        many.consumers.members.remove(&ConsumerId(1));
        pass().await;
        assert!(!many.hears(called, 0));
        // Of the same client.
        many.come(2, 0);
        pass().await;
        many.find();
        assert_eq!(many.consumers.clients, [ConnectionId(0)]);
    }
}
