//! A store with a past: a log in partitions, and outcomes of keys.

use std::sync::Arc;
use std::time::Duration;

use es_core::event::Tag;
use es_core::id::Ids;
use es_core::prelude::*;
use es_core::store::{NewEvent, StreamId};
use es_postgres::{Imported, PgBackend};
use futures::stream;
use sqlx::{Executor as _, PgConnection};

use super::PARTITIONS;
use crate::domain::{AccountEvent, Deposited, deposit};

/// Streams of the log.
pub const STREAMS: u64 = 2_000;
/// All of the past lies between these, counted back from now.
const BEGINS: Duration = Duration::from_hours(30 * 24);
pub const ENDS: Duration = Duration::from_hours(2 * 24);
/// The tag of ten events, all over the log, and that of all others.
pub const RARE: &str = "course:rare";
pub const COMMON: &str = "course:common";
/// Of the partitions that follow, at least: they take longer to fill than a minute.
const FURTHER: u64 = 50_000;
/// Outcomes of one statement.
const CHUNK: u64 = 500_000;

pub fn stream(number: u64) -> anyhow::Result<StreamId> {
    Ok(StreamId::new(format!("account-{number}"))?)
}

pub fn deposited(ids: &Ids) -> anyhow::Result<NewEvent> {
    let deposit = deposit();
    let event = AccountEvent::Deposited(Deposited { amount: deposit.amount, note: deposit.note });
    Ok(NewEvent::new(ids.next(), event.encode()?, Arc::default()))
}

/// Imports so many events into an empty store, whose partitions they fill.
pub async fn log(backend: &PgBackend, events: u64) -> anyhow::Result<()> {
    backend.partition(events.div_ceil(PARTITIONS)).await?;
    let now = backend.now().await?;
    let (rare, common) = (Tag::parse(RARE)?, Tag::parse(COMMON)?);
    let ids = Ids::default();
    let template = deposited(&ids)?;
    let streams = (0..STREAMS).map(stream).collect::<anyhow::Result<Vec<_>>>()?;
    let imported = |n: u64| {
        let tag = if n.is_multiple_of(events.div_ceil(10)) { &rare } else { &common };
        let recorded_at = now - BEGINS + (BEGINS - ENDS).mul_f64(n as f64 / events as f64);
        let event = NewEvent { id: ids.at(recorded_at), tags: vec![tag.clone()], ..template.clone() };
        Imported { stream: streams[(n % STREAMS) as usize].clone(), recorded_at, event }
    };
    let summary = backend.import(stream::iter((0..events).map(imported)), |_| {}).await?;
    anyhow::ensure!(summary.events == events, "all are imported");
    Ok(backend.partition(events.div_ceil(PARTITIONS).max(FURTHER)).await?)
}

/// So many outcomes of commands that were sent long ago, each under a key that says when.
pub async fn outcomes(conn: &mut PgConnection, outcomes: u64, events: u64) -> anyhow::Result<()> {
    const FILL: &str = "
        insert into es.outcomes (key, fingerprint, stream, version, position, events)
        select 'pay/' || substr(time, 1, 8) || '-' || substr(time, 9, 4) || '-7' || substr(hash, 1, 3)
                   || '-8' || substr(hash, 4, 3) || '-' || substr(hash, 7, 12),
               decode(hash, 'hex'), s.name, e.version, e.position, 1
        from (
            select n, md5(n::text) as hash, n % $5 + 1 as position, lpad(to_hex(
                (extract(epoch from now()) * 1000)::bigint - $6 + n * ($6 - $7) / $4), 12, '0') as time
            from generate_series($1, least($2, $3)) n
        ) o
        join es.events e using (position) join es.streams s using (stream_id)
        order by n";
    for first in (0..outcomes).step_by(CHUNK as usize) {
        let millis = |back: Duration| i64::try_from(back.as_millis());
        let fill = sqlx::query(FILL)
            .bind(i64::try_from(first)?)
            .bind(i64::try_from(first + CHUNK - 1)?)
            .bind(i64::try_from(outcomes - 1)?)
            .bind(i64::try_from(outcomes)?)
            .bind(i64::try_from(events)?)
            .bind(millis(BEGINS)?)
            .bind(millis(ENDS)?);
        fill.execute(&mut *conn).await?;
    }
    Ok(())
}

/// As a store is that has been like this for a while: the server has counted its tables, and written down what is dirty.
pub async fn settle(conn: &mut PgConnection) -> anyhow::Result<()> {
    for statement in ["vacuum analyze", "checkpoint"] {
        conn.execute(statement).await?;
    }
    Ok(())
}
