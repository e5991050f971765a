//! Partitions, archives and redactions: for the owner of the schema.

use std::time::Duration;

use bytes::Bytes;
use es_core::store::{Position, StoreError, StreamId, Version, check};
use sqlx::postgres::{PgConnection, PgDatabaseError, PgRow};
use sqlx::{Connection as _, Row as _};

use crate::readers::PgQuery;
use crate::row::{number, signed};
use crate::{PgBackend, connect, error};

/// The types of some events and their codecs, in their order.
const KINDS: &str = "select coalesce(t.name, 'event'), coalesce(t.codec, 'json')
    from unnest($1::text[], $2::bigint[]) with ordinality a (stream, version, i)
    left join streams s on s.name = a.stream
    left join event_types t on t.type_id = coalesce(
        (select e.type_id from events e where e.stream_id = s.stream_id and e.version = a.version),
        (select r.type_id from archived_streams r where r.stream_id = s.stream_id and r.version = a.version))
    order by a.i";

/// What an archive would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArchivePlan {
    /// Up to where whole partitions would leave; 0 if there are none.
    pub upto: Position,
    /// Why it is refused, and what to do: processors that are behind, events that are set aside.
    pub in_the_way: Vec<String>,
    /// Streams that could not be loaded any more: [`PgBackend::archive_unloadable`] takes them too.
    pub unloadable: Vec<String>,
}

impl PgBackend {
    /// Makes the log a table of partitions by ranges of this many positions. What it holds by now becomes the first of
    /// them, with some room; on a log that has partitions already, it sets the size of further ones.
    ///
    /// Appends and reads go on; they stand still for a moment at the end. The log is read through once.
    /// Partitions that follow are made by the programs that append, before they are needed.
    /// A read of a stream looks into each partition, and each statement locks all of them, so a few dozen large ones are better
    /// than many small ones: `max_locks_per_transaction` of the server limits them, which [`PgOptions::check`](crate::PgOptions::check) looks at.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: nothing has changed. Call it again; it is [`Transient`](StoreError::Transient) if others were in the
    /// way for ten seconds, and names them.
    pub async fn partition(&self, size: u64) -> Result<(), StoreError> {
        let call = sqlx::query("call partition($1)").bind(signed(size));
        self.maintain("making partitions", call).await?;
        self.0.shared.partitions.make([]).await;
        Ok(())
    }

    /// Takes the partitions that lie at or below a position out of the log, as a whole each, and gives the names of
    /// their tables: `events_archived_<first>_<last>`, in the schema of the store, to dump and to drop.
    ///
    /// What stays is what the store goes on from: the last event of the log, and the last archived one of each stream.
    /// The rest is gone from every read.
    /// - A stream keeps its versions and goes on. To load it takes a snapshot at its last archived event or later: without
    ///   one the archive is refused.
    /// - A read of the log that asks for what was before is answered from the first position that is kept. So a
    ///   projection that is rebuilt, a new processor, a filter and an append condition see what is kept, and no more.
    /// - A commit whose outcome is unknown must be resolved before its events are archived.
    ///
    /// Appends and reads go on; they stand still for a moment at the end. Gives nothing if no partition lies there.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: nothing was archived. It is [`Misuse`](StoreError::Misuse) if there are no partitions, a processor
    /// has not come so far, or its place cannot be read, an event that would leave is parked, could not be decoded, or is waited
    /// for by an instance of a process (it would be lost), or a stream could not be loaded any more. Also for a processor that nobody runs: `drop_version` of a version, `forget_processor` of a
    /// reactor. [`Self::plan_archive`] lists all of it.
    /// [`Transient`](StoreError::Transient) if long transactions were in the way for a minute.
    pub async fn archive(&self, upto: Position) -> Result<Vec<String>, StoreError> {
        self.take_out(upto, false).await
    }

    /// The same, also of streams that could not be loaded any more: those that nobody loads.
    ///
    /// # Errors
    ///
    /// As [`Self::archive`].
    pub async fn archive_unloadable(&self, upto: Position) -> Result<Vec<String>, StoreError> {
        self.take_out(upto, true).await
    }

    /// What [`Self::archive`] would do, and what is in its way; nothing is changed.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if there are no partitions; else the database failed.
    pub async fn plan_archive(&self, upto: Position) -> Result<ArchivePlan, StoreError> {
        let what = "planning an archive";
        let edge = sqlx::query("select archive_edge($1)").bind(signed(upto.0));
        let edge: Option<i64> = self.maintain(what, edge).await?.first().and_then(|row| row.get_unchecked(0));
        let Some(edge) = edge else { return Ok(ArchivePlan::default()) };
        let query = sqlx::query("select what, advice, loads from in_the_way($1)").bind(edge);
        let mut plan = ArchivePlan { upto: Position(number(edge)), ..ArchivePlan::default() };
        for row in self.maintain(what, query).await? {
            let (found, advice): (String, String) = (row.get_unchecked(0), row.get_unchecked(1));
            let list = if row.get_unchecked(2) { &mut plan.in_the_way } else { &mut plan.unloadable };
            list.push(format!("{found}. {advice}"));
        }
        Ok(plan)
    }

    /// Takes an archived table into the log again: the last one that has left, by its name. It has to be in the schema of the
    /// store. So do those that left before it, as far as a stream of it goes on from them. Several come back one after the
    /// other, the last one first.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if it is not there, not whole or not the last one: nothing has changed.
    pub async fn attach_archive(&self, table: &str) -> Result<(), StoreError> {
        let query = sqlx::query("select attach_archive($1)").bind(table.to_owned());
        self.maintain("attaching an archive", query).await.map(drop)
    }

    async fn take_out(&self, upto: Position, unloadable: bool) -> Result<Vec<String>, StoreError> {
        const TRIES: u32 = 5;
        let mut tries = 1;
        let rows = loop {
            let query = sqlx::query("select archive($1, $2)").bind(signed(upto.0)).bind(unloadable);
            match self.run(query).await? {
                Err(error) if tries < TRIES && lacked_lock(&error) => tries += 1,
                outcome => break outcome.map_err(|e| explained("archiving", e))?,
            }
            // Who waited behind the last try goes on in between.
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        Ok(rows.iter().map(|row| row.get_unchecked(0)).collect())
    }

    /// Replaces the payload of one event, also of one whose archived table is still there, and forgets the snapshot of
    /// its stream.
    ///
    /// The new payload must be one that the event type can read. Id, tags and metadata stay. What was made of the old
    /// payload stays as well: rows of projections, archives that were dumped. Programs forget what they keep in memory of the
    /// store with their next read of events or append, as after a restore.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if there is no such event, or the payload is no JSON where there was JSON, or it
    /// [is needed](Self::redaction_needs) as it is; [`StoreError::Limit`] if the payload is larger or deeper than one of an
    /// append may be.
    pub async fn redact(&self, stream: &StreamId, version: Version, data: Bytes) -> Result<(), StoreError> {
        self.replace(&[(stream.clone(), version, data)], false).await
    }

    /// The same where it is needed: the stream could then not be loaded, or what is set aside not be handled.
    ///
    /// # Errors
    ///
    /// As [`Self::redact`].
    pub async fn redact_needed(
        &self,
        stream: &StreamId,
        version: Version,
        data: Bytes,
    ) -> Result<(), StoreError> {
        self.replace(&[(stream.clone(), version, data)], true).await
    }

    /// Redacts many events: all of them, or none. Programs forget what they keep once, and not once for each event.
    ///
    /// # Errors
    ///
    /// As [`Self::redact`].
    pub async fn redact_all(&self, events: &[(StreamId, Version, Bytes)]) -> Result<(), StoreError> {
        self.replace(events, false).await
    }

    /// The same where they are needed: see [`Self::redact_needed`].
    ///
    /// # Errors
    ///
    /// As [`Self::redact`].
    pub async fn redact_all_needed(&self, events: &[(StreamId, Version, Bytes)]) -> Result<(), StoreError> {
        self.replace(events, true).await
    }

    /// Why a redaction of this event is refused; `None` if it is not. It is needed if its stream is archived in part, and so
    /// needs its snapshot, or if a processor has the event parked, or passed over because it could not decode it, or if it waits
    /// for an instance of a process.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if there is no such event; else the database failed.
    pub async fn redaction_needs(
        &self,
        stream: &StreamId,
        version: Version,
    ) -> Result<Option<String>, StoreError> {
        let query = sqlx::query("select needs($1, $2)").bind(stream.as_str().to_owned());
        let rows = self.maintain("looking at an event", query.bind(signed(version.0))).await?;
        Ok(rows.first().and_then(|row| row.get_unchecked(0)))
    }

    async fn replace(&self, events: &[(StreamId, Version, Bytes)], needed: bool) -> Result<(), StoreError> {
        let what = "redacting events";
        let streams: Vec<String> = events.iter().map(|(stream, ..)| stream.as_str().to_owned()).collect();
        let versions: Vec<i64> = events.iter().map(|(_, version, _)| signed(version.0)).collect();
        let kinds =
            self.maintain(what, sqlx::query(KINDS).bind(streams.clone()).bind(versions.clone())).await?;
        for ((.., data), kind) in events.iter().zip(&kinds) {
            // What is not there, or has left the log, is taken for JSON, as nearly all is.
            check::replacement(kind.get_unchecked(0), kind.get_unchecked(1), data)?;
        }
        let payloads: Vec<Vec<u8>> = events.iter().map(|(.., data)| data.to_vec()).collect();
        let query = sqlx::query("select redact_all($1, $2, $3, $4)").bind(streams).bind(versions);
        self.maintain(what, query.bind(payloads).bind(needed)).await.map(drop)
    }

    /// A connection of its own: maintenance takes as long as it takes, and if its future is dropped, the server rolls
    /// back what was open.
    pub(crate) async fn patient(&self) -> Result<PgConnection, StoreError> {
        let address = self.0.options.for_whole_tables().with([("statement_timeout", "0")]);
        connect::first(&address).await
    }

    async fn maintain(&self, what: &'static str, query: PgQuery) -> Result<Vec<PgRow>, StoreError> {
        self.run(query).await?.map_err(|e| explained(what, e))
    }

    async fn run(&self, query: PgQuery) -> Result<Result<Vec<PgRow>, sqlx::Error>, StoreError> {
        let mut conn = self.patient().await?;
        let outcome = query.fetch_all(&mut conn).await;
        drop(conn.close().await);
        Ok(outcome)
    }
}

pub(super) fn explained(what: &'static str, error: sqlx::Error) -> StoreError {
    refusal(&error).unwrap_or_else(|| error::store(what, error))
}

/// Whether others were in the way: `lock_not_available`, `deadlock_detected`.
fn lacked_lock(error: &sqlx::Error) -> bool {
    matches!(error::code(error), Some("55P03" | "40P01"))
}

/// What a function of the store says itself is for people, with its advice.
fn refusal(error: &sqlx::Error) -> Option<StoreError> {
    /// `object_not_in_prerequisite_state`, `invalid_parameter_value`, `program_limit_exceeded`
    const OURS: &[&str] = &["55000", "22023", "54000"];
    let error: &PgDatabaseError = error.as_database_error()?.try_downcast_ref()?;
    let advice = error.hint().map(|hint| format!(". {hint}")).unwrap_or_default();
    OURS.contains(&error.code()).then(|| StoreError::misuse(format!("{}{advice}", error.message())))
}
