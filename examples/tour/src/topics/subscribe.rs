//! The log as a stream: every matching event once and in order, those of the past and those to come.
//!
//! Where you are is yours to keep. A view, a projection or a reactor keeps it for you.

use std::pin::pin;

use anyhow::Context as _;
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::store::{EventFilter, subscribe};
use futures::StreamExt as _;
use tour::domain::{AccountId, Deposit, Deposited, Open};

pub async fn run() -> anyhow::Result<()> {
    let app = App::on(MemoryBackend::new()).start().await?;
    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
    app.send(&ada, Deposit { amount: 1 }).await?;

    let deposits = EventFilter::of::<Deposited>();
    let mut events = pin!(subscribe(app.store_handle(), deposits.clone(), Position(0)));
    let old = events.next().await.context("it never ends")??;
    assert_eq!(old.payload::<Deposited>()?, Some(Deposited { amount: 1 }));

    // From now on: it waits until there is something.
    let later = async {
        tokio::task::yield_now().await;
        app.send(&ada, Deposit { amount: 2 }).await
    };
    let (new, sent) = futures::join!(events.next(), later);
    let new = new.context("it never ends")??;
    assert_eq!(new.position, Some(sent?.position));

    // Another reader goes on after the position that it kept.
    let mut rest = pin!(subscribe(app.store_handle(), deposits, old.place()));
    assert_eq!(rest.next().await.context("it never ends")??.id, new.id);

    crate::say(format!("{} at {}, {} at {}", old.name, old.place(), new.name, new.place()));
    Ok(())
}
