//! Aggregates in memory, as they were when nothing newer had been heard of: a near cache, as data grids call it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use es_core::command::Sender;
use es_core::store::{StoreError, StreamId, Version};
use es_core::{Apply, LoadError, Loaded};

/// Aggregates of one kind in the memory of a process, without a question to the store for what is there.
///
/// It follows the log: an event of an aggregate, from any node, drops what is held of it. A load that was under way then is
/// answered and not kept, so nothing old stays. Until it follows, or if it cannot, every `get` asks the store.
///
/// What it answers is as old as what this process has heard of. A command decides on what the store has, never on this.
/// Clones are one. `es_near_cache_total` counts what was asked, by `cache` and `found`.
pub struct NearCache<A>(Arc<Inner<A>>);

struct Inner<A> {
    most: usize,
    held: Mutex<Held<A>>,
    /// Loads what is not there; connected as the app starts.
    sender: Mutex<Option<Sender>>,
}

/// What is there.
struct Held<A> {
    /// While it follows the log: how often it has begun to.
    following: Option<u64>,
    begun: u64,
    /// Each with its place in the order.
    entries: HashMap<StreamId, (u64, Arc<Loaded<A>>)>,
    /// In which order they came: the oldest goes first. What was dropped meanwhile, or has come again, is passed over.
    order: VecDeque<(u64, StreamId)>,
    places: u64,
    /// What is being loaded: by how many, and the newest event of it that was heard of since the first of them began.
    loading: HashMap<StreamId, (usize, Version)>,
}

impl<A> Clone for NearCache<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A> fmt::Debug for NearCache<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NearCache").field("most", &self.0.most).finish_non_exhaustive()
    }
}

/// A load that is under way, until it is dropped.
struct Loading<'c, A> {
    inner: &'c Inner<A>,
    stream: &'c StreamId,
    begun: Option<u64>,
}

impl<A: Apply> NearCache<A> {
    /// For so many aggregates; the one that came first makes room.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let held = Held {
            following: None,
            begun: 0,
            entries: HashMap::new(),
            order: VecDeque::new(),
            places: 0,
            loading: HashMap::new(),
        };
        Self(Arc::new(Inner { most, held: Mutex::new(held), sender: Mutex::default() }))
    }

    /// An aggregate; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`LoadError`] if it is not in memory and cannot be loaded, or the app of the cache has not started or has ended.
    ///
    /// # Cancellation
    ///
    /// Nothing is kept.
    pub async fn get(&self, id: &A::Id) -> Result<Option<Arc<Loaded<A>>>, LoadError> {
        let stream = StreamId::new(format!("{}-{id}", A::NAME))?;
        let found = self.0.held().entries.get(&stream).map(|(_, entry)| entry.clone());
        let label = if found.is_some() { "true" } else { "false" };
        metrics::counter!("es_near_cache_total", "cache" => A::NAME, "found" => label).increment(1);
        if found.is_some() {
            return Ok(found);
        }
        let sender = self.0.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sender = sender.ok_or_else(|| {
            StoreError::misuse("the app of this cache has not started: add `.near_cache(..)` to it")
        })?;
        let loading = self.0.begin(&stream);
        let loaded = sender.load::<A>(id).await?.map(Arc::new);
        if let Some(loaded) = &loaded {
            loading.keep(loaded);
        }
        Ok(loaded)
    }

    /// It loads what is not there through this.
    pub(super) fn connect(&self, sender: Sender) {
        *self.0.sender.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    }

    /// From here on it hears of everything.
    pub(super) fn follows(&self) {
        let mut held = self.0.held();
        held.begun += 1;
        held.following = Some(held.begun);
    }

    /// It hears of nothing any more: what is there may be old.
    pub(super) fn forgets(&self) {
        let mut held = self.0.held();
        (held.following, held.entries, held.order) = (None, HashMap::new(), VecDeque::new());
    }

    /// An event of a stream.
    pub(super) fn hears(&self, stream: &StreamId, version: Version) {
        let mut held = self.0.held();
        if let Some((_, newest)) = held.loading.get_mut(stream) {
            *newest = version.max(*newest);
        }
        if held.entries.get(stream).is_some_and(|(_, entry)| entry.version < version) {
            held.entries.remove(stream);
        }
    }
}

impl<A> Inner<A> {
    fn held(&self) -> MutexGuard<'_, Held<A>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin<'c>(&'c self, stream: &'c StreamId) -> Loading<'c, A> {
        let mut held = self.held();
        held.loading.entry(stream.clone()).or_default().0 += 1;
        Loading { inner: self, stream, begun: held.following }
    }
}

impl<A> Loading<'_, A> {
    /// Keeps what was loaded, unless something newer was heard of, or might not have been.
    fn keep(&self, loaded: &Arc<Loaded<A>>) {
        let mut held = self.inner.held();
        let newest = held.loading.get(self.stream).map(|(_, newest)| *newest).unwrap_or_default();
        let is_held = held.entries.get(self.stream).is_some_and(|(_, entry)| entry.version >= loaded.version);
        if self.inner.most == 0 || self.begun.is_none() || self.begun != held.following {
            return;
        }
        if is_held || loaded.version < newest {
            return;
        }
        held.insert(self.stream, loaded, self.inner.most);
    }
}

impl<A> Held<A> {
    fn insert(&mut self, stream: &StreamId, loaded: &Arc<Loaded<A>>, most: usize) {
        self.places += 1;
        self.entries.insert(stream.clone(), (self.places, loaded.clone()));
        self.order.push_back((self.places, stream.clone()));
        let is_there = |entries: &HashMap<StreamId, (u64, Arc<Loaded<A>>)>,
                        (place, stream): &(u64, StreamId)| {
            entries.get(stream).is_some_and(|(of, _)| of == place)
        };
        while self.entries.len() > most {
            let Some(oldest) = self.order.pop_front() else { break };
            if is_there(&self.entries, &oldest) {
                self.entries.remove(&oldest.1);
            }
        }
        // Places of what is gone are cleared away now and then.
        if self.order.len() > most.saturating_mul(2) {
            self.order.retain(|placed| is_there(&self.entries, placed));
        }
    }
}

impl<A> Drop for Loading<'_, A> {
    fn drop(&mut self) {
        let mut held = self.inner.held();
        if let Some((n, _)) = held.loading.get_mut(self.stream) {
            *n -= 1;
            if *n == 0 {
                held.loading.remove(self.stream);
            }
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use es_core::testing::conformance::domain::Account;

    use super::*;

    fn stream(name: &str) -> StreamId {
        StreamId::new(format!("account-{name}")).expect("a stream")
    }

    fn at(version: u64) -> Arc<Loaded<Account>> {
        let mut loaded = Loaded::default();
        loaded.version = Version(version);
        Arc::new(loaded)
    }

    fn held(cache: &NearCache<Account>, of: &StreamId) -> Option<u64> {
        cache.0.held().entries.get(of).map(|(_, entry)| entry.version.0)
    }

    #[test]
    fn a_load_that_an_event_overtakes_is_not_kept() {
        let (cache, ada) = (NearCache::<Account>::new(10), stream("ada"));
        cache.follows();
        let loading = cache.0.begin(&ada);
        cache.hears(&ada, Version(3));
        loading.keep(&at(2));
        assert_eq!(held(&cache, &ada), None);
        loading.keep(&at(3));
        assert_eq!(held(&cache, &ada), Some(3));
        drop(loading);
        assert!(cache.0.held().loading.is_empty(), "nothing stays of it");
        cache.hears(&ada, Version(3));
        assert_eq!(held(&cache, &ada), Some(3));
        cache.hears(&ada, Version(4));
        assert_eq!(held(&cache, &ada), None);
    }

    #[test]
    fn a_load_that_began_before_the_log_was_followed_is_not_kept() {
        let (cache, ada) = (NearCache::<Account>::new(10), stream("ada"));
        let before = cache.0.begin(&ada);
        cache.follows();
        before.keep(&at(1));
        assert_eq!(held(&cache, &ada), None);
        let first = cache.0.begin(&ada);
        cache.forgets();
        cache.follows();
        first.keep(&at(1));
        assert_eq!(held(&cache, &ada), None, "in between it may have missed something");
    }

    #[test]
    fn the_one_that_came_first_makes_room() {
        let cache = NearCache::<Account>::new(2);
        cache.follows();
        for name in ["a", "b", "c"] {
            cache.0.begin(&stream(name)).keep(&at(1));
        }
        assert_eq!(["a", "b", "c"].map(|name| held(&cache, &stream(name))), [None, Some(1), Some(1)]);
        assert_eq!(cache.0.held().order.len(), 2);
    }

    #[test]
    fn one_that_is_dropped_and_comes_again_makes_nobody_else_go() {
        let (cache, a, b) = (NearCache::<Account>::new(2), stream("a"), stream("b"));
        cache.follows();
        for version in 1..50 {
            cache.hears(&a, Version(version));
            cache.0.begin(&a).keep(&at(version));
            cache.0.begin(&b).keep(&at(1));
            assert_eq!([&a, &b].map(|of| held(&cache, of)), [Some(version), Some(1)]);
        }
        assert!(cache.0.held().order.len() <= 4, "places of what is gone do not pile up");
        // It has come again since: the other one is the oldest.
        cache.0.begin(&stream("c")).keep(&at(1));
        assert_eq!([&a, &b].map(|of| held(&cache, of)), [Some(49), None]);
    }
}
