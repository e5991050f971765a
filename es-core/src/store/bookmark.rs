//! A position that is remembered outside the store.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::{EventFilter, EventId, EventStore, Position, StoreError};

/// A place in one history: which store, which position, and which event is there.
///
/// A position alone is only safe next to the events that it counts. After a failover or the restore of an older backup,
/// positions are given to other events: a reader that remembers one elsewhere (a broker, a search index, a file) would
/// continue in the middle of a history that it has not seen. So it remembers the event as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "stored by its user: every field is needed to read it back")]
pub struct Bookmark {
    /// [`EventStore::identity`].
    pub store: Uuid,
    /// The last position that was handled; 0 for none.
    pub position: Position,
    /// The event there; nil for position 0.
    pub event: EventId,
}

impl Bookmark {
    /// The place before the first event.
    #[must_use]
    pub fn start(store: &dyn EventStore) -> Self {
        Self { store: store.identity(), position: Position(0), event: EventId::nil() }
    }

    /// The bookmark of a position.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if there is no event at this position, or the store cannot be read now.
    pub async fn of(store: &dyn EventStore, position: Position) -> Result<Self, StoreError> {
        if position == Position(0) {
            return Ok(Self::start(store));
        }
        match event_at(store, position).await? {
            Some(event) => Ok(Self { store: store.identity(), position, event }),
            None => Err(StoreError::misuse(format!("there is no event at {position} to make a bookmark of"))),
        }
    }

    /// Whether the store still has the history that the bookmark is of.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if it is another store, or another history of this one: the text says which, and what to
    /// do. [`StoreError::Transient`] if the store cannot be read now.
    pub async fn check(&self, store: &dyn EventStore) -> Result<(), StoreError> {
        if self.store != store.identity() {
            let what =
                format!("the bookmark at {} is of another store: take one of this store", self.position);
            return Err(StoreError::misuse(what));
        }
        let found = match self.position {
            Position(0) => return Ok(()),
            position => event_at(store, position).await?,
        };
        let why = match found {
            Some(event) if event == self.event => return Ok(()),
            Some(_) => "another event stands there now",
            None => "no event stands there any more",
        };
        Err(StoreError::misuse(format!(
            "the bookmark at {} is of another history: {why}. The store was restored from an older state, or failed \
             over to it; begin again at a position from before that",
            self.position
        )))
    }
}

async fn event_at(store: &dyn EventStore, position: Position) -> Result<Option<EventId>, StoreError> {
    let before = Position(position.0 - 1);
    let page = store.read(&EventFilter::all(), before, 1).await?;
    Ok(page.events.first().filter(|event| event.place() == position).map(|event| event.id))
}
