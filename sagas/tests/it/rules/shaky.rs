//! Databases of somebody's own that take part: with a table of what was done, and commits whose answers are lost.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::BoxError;
use es_core::guard::{GuardKey, GuardRow, GuardRows, GuardedDatabase, Standing};
use es_core::store::StoreError;
use es_postgres::PgGuarded;
use es_sqlite::SqliteGuarded;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{PgPool, SqlitePool};
use uuid::Uuid;

use super::Subject;

/// A subject that has a second database.
pub(crate) trait WithOther: Subject {
    type Other: Ledger + Clone;
    /// A new database, without tables.
    async fn other(&self) -> Self::Other;
}

/// A database with a table of what was done: twice, if it was done twice.
pub(crate) trait Ledger: GuardedDatabase {
    async fn make(&self);
    /// The same, for whoever does not wait long for others.
    async fn impatient(&self) -> Self;
    /// The same, over connections that isolate more than others do, unless they are told.
    async fn strict(&self) -> Self;
    fn write(tx: &mut Self::Tx, what: &str) -> impl Future<Output = Result<(), BoxError>> + Send;
    /// An error that ends the transaction, and that nobody looks at.
    fn spoil(tx: &mut Self::Tx) -> impl Future<Output = ()> + Send;
    async fn written(&self) -> Vec<String>;
    /// Guard rows of such calls are lost.
    async fn loses(&self, call: &str);
}

const MAKE: &str = "create table done (what text not null)";
const ALL: &str = "select what from done order by what";

impl Ledger for PgGuarded {
    async fn make(&self) {
        let (one, two) = futures::join!(self.install(), self.install());
        one.and(two).unwrap();
        sqlx::raw_sql(MAKE).execute(self.pool()).await.unwrap();
    }
    async fn impatient(&self) -> Self {
        self.clone().with_lock_timeout(Duration::from_millis(1))
    }
    async fn strict(&self) -> Self {
        let options = (*self.pool().connect_options()).clone();
        let isolation = [("default_transaction_isolation", "repeatable read")];
        Self::new(PgPool::connect_with(options.options(isolation)).await.unwrap())
    }
    async fn write(tx: &mut Self::Tx, what: &str) -> Result<(), BoxError> {
        sqlx::query("insert into done values ($1)").bind(what).execute(&mut **tx).await?;
        Ok(())
    }
    async fn spoil(tx: &mut Self::Tx) {
        sqlx::query("select 1 / 0").execute(&mut **tx).await.unwrap_err();
    }
    async fn written(&self) -> Vec<String> {
        sqlx::query_scalar(ALL).fetch_all(self.pool()).await.unwrap()
    }
    async fn loses(&self, call: &str) {
        let lose = "delete from es_guard.guards where call = $1";
        assert_eq!(sqlx::query(lose).bind(call).execute(self.pool()).await.unwrap().rows_affected(), 1);
    }
}

impl Ledger for SqliteGuarded {
    async fn make(&self) {
        let (one, two) = futures::join!(self.install(), self.install());
        one.and(two).unwrap();
        sqlx::raw_sql(MAKE).execute(self.pool()).await.unwrap();
    }
    async fn impatient(&self) -> Self {
        let options: SqliteConnectOptions = (*self.pool().connect_options()).clone();
        Self::new(SqlitePool::connect_with(options.busy_timeout(Duration::from_millis(1))).await.unwrap())
    }
    async fn strict(&self) -> Self {
        self.clone()
    }
    async fn write(tx: &mut Self::Tx, what: &str) -> Result<(), BoxError> {
        sqlx::query("insert into done values (?)").bind(what).execute(&mut **tx).await?;
        Ok(())
    }
    async fn spoil(tx: &mut Self::Tx) {
        sqlx::query("insert or rollback into done values (null)").execute(&mut **tx).await.unwrap_err();
    }
    async fn written(&self) -> Vec<String> {
        sqlx::query_scalar(ALL).fetch_all(self.pool()).await.unwrap()
    }
    async fn loses(&self, call: &str) {
        let lose = "delete from es_guards where call = ?";
        assert_eq!(sqlx::query(lose).bind(call).execute(self.pool()).await.unwrap().rows_affected(), 1);
    }
}

pub(crate) async fn file(path: std::path::PathBuf) -> SqliteGuarded {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    SqliteGuarded::new(SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap())
}

pub(crate) async fn database(url: &str) -> PgGuarded {
    PgGuarded::new(PgPool::connect(url).await.unwrap())
}

/// What becomes of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is applied, and nobody hears of it.
    Unheard,
    /// The same, and the database is away from then on.
    UnheardAndAway,
    /// It is not applied, and nobody hears of it.
    Lost,
    /// Whoever commits is gone before that: it is not applied, and never ends.
    Hangs,
}

/// A database whose commits go wrong as they are told; others go well.
#[derive(Clone, Debug)]
pub(crate) struct Shaky<D> {
    pub(crate) inner: D,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    is_away: Arc<AtomicBool>,
}

impl<D> Shaky<D> {
    pub(crate) fn new(inner: D) -> Self {
        Self { inner, faults: Arc::default(), is_away: Arc::default() }
    }

    /// It is there again.
    pub(crate) fn comes_back(&self) {
        self.is_away.store(false, Ordering::SeqCst);
    }

    fn is_there(&self) -> Result<(), StoreError> {
        match self.is_away.load(Ordering::SeqCst) {
            true => Err(StoreError::transient("connecting", std::io::Error::other("it is away"))),
            false => Ok(()),
        }
    }

    fn shaky<T>(&self, tx: T) -> ShakyTx<T> {
        ShakyTx { tx, faults: self.faults.clone(), is_away: self.is_away.clone() }
    }

    pub(crate) fn will(&self, faults: &[Fault]) {
        self.faults.lock().unwrap().extend(faults);
    }

    /// Whether all of them have come true.
    pub(crate) fn has_met_all(&self) -> bool {
        self.faults.lock().unwrap().is_empty()
    }
}

impl<D: Ledger> Shaky<D> {
    pub(crate) async fn written(&self) -> Vec<String> {
        self.inner.written().await
    }
}

impl<D: Ledger> GuardedDatabase for Shaky<D> {
    type Tx = ShakyTx<D::Tx>;

    async fn begin(&self) -> Result<Self::Tx, StoreError> {
        self.is_there()?;
        Ok(self.shaky(self.inner.begin().await?))
    }
}

pub(crate) struct ShakyTx<T> {
    pub(crate) tx: T,
    faults: Arc<Mutex<VecDeque<Fault>>>,
    is_away: Arc<AtomicBool>,
}

impl<T: GuardRows> GuardRows for ShakyTx<T> {
    async fn insert(&mut self, key: &GuardKey, row: &GuardRow) -> Result<bool, StoreError> {
        self.tx.insert(key, row).await
    }
    async fn find(&mut self, key: &GuardKey) -> Result<Option<GuardRow>, StoreError> {
        self.tx.find(key).await
    }
    async fn change(&mut self, key: &GuardKey, standing: &Standing) -> Result<(), StoreError> {
        self.tx.change(key, standing).await
    }
    async fn floor(&mut self) -> Result<Uuid, StoreError> {
        self.tx.floor().await
    }
    async fn forget(&mut self, floor: Uuid) -> Result<u64, StoreError> {
        self.tx.forget(floor).await
    }
    async fn page(
        &mut self,
        after: Option<&GuardKey>,
        limit: usize,
    ) -> Result<Vec<(GuardKey, GuardRow)>, StoreError> {
        self.tx.page(after, limit).await
    }
    async fn commit(self) -> Result<(), StoreError> {
        let fault = self.faults.lock().unwrap().pop_front();
        match fault {
            None => return self.tx.commit().await,
            Some(Fault::Unheard) => self.tx.commit().await?,
            Some(Fault::UnheardAndAway) => {
                self.tx.commit().await?;
                self.is_away.store(true, Ordering::SeqCst);
            }
            Some(Fault::Lost) => self.tx.rollback().await?,
            Some(Fault::Hangs) => {
                self.tx.rollback().await?;
                std::future::pending::<()>().await;
            }
        }
        Err(StoreError::transient("committing", std::io::Error::other("the connection was lost")))
    }
    async fn rollback(self) -> Result<(), StoreError> {
        self.tx.rollback().await
    }
}
