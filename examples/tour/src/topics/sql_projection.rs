//! A projection into tables of your own: events in, statements out, and queries on them.

use std::time::Duration;

use es_core::prelude::*;
use es_sqlite::{Db, SqliteBackend, Tx};
use tour::domain::{AccountId, Deposit, Deposited, Open, Opened, Withdraw, Withdrawn};

#[derive(Debug)]
pub struct Balances;

/// The schema is a file beside this one. The rows are written with the projection's place in the log.
#[projection(name = "balances", version = 1, schema = "sql_projection.sql")]
impl Balances {
    async fn opened(&self, e: Recorded<'_, Opened>, tx: &mut Tx) -> Result<(), BoxError> {
        let sql = "insert into balances (account, owner, amount) values (?, ?, 0)";
        sqlx::query(sql).bind(e.aggregate_id()?.to_string()).bind(&e.owner).execute(&mut **tx).await?;
        Ok(())
    }

    async fn deposited(&self, e: Recorded<'_, Deposited>, tx: &mut Tx) -> Result<(), BoxError> {
        add(&e.aggregate_id()?, e.amount, tx).await
    }

    async fn withdrawn(&self, e: Recorded<'_, Withdrawn>, tx: &mut Tx) -> Result<(), BoxError> {
        add(&e.aggregate_id()?, -e.amount, tx).await
    }
}

async fn add(account: &AccountId, amount: i64, tx: &mut Tx) -> Result<(), BoxError> {
    let sql = "update balances set amount = amount + ? where account = ?";
    sqlx::query(sql).bind(amount).bind(account.to_string()).execute(&mut **tx).await?;
    Ok(())
}

/// How much an owner has, over all accounts.
#[derive(Debug)]
pub struct Fortune(pub &'static str);

#[queries]
impl Balances {
    async fn fortune(&self, q: Fortune, db: &Db) -> Result<i64, sqlx::Error> {
        let sql = "select coalesce(sum(amount), 0) from balances where owner = ?";
        sqlx::query_scalar(sql).bind(q.0).fetch_one(db).await
    }
}

pub async fn run() -> anyhow::Result<()> {
    // A file in a real program. Its queries come with the projection.
    let app = App::on(SqliteBackend::open(":memory:").await?).projection(Balances).start().await?;
    for account in ["first", "second"] {
        let id = AccountId::from(account);
        app.send(&id, Open { owner: "Ada".to_owned() }).await?;
        app.send(&id, Deposit { amount: 10 }).await?;
    }
    let done = app.send(&AccountId::from("first"), Withdraw { amount: 3 }).await?;

    // Read your own write: wait until the projection has come as far as the command.
    app.wait_for::<Balances>(done.position, Duration::from_secs(5)).await?;
    let fortune = app.query(Fortune("Ada")).await?;
    assert_eq!(fortune, 17);

    crate::say(format!("Ada has {fortune}"));
    Ok(())
}
