//! What a store forgets with time: outcomes of idempotency keys, and fences of attempts.

use std::time::Duration;

use es_core::clock::Timestamp;
use es_core::store::{CommitError, IdempotencyKey, StoreError};
use sqlx::Row as _;
use uuid::Uuid;

use crate::writer::Writing;
use crate::{SqliteBackend, error};

/// How many rows one transaction looks at.
const MOST: i64 = 2_000;
/// What is younger may still be asked for.
const YOUNG: Duration = Duration::from_secs(24 * 60 * 60);

const FORGETTING: &str = "forgetting";
const RECORD: &str = "insert into es_forgotten (one, before) values (1, ?1)
                      on conflict (one) do update set before = max(before, excluded.before)";
const KEYS: &str = "select key from es_outcomes where key > ?1 order by key limit ?2";
const NO_KEYS: &str = "delete from es_outcomes where key in (select value from json_each(?1))";
/// Names of version 7 sort by their times.
const FENCES: &str = "delete from es_attempts where id in (
                          select id from es_attempts
                          where id < ?1 and applied_at is null and substr(hex(id), 13, 1) = '7' limit ?2)";

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forgotten {
    /// Outcomes of idempotency keys.
    pub keys: u64,
    /// Fences of attempts that were given up.
    pub attempts: u64,
}

impl SqliteBackend {
    /// Forgets outcomes of idempotency keys, and fences of attempts, from before a time. Call it once a day, say, with a time
    /// some weeks ago.
    ///
    /// How old a key is it [says itself](IdempotencyKey::made_at). A key that was forgotten is refused from then on, and never
    /// run again; so is every other one that is as old. Keys that do not say it are remembered for ever.
    ///
    /// Rows are removed in short transactions, and commits go on in between. Dropping the future stops it between two of them;
    /// called again it continues.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] for a time that is less than a day ago; else the database failed, and some are removed.
    pub async fn forget(&self, before: Timestamp) -> Result<Forgotten, StoreError> {
        let shared = &self.0.shared;
        if shared.clock.now().checked_sub(YOUNG).is_ok_and(|latest| before > latest) {
            return Err(StoreError::misuse(
                "what is younger than a day may still be asked for: take a time before that",
            ));
        }
        let failed = |e| error::store(FORGETTING, e);
        let mut writing = Writing::open(shared, FORGETTING).await?;
        let record = sqlx::query(RECORD).bind(before.as_microsecond());
        record.execute(writing.conn_mut()).await.map_err(failed)?;
        end(writing).await.map_err(failed)?;
        let mut forgotten = Forgotten::default();
        let mut after = Some(String::new());
        while let Some(key) = after {
            let mut writing = Writing::open(shared, FORGETTING).await?;
            let (gone, last) = keys(&mut writing, &key, before).await.map_err(failed)?;
            end(writing).await.map_err(failed)?;
            forgotten.keys += gone;
            after = last;
        }
        let bound = uuid::Builder::from_unix_timestamp_millis(
            u64::try_from(before.as_millisecond()).unwrap_or_default(),
            &[0; 10],
        );
        loop {
            let mut writing = Writing::open(shared, FORGETTING).await?;
            let gone = fences(&mut writing, bound.as_uuid()).await.map_err(failed)?;
            end(writing).await.map_err(failed)?;
            forgotten.attempts += gone;
            if gone < MOST.unsigned_abs() {
                return Ok(forgotten);
            }
        }
    }
}

/// Some keys behind one; gives the last that was looked at.
async fn keys(
    writing: &mut Writing,
    after: &str,
    before: Timestamp,
) -> Result<(u64, Option<String>), sqlx::Error> {
    let rows = sqlx::query(KEYS).bind(after).bind(MOST).fetch_all(writing.conn_mut()).await?;
    let keys = rows.iter().map(|row| row.try_get::<String, _>(0)).collect::<Result<Vec<_>, _>>()?;
    let is_old = |key: &&String| {
        let made = IdempotencyKey::new(key.as_str()).ok().and_then(|key| key.made_at());
        made.is_some_and(|made| made < before)
    };
    let old: Vec<&String> = keys.iter().filter(is_old).collect();
    let old = serde_json::to_string(&old).expect("texts serialize");
    let gone = sqlx::query(NO_KEYS).bind(old).execute(writing.conn_mut()).await?.rows_affected();
    Ok((gone, keys.last().cloned()))
}

async fn fences(writing: &mut Writing, bound: &Uuid) -> Result<u64, sqlx::Error> {
    let delete = sqlx::query(FENCES).bind(bound.as_bytes().as_slice()).bind(MOST);
    Ok(delete.execute(writing.conn_mut()).await?.rows_affected())
}

async fn end(mut writing: Writing) -> Result<(), sqlx::Error> {
    sqlx::query("commit").execute(writing.conn_mut()).await?;
    writing.set_open(false);
    Ok(())
}

/// The refusal of a commit under a key that may have been used before.
pub(crate) fn too_old(key: &IdempotencyKey) -> CommitError {
    StoreError::misuse(format!(
        "idempotency key {key} is older than what is remembered of keys: look at what is there; a new request takes a new key"
    ))
    .into()
}
