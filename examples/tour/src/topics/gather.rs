//! One question, the answers of several handlers.

use std::time::Duration;

use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::query::Gather;

/// What does a loan cost a year? Every bank has its own answer.
#[derive(Clone)]
struct Loan {
    amount: i64,
}

impl Gather for Loan {
    type Answer = i64;
}

struct Cooperative;

#[queries]
impl Cooperative {
    #[gather]
    async fn loan(&self, q: Loan) -> Result<i64, BoxError> {
        Ok(q.amount * 3 / 100)
    }
}

struct Private;

#[queries]
impl Private {
    #[gather]
    async fn loan(&self, q: Loan) -> Result<i64, BoxError> {
        if q.amount < 10_000 { Err("nothing below 10,000".into()) } else { Ok(q.amount * 2 / 100) }
    }
}

struct Asleep;

#[queries]
impl Asleep {
    #[gather]
    async fn loan(&self, _: Loan) -> Result<i64, BoxError> {
        std::future::pending().await
    }
}

pub async fn run() -> anyhow::Result<()> {
    let banks = App::on(MemoryBackend::new()).queries(Cooperative).queries(Asleep).queries(Private);
    let app = banks.start().await?;

    // All are asked at the same time; the answers come in the order of the wiring.
    let limit = Duration::from_millis(100);
    let offers = app.gather(Loan { amount: 20_000 }, limit).await;
    assert!(matches!(offers[..], [Ok(600), Err(_), Ok(400)]));

    // Whoever fails or takes too long has an error in its place, and holds up nobody.
    let offers = app.gather(Loan { amount: 1_000 }, limit).await;
    assert!(matches!(offers[..], [Ok(30), Err(_), Err(_)]));
    let errors: Vec<String> = offers.iter().filter_map(|offer| offer.as_ref().err()).map(|error| es_core::chain(error)).collect();
    assert!(errors[0].contains("was not answered") && errors[1].contains("nothing below 10,000"));

    crate::say(format!("best offer {:?}", offers.iter().flatten().min()));
    Ok(())
}
