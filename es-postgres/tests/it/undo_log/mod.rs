//! Tables whose changes are noted, and taken back: what a call has changed is as it was, byte for byte, or nothing of it is.

mod images;
mod locks;
mod mending;
mod random;
mod registering;
mod tables;
mod undoing;
mod upgrading;

use es_core::guard::{Guard, GuardError, GuardKey, GuardRows, Guarded, GuardedDatabase as _, Undoing};
use es_core::id::Ids;
use es_core::store::StoreError;
use es_postgres::testing::{self, Database};
use es_postgres::{PgUndoLog, UndoTx};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use uuid::Uuid;

/// A database with a log, and tables of the user's own.
pub(crate) struct Ground {
    pub(crate) log: PgUndoLog,
    _database: Database,
}

/// One call of a run.
#[derive(Clone, Debug)]
pub(crate) struct Call(Uuid, &'static str);

pub(crate) fn new_run() -> Uuid {
    Ids::default().next()
}

/// A call of a run of its own.
pub(crate) fn call() -> Call {
    Call(new_run(), "order/stock")
}

impl Call {
    pub(crate) const fn of(run: Uuid, name: &'static str) -> Self {
        Self(run, name)
    }

    pub(crate) const fn run(&self) -> Uuid {
        self.0
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.1
    }

    pub(crate) fn guard<'d>(&self, log: &'d PgUndoLog) -> Guard<'d, PgUndoLog> {
        Guard::new(log, GuardKey::new(self.0, self.1).unwrap(), 7)
    }
}

pub(crate) async fn exec(conn: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await.map(drop)
}

impl Ground {
    /// With these tables, which are tracked.
    pub(crate) async fn of(make: &str, tables: &[&str]) -> Self {
        let ground = Self::bare(make).await;
        ground.log.track(tables).await.unwrap();
        ground
    }

    /// What is there.
    pub(crate) const fn with(log: PgUndoLog, database: Database) -> Self {
        Self { log, _database: database }
    }

    /// With these tables, which are not.
    pub(crate) async fn bare(make: &str) -> Self {
        let database = testing::database().await;
        let pool = PgPoolOptions::new().max_connections(6).connect(database.url()).await.unwrap();
        let ground = Self { log: PgUndoLog::new(pool), _database: database };
        ground.log.install().await.unwrap();
        // A server that was built without libxml has no such values.
        let has_xml = ground.try_sql("select '<a/>'::xml").await.is_ok();
        let make = if has_xml { make.to_owned() } else { make.replace(" xml,", " text,") };
        ground.sql(&make).await;
        ground
    }

    pub(crate) fn pool(&self) -> &PgPool {
        self.log.pool()
    }

    /// SQL of a writer without a run.
    pub(crate) async fn sql(&self, sql: &str) {
        self.try_sql(sql).await.unwrap();
    }

    pub(crate) async fn try_sql(&self, sql: &str) -> Result<(), sqlx::Error> {
        // On a connection that nobody else has later.
        let mut conn = self.pool().acquire().await.unwrap().detach();
        exec(&mut conn, sql).await
    }

    /// What the writer meets who has no business there: nobody refuses a superuser's replica.
    pub(crate) async fn past_the_triggers(&self, sql: &str) {
        self.sql(&format!("set session_replication_role = replica; {sql}")).await;
    }

    /// Begins a call.
    pub(crate) async fn begin(&self, call: &Call) -> UndoTx {
        match call.guard(&self.log).forward().await.unwrap() {
            Guarded::Run(tx) => tx,
            other => panic!("it has run: {other:?}"),
        }
    }

    /// A call that does this, and commits.
    pub(crate) async fn runs(&self, call: &Call, sql: &[&str]) {
        let mut tx = self.begin(call).await;
        for sql in sql {
            exec(&mut tx, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        call.guard(&self.log).done(tx, "1".to_owned()).await.unwrap();
    }

    /// Undoes a call that has run.
    pub(crate) async fn undo(&self, call: &Call) -> Result<(), GuardError> {
        match call.guard(&self.log).undo(true).await? {
            Undoing::Run(tx, _) => call.guard(&self.log).undone(tx).await,
            Undoing::Nothing => Ok(()),
        }
    }

    pub(crate) async fn confirm(&self, call: &Call) {
        match call.guard(&self.log).confirm().await.unwrap() {
            es_core::guard::Confirming::Run(tx, output) => {
                call.guard(&self.log).confirmed(tx, output).await.unwrap();
            }
            es_core::guard::Confirming::Nothing => panic!("it was confirmed before"),
        }
    }

    /// Rows of these tables as text, by table and key: byte for byte.
    pub(crate) async fn all(&self, tables: &[&str]) -> Vec<String> {
        let mut all = Vec::new();
        for table in tables {
            let rows = format!("select row(its_row.*)::text from {table} its_row order by 1");
            let rows: Vec<String> =
                sqlx::query_scalar(AssertSqlSafe(rows)).fetch_all(self.pool()).await.unwrap();
            all.extend(rows.into_iter().map(|row| format!("{table} {row}")));
        }
        all
    }

    pub(crate) async fn count(&self, of: &str) -> i64 {
        let count = AssertSqlSafe(format!("select count(*) from {of}"));
        sqlx::query_scalar(count).fetch_one(self.pool()).await.unwrap()
    }

    /// How many changes of rows are noted.
    pub(crate) async fn noted(&self) -> i64 {
        self.count("es_undo.images, unnest(befores, afters)").await
    }

    /// Nothing is noted, and nothing is locked.
    pub(crate) async fn assert_over(&self) {
        let left = (self.count("es_undo.images").await, self.count("es_undo.locks").await);
        assert_eq!(left, (0, 0));
    }
}

/// The words of an undo that an operator has to see to.
pub(crate) fn blocked(undone: Result<(), GuardError>) -> String {
    match undone {
        Err(GuardError::Store(StoreError::Blocked { what })) => what,
        other => panic!("it was to be blocked: {other:?}"),
    }
}

pub(crate) fn code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|e| e.code()).unwrap_or_default().into_owned()
}

/// A transaction of the log without a call: nothing is noted there.
pub(crate) async fn left(log: &PgUndoLog) {
    log.begin().await.unwrap().rollback().await.unwrap();
}
