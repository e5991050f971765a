//! Code around every command: one interceptor asks who may, another writes down who did.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use es_core::command::{Dispatch, Halted, Interceptor, Next};
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use tour::domain::{AccountId, Deposit, Open, Withdraw};

#[derive(Debug)]
struct Authorise;

#[async_trait]
impl Interceptor for Authorise {
    async fn dispatch(&self, dispatch: &mut Dispatch, next: Next<'_>) -> Result<(), Halted> {
        if dispatch.metadata.actor.is_none() {
            return Err(Halted::because("log in first"));
        }
        // The command itself can be looked at too.
        if dispatch.payload::<Withdraw>().is_some_and(|withdraw| withdraw.amount > 1_000) {
            return Err(Halted::because("that much only in person"));
        }
        next.run(dispatch).await
    }
}

/// What happened, in the order in which the commands ended.
#[derive(Clone, Debug, Default)]
struct Journal(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Interceptor for Journal {
    async fn dispatch(&self, dispatch: &mut Dispatch, next: Next<'_>) -> Result<(), Halted> {
        let outcome = next.run(dispatch).await;
        let ended = outcome.as_ref().map_or_else(ToString::to_string, |()| dispatch.events().join(", "));
        let line = format!("{} {}: {ended}", dispatch.command(), dispatch.stream());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        outcome
    }
}

pub async fn run() -> anyhow::Result<()> {
    let journal = Journal::default();
    // The first is the outermost: the journal also sees what was not allowed.
    let builder = App::on(MemoryBackend::new()).interceptor(journal.clone()).interceptor(Authorise);
    let app = builder.start().await?;
    let ada = AccountId::from("ada");

    let stranger = app.send(&ada, Open { owner: "Ada".to_owned() }).await;
    assert!(matches!(stranger, Err(CommandError::Intercepted(_))));
    app.send(&ada, Open { owner: "Ada".to_owned() }).actor("Ada").await?;
    app.send(&ada, Deposit { amount: 0 }).actor("Ada").await.expect_err("nothing to deposit");

    let lines = journal.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(lines[0], "open account-ada: log in first");
    assert_eq!(lines[1], "open account-ada: account.opened");
    assert!(lines[2].starts_with("deposit account-ada: refused"));
    lines.iter().for_each(crate::say);
    Ok(())
}
