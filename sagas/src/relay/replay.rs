//! Messages for a receiver that has missed some: rendered again from the log.

use std::fmt;

use es_core::event::is_of_a_newer_program;
use es_core::limits::PAGE_BYTES;
use es_core::processor::{LeftOutForGood, handles_all};
use es_core::store::{EventFilter, Position, RowStore, StoreError, StreamId, Version, is_full};
use es_core::{BoxError, EventStore, RecordedEvent};
use serde::Serialize;

use super::Relay;
use super::mapping::{Publishes, key_of};
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
    /// Whether more were sent: ask again behind `next`.
    pub more: bool,
    /// What to ask behind for more: the last one, or, if none was found yet, a place from where the search goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
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
    /// The store cannot be read, an event cannot be rendered, or only a newer program knows what was sent.
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
    /// The messages of a key that were sent behind one, given by its [sequence](Envelope::sequence) or as the
    /// [`next`](Behind::next) of an answer; from the first one that was ever sent, if none is given. They have the ids,
    /// sequences and data that they were sent with, as long as the mapping and the source are the same. At most `limit` of
    /// them and about 4 MiB.
    ///
    /// It is what a route for receivers gives, as `GET /messages/{relay}/{key}?after=..`, in JSON. Where the events of a key are
    /// not one [stream](Publishes::stream), it reads the events of its types from there to the last message of the key, some of
    /// them at a time (see [`search`](Self::search)): there may be more though none was found yet.
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
        let Place { from, searched } =
            Place::parse(after).ok_or_else(|| not_sent(after.unwrap_or_default()))?;
        let Some(mark) = mark else { return Ok(Behind::default()) };
        if from.is_some_and(|from| from >= mark.last) {
            return Ok(Behind::default());
        }
        if !handles_all(store, &relay, &M::code()).await? {
            let why =
                format!("a newer program runs relay {relay}, and only that one can give what it has sent");
            return Err(BoxError::from(why).into());
        }
        let mut walk = Walk::new(self, store, key, &mark, limit);
        let first = match store.at(&[from.map_or(mark.first, Sequence::event)]).await?.pop() {
            Some(event) if walk.is_of_key(&event)? => event,
            _ => return Err(not_sent(after.unwrap_or_default())),
        };
        if walk.left_out(&[&first]).await? {
            // The receiver took it, though it has said that it did not.
            walk.last = from;
        } else {
            walk.take(&first)?;
            if let Some(from) = from {
                // The receiver has this message, and those of its event before it.
                let has = walk.found.iter().position(|(sequence, _)| *sequence == from);
                drop(walk.found.drain(..=has.ok_or_else(|| not_sent(after.unwrap_or_default()))?));
            }
        }
        let begin = (first.version, first.place());
        let begin = match searched.filter(|searched| *searched > begin.1 && walk.found.is_empty()) {
            Some(searched) => walk.resumed(searched).await?.unwrap_or(begin),
            None => begin,
        };
        walk.on(begin, from).await
    }
}

/// Where to go on: behind a message that the receiver has, and behind an event up to which no further one was found.
struct Place {
    from: Option<Sequence>,
    searched: Option<Position>,
}

impl Place {
    fn parse(after: Option<&str>) -> Option<Self> {
        let Some(text) = after else { return Some(Self { from: None, searched: None }) };
        let (from, searched) = match text.split_once('~') {
            Some((from, searched)) => (from, Some(Position(searched.parse().ok()?))),
            None => (text, None),
        };
        let is_first = from.is_empty() && searched.is_some();
        Some(Self { from: if is_first { None } else { Some(from.parse().ok()?) }, searched })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.from.map_or(Ok(()), |from| from.fmt(f))?;
        self.searched.map_or(Ok(()), |Position(searched)| write!(f, "~{searched}"))
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
    /// How many events were looked at.
    looked: usize,
}

impl<'w, M: Publishes, S: EventStore + RowStore> Walk<'w, M, S> {
    fn new(relay: &'w Relay<M>, store: &'w S, key: &'w str, mark: &'w Mark, limit: usize) -> Self {
        let (source, filter, limit) = (relay.source_on(store), M::filter(), limit.max(1));
        let (left_out, found) = (LeftOutForGood::default(), Vec::new());
        let (last, bytes, looked) = (None, 0, 0);
        Self { relay, store, key, mark, limit, source, filter, left_out, found, last, bytes, looked }
    }

    /// Whether an event is of the key. An error: only a newer program knows. What no program can decode has no key: the relay
    /// has set it aside.
    fn is_of_key(&self, event: &RecordedEvent) -> Result<bool, BoxError> {
        if !self.filter.matches(event) {
            return Ok(false);
        }
        match key_of(&self.relay.mapping, event) {
            Ok(key) => Ok(key == self.key),
            Err(error) if is_of_a_newer_program(&*error) => Err(error),
            Err(_) => Ok(false),
        }
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

    /// Where a search goes on; `None`: it did not come there.
    async fn resumed(&self, searched: Position) -> Result<Option<(Version, Position)>, StoreError> {
        let Some(stream) = self.relay.mapping.stream(self.key) else {
            return Ok(Some((Version(0), searched)));
        };
        let event = self.store.at(&[searched]).await?.pop().filter(|event| event.stream == stream);
        Ok(event.map(|event| (event.version, event.place())))
    }

    /// On from an event, until there is enough, or much was looked at.
    async fn on(
        mut self,
        (mut version, mut through): (Version, Position),
        from: Option<Sequence>,
    ) -> Result<Behind, ReplayError> {
        let (stream, mut more) = (self.relay.mapping.stream(self.key), true);
        while more && through < self.mark.last.event() && !self.is_enough() && self.looked < self.relay.search
        {
            let events = match &stream {
                Some(stream) => self.of_stream(stream, &mut version, &mut more).await?,
                None => self.of_log(&mut through, &mut more).await?,
            };
            through = events.last().map_or(through, RecordedEvent::place).max(through);
            self.looked += events.len().max(1);
            let mut own = Vec::new();
            for event in events.iter().filter(|event| event.place() <= self.mark.last.event()) {
                if self.is_of_key(event)? {
                    own.push(event);
                }
            }
            self.left_out(&own).await?;
            for event in own {
                if !self.left_out.has(event.place(), self.key) && !self.is_enough() {
                    self.take(event)?;
                }
            }
        }
        let mut found = self.found;
        found.truncate(self.limit);
        // Behind the last one; before one was found, behind what was searched.
        let next = match found.last() {
            Some((last, _)) => (*last < self.mark.last).then_some((Some(*last), None)),
            None => (more && through < self.mark.last.event()).then_some((from, Some(through))),
        };
        let next = next.map(|(from, searched)| Place { from, searched }.to_string());
        let messages = found.into_iter().map(|(_, message)| message).collect();
        Ok(Behind { messages, more: next.is_some(), next })
    }

    fn is_enough(&self) -> bool {
        self.found.len() >= self.limit || self.bytes >= PAGE_BYTES && !self.found.is_empty()
    }

    fn page(&self) -> usize {
        PAGE.min(self.relay.search)
    }

    async fn of_stream(
        &self,
        stream: &StreamId,
        version: &mut Version,
        more: &mut bool,
    ) -> Result<Vec<RecordedEvent>, BoxError> {
        let events = self.store.stream(stream, *version, self.page()).await?;
        *more = is_full(&events, self.page());
        *version = events.last().map_or(*version, |last| last.version);
        Ok(events)
    }

    async fn of_log(&self, through: &mut Position, more: &mut bool) -> Result<Vec<RecordedEvent>, BoxError> {
        let page = self.store.read(&self.filter, *through, self.page()).await?;
        (*through, *more) = (page.through, page.more);
        Ok(page.events)
    }
}
