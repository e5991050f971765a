//! A store and databases of others, for transactions across them: with calls that hang, fail, or are not heard.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use es_core::EventStore as _;
use es_core::store::{
    Append, Branch, BranchId, Commit, EventFilter, ExpectedVersion, Fate, Marked, NewEvent, Participant,
    Position, Prepared, StoreError, StreamId, Transaction as _,
};
use es_core::testing::TestClock;
use es_postgres::testing::{self, Database};
use es_postgres::{PgBranch, PgParticipant};
use futures::future::join_all;
use sagas::two_phase::{GlobalTx, TwoPhase};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use uuid::Uuid;

use super::Subject;

/// Longer than anything takes here; nothing waits this long unless it fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// What is done with a branch, or asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Prepare,
    /// The commit of a branch that was not prepared.
    Alone,
    Commit,
    Abort,
    Outcome,
    Scan,
    /// Whether it was committed.
    Marked,
    Begin,
    Check,
}

/// What becomes of it.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It stops before, until it is let go.
    Before(Gate),
    /// It stops once it is done.
    After(Gate),
    /// It is not done, and fails.
    Lost,
    /// It is done, and fails.
    Unheard,
    /// It takes this long.
    Slow(Duration),
}

/// Where a call stops.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<(Semaphore, Semaphore)>);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Arc::new((Semaphore::new(0), Semaphore::new(0))))
    }

    /// Until a call stands here.
    pub(crate) async fn met(&self) {
        timeout(LIMIT, self.0.0.acquire()).await.expect("a call stands here").unwrap().forget();
    }

    pub(crate) fn let_go(&self) {
        self.0.1.add_permits(1);
    }

    async fn stop(&self) {
        self.0.0.add_permits(1);
        self.0.1.acquire().await.unwrap().forget();
    }
}

/// A database that takes part, whose calls hang and fail as one likes.
#[derive(Clone, Debug)]
pub(crate) struct Partner {
    pub(crate) inner: PgParticipant,
    faults: Arc<Mutex<VecDeque<(At, Fault)>>>,
    /// The transaction that it cannot commit.
    refused: Arc<Mutex<Option<Uuid>>>,
    /// What it never answers, of a transaction or of all.
    hangs: Arc<Mutex<Option<(At, Option<Uuid>)>>>,
}

impl Partner {
    pub(crate) fn new(inner: PgParticipant) -> Self {
        Self { inner, faults: Arc::default(), refused: Arc::default(), hangs: Arc::default() }
    }

    /// The next of these calls meets this.
    pub(crate) fn will(&self, at: At, fault: Fault) {
        self.faults.lock().unwrap().push_back((at, fault));
    }

    /// It cannot commit this transaction, ever.
    pub(crate) fn refuses(&self, txn: Option<Uuid>) {
        *self.refused.lock().unwrap() = txn;
    }

    /// It never answers calls of this kind, of a transaction or of all.
    pub(crate) fn hangs(&self, at: At, txn: Option<Uuid>) {
        *self.hangs.lock().unwrap() = Some((at, txn));
    }

    async fn answers(&self, at: At, id: &BranchId) {
        let hangs = *self.hangs.lock().unwrap();
        if hangs.is_some_and(|(of, txn)| of == at && txn.is_none_or(|txn| txn == id.txn())) {
            std::future::pending::<()>().await;
        }
    }

    /// What it would meet, it does not.
    pub(crate) fn forget_faults(&self) {
        self.faults.lock().unwrap().clear();
        *self.hangs.lock().unwrap() = None;
    }

    /// A call stops before it is made, or after.
    pub(crate) fn stops(&self, at: At, after: bool) -> Gate {
        let gate = Gate::new();
        let own = gate.clone();
        self.will(at, if after { Fault::After(own) } else { Fault::Before(own) });
        gate
    }
}

async fn meets<T>(
    faults: &Mutex<VecDeque<(At, Fault)>>,
    at: At,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let fault = {
        let mut faults = faults.lock().unwrap();
        let found = faults.iter().position(|(own, _)| *own == at);
        found.and_then(|i| faults.remove(i))
    };
    let lost = || StoreError::transient("a call", std::io::Error::other("the connection was lost"));
    match fault {
        None => call.await,
        Some((_, Fault::Before(gate))) => {
            gate.stop().await;
            call.await
        }
        Some((_, Fault::After(gate))) => {
            let done = call.await;
            gate.stop().await;
            done
        }
        Some((_, Fault::Slow(time))) => {
            tokio::time::sleep(time).await;
            call.await
        }
        Some((_, Fault::Lost)) => Err(lost()),
        Some((_, Fault::Unheard)) => call.await.and_then(|_| Err(lost())),
    }
}

#[async_trait]
impl Participant for Partner {
    type Branch = PartnerBranch;

    fn name(&self) -> &str {
        self.inner.name()
    }
    async fn check(&self) -> Result<(), StoreError> {
        meets(&self.faults, At::Check, self.inner.check()).await
    }
    async fn begin(&self, id: &BranchId) -> Result<PartnerBranch, StoreError> {
        let inner = meets(&self.faults, At::Begin, self.inner.begin(id)).await?;
        Ok(PartnerBranch { inner, faults: self.faults.clone() })
    }
    async fn commit(&self, id: &BranchId) -> Result<Fate, StoreError> {
        if *self.refused.lock().unwrap() == Some(id.txn()) {
            return Err(StoreError::misuse("it cannot be ended"));
        }
        self.answers(At::Commit, id).await;
        meets(&self.faults, At::Commit, self.inner.commit(id)).await
    }
    async fn abort(&self, id: &BranchId) -> Result<Fate, StoreError> {
        meets(&self.faults, At::Abort, self.inner.abort(id)).await
    }
    async fn was_committed(&self, id: &BranchId) -> Result<Marked, StoreError> {
        self.answers(At::Marked, id).await;
        meets(&self.faults, At::Marked, self.inner.was_committed(id)).await
    }
    async fn outcome(&self, id: &BranchId) -> Result<Fate, StoreError> {
        meets(&self.faults, At::Outcome, self.inner.outcome(id)).await
    }
    async fn prepared(&self, cluster: Uuid) -> Result<Vec<Prepared>, StoreError> {
        meets(&self.faults, At::Scan, self.inner.prepared(cluster)).await
    }
    async fn of_others(&self, cluster: Uuid) -> Result<Vec<Prepared>, StoreError> {
        self.inner.of_others(cluster).await
    }
}

pub(crate) struct PartnerBranch {
    pub(crate) inner: PgBranch,
    faults: Arc<Mutex<VecDeque<(At, Fault)>>>,
}

#[async_trait]
impl Branch for PartnerBranch {
    async fn has_written(&mut self) -> Result<bool, StoreError> {
        self.inner.has_written().await
    }
    async fn end(self) -> Result<(), StoreError> {
        self.inner.end().await
    }
    async fn prepare(self) -> Result<(), StoreError> {
        meets(&self.faults, At::Prepare, self.inner.prepare()).await
    }
    async fn commit(self) -> Result<(), StoreError> {
        meets(&self.faults, At::Alone, self.inner.commit()).await
    }
    async fn rollback(self) -> Result<(), StoreError> {
        self.inner.rollback().await
    }
}

/// A store, and databases with a table each.
pub(crate) struct Across<'s, S: Subject> {
    pub(crate) subject: &'s S,
    pub(crate) backend: S::Backend,
    pub(crate) clock: TestClock,
    pub(crate) databases: Vec<(Database, Partner)>,
    pub(crate) two_phase: TwoPhase<S::Backend>,
}

const NAMES: [&str; 3] = ["stock", "billing", "mail"];

impl<'s, S: Subject> Across<'s, S> {
    pub(crate) async fn open(subject: &'s S, databases: usize) -> Self {
        let clock = TestClock::default();
        let backend = subject.open(clock.clone()).await;
        let databases = join_all(NAMES.into_iter().take(databases).map(database)).await;
        let two_phase = with(&backend, databases.iter().map(|(_, own)| own.clone()));
        Self { subject, backend, clock, databases, two_phase }
    }

    pub(crate) fn at(&self, i: usize) -> &Partner {
        &self.databases[i].1
    }

    pub(crate) fn pool(&self, i: usize) -> &PgPool {
        self.at(i).inner.pool()
    }

    /// What another node has, which knows of no fault: with these of the databases.
    pub(crate) async fn another(&self, databases: &[usize]) -> TwoPhase<S::Backend> {
        let backend = self.subject.again(&self.backend, &self.clock).await;
        let own: Vec<_> = databases.iter().map(|i| self.at(*i).inner.clone()).collect();
        let builder = TwoPhase::on(backend).unwrap().grace(Duration::ZERO).outage(Duration::ZERO);
        own.into_iter().fold(builder, |builder, own| builder.participant(own)).build().unwrap()
    }

    /// The same, with all of the databases.
    pub(crate) async fn another_node(&self) -> TwoPhase<S::Backend> {
        self.another(&(0..self.databases.len()).collect::<Vec<_>>()).await
    }

    /// A transaction that has written in each database.
    pub(crate) async fn written(&self, what: &str) -> GlobalTx<S::Backend> {
        let mut tx = self.two_phase.begin();
        for (_, participant) in &self.databases {
            write(&mut tx, participant, what).await;
        }
        tx
    }

    /// The same, with an event.
    pub(crate) async fn written_with_event(&self, what: &str) -> GlobalTx<S::Backend> {
        let mut tx = self.written(what).await;
        append(&mut tx, what).await;
        tx
    }

    /// How many databases have it.
    pub(crate) async fn have(&self, what: &str) -> usize {
        let mut n = 0;
        for i in 0..self.databases.len() {
            n += rows(self.pool(i), what).await;
        }
        n
    }

    /// How many events there are.
    pub(crate) async fn events(&self) -> usize {
        self.backend.read(&EventFilter::all(), Position(0), 1_000).await.unwrap().events.len()
    }

    /// Nothing is prepared, and nothing on the list.
    pub(crate) async fn is_at_rest(&self) {
        for (i, name) in NAMES.iter().enumerate().take(self.databases.len()) {
            assert_eq!(self.prepared(i).await, [""; 0], "at {name}");
        }
        assert_eq!(self.two_phase.pending().await.unwrap(), []);
    }

    /// What is prepared in a database.
    pub(crate) async fn prepared(&self, i: usize) -> Vec<String> {
        let all = "select gid from pg_prepared_xacts where database = current_database() order by gid";
        sqlx::query_scalar(all).fetch_all(self.pool(i)).await.unwrap()
    }

    /// Runs SQL that nobody here knows of.
    pub(crate) async fn by_hand(&self, i: usize, sql: String) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(self.pool(i)).await.unwrap();
    }
}

/// With decisions in this store.
pub(crate) fn with<B: es_core::Backend + Clone>(
    backend: &B,
    participants: impl Iterator<Item = Partner>,
) -> TwoPhase<B> {
    let builder = TwoPhase::on(backend.clone()).unwrap().grace(Duration::ZERO).outage(Duration::ZERO);
    participants.fold(builder, |builder, own| builder.participant(own)).build().unwrap()
}

pub(crate) async fn database(name: &str) -> (Database, Partner) {
    let database = testing::database().await;
    let participant = at(name, database.url()).await;
    (database, participant)
}

/// A database with its tables.
pub(crate) async fn at(name: &str, url: &str) -> Partner {
    let pool = PgPoolOptions::new().max_connections(8).connect(url).await.unwrap();
    let participant = PgParticipant::new(name, pool).unwrap();
    participant.install().await.unwrap();
    let make = "create table done (what text not null);
        create table late (x integer, unique (x) deferrable initially deferred)";
    sqlx::raw_sql(make).execute(participant.pool()).await.unwrap();
    Partner::new(participant)
}

pub(crate) async fn write<B: es_core::Backend>(tx: &mut GlobalTx<B>, participant: &Partner, what: &str) {
    let branch = tx.branch(participant).await.unwrap();
    sqlx::query("insert into done values ($1)").bind(what).execute(&mut *branch.inner).await.unwrap();
}

/// Appends an event, wherever its stream is.
pub(crate) async fn append<B: es_core::Backend>(tx: &mut GlobalTx<B>, what: &str) {
    let append = event(what, ExpectedVersion::Any);
    tx.journal().await.unwrap().staged().appends.push(append);
}

pub(crate) fn event(what: &str, expected: ExpectedVersion) -> Append {
    let event = NewEvent {
        id: Uuid::new_v4(),
        name: "thing.done".into(),
        schema: 1,
        codec: "json".into(),
        data: "{}".into(),
        tags: Vec::new(),
        metadata: Arc::default(),
    };
    Append { stream: StreamId::new(format!("thing-{what}")).unwrap(), expected, events: vec![event] }
}

pub(crate) async fn commit_event<B: es_core::Backend>(backend: &B, what: &str) {
    let appends = vec![event(what, ExpectedVersion::Any)];
    backend.commit(Commit { appends, ..Commit::default() }).await.unwrap();
}

pub(crate) async fn rows(pool: &PgPool, what: &str) -> usize {
    let n: i64 = sqlx::query_scalar("select count(*) from done where what = $1")
        .bind(what)
        .fetch_one(pool)
        .await
        .unwrap();
    usize::try_from(n).unwrap()
}

/// The node of a commit is gone once it stands at all of these.
pub(crate) async fn crashes<T>(commit: impl Future<Output = T>, gates: &[Gate]) {
    let stands = join_all(gates.iter().map(Gate::met));
    tokio::select! {
        _ = commit => panic!("it has ended"),
        _ = stands => {}
    }
}
