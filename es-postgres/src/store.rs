//! The event store over this database.

use async_trait::async_trait;
use es_core::clock::Timestamp;
use es_core::limits::{MAX_PAGE, MAX_PAYLOAD, MAX_SEQUENCE, PAGE_BYTES};
use es_core::store::rules::Verdict;
use es_core::store::{
    Attempt, Commit, CommitError, Committed, EventFilter, EventStore, Filling, IdempotencyKey, Outcome, Page,
    Position, RecordedEvent, Resolution, StoreError, StreamId, Version, check, is_full, measure,
};
use sqlx::postgres::PgRow;
use sqlx::{Row as _, SqlSafeStr as _};
use tokio::sync::watch;

use crate::filter::{self, Select};
use crate::lane::Failure;
use crate::readers::{PgQuery, bounded};
use crate::row::{self, number, signed};
use crate::{PgBackend, batch, error, explain, resolve, types};

/// Positions that one read of a filter without tags looks through at most: it answers in bounded time.
const WINDOW: usize = 50_000;

/// Entries of a tag that one read along it looks at most, where not each of them matches.
const ENTRIES: usize = 10_000;

/// So many events fit into a page, however large they are.
const FEW: usize = PAGE_BYTES / MAX_PAYLOAD;

/// How often a commit is sent that is refused for a reason that is then gone.
const SENT: u32 = 8;

const STREAM: &str = include_str!("sql/stream.sql");
const OUTCOME: &str =
    "select fingerprint, stream, version, position, events, refusal from outcomes where key = $1";

/// What is there of a stream after a version.
#[derive(Debug)]
pub(crate) enum Tail {
    Kept(Vec<RecordedEvent>),
    /// Events that were asked for have left; the last one that did has this version.
    Archived(Version),
}

impl PgBackend {
    pub(crate) async fn tail(&self, id: &StreamId, after: Version, limit: usize) -> Result<Tail, StoreError> {
        let (most, narrow) = (limit.min(MAX_PAGE), &self.0.shared.readers.narrow);
        let (mut events, mut ask): (Vec<RecordedEvent>, _) = (Vec::new(), narrow.ask());
        // In one part, as a rule: whoever asks takes a page that is not full for the end.
        loop {
            let rest = most - events.len();
            let (from, part) = (Version(after.0 + events.len() as u64), ask.of(rest));
            let read = match self.tail_part(id, from, part).await {
                Err(error) if narrow.outlasted(ask, rest, &error) => {
                    ask = narrow.after(ask);
                    continue;
                }
                read => read?,
            };
            narrow.came(ask);
            ask = narrow.ask();
            let Tail::Kept(read) = read else { return Ok(read) };
            let is_last = part == rest || !is_full(&read, part);
            events.extend(read);
            if is_last || is_full(&events, most) {
                return Ok(Tail::Kept(events));
            }
        }
    }

    async fn tail_part(&self, id: &StreamId, after: Version, most: usize) -> Result<Tail, StoreError> {
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let sql = match self.0.shared.readers.expects_large() && most > FEW {
            true => bounded(STREAM, "position"),
            false => STREAM.into_sql_str(),
        };
        let query =
            || sqlx::query(sql.clone()).bind(id.as_str().to_owned()).bind(signed(after.0)).bind(limit);
        // Of what was archived, the last event is still there.
        let place = |i, row: &PgRow| {
            let archived = row.get_unchecked::<Option<i64>, _>(5).map(number);
            (archived, Some((id.clone(), Version(after.0 + 1 + i as u64))))
        };
        let read = self.events("reading a stream", query, place).await?;
        if let Some((Some(version), _)) = read.first()
            && *version != after.0 + 1
        {
            return Ok(Tail::Archived(Version(*version)));
        }
        let mut events: Vec<RecordedEvent> = read.into_iter().filter_map(|(_, event)| event).collect();
        events.truncate(most);
        Ok(Tail::Kept(events))
    }

    /// Reads events and decodes each as it comes in, until the page is full. Types that another process has added since
    /// are read first, and all of them where a connection leads to another history. A row that has no place is no event;
    /// what else is in a row comes beside it.
    async fn events<B: Send>(
        &self,
        what: &'static str,
        query: impl Fn() -> PgQuery + Send + Sync,
        place: impl Fn(usize, &PgRow) -> (B, Option<(StreamId, Version)>) + Send + Sync,
    ) -> Result<Vec<(B, Option<RecordedEvent>)>, StoreError> {
        let kinds = &self.0.shared.types;
        let mut reloaded = None;
        loop {
            let (mut filling, of) = (Filling::default(), kinds.history());
            // Nothing is kept beside what is given: a connection that was dead is asked again, and may find nothing.
            let take = |i, row: PgRow| {
                filling = if i == 0 { Filling::default() } else { filling };
                if filling.is_full() {
                    return None;
                }
                let (beside, place) = place(i, &row);
                let Some((stream, version)) = place else { return Some(Ok(Some((beside, None)))) };
                let event = row::decode(&row, stream, version, &kinds.known());
                Some(event.map(|event| {
                    let event = event?;
                    filling.takes(&event);
                    Some((beside, Some(event)))
                }))
            };
            let rows = self.0.shared.readers.each(what, &query, take).await?;
            self.0.shared.readers.saw(filling.is_full());
            let is_sure = of == self.0.shared.history();
            // An event of a type that is not known makes it none.
            match rows.into_iter().collect::<Result<Vec<_>, _>>() {
                Err(error) if is_sure => return Err(error),
                Ok(rows) if is_sure => {
                    if let Some(rows) = rows.into_iter().collect::<Option<Vec<_>>>() {
                        return Ok(rows);
                    }
                }
                _ => {}
            }
            let (what, history) = ("reading event types", self.0.shared.history());
            let rows = self.0.shared.readers.rows(what, || sqlx::query(types::SELECT)).await?;
            let all = types::kinds(&rows).map_err(|e| error::store(what, e))?;
            // They were read in the history that is known by now.
            if self.0.shared.history() != history {
                continue;
            }
            kinds.replace(history, all);
            // The next read may meet one that came after these. What was known before them says nothing: a lane may have
            // found meanwhile that the store has another history.
            let count = Some(kinds.known().count());
            if is_sure && reloaded == count {
                let what = "an event has a type that is not in event_types".to_owned();
                return Err(StoreError::Corrupt { what });
            }
            reloaded = count;
        }
    }
}

impl PgBackend {
    /// The same for rows that have the version and the number of the stream behind the event, with what `first` says of the
    /// first one. A read that found nothing gives one row without an event, or none.
    async fn named<F: Send>(
        &self,
        what: &'static str,
        query: impl Fn() -> PgQuery + Send + Sync,
        first: impl Fn(&PgRow) -> F + Send + Sync,
    ) -> Result<(Option<F>, Vec<RecordedEvent>), StoreError> {
        let unnamed = StreamId::new("?")?;
        let place = |i, row: &PgRow| {
            let first = (i == 0).then(|| first(row));
            if row.get_unchecked::<Option<i64>, _>(0).is_none() {
                return ((first, 0), None);
            }
            let place = (unnamed.clone(), Version(number(row.get_unchecked(5))));
            ((first, row.get_unchecked::<i64, _>(6)), Some(place))
        };
        loop {
            let history = self.0.shared.history();
            let rows = self.events(what, &query, &place).await?;
            let (mut first, mut events, mut streams) = (None, Vec::new(), Vec::new());
            for ((of_first, stream), event) in rows {
                first = first.or(of_first);
                streams.extend(event.is_some().then_some(stream));
                events.extend(event);
            }
            let names = self.0.shared.streams.names(&self.0.shared.readers, history, &streams).await?;
            // Numbers of streams, and what they stand for, are of one history.
            let Some(names) = names.filter(|_| self.0.shared.history() == history) else { continue };
            events.iter_mut().zip(names).for_each(|(event, name)| event.stream = name);
            if let Some(last) = events.last() {
                self.0.shared.readers.histories().saw(history, last.place().0, last.id);
            }
            return Ok((first, events));
        }
    }
}

impl PgBackend {
    async fn commit_or_explain(&self, commit: Commit) -> Result<Committed, CommitError> {
        check::commit(&commit)?;
        batch::check(&commit)?;
        if commit.is_empty() {
            return Ok(Committed { position: self.head().await?, versions: Vec::new() });
        }
        let (mut commit, history) = (commit, self.0.shared.history());
        for _ in 0..SENT {
            let refused = match self.0.lane(&commit).commit(commit, history).await {
                Ok(committed) => return Ok(committed),
                Err(Failure::Failed(error)) => return Err(error),
                Err(Failure::Refused(commit)) => *commit,
            };
            match explain::explain(self, &refused).await? {
                Verdict::Repeat(committed) => return Ok(committed),
                // What refused it is gone: a row that was written there and back.
                Verdict::Apply => commit = refused,
            }
        }
        let moving = std::io::Error::other(
            "it is refused each time, for something that is gone when it is looked for",
        );
        Err(StoreError::transient("a commit", moving).into())
    }

    /// What became of an attempt, once nothing of this process is before it.
    async fn ask(&self, attempt: &Attempt) -> Result<Resolution, StoreError> {
        for lane in self.0.lanes() {
            lane.barrier().await?;
        }
        let shared = &self.0.shared;
        let query = || resolve::query(attempt, shared.micros());
        let rows = shared.readers.rows("resolving a commit", query).await?;
        resolve::resolution(attempt, rows.first().expect("a function without a set gives one row"))
    }

    /// The tags to walk along, of the alternatives that have several: those that the fewest events have behind a position.
    async fn rarest(&self, filter: &EventFilter, after: Position) -> Result<Vec<String>, StoreError> {
        let (tags, items) = filter::several(filter);
        if tags.is_empty() {
            return Ok(Vec::new());
        }
        let query = || {
            let query = sqlx::query(filter::RAREST).bind(signed(after.0)).bind(signed(ENTRIES as u64));
            query.bind(tags.clone()).bind(items.clone())
        };
        let rows = self.0.shared.readers.rows("looking at tags", query).await?;
        Ok(rows.iter().map(|row| row.get_unchecked(0)).collect())
    }

    /// Matching events up to a position.
    async fn part(
        &self,
        select: &Select<'_>,
        after: Position,
        upto: Position,
        (limit, entries): (usize, usize),
    ) -> Result<Page, StoreError> {
        let large = self.0.shared.readers.expects_large() && limit > FEW;
        let query = || select.query(after, upto, (limit, entries), large);
        let ends = |row: &PgRow| [7, 8].map(|column| Position(number(row.get_unchecked::<i64, _>(column))));
        let (ends, mut events) = self.named("reading the log", query, ends).await?;
        let [head, end] = ends.unwrap_or_default();
        // The order of an inner select is what PostgreSQL does, and not what it promises.
        if !events.is_sorted_by_key(RecordedEvent::place) {
            events.sort_by_key(RecordedEvent::place);
        }
        let last = events.last().map_or(after, RecordedEvent::place);
        let through = if is_full(&events, limit) { last } else { end.max(last) };
        Ok(Page { events, through, more: through < head })
    }
}

#[async_trait]
impl EventStore for PgBackend {
    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        let outcome = self.commit_or_explain(commit).await;
        measure::outcome(&outcome);
        outcome
    }

    /// Behind everything of this process that waits, and behind the attempt itself, wherever it runs.
    async fn resolve(&self, attempt: &Attempt) -> Result<Resolution, StoreError> {
        if attempt.id.is_nil() && !attempt.has_events() {
            let what = "nothing of this commit can be looked for: read what it would have written";
            return Err(StoreError::misuse(what));
        }
        let resolution = self.ask(attempt).await;
        measure::resolved(&resolution);
        resolution
    }

    async fn stream(
        &self,
        id: &StreamId,
        after: Version,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        match self.tail(id, after, limit).await? {
            Tail::Kept(events) => Ok(events),
            Tail::Archived(version) => {
                let what = format!(
                    "stream {id:?} is archived up to {version}: it can be read from there on, so it takes a snapshot at \
                     {version} or later to load it"
                );
                Err(StoreError::misuse(what))
            }
        }
    }

    async fn read(&self, filter: &EventFilter, after: Position, limit: usize) -> Result<Page, StoreError> {
        check::filter(filter)?;
        if limit == 0 {
            return Ok(Page { events: Vec::new(), through: after, more: false });
        }
        let select = Select::new(filter, &self.rarest(filter, after).await?);
        let (most, narrow) = (limit.min(MAX_PAGE), &self.0.shared.readers.narrow);
        let mut ask = narrow.ask();
        loop {
            // What is found by an index alone is as much as the page; else what is looked through is more.
            let (widest, window) = match select.is_indexed() {
                true if select.is_cut() => (ENTRIES, MAX_SEQUENCE),
                true => (most, MAX_SEQUENCE),
                false => (WINDOW, after.0.saturating_add(ask.of(WINDOW) as u64)),
            };
            let upto = Position(window.min(MAX_SEQUENCE));
            match self.part(&select, after, upto, (ask.of(most), ask.of(ENTRIES))).await {
                Err(error) if narrow.outlasted(ask, widest, &error) => ask = narrow.after(ask),
                page => {
                    narrow.came(ask);
                    return page;
                }
            }
        }
    }

    async fn at(&self, positions: &[Position]) -> Result<Vec<RecordedEvent>, StoreError> {
        let positions: Vec<i64> = check::positions(positions)?.into_iter().map(|p| signed(p.0)).collect();
        let (mut events, mut left, narrow) = (Vec::new(), &positions[..], &self.0.shared.readers.narrow);
        // As a stream is: in one part, as a rule.
        let mut ask = narrow.ask();
        while !left.is_empty() && !is_full(&events, usize::MAX) {
            let (part, rest) = left.split_at(ask.of(left.len()));
            let query = || sqlx::query(filter::at()).bind(part.to_vec());
            match self.named("reading events", query, |_| ()).await {
                Err(error) if narrow.outlasted(ask, left.len(), &error) => {
                    ask = narrow.after(ask);
                    continue;
                }
                read => events.extend(read?.1),
            }
            narrow.came(ask);
            ask = narrow.ask();
            left = rest;
        }
        Ok(events)
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.0.shared.read_head().await
    }

    /// Recorded times never go backwards, so this is a binary search, within the database.
    async fn position_at(&self, time: Timestamp) -> Result<Position, StoreError> {
        let query = || sqlx::query("select position_at($1)").bind(micros_after(time));
        let rows = self.0.shared.readers.rows("reading a time", query).await?;
        Ok(Position(rows.first().map_or(0, |row| number(row.get_unchecked(0)))))
    }

    async fn now(&self) -> Result<Timestamp, StoreError> {
        let what = "reading the clock";
        let wrong = |e| StoreError::Corrupt { what: format!("{what}: {e}") };
        if let Some(micros) = self.0.shared.micros() {
            return Timestamp::from_microsecond(micros).map_err(wrong);
        }
        let rows = self.0.shared.readers.rows(what, || sqlx::query("select clock_timestamp()")).await?;
        let row = rows.first().expect("a select without a table gives one row");
        row::time(row.get_unchecked(0)).map_err(|e| StoreError::Corrupt { what: format!("{what}: {e}") })
    }

    async fn outcome(&self, key: &IdempotencyKey) -> Result<Option<Outcome>, StoreError> {
        let what = "reading an outcome";
        let rows =
            self.0.shared.readers.rows(what, || sqlx::query(OUTCOME).bind(key.as_str().to_owned())).await?;
        rows.first().map(outcome).transpose().map_err(|e| error::store(what, e))
    }

    fn watch(&self) -> watch::Receiver<Position> {
        self.0.shared.head.subscribe()
    }

    fn identity(&self) -> uuid::Uuid {
        self.0.shared.identity
    }

    fn history(&self) -> u64 {
        self.0.shared.history()
    }
}

fn outcome(row: &PgRow) -> Result<Outcome, sqlx::Error> {
    let fingerprint = <[u8; 16]>::try_from(row.try_get::<&[u8], _>(0)?)
        .map_err(|_| sqlx::Error::Decode("a fingerprint has 16 bytes".into()))?;
    Ok(Outcome {
        fingerprint: u128::from_be_bytes(fingerprint),
        stream: StreamId::new(row.try_get::<String, _>(1)?).map_err(|e| sqlx::Error::Decode(e.into()))?,
        version: Version(number(row.try_get(2)?)),
        position: Position(number(row.try_get(3)?)),
        events: row.try_get::<i32, _>(4)?.cast_unsigned(),
        refusal: row.try_get::<Option<Vec<u8>>, _>(5)?.map(Into::into),
    })
}

/// Whole microseconds, rounded up: an event of the same microsecond is not before the time.
fn micros_after(time: Timestamp) -> i64 {
    /// PostgreSQL knows no time before its Julian day 0, in the year -4713; nothing was recorded then.
    const FIRST: i64 = -210_866_803_200_000_000;
    let micros = time.as_microsecond();
    let rest = time - Timestamp::from_microsecond(micros).unwrap_or(time);
    (if rest.is_positive() { micros + 1 } else { micros }).max(FIRST)
}
