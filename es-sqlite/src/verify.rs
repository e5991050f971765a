//! Proof of what the store promises, on what is stored.

use es_core::store::{Position, StoreError};
use sqlx::Row as _;

use crate::row::signed;
use crate::{SqliteBackend, error};

/// What is checked, and the SQL that gives a row for each violation, among the events behind `?1`. `docs/rules.md`: E1, B31.
const CHECKS: &[(&str, &str)] = &[
    (
        "positions are contiguous and go on from what came before",
        "select 'there are ' || count(*) || ' events' || case when ?1 > 0 then ' behind position ' || ?1 else '' end
             || ' and the last is at position ' || max(position)
         from es_events where position > ?1 having count(*) > 0 and count(*) <> max(position) - ?1",
    ),
    (
        "versions of a stream are contiguous and go on from what came before",
        "select coalesce(s.name, 'stream ' || e.stream) || ' has ' || e.n || ' events'
             || case when e.before > 0 then ' behind version ' || e.before else '' end
             || ' and its last version is ' || e.last
         from (
             select g.*, case when ?1 > 0 then coalesce((
                 select b.version from es_events b where b.stream = g.stream and b.version < g.first
                 order by b.version desc limit 1), 0) else 0 end as before
             from (
                 select stream, count(*) as n, min(version) as first, max(version) as last
                 from es_events where position > ?1 group by stream
             ) g
         ) e left join es_streams s on s.id = e.stream
         where e.n <> e.last - e.before or e.first <= e.before",
    ),
    (
        "versions of a stream rise with its positions",
        "select 'position ' || position from (
             select position, version, lag(version) over (partition by stream order by position) as before
             from es_events where position > ?1
         ) where version <> before + 1",
    ),
    (
        "recorded times never go backwards",
        "select 'position ' || position from (
             select position, recorded_at, lag(recorded_at) over (order by position) as before
             from es_events where position >= ?1
         ) where recorded_at < before",
    ),
    (
        "recorded times are times that can be read",
        "select 'position ' || position from es_events
         where position > ?1 and recorded_at not between -377705023201000000 and 253402207200999999",
    ),
    (
        "every event has a type and a stream",
        "select 'position ' || e.position from es_events e
         left join es_types t on t.id = e.type left join es_streams s on s.id = e.stream
         where e.position > ?1 and (t.id is null or s.id is null)",
    ),
    (
        "the packed head of an event says what its columns say",
        "select 'position ' || position from es_events
         where position > ?1 and (hex(substr(head, 1, 8)) <> printf('%016X', recorded_at)
            or hex(substr(head, 9, 4)) <> printf('%08X', type))",
    ),
    (
        "payloads are what their codec writes",
        "select 'position ' || e.position || ' in ' || s.name from es_events e
         join es_types t on t.id = e.type join es_streams s on s.id = e.stream
         where e.position > ?1 and t.codec = 'json' and not json_valid(cast(e.data as text))",
    ),
    (
        "tags and checkpoints point into the log",
        "select 'tag ' || t.tag || ' at ' || t.position from es_tags t
         where t.position > ?1 and not exists (select 1 from es_events e where e.position = t.position)
         union all
         select 'checkpoint ' || name || case when position is null then ' cannot be read' else ' at ' || position end
         from (
             select key as name, case when not json_valid(data) then null
                 when data ->> '$.last' is null then 0 else coalesce(data ->> '$.position', 0) end as position
             from (select key, cast(data as text) as data from es_rows where tbl = 'checkpoints')
         ) where position is null or position > (select coalesce(max(position), 0) from es_events)",
    ),
    (
        "what is set aside is in the log",
        "select key || ' of ' || tbl from (
             select tbl, key, substr(key, -20) as position from es_rows where tbl glob '*~*/parked/events'
             union all
             select tbl, key, substr(key, 1, 20) from es_rows where tbl glob '*~*/undecoded'
         ) where not exists (select 1 from es_events e where e.position = cast(position as integer))",
    ),
    ("revisions of rows count from 1", "select key || ' of ' || tbl from es_rows where rev < 1"),
    (
        "the store has one identity and one history, and no redaction is under way",
        "select 'there are ' || count(*) || ' rows in es_store' from es_store having count(*) <> 1
         union all
         select 'its identity has ' || length(identity) || ' bytes' from es_store where length(identity) <> 16
         union all
         select 'there are ' || count(*) || ' rows in es_history' from es_history having count(*) <> 1
         union all
         select 'position ' || redacts || ' is being redacted' from es_history where redacts is not null",
    ),
    (
        "outcomes of keys point at the events of their streams",
        "select 'key ' || o.key || ' at ' || o.position from es_outcomes o
         where o.position > ?1 and not exists (
             select 1 from es_events e join es_streams s on s.id = e.stream
             where e.position = o.position and s.name = o.stream and e.version = o.version)",
    ),
    (
        "snapshots were taken at events of their streams",
        "select 'the snapshot of ' || n.stream || ' at version ' || n.version
         from es_snapshots n join es_streams s on s.name = n.stream
         join es_events e on e.stream = s.id and e.version = n.version
         where e.position > ?1 and substr(e.head, 13, 16) <> n.event",
    ),
    ("names of attempts are UUIDs", "select hex(id) from es_attempts where length(id) <> 16"),
    (
        "every generation of a projection has its tables",
        "select p.name || '/' || p.version || '~' || p.generation || ' has no ' || (o.value ->> 1)
         from es_projections p, json_each(p.objects) o
         where not exists (
             select 1 from sqlite_schema s
             where s.name = (o.value ->> 1) || case
                 when p.current and p.version is (select n.version from es_published n where n.name = p.name)
                 then '' else p.suffix end
         )",
    ),
    // All of it, whatever was looked at before.
    (
        "the file is sound",
        "select integrity_check from pragma_integrity_check where integrity_check <> 'ok' and ?1 = 0",
    ),
];

impl SqliteBackend {
    /// Looks for violations of what the store promises, in the whole file; a line each, none if all is well.
    ///
    /// Reads everything, in one snapshot: for a maintenance job, not for a start. Commits go on meanwhile, and the
    /// write-ahead log grows for as long as it takes.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the file cannot be read.
    pub async fn verify(&self) -> Result<Vec<String>, StoreError> {
        self.verify_after(Position(0)).await
    }

    /// The same for the events behind a position, and how they go on from those before them: up to where it was verified
    /// last, say. Damage of the file itself is looked for by [`Self::verify`] alone.
    ///
    /// # Errors
    ///
    /// As [`Self::verify`].
    pub async fn verify_after(&self, after: Position) -> Result<Vec<String>, StoreError> {
        let failed = |e| error::store("verifying the store", e);
        // Others commit meanwhile: all of it is of one snapshot, which begins with the first statement.
        let mut tx = self.readers()?.begin().await.map_err(failed)?;
        let mut violations = Vec::new();
        for (rule, sql) in CHECKS {
            let found = sqlx::query(*sql).bind(signed(after.0)).fetch_all(&mut *tx).await;
            match found {
                Ok(rows) => violations.extend(rows.iter().map(|row| {
                    let what: Option<String> = row.try_get(0).unwrap_or_default();
                    format!(
                        "not so: {rule}: {}",
                        what.unwrap_or_else(|| "something that has no name".to_owned())
                    )
                })),
                // Something that is stored is not what it should be: the other rules can be looked at all the same.
                Err(e) if !error::is_now(&e) => {
                    violations.push(format!("not so: {rule}: what is stored cannot be read: {e}"));
                }
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(violations)
    }
}
