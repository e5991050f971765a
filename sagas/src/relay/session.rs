//! The work on a range of a relay: of each key one message after the other, of many keys at the same time.

use std::collections::{BTreeMap, HashMap};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::guarded::call_now;
use es_core::processor::{Admission, Calls, Definite, Failure, NotTheEvent, Opening, Session};
use es_core::store::{Commit, CommitError, Row, RowWrite, StoreError, StoredRow, Table};
use es_core::{Backend, BoxError, RecordedEvent, chain};
use tokio::time::{sleep, timeout};

use super::Relay;
use super::mapping::Publishes;
use super::marks::{Mark, mark_key};
use super::publisher::{PublishError, Publisher};
use super::rendered::for_good;
use crate::message::{Envelope, Sequence};

/// For how long a message that is on its way is waited for once the work ends. Then its outcome is unknown, and the next
/// owner sends it again.
const LEAVE: Duration = Duration::from_secs(1);
/// Marks that are kept between two pages.
const KEPT: usize = 10_000;

pub(super) struct RelaySession<B, M, P> {
    backend: Arc<B>,
    relay: Arc<Relay<M>>,
    publisher: Arc<P>,
    table: Table<Mark>,
    source: String,
    calls: Calls,
    /// The longest that the receiver may take for one message.
    limit: Duration,
    marks: HashMap<String, Kept>,
}

/// The row of a key.
struct Kept {
    row: Row<Option<Mark>>,
    changed: bool,
}

/// The messages of one event, and the mark of its key once they are sent.
struct Outgoing<'e> {
    event: &'e RecordedEvent,
    key: String,
    messages: Vec<Envelope>,
    mark: Option<Mark>,
}

impl<B: Backend, M: Publishes, P: Publisher> RelaySession<B, M, P> {
    pub(super) fn new(
        backend: Arc<B>,
        relay: Arc<Relay<M>>,
        publisher: Arc<P>,
        table: Table<Mark>,
        opening: Opening<'_>,
    ) -> Self {
        let (calls, limit, source) = (opening.calls(), opening.handler_limit, relay.source_on(&*backend));
        Self { backend, relay, publisher, table, source, calls, limit, marks: HashMap::new() }
    }

    /// The events that are to be sent here and now, each with its key.
    fn admitted<'e>(
        &self,
        events: &[&'e RecordedEvent],
        admission: &mut Admission<'_>,
    ) -> Result<Vec<Outgoing<'e>>, Failure> {
        let mut admitted = Vec::with_capacity(events.len());
        for event in events {
            match call_now(|| self.relay.mapping.key(event)) {
                Ok(key) if admission.admits(event, &key) => {
                    admitted.push(Outgoing { event, key, messages: Vec::new(), mark: None });
                }
                Ok(_) => {}
                Err(source) => {
                    let guess = event.stream.as_str();
                    if admission.admits_undecoded(event, guess, &*source) {
                        return Err(Failure::of_undecoded(event, guess, for_good(source)));
                    }
                    admission.pass_undecoded(event, guess.to_owned());
                }
            }
        }
        Ok(admitted)
    }

    /// Reads the marks of the keys that are not known yet.
    async fn load(&mut self, batch: &[Outgoing<'_>]) -> Result<(), Failure> {
        // Each with the first event that needs it.
        let mut unknown = BTreeMap::new();
        for outgoing in batch.iter().filter(|outgoing| !self.marks.contains_key(&outgoing.key)) {
            unknown.entry(&*outgoing.key).or_insert(outgoing.event);
        }
        let mut rows = Vec::with_capacity(unknown.len());
        for (key, event) in &unknown {
            rows.push(mark_key(key).map_err(|e| Failure::new(event, *key, Definite::new(chain(&e))))?);
        }
        let found = self.read(&rows).await;
        for (((key, event), row), found) in unknown.into_iter().zip(rows).zip(found) {
            let found = found.and_then(|found| found.map(|row| self.table.decode(row)).transpose());
            let row = match found {
                Ok(Some(Row { key, rev, value })) => Row { key, rev, value: Some(value) },
                Ok(None) => Row::new(row, None),
                // A row that cannot be read is between it and its key.
                Err(error @ StoreError::Corrupt { .. }) => return Err(Failure::new(event, key, error)),
                Err(error) => return Err(Failure::new(event, key, NotTheEvent::new("its mark", error))),
            };
            self.marks.insert(key.to_owned(), Kept { row, changed: false });
        }
        Ok(())
    }

    /// Rows, together; one by one if one of them cannot be read.
    async fn read(&self, rows: &[String]) -> Vec<Result<Option<StoredRow>, StoreError>> {
        if rows.is_empty() {
            return Vec::new();
        }
        match self.backend.rows(self.table.name(), rows).await {
            Ok(found) => return found.into_iter().map(Ok).collect(),
            Err(StoreError::Corrupt { .. }) if rows.len() > 1 => {}
            Err(error) => return vec![Err(error)],
        }
        let mut each = Vec::with_capacity(rows.len());
        for row in rows {
            let found = self.backend.rows(self.table.name(), slice::from_ref(row)).await;
            each.push(found.map(|mut found| found.pop().flatten()));
        }
        each
    }

    /// Renders the messages of a batch, each event behind those of its key before it. The first that cannot be, and why.
    fn render(&self, batch: &mut [Outgoing<'_>]) -> Result<(), (usize, BoxError)> {
        let mut marks = HashMap::<String, Mark>::new();
        for (nth, outgoing) in batch.iter_mut().enumerate() {
            let stored = || self.marks.get(&outgoing.key).and_then(|kept| kept.row.value.as_ref());
            let before = marks.get(&outgoing.key).or_else(stored);
            self.render_one(outgoing, before).map_err(|error| (nth, for_good(error)))?;
            marks.extend(outgoing.mark.clone().map(|mark| (mark.key.clone(), mark)));
        }
        Ok(())
    }

    fn render_one(&self, outgoing: &mut Outgoing<'_>, before: Option<&Mark>) -> Result<(), BoxError> {
        let (event, key) = (outgoing.event, &outgoing.key);
        let previous = before.map(|mark| mark.last);
        let rendered = self.relay.rendered(event, key, previous, &self.source)?;
        let Some((last, _)) = rendered.last() else { return Ok(()) };
        if let Some(position) = previous.filter(|previous| *previous >= *last).map(Sequence::event) {
            let why = "its key was known too late";
            return Err(format!("messages of its key were sent up to {position}: {why}, discard it").into());
        }
        let first = before.map_or_else(|| event.place(), |mark| mark.first);
        outgoing.mark = Some(Mark { key: key.clone(), first, last: *last });
        outgoing.messages = rendered.into_iter().map(|(_, envelope)| envelope).collect();
        Ok(())
    }

    async fn publish(&self, messages: &[Envelope]) -> Result<(), BoxError> {
        for message in messages {
            let published = tokio::select! {
                biased;
                done = timeout(self.limit, self.publisher.publish(message)) => done.unwrap_or_else(|_| {
                    Err(PublishError::unavailable(format!("no answer within {:?}", self.limit)))
                }),
                () = self.left() => Err(PublishError::unavailable("the work ends")),
            };
            published.map_err(|error| match error {
                PublishError::Unavailable(why) => BoxError::from(NotTheEvent::new("the receiver", why)),
                refused @ PublishError::Refused(_) => Definite::new(chain(&refused)).into(),
            })?;
        }
        Ok(())
    }

    async fn left(&self) {
        self.calls.stopped().await;
        sleep(LEAVE).await;
    }
}

#[async_trait]
impl<B: Backend, M: Publishes, P: Publisher> Session for RelaySession<B, M, P> {
    async fn fold(
        &mut self,
        events: &[&RecordedEvent],
        admission: &mut Admission<'_>,
    ) -> Result<(), Failure> {
        let mut batch = self.admitted(events, admission)?;
        self.load(&batch).await?;
        let wrong = self.render(&mut batch).err();
        // What comes before one that cannot be rendered goes out.
        let sent = wrong.as_ref().map_or(batch.len(), |(nth, _)| *nth);
        let calls: Vec<_> = batch[..sent].iter().map(|out| (out.event, &*out.key)).collect();
        let publish = |nth: usize| self.publish(&batch[nth].messages);
        let mut done = self.calls.make(&calls, self.relay.in_flight, publish).await;
        if let (Ok(()), Some((nth, error))) = (&done, wrong) {
            done = Err(Failure::new(batch[nth].event, &*batch[nth].key, error));
        }
        // If it was interrupted, what came before is flushed.
        let end = done.as_ref().err().map(Failure::position);
        for Outgoing { event, key, mark, .. } in batch {
            if let (Some(mark), Some(kept)) = (mark, self.marks.get_mut(&key))
                && end.is_none_or(|end| event.place() < end)
            {
                kept.row.value = Some(mark);
                kept.changed = true;
            }
        }
        done
    }

    async fn flush(&mut self, mut rows: Vec<RowWrite>) -> Result<(), CommitError> {
        for Kept { row, .. } in self.marks.values().filter(|kept| kept.changed) {
            let mark = row.value.clone().expect("it was changed");
            rows.push(self.table.put(&row.clone().with(mark))?);
        }
        self.backend.commit(Commit { rows, ..Commit::default() }).await?;
        if self.marks.len() > KEPT {
            self.marks.clear();
        }
        for kept in self.marks.values_mut().filter(|kept| kept.changed) {
            kept.row.rev += 1;
            kept.changed = false;
        }
        Ok(())
    }
}
