//! Event types as numbers, for backends that store a number with each event and the names once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::store::{Name, NewEvent};

/// A stored name, its schema version and its codec.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "each backend stores all of it")]
pub struct Kind {
    /// The stored name of the event type.
    pub name: Name,
    /// The schema version of the payload.
    pub schema: u32,
    /// The codec of the payload.
    pub codec: Name,
}

impl Kind {
    /// The kind of an event.
    #[must_use]
    pub fn of(event: &NewEvent) -> Self {
        Self { name: event.name.clone(), schema: event.schema, codec: event.codec.clone() }
    }
}

/// The kinds that this process has seen committed, with their numbers. In one history of the store they never change;
/// clones share them.
#[derive(Clone, Debug)]
pub struct Kinds<N>(Arc<RwLock<KnownKinds<N>>>);

impl<N> Default for Kinds<N> {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(KnownKinds { kinds: HashMap::new(), ids: HashMap::new() })))
    }
}

/// What is known while it is looked at.
#[derive(Debug)]
pub struct KnownKinds<N> {
    kinds: HashMap<N, Kind>,
    ids: HashMap<String, Vec<(u32, Name, N)>>,
}

impl<N: Copy + Eq + Hash> KnownKinds<N> {
    /// The kind with this number.
    #[must_use]
    pub fn kind(&self, id: N) -> Option<&Kind> {
        self.kinds.get(&id)
    }

    /// The number of an event's kind.
    #[must_use]
    pub fn id(&self, event: &NewEvent) -> Option<N> {
        let same = |(schema, codec, _): &&(u32, Name, N)| *schema == event.schema && *codec == event.codec;
        Some(self.ids.get(&*event.name)?.iter().find(same)?.2)
    }

    fn learn(&mut self, id: N, kind: Kind) {
        if self.kinds.insert(id, kind.clone()).is_none() {
            self.ids.entry(kind.name.to_string()).or_default().push((kind.schema, kind.codec, id));
        }
    }

    /// How many are known. A reader that meets one that it does not know reads them all and then the events again, for as
    /// long as they become more: another process may add the next one between the two.
    #[must_use]
    pub fn count(&self) -> usize {
        self.kinds.len()
    }
}

impl<N: Copy + Eq + Hash> Kinds<N> {
    /// What is known now: hold it for as long as a page is decoded, and not across an await.
    pub fn known(&self) -> RwLockReadGuard<'_, KnownKinds<N>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a kind that is stored.
    pub fn learn(&self, id: N, kind: Kind) {
        self.write().learn(id, kind);
    }

    /// Forgets what was known: from now on these are the kinds that are stored. In another history of the store, after a
    /// failover or a restore, a number may stand for another kind.
    pub fn replace(&self, kinds: impl IntoIterator<Item = (N, Kind)>) {
        let mut known = self.write();
        (known.kinds, known.ids) = Default::default();
        kinds.into_iter().for_each(|(id, kind)| known.learn(id, kind));
    }

    fn write(&self) -> RwLockWriteGuard<'_, KnownKinds<N>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_its_name_its_schema_and_its_codec() {
        let event = |name: &'static str, schema, codec: &'static str| NewEvent {
            id: crate::id::Ids::default().next(),
            name: name.into(),
            schema,
            codec: codec.into(),
            data: "{}".into(),
            tags: Vec::new(),
            metadata: Arc::default(),
        };
        let kinds = Kinds::default();
        let all =
            [event("a", 1, "json"), event("a", 2, "json"), event("a", 1, "cbor"), event("b", 1, "json")];
        for (id, event) in (1..).zip(&all) {
            assert_eq!(kinds.known().id(event), None);
            kinds.learn(id, Kind::of(event));
            kinds.learn(id, Kind::of(event));
        }
        assert_eq!(kinds.known().count(), 4);
        for (id, event) in (1..).zip(&all) {
            assert_eq!((kinds.known().id(event), kinds.known().kind(id)), (Some(id), Some(&Kind::of(event))));
        }
        assert_eq!(kinds.known().kind(9), None);
        kinds.replace([(2, Kind::of(&all[0]))]);
        assert_eq!((kinds.known().id(&all[0]), kinds.known().count()), (Some(2), 1));
        assert_eq!((kinds.known().id(&all[1]), kinds.known().kind(1)), (None, None));
    }
}
