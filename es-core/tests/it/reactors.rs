//! Reactors on the memory backend: what calls at the same time gain, and what is refused at start.

use std::time::Duration;

use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::projection::Partition;
use es_core::services::{Scope, Services};
use es_core::store::EventFilter;
use es_core::testing::conformance::domain::{Open, Opened};
use es_core::{App, RecordedEvent};
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(600);

/// Takes 50 ms for each account.
struct Slow<const IN_FLIGHT: usize>;

impl<const IN_FLIGHT: usize> Reactor for Slow<IN_FLIGHT> {
    const NAME: &'static str = "slow";
    const PARTITION: Partition = if IN_FLIGHT > 1 { Partition::Stream } else { Partition::Whole };
    const IN_FLIGHT: usize = IN_FLIGHT;
    fn filter() -> EventFilter {
        EventFilter::of::<Opened>()
    }
    async fn react(&self, _: &RecordedEvent, _: Scope<'_>) -> Result<(), BoxError> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(())
    }
    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

/// How long a thousand calls take.
async fn took<const IN_FLIGHT: usize>() -> Duration {
    let backend = MemoryBackend::new();
    let app = App::on(backend).reactor(Slow::<IN_FLIGHT>).start().await.unwrap();
    app.settle(LIMIT).await.unwrap();
    let started = Instant::now();
    for account in 0..1_000 {
        app.send(&account.to_string(), Open { owner: "ada".to_owned() }).await.unwrap();
    }
    app.settle(LIMIT).await.unwrap();
    started.elapsed()
}

/// P15
#[tokio::test(start_paused = true)]
async fn calls_at_the_same_time_are_as_much_faster_as_they_are_many() {
    let (one, many) = (took::<1>().await, took::<32>().await);
    let factor = one.as_secs_f64() / many.as_secs_f64();
    assert!(factor >= 15.0, "{factor:.1}: {one:?} one after the other, {many:?} with 32 in flight");
}

struct Mails;

#[reactor(name = "mails")]
impl Mails {
    fn opened(&self, _: &Opened) {}
}

struct Letters;

#[reactor(name = "letters", was = "mails")]
impl Letters {
    fn opened(&self, _: &Opened) {}
}

/// B33
#[tokio::test]
async fn a_reactor_does_not_run_beside_the_one_that_it_was() {
    let error = App::on(MemoryBackend::new()).reactor(Mails).reactor(Letters).start().await.unwrap_err();
    assert!(error.to_string().contains("letters was mails, which this app runs as well"), "{error}");
}
