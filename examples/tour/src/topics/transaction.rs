//! Events and ordinary tables in one transaction: both are there, or neither.

use es_core::ErrorKind;
use es_core::prelude::*;
use es_sqlite::SqliteBackend;
use tour::domain::{Account, AccountError, AccountId, Deposit, Open, Withdraw};

pub async fn run() -> anyhow::Result<()> {
    // Keep the backend: `begin` is its own.
    let backend = SqliteBackend::open(":memory:").await?;
    let app = App::on(backend.clone()).start().await?;
    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;

    let mut tx = backend.begin().await?;
    sqlx::query("create table receipts (number integer primary key, text text not null)")
        .execute(&mut *tx)
        .await?;
    sqlx::query("insert into receipts (text) values ('ten for ada')").execute(&mut *tx).await?;
    app.send(&ada, Deposit { amount: 10 }).within(&mut tx).await?;
    // A second command sees what the first decided. A refusal leaves the rest as it is: you say what becomes of it.
    let refused = app.send(&ada, Withdraw { amount: 11 }).within(&mut tx).await.expect_err("there are ten");
    assert_eq!(refused.refusal(), Some(&AccountError::Overdrawn { balance: 10 }));
    // Until it commits nobody sees anything. Another write would wait for this one, which waits for it: it is refused.
    let other = app.send(&ada, Deposit { amount: 1 }).await.expect_err("the transaction is open");
    assert_eq!(other.kind(), ErrorKind::Misuse);
    tx.commit().await?;

    // A transaction that is dropped is rolled back, and the events go with the rows.
    let mut tx = backend.begin().await?;
    sqlx::query("insert into receipts (text) values ('never')").execute(&mut *tx).await?;
    app.send(&ada, Deposit { amount: 90 }).within(&mut tx).await?;
    drop(tx);

    let balance = app.load::<Account>(&ada).await?.map(|account| account.balance);
    let receipts: i64 = sqlx::query_scalar("select count(*) from receipts").fetch_one(&backend.db()).await?;
    assert_eq!((balance, receipts), (Some(10), 1));
    crate::say("10 in the account and 1 receipt");
    Ok(())
}
