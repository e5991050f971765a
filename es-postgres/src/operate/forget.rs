//! What a store forgets with time: outcomes of idempotency keys, and fences of attempts.

use es_core::clock::Timestamp;
use es_core::store::StoreError;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

use super::maintain::explained;
use crate::PgBackend;

/// How many rows one statement looks at.
const MOST: i32 = 2_000;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forgotten {
    /// Outcomes of idempotency keys.
    pub keys: u64,
    /// Fences of attempts that were given up.
    pub attempts: u64,
}

impl PgBackend {
    /// Forgets outcomes of idempotency keys, and fences of attempts, from before a time. Call it once a day, say, with a time
    /// some weeks ago.
    ///
    /// How old a key is it says itself, by the last UUID of version 7 in it. A key that was forgotten is refused from then
    /// on, and never run again; so is every other one that is as old. Keys without such a UUID are remembered for ever.
    ///
    /// Rows are removed in short statements, and commits go on meanwhile. Dropping the future stops it between two of them;
    /// called again it goes on where it was. It is for the owner of the schema.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] for a time that is less than a day ago; else the database failed, and some are removed.
    pub async fn forget(&self, before: Timestamp) -> Result<Forgotten, StoreError> {
        let failed = |e| explained("forgetting", e);
        let mut conn = self.patient().await?;
        let record = "select forget(timestamptz 'epoch' + $1 * interval '1 microsecond')";
        sqlx::query(record).bind(before.as_microsecond()).execute(&mut conn).await.map_err(failed)?;
        let mut forgotten = Forgotten::default();
        let reached = "select reached, begun is not distinct from upto from forgotten where what = 'keys'";
        let row = sqlx::query(reached).fetch_one(&mut conn).await.map_err(failed)?;
        let (reached, as_it_was) = (row.get_unchecked::<String, _>(0), row.get_unchecked::<bool, _>(1));
        // One that was broken off goes on where it was. What lies before that was looked at, if the time is still the same.
        let again = (!reached.is_empty() && !as_it_was).then(|| (String::new(), Some(reached.clone())));
        for (from, until) in std::iter::once((reached, None)).chain(again) {
            forgotten.keys += forget_keys(&mut conn, from, until.as_deref()).await.map_err(failed)?;
        }
        let mut after = Some(Uuid::nil());
        while let Some(attempt) = after {
            let query =
                sqlx::query("select gone, last from forget_attempts($1, $2)").bind(attempt).bind(MOST);
            let row = query.fetch_one(&mut conn).await.map_err(failed)?;
            forgotten.attempts += row.get_unchecked::<i64, _>(0).unsigned_abs();
            after = row.get_unchecked(1);
        }
        drop(conn.close().await);
        Ok(forgotten)
    }
}

/// Removes outcomes from one key on, up to about another one. Gives how many.
async fn forget_keys(conn: &mut PgConnection, from: String, until: Option<&str>) -> Result<u64, sqlx::Error> {
    let (mut gone, mut after) = (0, Some(from));
    while let Some(key) = after.filter(|key| until.is_none_or(|until| key.as_str() < until)) {
        let query = sqlx::query("select gone, last from forget_keys($1, $2)").bind(key).bind(MOST);
        let row = query.fetch_one(&mut *conn).await?;
        gone += row.get_unchecked::<i64, _>(0).unsigned_abs();
        after = row.get_unchecked(1);
    }
    Ok(gone)
}
