//! A file that was restored or copied.

use es_core::id::Ids;
use es_core::store::{Adopt, StoreError};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use uuid::Uuid;

use crate::{SqliteOptions, error, schema};

const ADOPTING: &str = "adopting the store";
const GENERATION: &str = "update es_history set generation = ?, token = ?, redacts = null";
const IDENTITY: &str = "update es_store set identity = ?";

impl SqliteOptions {
    /// Says that the file has another history than the one that programs and readers know of it, and gives its new
    /// generation, which [`Stats`](crate::Stats) shows. Call it after a restore, and before programs write; with
    /// [`Adopt::Cloned`] while no program runs on it. A file of an older program is migrated.
    ///
    /// A program that lives through it forgets what it keeps of the store, and what it has decided on that is refused.
    /// Dropped half way it has been done, or it has not: `Stats` says so.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: nothing has changed. [`StoreError::Misuse`] if the file is not there or is no store, or for
    /// `:memory:`, which has one history.
    pub async fn adopt(&self, how: Adopt) -> Result<Uuid, StoreError> {
        if self.is_memory() {
            return Err(StoreError::misuse(
                "a database in memory is neither restored nor cloned: give the path of a file",
            ));
        }
        let failed = |e| error::store(ADOPTING, e);
        let connect = self.connect(&self.path).create_if_missing(false);
        let mut conn = connect.connect().await.map_err(failed)?;
        if !schema::is_store(&mut conn).await.map_err(failed)? {
            return Err(StoreError::misuse(format!("{} holds no store", self.path.display())));
        }
        schema::migrate(&mut conn).await?;
        let adopted = adopt(&mut conn, how).await.map_err(failed)?;
        conn.close().await.map_err(failed)?;
        Ok(adopted)
    }
}

async fn adopt(conn: &mut SqliteConnection, how: Adopt) -> Result<Uuid, sqlx::Error> {
    let ids = Ids::default();
    let (generation, token) = (ids.next(), ids.next());
    let mut tx = conn.begin_with("begin immediate").await?;
    if how == Adopt::Cloned {
        let identity = ids.next();
        sqlx::query(IDENTITY).bind(identity.as_bytes().as_slice()).execute(&mut *tx).await?;
    }
    let history = sqlx::query(GENERATION).bind(generation.as_bytes().as_slice());
    history.bind(token.as_bytes().as_slice()).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(generation)
}
