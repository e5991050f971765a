//! Data kept in step: a table in a second database, and a cache in each process.

use std::time::Duration;

use anyhow::Context as _;
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use sagas::mirror::{Mirror, Mirroring as _, Mirrors as _, NearCache};
use sqlx::SqlitePool;
use sqlx::sqlite::SqlitePoolOptions;
use tour::domain::{Account, AccountId, Deposit, Open};

/// Balances in a database of their own. With PostgreSQL it is the same statement.
#[derive(Clone)]
struct Balances(SqlitePool);

impl Mirror for Balances {
    const NAME: &'static str = "balances";
    type Of = Account;

    /// A write that comes late finds a newer version, and changes nothing.
    async fn write(&self, id: &AccountId, version: Version, account: &Account) -> Result<(), BoxError> {
        let sql = "insert into balances (account, version, balance) values (?, ?, ?)
                   on conflict (account) do update set version = excluded.version, balance = excluded.balance
                   where balances.version < excluded.version";
        let version = i64::try_from(version.0)?;
        let write = sqlx::query(sql).bind(id.to_string()).bind(version).bind(account.balance);
        write.execute(&self.0).await?;
        Ok(())
    }
}

impl Balances {
    async fn of(&self, id: &AccountId) -> Result<Option<i64>, sqlx::Error> {
        let sql = "select balance from balances where account = ?";
        sqlx::query_scalar(sql).bind(id.to_string()).fetch_optional(&self.0).await
    }
}

pub async fn run() -> anyhow::Result<()> {
    // One connection: each would have a database in memory of its own.
    let second = SqlitePoolOptions::new().max_connections(1).connect(":memory:").await?;
    let table = "create table balances (account text primary key, version bigint not null, balance bigint not null)";
    sqlx::raw_sql(table).execute(&second).await?;
    let (balances, accounts) = (Balances(second), NearCache::<Account>::new(10_000));

    let backend = MemoryBackend::new();
    let before = App::on(backend.clone()).start().await?;
    let (ada, bob) = (AccountId::from("ada"), AccountId::from("bob"));
    before.send(&ada, Open { owner: "Ada".to_owned() }).await?;

    let app = App::on(backend).mirror(balances.clone()).near_cache(&accounts).start().await?;
    app.send(&bob, Open { owner: "Bob".to_owned() }).await?;
    app.send(&bob, Deposit { amount: 5 }).await?;
    app.settle(Duration::from_secs(5)).await?;
    assert_eq!((balances.of(&ada).await?, balances.of(&bob).await?), (None, Some(5)));

    // What was there before the mirror was: once.
    app.fill::<Balances>().await?;
    assert_eq!(balances.of(&ada).await?, Some(0));

    // A write that was on its way for long.
    let late = app.load_at::<Account>(&bob, At::Version(Version(1))).await?.context("it was opened")?;
    balances.write(&bob, late.version, &late.state).await.map_err(anyhow::Error::from_boxed)?;
    assert_eq!(balances.of(&bob).await?, Some(5));

    // Read from memory, until something happens to it: in this process, or in any other.
    let cached = accounts.get(&bob).await?.context("it was opened")?;
    assert_eq!(cached.balance, 5);
    app.send(&bob, Deposit { amount: 1 }).await?;
    while accounts.get(&bob).await?.context("it was opened")?.balance != 6 {
        tokio::task::yield_now().await;
    }
    crate::say(format!("bob has {:?} in the second database, and 6 in memory", balances.of(&bob).await?));
    Ok(())
}
