//! How much may wait for a store: so many requests, and so many bytes. Who finds no room is told at once.

use std::borrow::Borrow;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Commit, StoreError};

/// The queue of a store is full: come again later. The source of a [`StoreError::Transient`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Busy {
    /// How many requests wait.
    pub requests: usize,
    /// About how many bytes they have.
    pub bytes: usize,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the queue of the store is full: {} requests wait, with {} bytes",
            self.requests, self.bytes
        )
    }
}

impl std::error::Error for Busy {}

/// Room for requests that wait, and for those that are being written.
#[derive(Clone, Debug)]
pub struct Room(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: Busy,
    taken: Mutex<Busy>,
}

/// What one request takes of a [`Room`]; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    room: Room,
    bytes: usize,
}

/// What is kept of a request, an event or a row beside its data.
const EACH: usize = 256;

impl Room {
    /// For so many requests, and so many bytes; at least one request, however large.
    #[must_use]
    pub fn new(requests: usize, bytes: usize) -> Self {
        let most = Busy { requests: requests.max(1), bytes };
        Self(Arc::new(Shared { most, taken: Mutex::new(Busy { requests: 0, bytes: 0 }) }))
    }

    /// Takes room for a commit.
    ///
    /// # Errors
    ///
    /// [`StoreError::Transient`] with [`Busy`] as its source, at once: there is none. Nothing was written.
    pub fn take(&self, commit: &Commit) -> Result<Place, StoreError> {
        let bytes = weight(commit);
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = taken.bytes.saturating_add(bytes) <= self.0.most.bytes || taken.requests == 0;
        if taken.requests >= self.0.most.requests || !fits {
            return Err(StoreError::transient("a commit", *taken));
        }
        *taken = Busy { requests: taken.requests + 1, bytes: taken.bytes + bytes };
        Ok(Place { room: self.clone(), bytes })
    }

    /// What is taken of it now.
    #[must_use]
    pub fn taken(&self) -> Busy {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same beside some of its places, which are being written: what still waits.
    #[must_use]
    pub fn beside(&self, places: impl IntoIterator<Item: Borrow<Place>>) -> Busy {
        places.into_iter().fold(self.taken(), |left, place| Busy {
            requests: left.requests.saturating_sub(1),
            bytes: left.bytes.saturating_sub(place.borrow().bytes),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        *taken = Busy { requests: taken.requests - 1, bytes: taken.bytes - self.bytes };
    }
}

/// About how many bytes a commit takes in memory.
fn weight(commit: &Commit) -> usize {
    let Commit { appends, checks, condition, outcomes, rows, inline: _, explain: _, attempt: _ } = commit;
    let events = appends.iter().flat_map(|append| &append.events).map(|event| EACH + event.size());
    let marks = outcomes.iter().map(|mark| EACH + mark.outcome.refusal.as_ref().map_or(0, |data| data.len()));
    let rows =
        rows.iter().map(|write| EACH + write.key.len() + write.row.as_ref().map_or(0, |data| data.len()));
    let terms = condition.iter().flat_map(|condition| condition.fail_if_events_match.items());
    let terms = terms.map(|item| EACH * (1 + item.tags().len() + item.types().len()));
    let others = EACH * (1 + appends.len() + checks.len());
    events.chain(marks).chain(rows).chain(terms).sum::<usize>() + others
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Metadata;
    use crate::store::{Append, ExpectedVersion, NewEvent, RowWrite, StreamId};

    fn of(bytes: usize) -> Commit {
        let row =
            RowWrite { table: "t".into(), key: String::new(), rev: 0, row: Some(vec![0; bytes].into()) };
        Commit { rows: vec![row], ..Commit::default() }
    }

    fn busy(error: &StoreError) -> Busy {
        assert_eq!(error.kind(), crate::ErrorKind::Transient);
        let StoreError::Transient { source, .. } = error else { panic!("{error}") };
        *source.downcast_ref().expect("it says how busy")
    }

    #[test]
    fn so_many_requests_find_room_and_more_once_one_is_done() {
        let room = Room::new(2, usize::MAX);
        let (one, _two) = (room.take(&of(1)).unwrap(), room.take(&of(1)).unwrap());
        assert_eq!(busy(&room.take(&of(1)).unwrap_err()).requests, 2);
        drop(one);
        let _three = room.take(&of(1)).unwrap();
        assert_eq!(room.taken().requests, 2);
    }

    #[test]
    fn what_waits_is_what_is_taken_beside_what_is_being_written() {
        let room = Room::new(5, usize::MAX);
        let places: Vec<Place> = [1, 20, 300].map(|bytes| room.take(&of(bytes)).unwrap()).into();
        let waiting = room.beside(&places[..2]);
        assert_eq!((waiting.requests, waiting.bytes), (1, weight(&of(300))));
        assert_eq!(room.beside([&places[0]; 0]), room.taken());
        assert_eq!(room.beside(&places), Busy { requests: 0, bytes: 0 });
    }

    #[test]
    fn metadata_takes_room_as_payloads_do() {
        let user = [("note".to_owned(), "x".repeat(60_000))].into();
        let event = NewEvent {
            id: uuid::Uuid::max(),
            name: "done".into(),
            schema: 1,
            codec: "json".into(),
            data: "{}".into(),
            tags: Vec::new(),
            metadata: Arc::new(Metadata { user, ..Metadata::default() }),
        };
        let (stream, expected) = (StreamId::new("a").unwrap(), ExpectedVersion::Any);
        let append = Append { stream, expected, events: vec![event] };
        let commit = Commit { appends: vec![append], ..Commit::default() };
        let room = Room::new(10, 100_000);
        let _first = room.take(&commit).unwrap();
        assert_eq!(busy(&room.take(&commit).unwrap_err()).requests, 1);
    }

    #[test]
    fn so_many_bytes_find_room_and_one_that_is_larger_has_it_alone() {
        let room = Room::new(10, 10_000);
        let large = room.take(&of(20_000)).unwrap();
        assert!(busy(&room.take(&of(1)).unwrap_err()).bytes > 20_000);
        drop(large);
        let _small = room.take(&of(1)).unwrap();
        busy(&room.take(&of(20_000)).unwrap_err());
        assert_eq!(room.taken().requests, 1);
    }

    #[test]
    fn what_is_given_back_leaves_nothing() {
        let room = Room::new(3, 10_000);
        for round in 0..100 {
            let places: Vec<_> = (0..=round % 4).map(|bytes| room.take(&of(bytes))).collect();
            assert_eq!(room.taken().requests, places.iter().flatten().count());
        }
        assert_eq!(room.taken(), Busy { requests: 0, bytes: 0 });
    }
}
