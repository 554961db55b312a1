//! Uploads under way: how many there may be at a time, so that components that nobody has accepted yet take bounded memory and
//! cores, and which bytes they bring, so that nothing of these is removed under their hands. What becomes of an upload is not
//! decided here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{MutexGuard as AsyncGuard, OwnedSemaphorePermit, Semaphore};

use crate::domain::{Digest, Principal};
use crate::locks::lock;

/// Components that are received or compiled at a time, of all principals: with the largest that are accepted by default, 128 MiB.
const UPLOADS_MAX: usize = 4;

/// Who is uploading what.
#[derive(Debug)]
pub(crate) struct Uploads {
    places: Arc<Semaphore>,
    // One place each; forgotten when nobody has or awaits it.
    own: Mutex<HashMap<Principal, Arc<Semaphore>>>,
    claims: Mutex<HashMap<Digest, usize>>,
    // Held while files are removed, so that nobody begins to need one of them meanwhile.
    removing: tokio::sync::Mutex<()>,
}

/// The right to send a component and have it compiled. A principal has one at a time, and it lasts until the component is
/// compiled, however long that takes.
#[derive(Debug)]
pub struct UploadPlace {
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// While it lives, nothing that is kept of its bytes is removed.
pub(crate) struct Claim {
    uploads: Arc<Uploads>,
    digest: Digest,
}

impl Uploads {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(UPLOADS_MAX)),
            own: Mutex::default(),
            claims: Mutex::default(),
            removing: tokio::sync::Mutex::default(),
        })
    }

    /// Waits for `who`'s place: first for the end of their own upload before it, so that nobody has more than one, then for
    /// others. How many wait is bounded by the connections they have. Cancel-safe.
    pub(crate) async fn place(&self, who: &Principal) -> Option<UploadPlace> {
        let own = {
            let mut all = lock(&self.own);
            all.retain(|_, own| Arc::strong_count(own) > 1);
            let own = all.entry(who.clone());
            Arc::clone(own.or_insert_with(|| Arc::new(Semaphore::new(1))))
        };
        Some(UploadPlace {
            _own: own.acquire_owned().await.ok()?,
            _of_all: Arc::clone(&self.places).acquire_owned().await.ok()?,
        })
    }

    /// Says that somebody is about to keep these bytes.
    pub(crate) async fn claim(self: &Arc<Self>, digest: Digest) -> Claim {
        let _nothing_is_removed = self.removing.lock().await;
        *lock(&self.claims).entry(digest).or_default() += 1;
        Claim {
            uploads: Arc::clone(self),
            digest,
        }
    }

    /// Lets nobody claim anything as long as the answer lives.
    pub(crate) async fn stop_claims(&self) -> AsyncGuard<'_, ()> {
        self.removing.lock().await
    }

    /// Whether somebody is about to keep these bytes.
    pub(crate) fn is_claimed(&self, digest: &Digest) -> bool {
        lock(&self.claims).contains_key(digest)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = lock(&self.uploads.claims);
        if let Some(count) = claims.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                claims.remove(&self.digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_principal_has_one_place_and_all_have_a_few() {
        let uploads = Uploads::new();
        let who = |name: &str| Principal::common_name(name);
        let first = uploads.place(&who("a")).await.expect("a place");
        let (a, b) = (who("a"), who("b"));
        assert!(uploads.place(&a).now_or_never().is_none(), "one at a time");
        let mut others = Vec::new();
        for name in ["b", "c", "d"] {
            others.push(uploads.place(&who(name)).now_or_never().expect("room"));
        }
        assert!(uploads.place(&who("e")).now_or_never().is_none(), "full");
        drop(others.pop());
        assert!(uploads.place(&b).now_or_never().is_none(), "b has one");
        drop(first);
        assert!(uploads.place(&a).now_or_never().is_some());
        drop(others);
        assert!(uploads.place(&b).now_or_never().is_some());
        assert_eq!(lock(&uploads.own).len(), 1, "only the last one asked for");
    }

    #[tokio::test]
    async fn bytes_are_claimed_until_the_last_who_brings_them_is_done() {
        let uploads = Uploads::new();
        let digest = Digest([1; 32]);
        let (one, other) = (uploads.claim(digest).await, uploads.claim(digest).await);
        drop(one);
        assert!(uploads.is_claimed(&digest));
        drop(other);
        assert!(!uploads.is_claimed(&digest));
        let stopped = uploads.stop_claims().await;
        assert!(uploads.claim(digest).now_or_never().is_none());
        drop(stopped);
        assert!(uploads.claim(digest).now_or_never().is_some());
    }
}
