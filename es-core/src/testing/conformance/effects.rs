//! Side effects that no checkpoint covers: none is repeated because a commit failed, or another event did. P10, P18.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::overwrite;
use super::data::raw;
use super::domain::{AccountEvent, Deposited};
use super::double::{Double, Line};
use super::payments::{World, eventually, parked_keys, payment, retry, rows, until};
use super::reactors::{ACCOUNTS, N, Posts, rounds};
use super::{LIMIT, Subject, settle, start};
use crate::event::Event as _;
use crate::processor::{ProcessorOptions, ProcessorState};
use crate::projection::{Code, Partition};
use crate::services::{Scope, Services};
use crate::store::{Backend, EventFilter, RecordedEvent};
use crate::{App, AppBuilder, BoxError, Reactor};

/// The account whose calls fail.
const FAILING: &str = "account-1";

/// Its calls fail until they do not, and the store is believed for as long as the rule takes.
fn wiring<B: Backend + Clone>(posts: &Posts<N>, backend: &B) -> AppBuilder<B> {
    let options = ProcessorOptions::default().retries(1, Duration::from_millis(1), Duration::from_millis(5));
    posts.wiring(backend).processors(options.patience(LIMIT))
}

/// Its calls for these payments were made and failed: they are parked.
async fn parked<S: Subject>(world: &World<S>, posts: &Posts<N>, app: &App, n: i64) {
    posts.open();
    posts.calls().failing = BTreeMap::from([(FAILING.to_owned(), 0)]);
    rounds(world, 1..=n).await;
    settle(app).await;
    assert_eq!(parked_keys(&app.processors()[0]).await, [(FAILING.to_owned(), n.unsigned_abs())]);
    posts.calls().failing.clear();
}

/// P10
pub async fn a_retry_that_cannot_be_stored_repeats_no_call<S: Subject>(subject: S) {
    const EVENTS: &str = "posts~1/parked/events";
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    let line = Double::new(world.store.0.clone());
    let app = start(|| wiring(&posts, &line)).await;
    parked(&world, &posts, &app, 3).await;
    line.set(Line::Refuses(EVENTS));
    super::poisoned::ask(&app.processors()[0], FAILING).await;
    let refused = async |more_than: usize| {
        let told =
            async || if line.refused(EVENTS) > more_than { Ok(()) } else { Err(more_than.to_string()) };
        eventually(told).await;
    };
    refused(0).await;
    // The checkpoint moves meanwhile, over other events than those.
    for account in (0..ACCOUNTS).filter(|account| *account != 1) {
        world.put(&account.to_string(), vec![payment(4)]).await;
    }
    settle(&app).await;
    refused(line.refused(EVENTS) + 1).await;
    line.set(Line::Up);
    eventually(async || match parked_keys(&app.processors()[0]).await {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    })
    .await;
    world.put("1", vec![payment(4)]).await;
    settle(&app).await;
    posts.calls().assert_complete(4, true);
}

/// P10
pub async fn a_retry_that_fails_in_the_middle_repeats_no_call<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    let app = start(|| wiring(&posts, &world.store.0)).await;
    parked(&world, &posts, &app, 3).await;
    posts.close();
    super::poisoned::ask(&app.processors()[0], FAILING).await;
    let acted = |n| move |calls: &super::reactors::Calls| calls.acted.len() == n && calls.in_flight() == 1;
    let before = 3 * (ACCOUNTS - 1);
    posts.until(acted(before)).await;
    // Newer ones come while it is retried.
    rounds(&world, 4..=4).await;
    posts.allow(1);
    posts.until(acted(before + 1)).await;
    posts.calls().failing = BTreeMap::from([(FAILING.to_owned(), 0)]);
    posts.open();
    settle(&app).await;
    eventually(async || match &*parked_keys(&app.processors()[0]).await {
        [(key, 3)] if key == FAILING => Ok(()),
        some => Err(format!("{some:?}")),
    })
    .await;
    posts.calls().failing.clear();
    assert_eq!(retry(&app.processors()[0], FAILING).await, None);
    posts.calls().assert_complete(4, true);
}

/// A program that acts on payments, those of a newer shape only from its second edition on.
#[derive(Clone, Debug)]
struct Edition<const CODE: u64>(Posts<N>);

impl<const CODE: u64> Reactor for Edition<CODE> {
    const NAME: &'static str = "editions";
    const PARTITION: Partition = Partition::Stream;
    const IN_FLIGHT: usize = N;
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
    fn code() -> Code {
        Code::new(CODE).handling::<Deposited>()
    }
    async fn react(&self, event: &RecordedEvent, scope: Scope<'_>) -> Result<(), BoxError> {
        if CODE < 2 {
            AccountEvent::decode(event)?;
        }
        self.0.react(event, scope).await
    }
    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

/// P18
pub async fn what_was_done_beside_an_event_of_a_newer_program_is_not_repeated_by_it<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    let wiring = || App::on(world.store.0.clone()).reactor(Edition::<1>(posts.clone()));
    assert!(start(wiring).await.shutdown(LIMIT).await);
    for account in 0..ACCOUNTS {
        let newer = || raw("account.deposited", 99, r#"{"cents":100}"#);
        let event = if account == 0 { newer() } else { payment(1) };
        world.put(&account.to_string(), vec![event]).await;
    }
    let lease = Duration::from_secs(1);
    let old = start(|| wiring().lease(lease)).await;
    // One of a batch fails, and three others are in flight.
    posts.until(|calls| calls.in_flight() == N - 1).await;
    posts.open();
    let fails =
        |state: &ProcessorState| matches!(state, ProcessorState::Failing { attempts, .. } if *attempts > 3);
    until(&old.processors()[0], |status| fails(&status.state)).await;
    let other = subject.again(&world.store.0).await;
    let new = start(|| App::on(other.clone()).reactor(Edition::<2>(posts.clone())).lease(lease)).await;
    settle(&new).await;
    posts.calls().assert_complete(1, true);
}

/// P18
pub async fn what_no_checkpoint_covers_is_not_repeated_by_a_newer_program<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    let lease = Duration::from_secs(1);
    let activate = || App::on(world.store.0.clone()).reactor(Edition::<1>(posts.clone()));
    assert!(start(activate).await.shutdown(LIMIT).await);
    rounds(&world, 1..=1).await;
    let late = Double::new(subject.again(&world.store.0).await);
    let line = Double::new(late.clone());
    let old = start(|| App::on(line.clone()).reactor(Edition::<1>(posts.clone())).lease(lease)).await;
    posts.until(|calls| calls.in_flight() == N).await;
    line.set(Line::Refuses("checkpoints"));
    late.set(Line::HoldsLookups("es.codes"));
    posts.open();
    // Nothing is written of what it has done, and it looks whether the build is still its own.
    eventually(async || if late.held() > 0 { Ok(()) } else { Err("nothing is held".to_owned()) }).await;
    let new =
        start(|| App::on(world.store.0.clone()).reactor(Edition::<2>(posts.clone())).lease(lease)).await;
    line.set(Line::Up);
    late.set(Line::Up);
    settle(&new).await;
    posts.calls().assert_complete(1, true);
    drop(old);
}

/// P10
pub async fn a_commit_that_is_refused_after_a_long_outage_repeats_no_call<S: Subject>(subject: S) {
    const MANY: u32 = 120;
    let (world, posts) = (World::<S>::new(&subject).await, Posts::<N>::new(0));
    let line = Double::new(world.store.0.clone());
    // Its node is believed to be alive all the time.
    let app = start(|| wiring(&posts, &line).lease(LIMIT)).await;
    settle(&app).await;
    line.set(Line::Down);
    world.put("0", vec![payment(1)]).await;
    let fails = |state: &ProcessorState| matches!(state, ProcessorState::Failing { attempts, .. } if *attempts > MANY);
    until(&app.processors()[0], |status| fails(&status.state)).await;
    line.set(Line::HoldsCommits("checkpoints"));
    posts.open();
    posts.until(|calls| calls.acted.len() == 1).await;
    eventually(async || if line.held() > 0 { Ok(()) } else { Err("nothing is held".to_owned()) }).await;
    // Somebody else writes its share meanwhile, as it is.
    let shares = rows(&world.store, "checkpoints").await;
    let (share, _) = shares.iter().find(|(key, _)| key.starts_with("posts~")).expect("it runs");
    let stored = world.store.row("checkpoints", share).await.expect("it is there");
    overwrite::<S>(&world.store, "checkpoints", share, &stored.data).await;
    line.set(Line::Up);
    settle(&app).await;
    assert_eq!(posts.calls().acted.len(), 1, "what was done is known");
}
