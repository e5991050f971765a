//! Options of a send: decide only on what the user saw, and what the events carry beside their payload.

use anyhow::Context as _;
use es_core::ErrorKind;
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::store::StreamId;
use tour::domain::{Account, AccountId, Deposit, Open, Withdraw};

pub async fn run() -> anyhow::Result<()> {
    let app = App::on(MemoryBackend::new()).start().await?;
    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;

    // A form was shown. It carries the version; an ETag would too.
    let seen = app.load::<Account>(&ada).await?.context("it was opened")?.version;
    app.send(&ada, Deposit { amount: 10 }).await?;

    // Somebody else was first. Without `expect_version` the command is decided again, on the new state.
    let late = app.send(&ada, Withdraw { amount: 1 }).expect_version(seen).await.expect_err("it has changed");
    assert_eq!(late.kind(), ErrorKind::Conflict);

    // `metadata` replaces all of it, so it comes before `actor` and `tenant`.
    let mut metadata = Metadata::default();
    metadata.user.insert("channel".to_owned(), "counter".to_owned());
    let done = app.send(&ada, Withdraw { amount: 1 }).metadata(metadata).actor("teller 7").await?;

    let stored = app.store().stream(&StreamId::new("account-ada")?, Version(done.version.0 - 1), 1).await?;
    let metadata = &stored.first().context("it was stored")?.metadata;
    assert_eq!(metadata.actor.as_deref(), Some("teller 7"));
    assert_eq!(metadata.user["channel"], "counter");
    // Set by the framework: the flow that a command belongs to, and what caused the event.
    assert!(metadata.correlation.is_some() && metadata.causation.is_some());

    crate::say(format!("{}; then stored by {:?}", es_core::chain(&late), metadata.actor));
    Ok(())
}
