//! The live transaction of this backend.

use std::ops::{Deref, DerefMut};

use async_trait::async_trait;
use es_core::store::{Commit, CommitError, Committed, StoreError, Transaction, measure};
use sqlx::SqliteConnection;

use crate::writer::Writing;
use crate::{batch, error, schema};

/// The user's SQL and what is staged, in one transaction. Derefs to sqlx's connection:
/// `sqlx::query(..).execute(&mut **tx)`.
///
/// It holds the store's only write connection: other writes of this process wait until it ends. Code that holds it must
/// not await another write of the same store, since it would wait for itself: that is refused after a second in which
/// nothing was done with the `Tx`. Futures that are joined in one task may do both, one holding a `Tx` while another one
/// writes, as long as the first one does not pause for longer than that in between. Dropping it rolls back.
///
/// Temporary tables, views and triggers are for this transaction: they may be gone in the next one.
#[derive(Debug)]
pub struct Tx {
    writing: Writing,
    /// The history that was known when it began.
    history: u64,
    staged: Commit,
    /// SQL to run before the commit: tables of a projection have another generation's names.
    give_back: Option<String>,
}

impl Tx {
    pub(crate) fn new(writing: Writing) -> Self {
        let history = writing.shared().histories.changes();
        Self { writing, history, staged: Commit::default(), give_back: None }
    }

    /// Runs this before the commit.
    pub(crate) fn give_back(&mut self, names: String) {
        self.give_back = Some(names);
    }
}

impl Deref for Tx {
    type Target = SqliteConnection;
    fn deref(&self) -> &SqliteConnection {
        self.writing.conn()
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.writing.hold();
        self.writing.conn_mut()
    }
}

#[async_trait]
impl Transaction for Tx {
    fn staged(&mut self) -> &mut Commit {
        self.writing.hold();
        &mut self.staged
    }

    fn identity(&self) -> uuid::Uuid {
        self.writing.identity()
    }

    async fn commit(mut self) -> Result<Committed, CommitError> {
        es_core::store::check::commit(&self.staged)?;
        self.writing.let_go();
        if let Some(names) = self.give_back {
            self.writing.not_lost()?;
            let given = sqlx::raw_sql(schema::sql(names)).execute(self.writing.conn_mut()).await;
            given.map_err(|e| error::store("giving the tables of a projection their names back", e))?;
        }
        self.writing.shared().name(&mut self.staged);
        self.writing.end_watch()?;
        let mut outcomes = batch::run(&mut self.writing, vec![(self.staged, self.history)]).await;
        let outcome = outcomes.pop().expect("one outcome for one commit");
        measure::outcome(&outcome);
        outcome
    }

    async fn rollback(mut self) -> Result<(), StoreError> {
        self.writing.let_go();
        self.writing.rollback().await.map_err(|e| error::store("rolling back", e))
    }
}
