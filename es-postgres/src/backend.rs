//! Connecting, and what the app asks of a backend.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::clock::Clock;
use es_core::id::Ids;
use es_core::services::Services;
use es_core::store::measure::Writes;
use es_core::store::{
    Backend, Builds, Commit, CommitError, Committed, Generation, INLINE, Position, Room, RowSnapshot,
    RowWakes, StoreError, Tables, Touched,
};
use sqlx::{Connection as _, Row as _};
use tokio::sync::watch;

use crate::history::{Histories, token};
use crate::lane::Lane;
use crate::partitions::Partitions;
use crate::pools::Pools;
use crate::projection::{Snapshot, Work};
use crate::readers::{Patience, Readers};
use crate::row::number;
use crate::streams::Streams;
use crate::types::{self, Types};
use crate::wake::{self, News};
use crate::witnesses::Witnesses;
use crate::{Db, PgOptions, Tx, check, connect, error, projection, schema, transient};

/// An event store in one schema of a PostgreSQL database. Clones share it.
///
/// Any number of processes may use one store. Appends are one at a time in the whole store, in the order of their
/// positions; callers of one process share a batch, so they hardly wait for each other.
#[derive(Clone, Debug)]
pub struct PgBackend(pub(crate) Arc<Store>);

#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) options: PgOptions,
    pub(crate) shared: Arc<Shared>,
    /// For transactions and queries of the user's own.
    pub(crate) pools: Pools,
    /// Commits that append, or depend on the log.
    log: Lane,
    /// Commits of the framework's own state: they need no gate, and wait for no append.
    state: Lane,
}

/// What the tasks of one store share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) identity: uuid::Uuid,
    /// The key of the lock that whoever appends holds.
    pub(crate) gate: i64,
    pub(crate) types: Types,
    pub(crate) streams: Streams,
    pub(crate) ids: Ids,
    pub(crate) readers: Arc<Readers>,
    pub(crate) partitions: Partitions,
    pub(crate) head: watch::Sender<Position>,
    pub(crate) row_wakes: RowWakes,
    pub(crate) witnesses: Witnesses,
    /// What other processes are told, if they are.
    pub(crate) news: Option<News>,
    clock: Option<Arc<dyn Clock>>,
}

impl Shared {
    /// Tells everybody what this process has written, up to this head.
    pub(crate) fn committed(&self, commits: &[&Commit], head: Position) {
        self.publish(head);
        self.touch(commits);
        if commits.iter().any(|commit| commit.needs_witness(false)) {
            self.witnesses.left();
        }
    }

    /// Tells readers how far the log goes now that this process has appended.
    pub(crate) fn publish(&self, head: Position) {
        self.see(head);
        self.partitions.reach(head);
        if let Some(news) = &self.news {
            news.head(head);
        }
    }

    /// Wakes whoever waits for rows of these commits, which were written, or may have been.
    pub(crate) fn touch(&self, commits: &[&Commit]) {
        let (mut touched, mut urgent) = (Touched::default(), false);
        for &commit in commits.iter().filter(|commit| !commit.rows.is_empty()) {
            urgent |= commit.rows.iter().any(|row| wake::is_urgent(&row.table));
            touched.extend(commit.into());
        }
        self.row_wakes.touch(&touched);
        if let Some(news) = &self.news {
            news.rows(touched, urgent);
        }
    }

    /// Wakes whoever waits for these rows.
    pub(crate) fn touched(&self, touched: Touched) {
        self.row_wakes.touch(&touched);
        if let Some(news) = &self.news {
            news.rows(touched, true);
        }
    }

    /// Tells readers in this process how far the log goes.
    pub(crate) fn see(&self, head: Position) {
        self.head.send_if_modified(|known| {
            let moved = head > *known;
            *known = head.max(*known);
            moved
        });
    }

    /// The number of the history that the store is known to have.
    pub(crate) fn history(&self) -> u64 {
        self.readers.histories().changes()
    }

    /// The time of the options' own clock, if it has one.
    pub(crate) fn micros(&self) -> Option<i64> {
        self.clock.as_ref().map(|clock| clock.now().as_microsecond())
    }

    pub(crate) async fn read_head(&self) -> Result<Position, StoreError> {
        const HEAD: &str = concat!(
            "select coalesce((select e.position from events e order by e.position desc limit 1), 0), ",
            token!(),
            " as history"
        );
        let before = *self.head.borrow();
        let rows = self.readers.rows("reading the head", || sqlx::query(HEAD)).await?;
        let head = Position(rows.first().map_or(0, |row| number(row.get_unchecked(0))));
        // What was heard of another history wakes nobody before this log has come as far: until somebody looks.
        self.head.send_if_modified(|known| {
            *known = if *known == before { before.min(head) } else { *known };
            false
        });
        Ok(head)
    }
}

impl Store {
    pub(crate) fn lane(&self, commit: &Commit) -> &Lane {
        // The set of inline projections takes its turn among the appends that name it.
        let inline = commit.rows.iter().any(|write| *write.table == *INLINE.0);
        if commit.appends.is_empty() && commit.checks.is_empty() && commit.condition.is_none() && !inline {
            &self.state
        } else {
            &self.log
        }
    }

    pub(crate) const fn lanes(&self) -> [&Lane; 2] {
        [&self.log, &self.state]
    }
}

impl PgBackend {
    /// Connects to a database by its URL; makes and migrates the schema if need be.
    ///
    /// Call it inside a tokio runtime: it starts the tasks that write.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if the URL, the account, the server or the schema will not do: the text lists what is
    /// missing. [`StoreError::Transient`] if the server cannot be reached, or is a standby that may be promoted.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::connect_with(PgOptions::new(url)?).await
    }

    /// Connects with options.
    ///
    /// # Errors
    ///
    /// As [`Self::connect`].
    pub async fn connect_with(options: PgOptions) -> Result<Self, StoreError> {
        let options = PgOptions { connect: options.connect.for_a_store(), ..options };
        let failed = |e| error::store("connecting to the database", e);
        let mut conn = connect::first(&options.for_store()).await?;
        check::server(&mut conn).await?;
        let options = PgOptions { watched: check::is_watched(&mut conn).await?, ..options };
        check::encryption(&mut conn, &options).await?;
        check::session(&mut conn, &options).await?;
        let identity = match schema::prepare(&mut conn, &options.schema, options.migrate).await {
            Ok(identity) => identity,
            Err(error) => {
                // If privileges are missing, all of them are named, not the first that was met.
                let lacking = check::lacking(&mut conn, &options.schema).await;
                if lacking.is_ok_and(|lacking| !lacking.is_empty()) {
                    check::account(&mut conn, &options.schema).await?;
                }
                return Err(error);
            }
        };
        check::account(&mut conn, &options.schema).await?;
        if let Some(problem) = check::locks(&mut conn, &options.schema).await? {
            tracing::warn!(problem, "the server may run out of room for locks");
        }
        let rows = sqlx::query(types::SELECT).fetch_all(&mut conn).await.map_err(failed)?;
        let kinds = Types::default();
        kinds.replace(0, types::kinds(&rows).map_err(failed)?);
        drop(conn.close().await);

        let connect = options.for_store();
        let patience = Patience::beside(options.statement_timeout);
        let histories = Arc::new(Histories::new(&options.schema, identity));
        let readers = Arc::new(Readers::new(connect.clone(), options.readers, patience, histories.clone()));
        let (news, stirred) = News::channel();
        let (news, witnesses) = (options.notify.then_some(news), Witnesses::new(readers.clone()));
        let shared = Arc::new(Shared {
            identity,
            gate: options.schema.gate(),
            types: kinds,
            streams: Streams::default(),
            ids: Ids::default(),
            partitions: Partitions::read(&readers).await?,
            readers,
            head: watch::Sender::default(),
            row_wakes: RowWakes::default(),
            witnesses,
            news,
            clock: options.clock.clone(),
        });
        shared.see(shared.read_head().await?);
        if options.notify {
            // A notification is worth no wait for the disk.
            let address = connect.with([("synchronous_commit", "off")]);
            let channel = format!("es_{}", options.schema);
            drop(tokio::spawn(wake::run(Arc::downgrade(&shared), address, channel, stirred)));
        }
        let pools = Pools::new(&options, histories);
        let room = || Room::new(options.queue.0, options.queue.1);
        let log = Lane::start(shared.clone(), options.for_lanes(), room(), Writes::of("events"));
        let state = Lane::start(shared.clone(), options.for_lanes(), room(), Writes::of("state"));
        Ok(Self(Arc::new(Store { options, shared, pools, log, state })))
    }

    /// Connections for SQL outside the app's queries: names of tables of projections mean the current generation of the
    /// version that [has them](es_core::store::Builds::publish).
    #[must_use]
    pub fn db(&self) -> Db {
        self.0.pools.db(&self.0.options, &[])
    }
}

#[async_trait]
impl Backend for PgBackend {
    type Tx = Tx;

    async fn begin(&self) -> Result<Tx, StoreError> {
        Tx::begin(&self.0).await
    }

    async fn begin_at(
        &self,
        tables: &Tables,
        generation: Generation,
        idle: Duration,
    ) -> Result<Tx, StoreError> {
        Tx::begin_at(&self.0, tables, generation, idle).await
    }

    fn is_transient(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        // A connection that has met a changed table is not to be tried again.
        let met = transient::causes(error).filter_map(|cause| cause.downcast_ref());
        met.for_each(|error| self.0.pools.stale.note(error));
        transient::is_transient(error)
    }

    fn provide(&self, services: &mut Services, own: &[Tables]) {
        services.replace(Arc::new(self.0.pools.db(&self.0.options, own)));
    }
}

#[async_trait]
impl Builds for PgBackend {
    async fn install(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError> {
        projection::install(self, tables, generation, true).await
    }

    async fn check(&self, tables: &Tables, generation: Generation) -> Result<(), StoreError> {
        projection::install(self, tables, generation, false).await
    }

    async fn clear(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        Work::begin(self, tables.name).await?.clear(tables, generation, commit).await
    }

    async fn uninstall(
        &self,
        tables: &Tables,
        generation: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        Work::begin(self, tables.name).await?.uninstall(tables, generation, commit).await
    }

    async fn switch(
        &self,
        tables: &Tables,
        to: Generation,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        Work::begin(self, tables.name).await?.switch(tables, to, commit).await
    }

    async fn publish(&self, tables: &Tables, commit: Commit) -> Result<Committed, CommitError> {
        Work::begin(self, tables.name).await?.publish(tables, commit).await
    }

    async fn remove_version(
        &self,
        projection: &str,
        version: u32,
        commit: Commit,
    ) -> Result<Committed, CommitError> {
        Work::begin(self, projection).await?.remove_version(version, commit).await
    }

    async fn row_snapshot(&self) -> Result<Box<dyn RowSnapshot>, StoreError> {
        let snapshot = Snapshot::take(self.patient().await?, self.0.options.schema.clone()).await;
        Ok(Box::new(snapshot.map_err(|e| error::store("reading in a snapshot", e))?))
    }
}
