//! A request that comes twice (a double click, a retry after a lost answer) happens once.

use anyhow::Context as _;
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use tour::domain::{Account, AccountError, AccountId, Deposit, Open, Withdraw};

pub async fn run() -> anyhow::Result<()> {
    let app = App::on(MemoryBackend::new()).start().await?;
    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;

    // The key is the client's name for the request; it is unique in the whole store.
    let first = app.send(&ada, Deposit { amount: 10 }).idempotency_key("request-1").await?;
    let again = app.send(&ada, Deposit { amount: 10 }).idempotency_key("request-1").await?;
    assert_eq!((again.version, again.events), (first.version, first.events));
    assert!(again.repeated && !first.repeated);

    // A refusal is an outcome too: it is remembered, also when the money came in meanwhile.
    let refused = AccountError::Overdrawn { balance: 10 };
    let no =
        app.send(&ada, Withdraw { amount: 11 }).idempotency_key("request-2").await.expect_err("too much");
    assert_eq!(no.refusal(), Some(&refused));
    app.send(&ada, Deposit { amount: 90 }).await?;
    let no =
        app.send(&ada, Withdraw { amount: 11 }).idempotency_key("request-2").await.expect_err("as before");
    assert_eq!(no.refusal(), Some(&refused));

    // The same key for something else is a mistake of the client.
    let other = app.send(&ada, Deposit { amount: 7 }).idempotency_key("request-1").await;
    assert!(matches!(other, Err(CommandError::KeyReused { .. })));

    let account = app.load::<Account>(&ada).await?.context("it was opened")?;
    assert_eq!(account.balance, 100);
    crate::say(format!("two deposits and three repeats: {}", account.balance));
    Ok(())
}
