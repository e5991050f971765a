//! Messages for a receiver that has missed some: rendered again from the log.

use es_core::guarded::handle_now;
use es_core::limits::PAGE_BYTES;
use es_core::processor::LeftOutForGood;
use es_core::store::{EventFilter, Position, RowStore, StoreError, StreamId, Version, is_full};
use es_core::{BoxError, EventStore, RecordedEvent};
use serde::Serialize;

use super::Relay;
use super::mapping::Publishes;
use super::marks::{Mark, mark_key, marks};
use crate::message::{Envelope, Sequence};

/// Events that are read together.
const PAGE: usize = 200;

/// Messages of one key, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Behind {
    /// The messages, as they were sent.
    pub messages: Vec<Envelope>,
    /// Whether more were sent: ask again behind the last one.
    pub more: bool,
}

/// Why messages cannot be given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The receiver names a message that was not sent.
    #[error("no message {sequence:?} of relay {relay} was sent for key {key:?}")]
    NotSent {
        /// Which relay.
        relay: String,
        /// Which key.
        key: String,
        /// What the receiver has, as it says.
        sequence: String,
    },
    /// The store cannot be read, or an event not be rendered.
    #[error("the messages cannot be read")]
    Failed(#[source] BoxError),
}

impl From<BoxError> for ReplayError {
    fn from(error: BoxError) -> Self {
        Self::Failed(error)
    }
}

impl From<StoreError> for ReplayError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl<M: Publishes> Relay<M> {
    /// The messages of a key that were sent behind one, given by its [sequence](Envelope::sequence); from the first one that
    /// was ever sent, if none is given. They have the ids, sequences and data that they were sent with, as long as the
    /// mapping and the source are the same. At most `limit` of them and about 4 MiB, at least one.
    ///
    /// It is what a route for receivers gives, as `GET /messages/{relay}/{key}?after=..`. Where the events of a key are not
    /// one [stream](Publishes::stream), it reads the events of its types from there to the last message of the key.
    ///
    /// ```
    /// # use es_core::{App, memory::MemoryBackend};
    /// # use sagas::message::{Envelope, Publishing as _};
    /// use sagas::relay::{Relay, Relays as _, TopicMessages};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// # let (sender, mut arrives) = tokio::sync::mpsc::channel::<Envelope>(16);
    /// let (backend, relay) = (MemoryBackend::new(), Relay::of(TopicMessages::of("transfers")));
    /// let app = App::on(backend.clone()).relay(relay.clone(), sender).start().await?;
    /// # for body in ["begun", "done"] {
    /// #     app.publish("transfers", "t-1", &body)?.await?;
    /// # }
    /// # let (first, second) = (arrives.recv().await.expect("sent"), arrives.recv().await.expect("sent"));
    /// # app.shutdown(std::time::Duration::from_secs(10)).await;
    /// let missed = relay.behind(&backend, "t-1", first.sequence.as_deref(), 100).await?;
    /// assert_eq!((missed.messages, missed.more), (vec![second], false));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ReplayError`].
    pub async fn behind<S: EventStore + RowStore>(
        &self,
        store: &S,
        key: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Behind, ReplayError> {
        let relay = self.mapping.name();
        let table = marks(&relay).map_err(BoxError::from)?;
        let row = table.get(store, &mark_key(key).map_err(BoxError::from)?).await?;
        let mark = row.map(|row| row.value).filter(|mark| mark.key == key);
        let not_sent = |sequence: &str| {
            let (key, sequence) = (key.to_owned(), sequence.to_owned());
            ReplayError::NotSent { relay: relay.clone(), key, sequence }
        };
        let from = match after {
            None => None,
            Some(text) => Some(text.parse::<Sequence>().map_err(|_| not_sent(text))?),
        };
        let Some(mark) = mark else { return Ok(Behind::default()) };
        if from.is_some_and(|from| from >= mark.last) {
            return Ok(Behind::default());
        }
        let first = store.at(&[from.map_or(mark.first, Sequence::event)]).await?.pop();
        let mut walk = Walk::new(self, store, key, &mark, limit);
        let first = match first {
            Some(event) if walk.left_out(&[&event]).await? => None,
            first => first.filter(|event| walk.is_of_key(event)),
        };
        let Some(first) = first else { return Err(not_sent(after.unwrap_or_default())) };
        walk.take(&first)?;
        if let Some(from) = from {
            // The receiver has this message, and those of its event before it.
            let has = walk.found.iter().position(|(sequence, _)| *sequence == from);
            drop(walk.found.drain(..=has.ok_or_else(|| not_sent(after.unwrap_or_default()))?));
        }
        walk.on(&first).await
    }
}

/// A way along the events of a key.
struct Walk<'w, M, S> {
    relay: &'w Relay<M>,
    store: &'w S,
    key: &'w str,
    mark: &'w Mark,
    limit: usize,
    source: String,
    filter: EventFilter,
    left_out: LeftOutForGood,
    found: Vec<(Sequence, Envelope)>,
    last: Option<Sequence>,
    bytes: usize,
}

impl<'w, M: Publishes, S: EventStore + RowStore> Walk<'w, M, S> {
    fn new(relay: &'w Relay<M>, store: &'w S, key: &'w str, mark: &'w Mark, limit: usize) -> Self {
        let (source, filter, limit) = (relay.source_on(store), M::filter(), limit.max(1));
        let (left_out, found) = (LeftOutForGood::default(), Vec::new());
        Self { relay, store, key, mark, limit, source, filter, left_out, found, last: None, bytes: 0 }
    }

    fn is_of_key(&self, event: &RecordedEvent) -> bool {
        let is_key = || handle_now(event, || self.relay.mapping.key(event)).is_ok_and(|key| key == self.key);
        self.filter.matches(event) && is_key()
    }

    /// Looks up what of some events was never sent; whether that is so of the first of them.
    async fn left_out(&mut self, events: &[&RecordedEvent]) -> Result<bool, BoxError> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(false) };
        let (relay, before) = (self.relay.mapping.name(), Position(first.place().0 - 1));
        self.left_out = LeftOutForGood::between(self.store, &relay, before, last.place()).await?;
        Ok(self.left_out.has(first.place(), self.key))
    }

    fn take(&mut self, event: &RecordedEvent) -> Result<(), BoxError> {
        let messages = self.relay.rendered(event, self.key, self.last, &self.source)?;
        self.last = messages.last().map(|(sequence, _)| *sequence).or(self.last);
        self.bytes += event.data.len();
        self.found.extend(messages);
        Ok(())
    }

    /// On from an event, until there is enough.
    async fn on(mut self, from: &RecordedEvent) -> Result<Behind, ReplayError> {
        let stream = self.relay.mapping.stream(self.key);
        let (mut version, mut through, mut more) = (from.version, from.place(), true);
        while more && through < self.mark.last.event() && !self.is_enough() {
            let events = match &stream {
                Some(stream) => self.of_stream(stream, &mut version, &mut more).await?,
                None => self.of_log(&mut through, &mut more).await?,
            };
            through = events.last().map_or(through, RecordedEvent::place).max(through);
            let own: Vec<_> = events.iter().filter(|event| self.is_sent(event)).collect();
            self.left_out(&own).await?;
            for event in own {
                if !self.left_out.has(event.place(), self.key) && !self.is_enough() {
                    self.take(event)?;
                }
            }
        }
        let mut found = self.found;
        found.truncate(self.limit);
        let more = found.last().is_some_and(|(last, _)| *last < self.mark.last);
        Ok(Behind { messages: found.into_iter().map(|(_, message)| message).collect(), more })
    }

    fn is_sent(&self, event: &RecordedEvent) -> bool {
        event.place() <= self.mark.last.event() && self.is_of_key(event)
    }

    fn is_enough(&self) -> bool {
        self.found.len() >= self.limit || self.bytes >= PAGE_BYTES && !self.found.is_empty()
    }

    async fn of_stream(
        &self,
        stream: &StreamId,
        version: &mut Version,
        more: &mut bool,
    ) -> Result<Vec<RecordedEvent>, BoxError> {
        let events = self.store.stream(stream, *version, PAGE).await?;
        *more = is_full(&events, PAGE);
        *version = events.last().map_or(*version, |last| last.version);
        Ok(events)
    }

    async fn of_log(&self, through: &mut Position, more: &mut bool) -> Result<Vec<RecordedEvent>, BoxError> {
        let page = self.store.read(&self.filter, *through, PAGE).await?;
        (*through, *more) = (page.through, page.more);
        Ok(page.events)
    }
}
