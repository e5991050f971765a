//! Proof of what the store promises, on what is stored.

use es_core::store::{Position, StoreError};
use futures::TryStreamExt as _;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use crate::row::signed;
use crate::{PgBackend, error, schema};

/// What is checked, and the SQL that gives a row for each violation, among the events behind `{after}`. `docs/rules.md`:
/// E1, B31.
const CHECKS: &[(&str, &str)] = &[
    (
        "positions are contiguous",
        "select 'there are ' || count(*) || ' events from position ' || min(position) || ' to ' || max(position)
         from events where position > {after} having count(*) <> max(position) - min(position) + 1",
    ),
    (
        "positions go on from what came before",
        "select 'the first event kept is at position ' || e.first || ', archived are those up to ' || s.archived
         from (select min(position) as first from events where position > {after}) e, store s
         where e.first <> greatest(s.archived, {after}) + 1",
    ),
    (
        "versions of a stream go on from what came before",
        "select coalesce(s.name, 'stream ' || e.stream_id) || ' goes on with version ' || e.first || ' after '
             || coalesce(b.version, r.version, 0)
         from (select stream_id, min(version) as first from events where position > {after} group by stream_id) e
         -- The one right before it is one look; only where that is missing, the last one is looked for.
         left join lateral (
             select b.version from events b
             where {after} > 0 and b.stream_id = e.stream_id and b.version = e.first - 1 offset 0
         ) c on true
         left join lateral (
             select b.version from events b
             where {after} > 0 and c.version is null and e.first > 1
               and b.stream_id = e.stream_id and b.version < e.first order by b.version desc limit 1
         ) b on true
         left join archived_streams r using (stream_id) left join streams s using (stream_id)
         where c.version is null and e.first <> coalesce(b.version, r.version, 0) + 1",
    ),
    (
        "the last archived event of a stream lies before what is kept",
        "select coalesce(s.name, 'stream ' || r.stream_id) || ' at position ' || r.position
         from archived_streams r left join streams s using (stream_id)
         where r.position > (select archived from store)",
    ),
    (
        "versions of a stream are contiguous",
        "select coalesce(s.name, 'stream ' || e.stream_id) || ' has ' || count(*) || ' events from version '
             || min(e.version) || ' to ' || max(e.version)
         from events e left join streams s using (stream_id)
         where e.position > {after}
         group by e.stream_id, s.name
         having count(*) <> max(e.version) - min(e.version) + 1",
    ),
    (
        "versions of a stream rise with its positions",
        "select 'position ' || position from (
             select position, version, lag(version) over (partition by stream_id order by position) as before from events
             where position > {after}
         ) e where version <> before + 1",
    ),
    (
        "recorded times never go backwards",
        "select 'position ' || position from (
             select position, recorded_at, lag(recorded_at) over (order by position) as before from events
             where position >= {after}
         ) e where recorded_at < before",
    ),
    (
        "recorded times are times that can be read",
        "select 'position ' || position from events
         where position > {after} and (not isfinite(recorded_at) or recorded_at > '9999-12-30 22:00:00.999999+00')",
    ),
    (
        "every event has a type and a stream",
        "select 'position ' || e.position from events e
         left join event_types t using (type_id) left join streams s using (stream_id)
         where e.position > {after} and (t.type_id is null or s.stream_id is null)",
    ),
    (
        // All of them, or none: those of some events are spread over the whole table.
        "tags point into the log",
        "select 'tag ' || tag || ' at ' || position from tags
         where {after} = 0
           and (position > (select coalesce(max(position), 0) from events) or position <= (select archived from store))",
    ),
    (
        "checkpoints can be read, and point into the log",
        "select case when position is null then 'the place of ' || name || ' cannot be read'
                     else 'checkpoint ' || name || ' at ' || position end
         from checkpoints
         where position is null or position > (select coalesce(max(position), 0) from events)",
    ),
    (
        "the store has one identity, and numbers nothing twice",
        "select 'there are ' || count(*) || ' rows in store' from store having count(*) <> 1
         union all
         select 'the next of ' || c.what || ' would be given the number ' || coalesce(c.last, 0) + 1 || ', and there is ' || c.max
         from (
             select 'streams' as what, pg_sequence_last_value(pg_get_serial_sequence('streams', 'stream_id')) as last,
                    (select max(stream_id) from streams) as max
             where has_sequence_privilege(pg_get_serial_sequence('streams', 'stream_id'), 'select')
             union all
             select 'event_types', pg_sequence_last_value(pg_get_serial_sequence('event_types', 'type_id')),
                    (select max(type_id) from event_types)
             where has_sequence_privilege(pg_get_serial_sequence('event_types', 'type_id'), 'select')
         ) c where coalesce(c.last, 0) < c.max",
    ),
    (
        "outcomes of keys point at the events of their streams",
        "select 'key ' || o.key || ' at ' || o.position from outcomes o
         where o.position > {after}
           and (o.position > (select coalesce(max(position), 0) from events)
                or o.position > (select archived from store) and not exists (
                    select from events e join streams s using (stream_id)
                    where e.position = o.position and s.name = o.stream and e.version = o.version))",
    ),
    (
        "snapshots were taken at events of their streams",
        "select 'the snapshot of ' || n.stream || ' at version ' || n.version
         from snapshots n join streams s on s.name = n.stream
         join events e on e.stream_id = s.stream_id and e.version = n.version
         where e.position > {after} and substr(e.envelope, 1, 16) <> uuid_send(n.event)",
    ),
    (
        "partitions are what is noted of them, one behind the other",
        "select 'partition events_' || coalesce(p.first::text, replace(c.name, 'events_', '')) || ' is '
             || case when c.name is null then 'noted, and not there' else 'there, and not noted' end
         from partitions p
         full join (
             select r.relname::text as name from pg_inherits i join pg_class r on r.oid = i.inhrelid
             where i.inhparent = 'events'::regclass
         ) c on c.name = 'events_' || p.first
         where p.first is null or c.name is null
         union all
         select 'partition events_' || p.first || ' follows one that ends at ' || p.before
         from (select first, lag(last) over (order by first) as before from partitions) p where p.first <> p.before + 1",
    ),
];

/// So many violations of each rule are listed.
const MOST: usize = 1_000;

/// Positions whose payloads are read together.
const WINDOW: i64 = 1_000;

const READABLE: &str = "payloads in JSON can be read";

/// Some events behind a position, with their payloads if those are JSON.
const PAYLOADS: &str = "select e.position, case when t.codec = 'json' then e.data end
    from (select * from events e where e.position > $1 order by e.position limit $2) e
    left join event_types t using (type_id) order by e.position";

impl PgBackend {
    /// Looks for violations of what the store promises, in the whole store; a line each, none if all is well.
    ///
    /// Reads everything, payloads included, in one snapshot: for a maintenance job, not for a start. The statement timeout of the
    /// options holds for each of its statements. Of each rule a thousand violations are listed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn verify(&self) -> Result<Vec<String>, StoreError> {
        self.verify_after(Position(0)).await
    }

    /// The same for the events behind a position, and how they go on from those before them: up to where it was verified
    /// last, say. Tags are looked at by [`Self::verify`] alone.
    ///
    /// # Errors
    ///
    /// As [`Self::verify`].
    pub async fn verify_after(&self, after: Position) -> Result<Vec<String>, StoreError> {
        let failed = |e| error::store("verifying the store", e);
        let patience = self.0.shared.readers.patience();
        let mut conn = patience.within(self.0.options.for_whole_tables().connect()).await.map_err(failed)?;
        // Others commit meanwhile.
        let begin = sqlx::raw_sql("begin isolation level repeatable read, read only").execute(&mut conn);
        patience.within(begin).await.map_err(failed)?;
        let mut violations = Vec::new();
        for (rule, sql) in CHECKS {
            let sql = sql.replace("{after}", &signed(after.0).to_string());
            let sql = schema::sql(format!("select * from ({sql}) wrong limit {}", MOST + 1));
            patience.within(sqlx::raw_sql("savepoint rule").execute(&mut conn)).await.map_err(failed)?;
            let rows = match patience.within(sqlx::query(sql).fetch_all(&mut conn)).await {
                // Something that is stored is not what it should be: the other rules can be looked at all the same.
                Err(e) if error::code(&e).is_some_and(|code| code.starts_with("22")) => {
                    violations
                        .push(format!("not so: {rule}: what is stored cannot be read: {}", error::words(&e)));
                    let back = sqlx::raw_sql("rollback to savepoint rule").execute(&mut conn);
                    patience.within(back).await.map_err(failed)?;
                    continue;
                }
                rows => rows.map_err(failed)?,
            };
            let lines = rows.iter().take(MOST);
            violations
                .extend(lines.map(|row| format!("not so: {rule}: {}", row.get_unchecked::<String, _>(0))));
            if rows.len() > MOST {
                violations.push(format!("not so: {rule}: and more"));
            }
        }
        self.verify_payloads(&mut conn, after, &mut violations).await.map_err(failed)?;
        drop(conn.close().await);
        Ok(violations)
    }

    /// Payloads in JSON are what whoever reads them can take apart.
    async fn verify_payloads(
        &self,
        conn: &mut PgConnection,
        after: Position,
        violations: &mut Vec<String>,
    ) -> Result<(), sqlx::Error> {
        let (patience, mut after, mut found) = (self.0.shared.readers.patience(), signed(after.0), 0);
        loop {
            let (before, mut rows) =
                (after, sqlx::query(PAYLOADS).bind(after).bind(WINDOW).fetch(&mut *conn));
            while let Some(row) = patience.within(rows.try_next()).await? {
                after = row.get_unchecked(0);
                let Some(data) = row.get_unchecked::<Option<&[u8]>, _>(1) else { continue };
                let Err(error) = serde_json::from_slice::<serde_json::Value>(data) else { continue };
                found += 1;
                if found <= MOST {
                    violations.push(format!("not so: {READABLE}: position {after}: {error}"));
                }
            }
            if after == before {
                break;
            }
        }
        if found > MOST {
            violations.push(format!("not so: {READABLE}: and more"));
        }
        Ok(())
    }
}
