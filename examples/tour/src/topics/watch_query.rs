//! A query that is watched: the answer now, and another one after each change.

use std::time::Duration;

use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use futures::{StreamExt as _, TryStreamExt as _};
use tour::domain::{AccountId, Deposit, Open};

use super::view::Balance;

#[derive(Clone)]
struct AmountOn(AccountId);

struct Page;

#[queries]
impl Page {
    async fn amount(&self, q: AmountOn, views: &Views) -> Result<i64, BoxError> {
        Ok(views.get::<Balance>(&q.0).await?.map_or(0, |balance| balance.amount))
    }
}

pub async fn run() -> anyhow::Result<()> {
    let app = App::on(MemoryBackend::new()).view::<Balance>().queries(Page).start().await?;
    let ada = AccountId::from("ada");
    app.send(&ada, Open { owner: "Ada".to_owned() }).await?;

    let mut answers = app.watch(AmountOn(ada.clone())).boxed();
    assert_eq!(answers.try_next().await?, Some(0));
    app.send(&ada, Deposit { amount: 10 }).await?;
    assert_eq!(answers.try_next().await?, Some(10));

    // Whoever is slow gets the newest answer, not those in between.
    app.send(&ada, Deposit { amount: 1 }).await?;
    let done = app.send(&ada, Deposit { amount: 1 }).await?;
    app.wait_for::<Balance>(&done, Duration::from_secs(5)).await?;
    assert_eq!(answers.try_next().await?, Some(12));

    // It ends with the app.
    app.shutdown(Duration::from_secs(5)).await;
    assert_eq!(answers.try_next().await?, None);
    crate::say("0, 10, 12");
    Ok(())
}
