//! The transaction of a call that is undone by itself.

use std::cmp::Ordering;
use std::ops::{Deref, DerefMut};

use es_core::guard::{GuardKey, GuardRow, GuardRows, Standing};
use es_core::store::StoreError;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::refusal::{failed, missing, not_undone};
use super::sql::FORMAT;
use crate::GuardedTx;

/// The log of a newer program.
pub(super) fn newer(format: i32) -> StoreError {
    StoreError::misuse(format!(
        "the undo log has format {format}, this program knows {FORMAT}: use a newer program"
    ))
}

fn not_noted() -> StoreError {
    StoreError::misuse("the SQL of a call has ended that its changes are noted, by RESET ALL or the like")
}

/// Changes a guard row, and says whether changes are still noted.
const CHANGE: &str = "update es_guard.guards set state = $3, result = $4, changed = clock_timestamp()
    where run = $1 and call = $2 returning coalesce(current_setting('es_undo.mode', true), '')";

/// A transaction of a call to a [`PgUndoLog`](crate::PgUndoLog). Derefs to sqlx's connection:
/// `sqlx::query(..).execute(&mut **tx)`.
///
/// It ends with the call: do not commit it, or roll it back, by SQL. Savepoints are fine: what is rolled back to one is not
/// undone later. `RESET ALL` would end that changes are noted: the call is refused then.
#[derive(Debug)]
pub struct UndoTx(pub(super) GuardedTx);

impl Deref for UndoTx {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for UndoTx {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

impl GuardRows for UndoTx {
    async fn insert(&mut self, key: &GuardKey, row: &GuardRow) -> Result<bool, StoreError> {
        let is_first = self.0.insert(key, row).await?;
        if is_first && row.standing == Standing::Intent {
            let begin = sqlx::query("select es_undo.begin($1, $2)").bind(key.run()).bind(key.call());
            begin.execute(&mut **self).await.map_err(|e| failed("beginning to note changes", e))?;
        }
        Ok(is_first)
    }

    async fn find(&mut self, key: &GuardKey) -> Result<Option<GuardRow>, StoreError> {
        self.0.find(key).await
    }

    async fn change(&mut self, key: &GuardKey, standing: &Standing) -> Result<(), StoreError> {
        match standing {
            Standing::Undone => {
                let restore = sqlx::query("select es_undo.restore($1, $2)").bind(key.run()).bind(key.call());
                restore.execute(&mut **self).await.map_err(|e| not_undone("undoing a call", e))?;
            }
            Standing::Confirmed(_) => {
                let release = sqlx::query("select es_undo.release($1, $2)").bind(key.run()).bind(key.call());
                release
                    .execute(&mut **self)
                    .await
                    .map_err(|e| failed("forgetting what a call has changed", e))?;
            }
            Standing::Done(_) => {
                let mode = self.0.change_and_read(key, standing, CHANGE).await?;
                return if mode == "capture" { Ok(()) } else { Err(not_noted()) };
            }
            Standing::Intent | Standing::Tomb(_) => {}
        }
        self.0.change(key, standing).await
    }

    async fn floor(&mut self) -> Result<Uuid, StoreError> {
        let what = "reading about the undo log";
        let read = sqlx::query("select format from es_undo.about").fetch_optional(&mut **self).await;
        let row = read.map_err(|e| failed(what, e))?.ok_or_else(|| missing("es_undo.about has no row"))?;
        let format: i32 = row.try_get(0).map_err(|e| failed(what, e))?;
        match format.cmp(&FORMAT) {
            Ordering::Greater => Err(newer(format)),
            Ordering::Less => {
                Err(missing(&format!("that of an earlier program has format {format}, and is not enough")))
            }
            Ordering::Equal => self.0.floor().await,
        }
    }

    async fn check(&mut self) -> Result<(), StoreError> {
        self.floor().await?;
        let check = sqlx::query_scalar("select why from es_undo.check() why order by why");
        let why: Vec<String> =
            check.fetch_all(&mut **self).await.map_err(|e| failed("checking tables that are tracked", e))?;
        if why.is_empty() {
            return Ok(());
        }
        Err(StoreError::misuse(format!(
            "tables that are tracked are not noted as they are now: {}",
            why.join("; ")
        )))
    }

    async fn forget(&mut self, to: Uuid) -> Result<u64, StoreError> {
        let what = "forgetting images";
        for forget in [
            "delete from es_undo.images where run < $1",
            "delete from es_undo.locks where run < $1",
            "delete from es_undo.acts where run < $1",
        ] {
            sqlx::query(forget).bind(to).execute(&mut **self).await.map_err(|e| failed(what, e))?;
        }
        self.0.forget(to).await
    }

    async fn commit(self) -> Result<(), StoreError> {
        self.0.commit().await
    }

    async fn rollback(self) -> Result<(), StoreError> {
        self.0.rollback().await
    }
}
