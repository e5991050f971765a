//! What an operator asks to be done with parked sequences: of one, of many, of all that match.
//!
//! A request is a row, which the owner of the sequence's range takes up, on whichever node it is; so it stands when the
//! caller goes away, and is done after a restart. To ask is always the same: write the rows, wake the owners, wait
//! until nothing of it is left.

use std::collections::BTreeSet;
use std::time::Duration;

use super::sequence::readable;
use super::{Parked, ParkedSequence, list_readable, one, one_or_rest, positions, skip_key};
use crate::ErrorKind;
use crate::limits::{MAX_REASON, cut, size};
use crate::processor::{AnyBackend, Processor, ProcessorError};
use crate::state::{Asked, Build, Generations, Request, asked};
use crate::store::{Position, Row, RowAt, RowStore, RowWrite, StoreError, Won, write_rows};

/// Sequences that are looked at, or asked for, together.
const SOME: usize = 500;

/// Which parked sequences are meant: all that match everything that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedFilter {
    /// The type of the event that failed.
    pub event: Option<String>,
    /// A part of the error's text.
    pub error: Option<String>,
}

impl ParkedFilter {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Those that failed at an event of this type.
    #[must_use]
    pub fn event(self, name: impl Into<String>) -> Self {
        Self { event: Some(name.into()), ..self }
    }

    /// Those whose error has this text in it.
    #[must_use]
    pub fn error(self, text: impl Into<String>) -> Self {
        Self { error: Some(text.into()), ..self }
    }

    /// Whether a sequence is meant.
    #[must_use]
    pub fn matches(&self, sequence: &ParkedSequence) -> bool {
        self.event.as_ref().is_none_or(|event| *event == sequence.event)
            && self.error.as_ref().is_none_or(|text| sequence.error.contains(text))
    }
}

/// What a retry of many sequences came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetriedAll {
    /// How many matched; none, if nothing was asked for.
    pub asked: usize,
    /// Those that failed again, as they are now.
    pub failed: Vec<ParkedSequence>,
}

/// What something was asked of.
pub(in crate::processor) struct Of {
    pub(in crate::processor) build: Build,
    /// How often it had been set back, and in which history of the store.
    set_back: u64,
    history: u64,
}

impl Processor {
    /// Asks for a parked sequence to be handled again, in order, and waits until that is done: `None` if it went through,
    /// else the sequence as it is now. It is done by the node that works on its slice.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::NotParked`]; [`ProcessorError::Asked`] if that was asked for already;
    /// [`ProcessorError::Discarded`] if it was discarded meanwhile, by whoever asked for that;
    /// [`ProcessorError::Switched`] if queries were switched to another build meanwhile; [`ProcessorError::SetBack`] if it was
    /// reset; [`ProcessorError::OtherHistory`]; [`ProcessorError::TimedOut`] if it is not done within `limit`: the request stands.
    pub async fn retry(&self, key: &str, limit: Duration) -> Result<Option<ParkedSequence>, ProcessorError> {
        Asking(self).retry(key, limit).await
    }

    /// Leaves a parked sequence out for good, and waits until that is done. Recorded with the reason, see
    /// [`Self::skipped`]. Also one whose row cannot be read.
    ///
    /// # Errors
    ///
    /// As [`Self::retry`]; [`ProcessorError::NotParked`] also if a retry was faster; [`ProcessorError::NoReason`].
    pub async fn discard(&self, key: &str, reason: &str, limit: Duration) -> Result<(), ProcessorError> {
        Asking(self).discard(key, reason, limit).await
    }

    /// The same as [`retry`](Self::retry) for all sequences that match. Gives how many those were, and which of them failed
    /// again; what was parked after this had begun, or discarded meanwhile, is not among them.
    ///
    /// # Errors
    ///
    /// [`ProcessorError::Switched`]; [`ProcessorError::SetBack`]; [`ProcessorError::TimedOut`] if not all of it is done within `limit`: the requests stand.
    pub async fn retry_all(
        &self,
        filter: &ParkedFilter,
        limit: Duration,
    ) -> Result<RetriedAll, ProcessorError> {
        Asking(self).retry_all(filter, limit).await
    }

    /// The same as [`discard`](Self::discard) for all sequences that match. Gives how many those were.
    ///
    /// # Errors
    ///
    /// As [`Self::retry_all`]; [`ProcessorError::NoReason`].
    pub async fn discard_all(
        &self,
        filter: &ParkedFilter,
        reason: &str,
        limit: Duration,
    ) -> Result<usize, ProcessorError> {
        Asking(self).discard_all(filter, reason, limit).await
    }
}

/// Who asks something of a processor: a node that runs it, or a program that knows its stored name.
pub(in crate::processor) trait Asker: Sync {
    fn backend(&self) -> &dyn AnyBackend;
    /// The build that queries read.
    fn current(&self) -> impl Future<Output = Result<Build, StoreError>> + Send;
    /// Something was asked: those of this process that may do it look at once.
    fn wake(&self);
    /// It is waited for.
    fn nudge(&self);
    /// What is in the way, in parentheses.
    fn in_the_way(&self) -> String;
}

impl Asker for Processor {
    fn backend(&self) -> &dyn AnyBackend {
        &*self.node.backend
    }

    async fn current(&self) -> Result<Build, StoreError> {
        Self::current(self).await
    }

    fn wake(&self) {
        self.cluster.wake();
    }

    fn nudge(&self) {
        self.handle.wake_workers();
    }

    fn in_the_way(&self) -> String {
        self.status().in_the_way()
    }
}

/// What it asks.
pub(in crate::processor) struct Asking<'a, A>(pub(in crate::processor) &'a A);

impl<A: Asker> Asking<'_, A> {
    pub(in crate::processor) async fn retry(
        &self,
        key: &str,
        limit: Duration,
    ) -> Result<Option<ParkedSequence>, ProcessorError> {
        self.ask_one(key, Request::Retry, limit).await
    }

    pub(in crate::processor) async fn discard(
        &self,
        key: &str,
        reason: &str,
        limit: Duration,
    ) -> Result<(), ProcessorError> {
        self.ask_one(key, discard(reason)?, limit).await.map(drop)
    }

    pub(in crate::processor) async fn retry_all(
        &self,
        filter: &ParkedFilter,
        limit: Duration,
    ) -> Result<RetriedAll, ProcessorError> {
        self.ask_all(filter, &Request::Retry, limit).await
    }

    pub(in crate::processor) async fn discard_all(
        &self,
        filter: &ParkedFilter,
        reason: &str,
        limit: Duration,
    ) -> Result<usize, ProcessorError> {
        Ok(self.ask_all(filter, &discard(reason)?, limit).await?.asked)
    }

    async fn ask_one(
        &self,
        key: &str,
        request: Request,
        limit: Duration,
    ) -> Result<Option<ParkedSequence>, ProcessorError> {
        let of = self.asked_of().await?;
        let (build, backend) = (of.build.clone(), self.0.backend());
        let gone = || ProcessorError::NotParked { build: build.clone(), key: key.to_owned() };
        let found = match request {
            Request::Retry => one(backend, &build, key).await?,
            Request::Discard { .. } => one_or_rest(backend, &build, key).await?,
        };
        let Some(sequence) = found else { return Err(gone()) };
        let last = last(backend, &build, &sequence).await?;
        let table = build.requests();
        loop {
            let rev = match backend.rows(table.name(), &[key.to_owned()]).await?.pop().flatten() {
                None => 0,
                Some(row) => match table.decode(row) {
                    Ok(row) if gives_way(&row.value, &request) => row.rev,
                    _ => return Err(ProcessorError::Asked { build, key: key.to_owned() }),
                },
            };
            let row = Row { key: key.to_owned(), rev, value: request.clone() };
            // What stood there may be done by now.
            if ask(backend, &build, vec![table.put(&row)?]).await?.is_none() {
                break;
            }
        }
        self.0.wake();
        let what = format!("a request for {key:?} of {build}");
        let answer = || async {
            let answer = self.answer(&of, key).await?;
            if answer != Some(None) {
                return Ok(answer);
            }
            // It is gone, and perhaps not as it was asked.
            match (&request, is_left_out(backend, &build, key, last).await?) {
                (Request::Retry, true) => {
                    Err(ProcessorError::Discarded { build: build.clone(), key: key.to_owned() })
                }
                (Request::Discard { .. }, false) => Err(gone()),
                _ => Ok(answer),
            }
        };
        self.until(what, limit, answer).await
    }

    /// What has become of a request: `None` while it stands, else what is left of the sequence.
    async fn answer(&self, of: &Of, key: &str) -> Result<Option<Option<ParkedSequence>>, ProcessorError> {
        let (build, backend) = (&of.build, self.0.backend());
        let before = Asked::requests(backend, build).await?;
        // In this order: a sequence goes in one commit with its request.
        let left = one_or_rest(backend, build, key).await?;
        let request = build.requests().get(backend, key).await?;
        let then = if request.is_some() { left.clone() } else { one_or_rest(backend, build, key).await? };
        let is_read = self.is_as_it_was(of).await;
        if let (Err(ProcessorError::Switched { .. } | ProcessorError::SetBack { .. }), Some(row)) =
            (&is_read, &request)
        {
            take_back(backend, build, before, row).await?;
            return is_read.map(|()| None);
        }
        is_read?;
        let Some(row) = request else { return Ok(Some(then.map(Into::into))) };
        if left.is_none() {
            // Another request was done just before this one was written: there is nothing left to do.
            if take_back(backend, build, before, &row).await? {
                return Err(ProcessorError::NotParked { build: build.clone(), key: key.to_owned() });
            }
        }
        Ok(None)
    }

    /// What is asked now is asked of this.
    pub(in crate::processor) async fn asked_of(&self) -> Result<Of, ProcessorError> {
        let (backend, history) = (self.0.backend(), self.0.backend().history());
        let build = self.0.current().await?;
        let set_back = Asked::set_backs(backend, &build).await?.rev;
        let known = Generations::read(backend, &build.processor).await?;
        match known.is_some_and(|known| known.value.is_set_back(build.generation).is_some()) {
            true => Err(ProcessorError::SetBack { build }),
            false => Ok(Of { build, set_back, history }),
        }
    }

    /// Whether queries read it still, and neither it nor the store was set back: nothing that was asked of it before is left
    /// then.
    pub(in crate::processor) async fn is_as_it_was(&self, of: &Of) -> Result<(), ProcessorError> {
        if self.0.backend().history() != of.history {
            return Err(ProcessorError::OtherHistory { build: of.build.clone() });
        }
        self.is_read(&of.build).await?;
        match Asked::set_backs(self.0.backend(), &of.build).await?.rev == of.set_back {
            true => Ok(()),
            false => Err(ProcessorError::SetBack { build: of.build.clone() }),
        }
    }

    /// Whether queries read a build. Asked after what is there was looked at: one that goes is emptied, also of what was asked.
    pub(in crate::processor) async fn is_read(&self, build: &Build) -> Result<(), ProcessorError> {
        match self.0.current().await? == *build {
            true => Ok(()),
            false => Err(ProcessorError::Switched { build: build.clone() }),
        }
    }

    async fn ask_all(
        &self,
        filter: &ParkedFilter,
        request: &Request,
        limit: Duration,
    ) -> Result<RetriedAll, ProcessorError> {
        let (backend, of) = (self.0.backend(), self.asked_of().await?);
        let build = of.build.clone();
        let (mut asked, mut after) = (BTreeSet::new(), None::<String>);
        loop {
            let page = list_readable(backend, &build, after.as_deref(), SOME).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            let keys: Vec<String> =
                page.into_iter().filter(|sequence| filter.matches(sequence)).map(|s| s.key).collect();
            ask_many(backend, &build, &keys, request).await?;
            asked.extend(keys);
        }
        self.0.wake();
        let what = format!("requests for {} sequences of {build}", asked.len());
        let done = || async {
            let stands = any_stands(backend, &build, &asked).await?;
            self.is_as_it_was(&of).await?;
            Ok((!stands).then_some(()))
        };
        self.until(what, limit, done).await?;
        let mut failed = Vec::new();
        let asked: Vec<String> = asked.into_iter().collect();
        for some in asked.chunks(SOME) {
            let rows = backend.rows(build.parked().name(), some).await?;
            failed.extend(readable(&build, rows.into_iter().flatten()));
        }
        self.is_as_it_was(&of).await?;
        Ok(RetriedAll { asked: asked.len(), failed })
    }

    /// Looks until there is something, ever less often up to twice a second, and wakes the workers of this node each time.
    pub(in crate::processor) async fn until<T, F: Future<Output = Result<Option<T>, ProcessorError>>>(
        &self,
        what: String,
        limit: Duration,
        mut look: impl FnMut() -> F,
    ) -> Result<T, ProcessorError> {
        let found = async {
            let mut pause = Duration::from_millis(5);
            loop {
                self.0.nudge();
                tokio::time::sleep(pause).await;
                match look().await {
                    Ok(Some(found)) => return Ok(found),
                    Ok(None) => {}
                    // A store that does not answer now may do so in time.
                    Err(error) if error.kind() == ErrorKind::Transient => {}
                    Err(error) => return Err(error),
                }
                pause = (pause * 2).min(Duration::from_millis(500));
            }
        };
        match tokio::time::timeout(limit, found).await {
            Ok(found) => found,
            Err(_) => Err(ProcessorError::TimedOut { what, limit, why: self.0.in_the_way() }),
        }
    }
}

/// The last event of a sequence. It goes with the sequence: handled, or left out.
///
/// Rows are read forwards alone, and there may be millions: behind the first page it is looked for by halves.
async fn last(backend: &dyn AnyBackend, build: &Build, sequence: &Parked) -> Result<Position, StoreError> {
    let page = positions(backend, build, sequence, Position(0), SOME).await?;
    let mut last = page.last().map_or(Position(0), |(_, position)| *position);
    if page.len() < SOME {
        return Ok(last);
    }
    let mut end = backend.head().await?;
    while last < end {
        let middle = Position(last.0 + (end.0 - last.0) / 2);
        match positions(backend, build, sequence, middle, 1).await?.pop() {
            Some((_, behind)) => last = behind,
            None => end = middle,
        }
    }
    Ok(last)
}

/// Whether an event is left out for good, also if nobody can read why.
async fn is_left_out(
    rows: &dyn RowStore,
    build: &Build,
    key: &str,
    position: Position,
) -> Result<bool, StoreError> {
    let row = skip_key(position, key);
    Ok(rows.rows(build.skipped().name(), &[row]).await?.iter().any(Option::is_some))
}

/// How often anything was asked of a build.
pub(in crate::processor) async fn times_asked(rows: &dyn RowStore, build: &Build) -> Result<u64, StoreError> {
    Ok(Asked::requests(rows, build).await?.rev)
}

/// The first sequence of a build that an operator has asked to be discarded and that is still there. A request that cannot be
/// read is left alone, so nothing comes of it.
pub(in crate::processor) async fn discarding(
    rows: &dyn RowStore,
    build: &Build,
) -> Result<Option<String>, StoreError> {
    let (table, mut after) = (build.requests(), None::<String>);
    loop {
        let page = table.stored_page(rows, after.as_deref(), SOME).await?;
        let (last, more) = (page.last().map(|row| row.key.clone()), page.len() == SOME);
        let mut read = page.into_iter().filter_map(|row| table.decode(row).ok());
        if let Some(row) = read.find(|row| matches!(row.value, Request::Discard { .. })) {
            return Ok(Some(row.key));
        }
        if !more {
            return Ok(None);
        }
        after = last;
    }
}

/// Whether any of these requests stands. By their keys: one that cannot be read stands as well.
async fn any_stands(
    rows: &dyn RowStore,
    build: &Build,
    asked: &BTreeSet<String>,
) -> Result<bool, StoreError> {
    let mut after = None::<String>;
    loop {
        let page = build.requests().stored_page(rows, after.as_deref(), SOME).await?;
        if page.iter().any(|row| asked.contains(&row.key)) {
            return Ok(true);
        }
        after = page.last().map(|row| row.key.clone());
        if page.len() < SOME {
            return Ok(false);
        }
    }
}

/// Writes requests, all or none of them, and wakes those who do them, in one commit: so they are done also if this node
/// is gone right after it. Gives the one that is asked already.
pub(in crate::processor) async fn ask(
    backend: &dyn AnyBackend,
    build: &Build,
    requests: Vec<RowWrite>,
) -> Result<Option<RowAt>, StoreError> {
    loop {
        let mut rows = requests.clone();
        rows.push(asked().put(&Asked::requests(backend, build).await?)?);
        match write_rows(backend, rows).await? {
            Won::Yes(_) => return Ok(None),
            Won::No(at) if at.table == *asked().name() => {}
            Won::No(at) => return Ok(Some(at)),
        }
    }
}

/// A retry may wait for something that never comes: whoever discards the sequence waits for that no longer.
const fn gives_way(standing: &Request, to: &Request) -> bool {
    matches!((standing, to), (Request::Retry, Request::Discard { .. }))
}

/// Writes requests together. One that was asked for already is done as it was asked.
async fn ask_many(
    backend: &dyn AnyBackend,
    build: &Build,
    keys: &[String],
    request: &Request,
) -> Result<(), StoreError> {
    let table = build.requests();
    let mut new: Vec<Row<Request>> = keys.iter().map(|key| Row::new(key.clone(), request.clone())).collect();
    while !new.is_empty() {
        let mut rows = new.iter().map(|row| table.put(row)).collect::<Result<Vec<_>, _>>()?;
        rows.push(asked().put(&Asked::requests(backend, build).await?)?);
        match write_rows(backend, rows).await? {
            Won::Yes(_) => break,
            Won::No(at) if at.table == *asked().name() => {}
            Won::No(_) => {
                let all: Vec<String> = new.iter().map(|row| row.key.clone()).collect();
                let standing = backend.rows(table.name(), &all).await?;
                let left = new.into_iter().zip(standing).filter_map(|(row, standing)| {
                    let Some(standing) = standing else { return Some(Row { rev: 0, ..row }) };
                    let standing = table.decode(standing).ok()?;
                    gives_way(&standing.value, request).then_some(Row { rev: standing.rev, ..row })
                });
                new = left.collect();
            }
        }
    }
    Ok(())
}

/// Takes a request back, unless anything was asked since its build was looked at: it may be another one by now.
async fn take_back(
    backend: &dyn AnyBackend,
    build: &Build,
    before: Row<Asked>,
    request: &Row<Request>,
) -> Result<bool, StoreError> {
    let rows = vec![build.requests().delete(request), asked().put(&before)?];
    Ok(write_rows(backend, rows).await?.is_yes())
}

fn discard(reason: &str) -> Result<Request, ProcessorError> {
    if reason.trim().is_empty() {
        return Err(ProcessorError::NoReason);
    }
    let limit = size("reason", reason.len(), MAX_REASON, "bytes", || cut(reason));
    limit.map_err(StoreError::from)?;
    Ok(Request::Discard { reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBackend;

    #[tokio::test]
    async fn a_request_is_not_taken_back_in_the_place_of_another() {
        let (backend, build) = (MemoryBackend::new(), Build::first("p/1"));
        let retry = || build.requests().insert("ada", Request::Retry).unwrap();
        assert!(ask(&backend, &build, vec![retry()]).await.unwrap().is_none());
        assert!(ask(&backend, &build, vec![retry()]).await.unwrap().is_some(), "it is asked already");
        let before = Asked::requests(&backend, &build).await.unwrap();
        let seen = build.requests().get(&backend, "ada").await.unwrap().unwrap();
        // It is done, and another node asks for the same again: at the same revision.
        assert!(write_rows(&backend, vec![build.requests().delete(&seen)]).await.unwrap().is_yes());
        assert!(ask(&backend, &build, vec![retry()]).await.unwrap().is_none());
        assert_eq!(build.requests().get(&backend, "ada").await.unwrap(), Some(seen.clone()));
        assert!(!take_back(&backend, &build, before, &seen).await.unwrap());
        let before = Asked::requests(&backend, &build).await.unwrap();
        assert!(take_back(&backend, &build, before, &seen).await.unwrap());
    }
}
