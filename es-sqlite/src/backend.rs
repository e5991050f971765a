//! Opening a database, and what the app asks of a backend.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::services::Services;
use es_core::store::{
    Backend, Builds, Commit, CommitError, Committed, Generation, Position, Room, RowSnapshot, StoreError,
    Tables,
};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, SqliteConnection, SqlitePool};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::history::LOOK;
use crate::options::is_address;
use crate::place::Place;
use crate::projection::Seen;
use crate::reading::Reading;
use crate::wal::Wal;
use crate::writer::{Batcher, Shared, Writing};
use crate::{Db, SqliteOptions, Tx, error, projection, schema};

/// How often the file is looked at for commits of other processes.
const OTHERS: Duration = Duration::from_millis(100);

/// An event store in one SQLite file. Clones share it.
///
/// Several processes may open one file: each commit sees what the others committed, and their commits
/// wait for each other.
#[derive(Clone, Debug)]
pub struct SqliteBackend(pub(crate) Arc<Store>);

#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) shared: Arc<Shared>,
    pub(crate) batcher: Batcher,
    pub(crate) readers: SqlitePool,
    pub(crate) reading: Reading,
    file: PathBuf,
    /// The folder of a `:memory:` database; removed with the last handle.
    _temporary: Option<TempDir>,
}

impl SqliteBackend {
    /// Opens a file, or `:memory:`; makes and migrates it if need be.
    ///
    /// Call it inside a tokio runtime: it starts the task that writes.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if the folder is missing, or the file is no database, not to be opened, or of
    /// a newer program; [`StoreError::Transient`] if another process keeps it locked.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(SqliteOptions::new(path)).await
    }

    /// Opens a database with options.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub async fn open_with(options: SqliteOptions) -> Result<Self, StoreError> {
        let (file, temporary) = place(&options)?;
        let failed = |e| explain(&file, e);
        let connect = options.connect(&file);
        let mut conn = first_connection(&connect, options.lock_timeout).await.map_err(failed)?;
        schema::migrate(&mut conn).await?;
        let head = head(&mut conn).await.map_err(failed)?;
        let place = Place::new(&file);
        let shared = Shared::new(conn, place, options.clock.clone(), head, options.lock_timeout)
            .await
            .map_err(failed)?;
        let shared = Arc::new(shared);
        let reading = Reading::new(connect, options.readers);
        let readers = reading.pool();
        crate::types::reload(&shared.types, &readers).await.map_err(failed)?;
        let batcher = Batcher::start(shared.clone(), Room::new(options.queue.0, options.queue.1));
        let wal = Wal::new(&file, options.wal_limit);
        drop(tokio::spawn(wal.keep_short(Arc::downgrade(&shared), reading.gate.clone())));
        drop(tokio::spawn(watch_others(Arc::downgrade(&shared), readers.clone())));
        Ok(Self(Arc::new(Store { shared, batcher, readers, reading, file, _temporary: temporary })))
    }

    /// The file; of a `:memory:` database, the one that stands for it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.file
    }

    /// Connections that read, for SQL outside the app's queries. Names of tables of projections mean those of the
    /// version that has the plain names.
    #[must_use]
    pub fn db(&self) -> Db {
        Db::new(self.0.readers.clone())
    }
}

/// The file to open; for `:memory:` one in a folder of its own.
fn place(options: &SqliteOptions) -> Result<(PathBuf, Option<TempDir>), StoreError> {
    if !options.is_memory() {
        sensible(&options.path)?;
        return Ok((options.path.clone(), None));
    }
    let made = tempfile::Builder::new().prefix("es-sqlite-").tempdir();
    let folder = made.map_err(|e| StoreError::transient("making a folder for the `:memory:` database", e))?;
    Ok((folder.path().join("memory.db"), Some(folder)))
}

/// The connection that makes the file a WAL database, if it is none yet. SQLite does not wait with that for
/// another opener who does the same (its busy handler is not asked), so it is waited for here.
async fn first_connection(
    connect: &SqliteConnectOptions,
    lock_timeout: Duration,
) -> Result<SqliteConnection, sqlx::Error> {
    let started = Instant::now();
    loop {
        match connect.connect().await {
            Err(e) if error::is_busy(&e) && started.elapsed() < lock_timeout => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            outcome => return outcome,
        }
    }
}

/// What can be said of a path before it is opened.
fn sensible(path: &Path) -> Result<(), StoreError> {
    if path.as_os_str().is_empty() {
        return Err(StoreError::misuse("the path of the database is empty: give a file, or `:memory:`"));
    }
    if is_address(path) {
        // Not shown: it may have a password.
        let what = "the path of the database is the address of a server: give a file, or open it with the backend of that \
                    server";
        return Err(StoreError::misuse(what));
    }
    if path.is_dir() {
        let what = format!("{} is a folder: give a file in it as the database", path.display());
        return Err(StoreError::misuse(what));
    }
    Ok(())
}

/// The usual reasons why a file does not open, in words.
fn explain(file: &Path, error: sqlx::Error) -> StoreError {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder
        && !folder.is_dir()
    {
        return StoreError::misuse(format!(
            "the folder {} of the database is not there: make it",
            folder.display()
        ));
    }
    match error::store("opening the database", error) {
        StoreError::Corrupt { what } => StoreError::Corrupt { what: format!("{}: {what}", file.display()) },
        StoreError::Misuse { what } => StoreError::misuse(format!("{}: {what}", file.display())),
        other => other,
    }
}

async fn head(conn: &mut SqliteConnection) -> Result<Position, sqlx::Error> {
    let head: i64 =
        sqlx::query_scalar("select coalesce(max(position), 0) from es_events").fetch_one(conn).await?;
    Ok(Position(crate::row::number(head)))
}

/// Wakes readers of this process after a commit of another one. `data_version` changes with those only.
async fn watch_others(shared: std::sync::Weak<Shared>, readers: SqlitePool) {
    let mut conn = None;
    let mut seen = None;
    loop {
        tokio::time::sleep(OTHERS).await;
        let Some(shared) = shared.upgrade() else { return };
        if shared.head.receiver_count() == 0 {
            continue;
        }
        if conn.is_none() {
            conn = readers.acquire().await.ok().map(|c| c.detach());
        }
        let Some(open) = conn.as_mut() else { continue };
        let version = sqlx::query_scalar::<_, i64>("pragma data_version").fetch_one(&mut *open).await;
        match version {
            Ok(version) if seen != Some(version) => {
                seen = Some(version);
                let ask = shared.histories.ask();
                if let Ok(head) = head(open).await
                    && let Ok(look) = ask.bind(sqlx::query(LOOK)).fetch_one(open).await
                    && shared.histories.hear(ask, &look, 0).is_ok()
                {
                    shared.publish(head);
                }
            }
            Ok(_) => {}
            Err(_) => conn = None,
        }
    }
}

#[async_trait]
impl Backend for SqliteBackend {
    type Tx = Tx;

    /// Waits until no other transaction of this store is open.
    async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(Tx::new(Writing::begin(&self.0.shared).await?))
    }

    /// Never ended because its owner is silent: a file has no server that could. A process that dies lets go of it.
    async fn begin_at(&self, tables: &Tables, generation: Generation, _: Duration) -> Result<Tx, StoreError> {
        projection::begin_at(self.begin().await?, tables, generation).await
    }

    fn is_transient(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        error::is_transient(error)
    }

    fn has_one_writer(&self) -> bool {
        true
    }

    fn provide(&self, services: &mut Services, own: &[Tables]) {
        let reading = &self.0.reading;
        let db = match Seen::new(own) {
            Some(seen) => {
                Db::of(reading.pool_that_looks(seen.clone()), reading.pool_for_reads(seen.clone()), seen)
            }
            None => self.db(),
        };
        services.replace(Arc::new(db));
    }
}

#[async_trait]
impl Builds for SqliteBackend {
    async fn install(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError> {
        projection::install(self.begin().await?, tables, generation).await
    }

    async fn check(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError> {
        projection::check(self.begin().await?, tables, generation).await
    }

    async fn clear(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        projection::clear(self.begin().await?, tables, generation, commit).await
    }

    async fn uninstall(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        projection::uninstall(self.begin().await?, tables, generation, commit).await
    }

    async fn switch(
        &self,
        tables: &Tables,
        to: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        projection::switch(self.begin().await?, tables, to, commit).await
    }

    async fn publish(&self, tables: &Tables, commit: Commit) -> Result<Committed, CommitError> {
        projection::publish(self.begin().await?, tables, commit).await
    }

    async fn remove_version(
        &self,
        projection: &str,
        version: u32,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        projection::remove_version(self.begin().await?, projection, version, commit).await
    }

    async fn row_snapshot(&self) -> Result<Box<dyn RowSnapshot>, StoreError> {
        Ok(Box::new(projection::Snapshot::take(self.readers()?).await?))
    }
}
