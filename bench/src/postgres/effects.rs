//! What a reactor gains that acts on several streams at the same time: calls of 50 ms, as those of a mail server take.

use std::time::{Duration, Instant};

use es_core::prelude::*;
use es_core::projection::Partition;
use es_core::services::{Scope, Services};
use es_core::store::EventFilter;
use es_core::{App, RecordedEvent};
use es_postgres::PgBackend;
use tokio::runtime::Runtime;

use super::processors::{LIMIT, say};
use super::server::Server;
use crate::domain::{Deposited, deposit};

const TAKES: Duration = Duration::from_millis(50);
const IN_FLIGHT: usize = 32;

/// Calls of which so many are in flight.
struct Mails<const N: usize>;

impl<const N: usize> Reactor for Mails<N> {
    const NAME: &'static str = "mails";
    const PARTITION: Partition = if N > 1 { Partition::Stream } else { Partition::Whole };
    const IN_FLIGHT: usize = N;
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
    async fn react(&self, _: &RecordedEvent, _: Scope<'_>) -> Result<(), BoxError> {
        tokio::time::sleep(TAKES).await;
        Ok(())
    }
    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

/// How many events a second are acted on, each of another account.
async fn rate<const N: usize>(url: &str, events: u64) -> anyhow::Result<f64> {
    let backend = PgBackend::connect(url).await?;
    let app = App::on(backend).reactor(Mails::<N>).start().await?;
    app.settle(LIMIT).await?;
    let started = Instant::now();
    futures::future::try_join_all((0..events).map(|account| app.send(&account, deposit()).into_future()))
        .await?;
    app.settle(LIMIT).await?;
    let rate = events as f64 / started.elapsed().as_secs_f64();
    app.shutdown(LIMIT).await;
    Ok(rate)
}

pub(super) fn measure(runtime: &Runtime, server: &Server) -> anyhow::Result<()> {
    for database in ["one_call", "many_calls"] {
        server.make(database)?;
    }
    let one = runtime.block_on(rate::<1>(&server.url("one_call")?, 200))?;
    let many = runtime.block_on(rate::<IN_FLIGHT>(&server.url("many_calls")?, 6_400))?;
    say(&format!(
        "a reactor whose calls take {TAKES:?}: {one:.1} events/s one after the other, {many:.1} with {IN_FLIGHT} in flight; \
         ratio {:.1}",
        many / one,
    ));
    Ok(())
}
