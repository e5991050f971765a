//! Three empty databases of one server: of the journal, and two of the user's own, with guard rows where they are asked for.

use std::time::{Duration, Instant};

use anyhow::ensure;
use bench_kit::AT_ONCE;
use es_core::App;
use es_core::guard::GuardedDatabase;
use es_core::store::StoreError;
use es_postgres::{GuardedTx, PgBackend, PgGuarded};
use sagas::saga::SagaInput;
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::postgres::Server;
use crate::runs::at_once_each;

const TABLE: &str = "create table work (run text primary key, state text not null)";

/// How many, and how many of them at the same time.
#[derive(Clone, Copy)]
pub struct Load {
    pub n: u64,
    pub at_once: u64,
}

impl Load {
    /// With those that are done before the clock runs.
    pub const fn all(self) -> u64 {
        self.n + self.at_once
    }
}

/// What came of a load.
pub struct Done {
    pub rate: f64,
    /// For one, of all databases.
    pub statements: f64,
}

/// What is done: a row in each database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Take {
    pub run: String,
}
impl SagaInput for Take {}

impl Take {
    pub fn of(n: u64) -> Self {
        Self { run: format!("run-{n}") }
    }
}

/// The databases, and what is to be done in them.
pub struct Ground {
    pub load: Load,
    url: String,
    /// The database of the journal, without it.
    pub journal: PgPool,
    pub left: PgPool,
    pub right: PgPool,
    counts: bool,
}

impl Ground {
    /// Statements are only counted if that is wanted: the server keeps the text of each `prepare transaction`.
    pub fn make(server: &Server, load: Load, counts: bool) -> anyhow::Result<Self> {
        let track = if counts { "top" } else { "none" };
        let pool = |name: &str| {
            server.run(&format!("drop database if exists {name} with (force)"))?;
            server.make(name)?;
            server.run(&format!("alter database {name} set pg_stat_statements.track = {track}"))?;
            let options = PgPoolOptions::new().max_connections(AT_ONCE as u32).test_before_acquire(false);
            anyhow::Ok(options.connect_lazy(&server.url(name)?)?)
        };
        let [journal, left, right] = [pool("journal")?, pool("leftside")?, pool("rightside")?];
        Ok(Self { load, url: server.url("journal")?, journal, left, right, counts })
    }

    /// The table that is written, in all of them.
    pub async fn tables(&self) -> anyhow::Result<()> {
        for pool in [&self.journal, &self.left, &self.right] {
            sqlx::raw_sql(TABLE).execute(pool).await?;
        }
        Ok(())
    }

    /// The store that the journal is in.
    pub async fn store(&self) -> anyhow::Result<PgBackend> {
        Ok(PgBackend::connect(&self.url).await?)
    }

    /// The user's own databases, with guard rows.
    pub async fn guarded(&self) -> anyhow::Result<(Left, Right)> {
        let (left, right) = (PgGuarded::new(self.left.clone()), PgGuarded::new(self.right.clone()));
        left.install().await?;
        right.install().await?;
        Ok((Left(left), Right(right)))
    }

    /// Does all of the load. As many as there are at the same time are done before the clock runs: connections are there
    /// then, and statements prepared.
    pub async fn timed<F>(&self, each: impl Fn(u64) -> F) -> anyhow::Result<Done>
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let Load { n, at_once } = self.load;
        at_once_each(at_once, at_once, &each).await?;
        if self.counts {
            sqlx::raw_sql("create extension pg_stat_statements").execute(&self.left).await?;
            sqlx::raw_sql("select pg_stat_statements_reset()").execute(&self.left).await?;
        }
        let begun = Instant::now();
        at_once_each(n, at_once, |i| each(at_once + i)).await?;
        let rate = n as f64 / begun.elapsed().as_secs_f64();
        let statements = if self.counts { self.counted().await? / n as f64 } else { 0.0 };
        Ok(Done { rate, statements })
    }

    async fn counted(&self) -> anyhow::Result<f64> {
        let sum = "select coalesce(sum(calls), 0)::float8 from pg_stat_statements";
        Ok(sqlx::query_scalar(sum).fetch_one(&self.left).await?)
    }

    /// Makes sure that all of it is there, once, in these databases.
    pub async fn took(&self, pools: [&PgPool; 2]) -> anyhow::Result<()> {
        for pool in pools {
            self.has(pool, "select count(*) from work where state = 'taken'").await?;
            self.has(pool, "select count(*) from work").await?;
        }
        Ok(())
    }

    /// Makes sure that a query counts as many as were done.
    pub async fn has(&self, pool: &PgPool, query: &'static str) -> anyhow::Result<()> {
        let counted: i64 = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(pool).await?;
        ensure!(counted == i64::try_from(self.load.all())?, "{query}: {counted} of {}", self.load.all());
        Ok(())
    }
}

/// Nothing of it is at work any more when this returns.
pub async fn ended(app: &App) {
    app.shutdown(Duration::from_secs(10)).await;
}

/// Writes the row of a run.
pub async fn insert(conn: &mut PgConnection, run: &str, state: &str) -> sqlx::Result<()> {
    let insert = sqlx::query("insert into work (run, state) values ($1, $2)").bind(run).bind(state);
    insert.execute(conn).await.map(drop)
}

/// What was held is taken.
pub async fn take(conn: &mut PgConnection, run: &str) -> sqlx::Result<()> {
    let take = sqlx::query("update work set state = 'taken' where run = $1").bind(run);
    take.execute(conn).await.map(drop)
}

/// As if it had never been there.
pub async fn delete(conn: &mut PgConnection, run: &str) -> sqlx::Result<()> {
    sqlx::query("delete from work where run = $1").bind(run).execute(conn).await.map(drop)
}

/// A database of the user's own, by a type of its own: as services of an app are told apart.
pub trait Own: GuardedDatabase<Tx = GuardedTx> + Clone {
    const NAME: &'static str;
}

macro_rules! own { ($($own:ident $name:literal)+) => { $(
    #[derive(Clone)]
    pub struct $own(PgGuarded);
    impl GuardedDatabase for $own {
        type Tx = GuardedTx;
        async fn begin(&self) -> Result<GuardedTx, StoreError> {
            self.0.begin().await
        }
    }
    impl Own for $own {
        const NAME: &'static str = $name;
    }
)+ } }
own! { Left "left" Right "right" }

/// What each pattern does in one of them: a step, a branch, a link, and so on.
pub struct Takes<D>(pub D);
