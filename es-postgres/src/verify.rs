//! Proof of what the store promises, on what is stored.

use es_core::store::StoreError;
use sqlx::{Connection as _, Row as _};

use crate::{PgBackend, connect, error};

/// What is checked, and the SQL that gives a row for each violation. `docs/rules.md`: E1, B31.
const CHECKS: &[(&str, &str)] = &[
    (
        "positions are contiguous from the first to the last",
        "select 'there are ' || count(*) || ' events from position ' || min(position) || ' to ' || max(position)
         from events having count(*) <> max(position) - min(position) + 1",
    ),
    (
        "positions go on from what was archived",
        "select 'the first event kept is at position ' || e.first || ', archived are those up to ' || s.archived
         from (select min(position) as first from events) e, store s where e.first <> s.archived + 1",
    ),
    (
        "versions of a stream go on from what was archived",
        "select coalesce(s.name, 'stream ' || e.stream_id) || ' goes on with version ' || e.first || ' after '
             || coalesce(r.version, 0)
         from (select stream_id, min(version) as first from events group by stream_id) e
         left join archived_streams r using (stream_id) left join streams s using (stream_id)
         where e.first <> coalesce(r.version, 0) + 1",
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
         group by e.stream_id, s.name
         having count(*) <> max(e.version) - min(e.version) + 1",
    ),
    (
        "versions of a stream rise with its positions",
        "select 'position ' || position from (
             select position, version, lag(version) over (partition by stream_id order by position) as before from events
         ) e where version <> before + 1",
    ),
    (
        "recorded times never go backwards",
        "select 'position ' || position from (
             select position, recorded_at, lag(recorded_at) over (order by position) as before from events
         ) e where recorded_at < before",
    ),
    (
        "recorded times are times that can be read",
        "select 'position ' || position from events
         where not isfinite(recorded_at) or recorded_at > '9999-12-30 22:00:00.999999+00'",
    ),
    (
        "every event has a type and a stream",
        "select 'position ' || e.position from events e
         left join event_types t using (type_id) left join streams s using (stream_id)
         where t.type_id is null or s.stream_id is null",
    ),
    (
        "tags and checkpoints point into the log",
        "select 'tag ' || tag || ' at ' || position from tags
         where position > (select coalesce(max(position), 0) from events) or position <= (select archived from store)
         union all
         select 'checkpoint ' || name || ' at ' || position from checkpoints
         where position > (select coalesce(max(position), 0) from events)",
    ),
];

impl PgBackend {
    /// Looks for violations of what the store promises, in the whole store; a line each, none if all is well.
    ///
    /// Reads everything: for a maintenance job, not for a start. The statement timeout of the options holds for each
    /// of its statements.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store cannot be read.
    pub async fn verify(&self) -> Result<Vec<String>, StoreError> {
        let failed = |e| error::store("verifying the store", e);
        let patience = self.0.shared.readers.patience();
        let mut conn =
            patience.within(connect::open(&self.0.options.for_whole_tables())).await.map_err(failed)?;
        let mut violations = Vec::new();
        for (rule, sql) in CHECKS {
            let rows = match patience.within(sqlx::query(*sql).fetch_all(&mut conn)).await {
                // Something that is stored is not what it should be: the other rules can be looked at all the same.
                Err(e) if error::code(&e).is_some_and(|code| code.starts_with("22")) => {
                    violations
                        .push(format!("not so: {rule}: what is stored cannot be read: {}", error::words(&e)));
                    continue;
                }
                rows => rows.map_err(failed)?,
            };
            violations.extend(
                rows.iter().map(|row| format!("not so: {rule}: {}", row.get_unchecked::<String, _>(0))),
            );
        }
        drop(conn.close().await);
        Ok(violations)
    }
}
