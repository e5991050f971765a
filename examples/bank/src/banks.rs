//! The two banks, and the journal between them: three databases.

use anyhow::Context as _;
use es_postgres::testing::{Database, Server, ServerOptions};
use es_postgres::{PgBackend, PgGuarded, PgParticipant};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::transfer::{AccountId, Bank};

/// Accounts of each bank, from 1.
pub(crate) const ACCOUNTS: i32 = 100;
const SCHEMA: &str = include_str!("schema.sql");
/// Connections of a program to each bank.
const CONNECTIONS: u32 = 16;

/// The accounts of both banks. Handlers ask for it.
#[derive(Clone, Debug)]
pub(crate) struct Banks {
    a: PgPool,
    b: PgPool,
}

impl Banks {
    pub(crate) const fn pool(&self, bank: Bank) -> &PgPool {
        match bank {
            Bank::A => &self.a,
            Bank::B => &self.b,
        }
    }

    /// Its database, for calls that act once.
    pub(crate) fn guarded(&self, bank: Bank) -> PgGuarded {
        PgGuarded::new(self.pool(bank).clone())
    }

    /// Its database, for transactions that span both.
    pub(crate) fn participant(&self, bank: Bank) -> anyhow::Result<PgParticipant> {
        let pool = self.pool(bank).clone();
        Ok(PgParticipant::new(&format!("bank-{bank}"), pool)?.with_lock_timeout(crate::by::LOCKS))
    }

    /// Whether it takes transfers from the other bank, from now on.
    pub(crate) async fn set_open(&self, bank: Bank, is_open: bool) -> Result<(), sqlx::Error> {
        let set = sqlx::query("update door set is_open = $1").bind(is_open);
        set.execute(self.pool(bank)).await.map(drop)
    }

    /// What an account has, if it is there.
    pub(crate) async fn balance(&self, id: AccountId) -> Result<Option<i64>, sqlx::Error> {
        let balance = sqlx::query_scalar("select balance from accounts where number = $1").bind(id.number);
        balance.fetch_optional(self.pool(id.bank)).await
    }

    /// Makes the tables and opens the accounts, if they are not there.
    async fn make(&self, bank: Bank) -> anyhow::Result<()> {
        self.guarded(bank).install().await?;
        let mut tx = self.pool(bank).begin().await?;
        sqlx::query("select pg_advisory_xact_lock(hashtext('bank'))").execute(&mut *tx).await?;
        sqlx::raw_sql(SCHEMA).execute(&mut *tx).await?;
        let mut rng = StdRng::seed_from_u64(bank as u64);
        let (numbers, opened): (Vec<i32>, Vec<i64>) =
            (1..=ACCOUNTS).map(|number| (number, rng.random_range(100_000..=1_000_000))).unzip();
        let open = "insert into accounts (number, opened) select * from unnest($1::int[], $2::bigint[])
            on conflict do nothing";
        sqlx::query(open).bind(numbers).bind(opened).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
    }
}

/// Where the three databases are.
#[derive(Clone, Debug)]
pub(crate) struct Urls([String; 3]);

impl Urls {
    /// Of the journal, of bank a, of bank b.
    pub(crate) fn new(urls: Vec<String>) -> anyhow::Result<Self> {
        let three = urls
            .try_into()
            .ok()
            .context("name three databases: that of the journal, of bank a, of bank b")?;
        Ok(Self(three))
    }

    /// As another program takes it.
    pub(crate) fn argument(&self) -> String {
        self.0.join(",")
    }
}

/// The databases, open.
#[derive(Clone, Debug)]
pub(crate) struct Databases {
    pub(crate) urls: Urls,
    pub(crate) journal: PgBackend,
    pub(crate) banks: Banks,
}

impl Databases {
    pub(crate) async fn open(urls: Urls) -> anyhow::Result<Self> {
        let [journal, a, b] = &urls.0;
        let journal = PgBackend::connect(journal).await.context("the journal cannot be opened")?;
        let pool = async |name: &str, url: &str| {
            let options = PgPoolOptions::new().max_connections(CONNECTIONS);
            options.connect(url).await.with_context(|| format!("bank {name} cannot be opened"))
        };
        let banks = Banks { a: pool("a", a).await?, b: pool("b", b).await? };
        Ok(Self { urls, journal, banks })
    }

    /// The same, with tables and accounts.
    pub(crate) async fn make(urls: Urls) -> anyhow::Result<Self> {
        let databases = Self::open(urls).await?;
        for bank in Bank::ALL {
            databases.banks.make(bank).await?;
        }
        Ok(databases)
    }

    /// The database of the journal, to look into.
    pub(crate) fn journal_pool(&self) -> Result<PgPool, sqlx::Error> {
        PgPoolOptions::new().max_connections(1).connect_lazy(&self.urls.0[0])
    }
}

/// A server of this program's own, which ends with it.
pub(crate) struct Own {
    pub(crate) urls: Urls,
    // Removed before the server ends.
    _databases: Vec<Database>,
    _server: Server,
}

impl Own {
    /// `durable`: whether a commit waits for the disk.
    pub(crate) async fn start(durable: bool) -> anyhow::Result<Self> {
        let start = move || ServerOptions::new().durable(durable).start();
        let server = tokio::task::spawn_blocking(start).await??;
        let mut databases = Vec::new();
        for _ in 0..3 {
            databases.push(server.database().await?);
        }
        let urls = Urls::new(databases.iter().map(|database| database.url().to_owned()).collect())?;
        Ok(Self { urls, _databases: databases, _server: server })
    }
}
