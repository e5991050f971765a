//! What a commit itself adds to each of its streams, in one walk over its appends: there may be thousands of them.

use std::collections::HashMap;

use super::{Append, EventId, ExpectedVersion, StreamId};

/// What some appends of a commit add to one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Own {
    /// Where the first of them wants the stream; `None` if there is none.
    pub first: Option<ExpectedVersion>,
    /// How many events they have.
    pub events: u64,
    /// The last of those.
    pub last: Option<EventId>,
}

/// The appends of a commit that were taken in, by stream.
#[derive(Debug, Default)]
pub struct OwnEvents<'c>(HashMap<&'c StreamId, Own>);

impl<'c> OwnEvents<'c> {
    /// All of these appends.
    #[must_use]
    pub fn of(appends: &'c [Append]) -> Self {
        let mut own = Self::default();
        appends.iter().for_each(|append| own.take(append));
        own
    }

    /// Takes in the next one.
    pub fn take(&mut self, append: &'c Append) {
        let own = self.0.entry(&append.stream).or_default();
        own.first = own.first.or(Some(append.expected));
        own.events += append.events.len() as u64;
        own.last = append.events.last().map(|event| event.id).or(own.last);
    }

    /// What those that were taken in add to a stream.
    #[must_use]
    pub fn to(&self, stream: &StreamId) -> Own {
        if self.0.is_empty() { Own::default() } else { self.0.get(stream).copied().unwrap_or_default() }
    }
}

/// Each append with what those before it add to its stream.
pub fn with_earlier(appends: &[Append]) -> impl Iterator<Item = (&Append, Own)> {
    let (mut own, alone) = (OwnEvents::default(), appends.len() == 1);
    appends.iter().map(move |append| {
        let earlier = own.to(&append.stream);
        if !alone {
            own.take(append);
        }
        (append, earlier)
    })
}
