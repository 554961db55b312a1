//! Which consumers could take over what another one holds, and what is heard of their clients. A consumer is one if it could be handed
//! events, has credit for them, and is not of the same client; whether its client is there is asked by whoever wants to know.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tidegate_wire::stream::Connection;

use super::super::credit::ConsumerCredit;
use super::super::receive_window::ReceiveWindow;
use crate::broker::{Consumer, ConsumerKey};
use crate::domain::ConnectionId;
use crate::locks::lock;

/// The consumers of all clients.
#[derive(Default)]
pub(in super::super) struct Takers(Mutex<BTreeMap<ConsumerKey, Entry>>);

struct Entry {
    /// Whose it is.
    client: ConnectionId,
    credit: Arc<ConsumerCredit>,
    path: Arc<dyn Path>,
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

/// A consumer that is there until this is dropped.
pub(super) struct Listed<'a> {
    takers: &'a Takers,
    key: ConsumerKey,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        lock(&self.takers.0).remove(&self.key);
    }
}

impl Takers {
    /// The client has this consumer.
    pub(super) fn list<C: Connection>(
        &self,
        client: ConnectionId,
        window: &Arc<ReceiveWindow<C>>,
        consumer: &Consumer,
        credit: &Arc<ConsumerCredit>,
    ) -> Listed<'_> {
        let credit = Arc::clone(credit);
        let path = window.clone();
        let entry = Entry {
            client,
            credit,
            path,
        };
        let key = consumer.key();
        lock(&self.0).insert(key, entry);
        Listed { takers: self, key }
    }

    /// Whether one of another client could have what `consumer` holds.
    pub(super) fn are_beside(&self, client: ConnectionId, consumer: &Consumer) -> bool {
        consumer.has_taker(|key| {
            let all = lock(&self.0);
            all.get(&key).is_some_and(|entry| entry.could_take(client))
        })
    }

    // They, and the ways to their clients.
    fn beside(
        &self,
        client: ConnectionId,
        consumer: &Consumer,
    ) -> BTreeMap<ConsumerKey, Arc<dyn Path>> {
        let mut beside = BTreeMap::new();
        // None is enough, so all are looked at.
        let _ = consumer.has_taker(|key| {
            let all = lock(&self.0);
            let taker = all.get(&key).filter(|entry| entry.could_take(client));
            beside.extend(taker.map(|entry| (key, Arc::clone(&entry.path))));
            false
        });
        beside
    }
}

impl Entry {
    fn could_take(&self, from: ConnectionId) -> bool {
        self.client != from && self.credit.is_there()
    }
}

/// The clients that could take over from one that seems to be gone were asked whether they are there themselves.
pub(super) struct Call(BTreeMap<ConsumerKey, u64>);

impl Call {
    /// Asks them.
    pub(super) fn new(takers: &Takers, client: ConnectionId, consumer: &Consumer) -> Self {
        let ask = |(key, path): (ConsumerKey, Arc<dyn Path>)| {
            let heard = path.heard();
            path.ask();
            (key, heard)
        };
        let beside = takers.beside(client, consumer);
        Self(beside.into_iter().map(ask).collect())
    }

    /// Whether one was heard since, or has come since and was heard later. Who has come is asked too.
    pub(super) fn is_answered(
        &mut self,
        takers: &Takers,
        client: ConnectionId,
        consumer: &Consumer,
    ) -> bool {
        let mut is_answered = false;
        for (key, path) in takers.beside(client, consumer) {
            let heard = path.heard();
            let before = *self.0.entry(key).or_insert_with(|| {
                path.ask();
                heard
            });
            is_answered |= heard > before;
        }
        is_answered
    }
}
