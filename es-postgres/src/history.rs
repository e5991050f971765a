//! Which history of the store a connection leads to.
//!
//! After a failover or a restore, numbers of streams and of types stand for other ones. Both come with new connections, so
//! each of those is asked once; what was read through earlier ones is then forgotten, if the answer is another one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sqlx::PgConnection;

/// The store, its row (written anew by whoever restores it), the server's cluster, and how often that was promoted.
const SELECT: &str = "select concat_ws('/', s.identity, s.tableoid, s.xmin, c.system_identifier,
        case when not pg_is_in_recovery() then left(pg_walfile_name(pg_current_wal_lsn()), 8) end)
    from store s, pg_control_system() c";

/// The histories that the connections of this process have led to.
#[derive(Debug, Default)]
pub(crate) struct Histories {
    last: Mutex<Option<String>>,
    changes: AtomicU64,
}

impl Histories {
    /// How often it was another one than before.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Asks a connection that is new.
    pub(crate) async fn meet(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let met: String = sqlx::query_scalar(SELECT).fetch_one(conn).await?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|last| *last != met) {
            tracing::warn!("the store has another history than before: what was known of it is forgotten");
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
        *last = Some(met);
        Ok(())
    }
}
