//! A store that was restored or cloned.

use es_core::store::{Adopt, StoreError};
use sqlx::Connection as _;
use uuid::Uuid;

use crate::{PgOptions, connect, error, schema};

impl PgOptions {
    /// Says that the store has another history than the one that programs and readers know of it, and gives its new
    /// generation, which [`Stats`](crate::Stats) shows. Call it after a restore, and before programs write; with
    /// [`Adopt::Cloned`] while no program runs on it.
    ///
    /// A program that lives through it forgets what it keeps of the store, and what it has decided on that is refused.
    /// Dropped half way it has been done, or it has not: `Stats` says so.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: nothing has changed. [`StoreError::Misuse`] if the schema is not up to date, or the account does not
    /// own it.
    pub async fn adopt(&self, how: Adopt) -> Result<Uuid, StoreError> {
        let failed = |e| error::store("adopting the store", e);
        let mut conn = connect::first(&self.for_store()).await?;
        schema::prepare(&mut conn, &self.schema, false).await?;
        let adopt = sqlx::query_scalar("select adopt($1)").bind(how == Adopt::Cloned);
        let generation = adopt.fetch_one(&mut conn).await.map_err(failed)?;
        drop(conn.close().await);
        Ok(generation)
    }
}
