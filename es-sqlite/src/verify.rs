//! Proof of what the store promises, on what is stored.

use es_core::store::StoreError;
use sqlx::Row as _;

use crate::{SqliteBackend, error};

/// What is checked, and the SQL that gives a row for each violation. `docs/rules.md`: E1, B31.
const CHECKS: &[(&str, &str)] = &[
    (
        "positions are contiguous from 1",
        "select 'there are ' || count(*) || ' events and the last is at position ' || max(position)
         from es_events having count(*) <> coalesce(max(position), 0)",
    ),
    (
        "versions of a stream are contiguous from 1",
        "select s.name || ' has ' || count(*) || ' events and its last version is ' || max(e.version)
         from es_events e join es_streams s on s.id = e.stream
         group by e.stream having count(*) <> max(e.version) or min(e.version) <> 1",
    ),
    (
        "recorded times never go backwards",
        "select 'position ' || position from (
             select position, recorded_at, lag(recorded_at) over (order by position) as before from es_events
         ) where recorded_at < before",
    ),
    (
        "every event has a type and a stream",
        "select 'position ' || e.position from es_events e
         left join es_types t on t.id = e.type left join es_streams s on s.id = e.stream
         where t.id is null or s.id is null",
    ),
    (
        "the packed head of an event says what its columns say",
        "select 'position ' || position from es_events
         where hex(substr(head, 1, 8)) <> printf('%016X', recorded_at)
            or hex(substr(head, 9, 4)) <> printf('%08X', type)",
    ),
    (
        "payloads are what their codec writes",
        "select 'position ' || e.position || ' in ' || s.name from es_events e
         join es_types t on t.id = e.type join es_streams s on s.id = e.stream
         where t.codec = 'json' and not json_valid(cast(e.data as text))",
    ),
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
    ("the file is sound", "select integrity_check from pragma_integrity_check where integrity_check <> 'ok'"),
];

impl SqliteBackend {
    /// Looks for violations of what the store promises, in the whole file; a line each, none if all is well.
    ///
    /// Reads everything: for a maintenance job, not for a start.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the file cannot be read.
    pub async fn verify(&self) -> Result<Vec<String>, StoreError> {
        let mut violations = Vec::new();
        for (rule, sql) in CHECKS {
            let rows = sqlx::query(*sql).fetch_all(&self.0.readers).await;
            let rows = rows.map_err(|e| error::store("verifying the store", e))?;
            violations.extend(
                rows.iter().map(|row| format!("not so: {rule}: {}", row.get_unchecked::<String, _>(0))),
            );
        }
        Ok(violations)
    }
}
