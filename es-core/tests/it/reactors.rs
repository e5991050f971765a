//! Reactors on the memory backend: what calls at the same time gain, and what is refused at start.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use es_core::command::{NamedCommand, Sender};
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::projection::Partition;
use es_core::services::{Scope, Services};
use es_core::store::EventFilter;
use es_core::testing::conformance::domain::{Account, Deposit, Deposited, Open, Opened, Withdraw};
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

/// Its first call for each account fails after it has sent its commands.
#[derive(Default)]
struct Bonus(Mutex<BTreeSet<String>>);

#[reactor(name = "bonus")]
impl Bonus {
    async fn opened(&self, e: Recorded<'_, Opened>, sender: &Sender) -> Result<(), BoxError> {
        let id = e.stream().as_str().strip_prefix("account-").ok_or("an account")?.to_owned();
        let request = |n: u32| format!("bonus/{}/{n}", e.id());
        let deposit = NamedCommand::of(&id, &Deposit { amount: 5 })?;
        sender.send_named(deposit).idempotency_key(request(0)).caused_by(e.record()).await?;
        // A refusal is an outcome, and comes back again when it is asked again.
        let refused = sender.send(&id, Withdraw { amount: 9 }).idempotency_key(request(1)).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused);
        let first = self.0.lock().unwrap().insert(id);
        if first { Err("interrupted".into()) } else { Ok(()) }
    }
}

#[tokio::test(start_paused = true)]
async fn the_commands_of_a_reactor_act_once() {
    let app = App::on(MemoryBackend::new()).command::<Deposit>().reactor(Bonus::default());
    let app = app.start().await.unwrap();
    for id in ["ada", "bob"] {
        app.send(&id.to_owned(), Open { owner: id.to_owned() }).await.unwrap();
    }
    app.settle(LIMIT).await.unwrap();
    for id in ["ada", "bob"] {
        let account = app.load::<Account>(&id.to_owned()).await.unwrap().unwrap();
        assert_eq!(account.balance, 5);
        let events = app.store().read(&EventFilter::of::<Deposited>(), Position(0), 10).await.unwrap().events;
        assert!(events.iter().all(|event| event.metadata.causation.is_some()), "{events:?}");
    }
}
