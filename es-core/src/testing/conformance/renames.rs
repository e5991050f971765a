//! Reactors that get another name: P10, P14, P18, P26, O8.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cluster::overwrite;
use super::domain::Deposited;
use super::double::{Double, Line};
use super::inline_code::says;
use super::patient::{Patient, ask, marked};
use super::payments::{World, discard, eventually, parked_keys, payment, retry, rows, until};
use super::portions::skips;
use super::reactors::{N, Posts, rounds};
use super::{LIMIT, Subject, settle, start};
use crate::processor::{PORTION, Processor, ProcessorState, ProcessorStatus};
use crate::projection::Partition;
use crate::services::{Scope, Services};
use crate::state::{Build, Request};
use crate::store::{Commit, EventFilter, RecordedEvent};
use crate::{App, BoxError, Reactor};

/// Long enough for a busy machine, and short enough to be waited for.
const LEASE: Duration = Duration::from_secs(1);

/// The same reactor before and after it was renamed.
#[derive(Clone, Debug)]
pub(super) struct Named<const RENAMED: bool>(pub(super) Posts<N>);

impl<const RENAMED: bool> Reactor for Named<RENAMED> {
    const NAME: &'static str = if RENAMED { "letters" } else { "mails" };
    const WAS: Option<&'static str> = if RENAMED { Some("mails") } else { None };
    const PARTITION: Partition = Partition::Stream;
    const IN_FLIGHT: usize = N;
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
    async fn react(&self, event: &RecordedEvent, scope: Scope<'_>) -> Result<(), BoxError> {
        self.0.react(event, scope).await
    }
    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

/// The same, renamed once more.
#[derive(Clone, Debug)]
struct Renamed(Posts<N>);

impl Reactor for Renamed {
    const NAME: &'static str = "post";
    const WAS: Option<&'static str> = Some("letters");
    const PARTITION: Partition = Partition::Stream;
    const IN_FLIGHT: usize = N;
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
    async fn react(&self, event: &RecordedEvent, scope: Scope<'_>) -> Result<(), BoxError> {
        self.0.react(event, scope).await
    }
    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

/// A node that runs it under one of its names.
async fn node<const RENAMED: bool, S: Subject>(
    subject: &S,
    of: &Patient<S::Backend>,
    posts: &Posts<N>,
) -> App {
    let backend = subject.again(&of.0).await;
    let retries = (Duration::from_millis(1), Duration::from_millis(5));
    let wiring = || App::on(backend.clone()).reactor(Named::<RENAMED>(posts.clone())).lease(LEASE);
    start(|| wiring().processor_retries(2, retries.0, retries.1)).await
}

fn processor(app: &App) -> &Processor {
    &app.processors()[0]
}

async fn stands_by(app: &App) {
    until(processor(app), |status| status.state == ProcessorState::StandingBy).await;
}

/// P10
pub async fn a_renamed_reactor_continues_where_it_was<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    posts.open();
    posts.calls().failing = BTreeMap::from([("account-1".to_owned(), 0)]);
    let mails = node::<false, _>(&subject, &world.store, &posts).await;
    rounds(&world, 1..=2).await;
    settle(&mails).await;
    assert!(mails.shutdown(LIMIT).await);
    // While none runs.
    rounds(&world, 3..=3).await;
    let letters = node::<true, _>(&subject, &world.store, &posts).await;
    settle(&letters).await;
    assert_eq!(parked_keys(processor(&letters)).await, [("account-1".to_owned(), 3)]);
    posts.calls().failing.clear();
    assert_eq!(retry(processor(&letters), "account-1").await, None);
    posts.calls().assert_complete(3, true);
    for table in ["mails~1/parked", "mails~1/parked/events"] {
        assert_eq!(rows(&world.store, table).await, []);
    }
}

/// P10, P26
pub async fn a_renamed_reactor_continues_beside_a_row_that_cannot_be_read<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    posts.open();
    let mails = node::<false, _>(&subject, &world.store, &posts).await;
    rounds(&world, 1..=1).await;
    settle(&mails).await;
    assert!(mails.shutdown(LIMIT).await);
    rounds(&world, 2..=2).await;
    drop(overwrite::<S>(&world.store, "es.codes", "other/1~1", b"not json").await);
    let letters = node::<true, _>(&subject, &world.store, &posts).await;
    settle(&letters).await;
    posts.calls().assert_complete(2, true);
    let mails = node::<false, _>(&subject, &world.store, &posts).await;
    stands_by(&mails).await;
    rounds(&world, 3..=3).await;
    settle(&letters).await;
    posts.calls().assert_complete(3, true);
}

/// P10, P26
pub async fn a_renamed_reactor_waits_until_the_rows_of_before_can_be_read<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    posts.open();
    let mails = node::<false, _>(&subject, &world.store, &posts).await;
    rounds(&world, 1..=1).await;
    settle(&mails).await;
    assert!(mails.shutdown(LIMIT).await);
    rounds(&world, 2..=2).await;
    let before = overwrite::<S>(&world.store, "es.codes", "mails~1", b"not json").await;
    let letters = node::<true, _>(&subject, &world.store, &posts).await;
    let says = |status: &ProcessorStatus| match &status.state {
        ProcessorState::Unsettled { error } => error.contains("\"mails~1\" of es.codes"),
        _ => false,
    };
    until(processor(&letters), says).await;
    rounds(&world, 3..=3).await;
    drop(overwrite::<S>(&world.store, "es.codes", "mails~1", &before).await);
    settle(&letters).await;
    posts.calls().assert_complete(3, true);
}

/// P10
pub async fn a_reactor_whose_former_name_is_unknown_begins_at_the_head<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    posts.open();
    rounds(&world, 1..=1).await;
    let letters = node::<true, _>(&subject, &world.store, &posts).await;
    rounds(&world, 2..=2).await;
    settle(&letters).await;
    posts.calls().assert_complete(1, true);
}

/// P18
pub async fn a_rename_in_a_deploy_repeats_no_effect<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    let mails = node::<false, _>(&subject, &world.store, &posts).await;
    rounds(&world, 1..=2).await;
    posts.until(|calls| calls.in_flight() > 0).await;
    let announced = async {
        eventually(async || {
            let rows = rows(&world.store, "es.codes").await;
            let renamed = rows.iter().any(|(build, row)| build == "mails~1" && row["renamed"] == "letters");
            if renamed { Ok(()) } else { Err(format!("{rows:?}")) }
        })
        .await;
        posts.open();
    };
    let (letters, ()) = futures::join!(node::<true, _>(&subject, &world.store, &posts), announced);
    settle(&letters).await;
    stands_by(&mails).await;
    posts.calls().assert_complete(2, true);
    rounds(&world, 3..=3).await;
    settle(&letters).await;
    posts.calls().assert_complete(3, true);
}

/// P18
pub async fn a_rename_that_is_rolled_back_repeats_no_effect<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    posts.open();
    let mails = node::<false, _>(&subject, &world.store, &posts).await;
    rounds(&world, 1..=1).await;
    settle(&mails).await;
    let letters = node::<true, _>(&subject, &world.store, &posts).await;
    rounds(&world, 2..=2).await;
    settle(&letters).await;
    // The older program starts again in the middle of the deploy.
    assert!(mails.shutdown(LIMIT).await);
    let mails = node::<false, _>(&subject, &world.store, &posts).await;
    rounds(&world, 3..=3).await;
    settle(&mails).await;
    stands_by(&mails).await;
    // Rolled back: with its last node gone, the older one takes it back.
    posts.calls().failing = BTreeMap::from([("account-1".to_owned(), 0)]);
    rounds(&world, 4..=4).await;
    settle(&letters).await;
    assert!(letters.shutdown(LIMIT).await);
    rounds(&world, 5..=5).await;
    settle(&mails).await;
    assert_eq!(parked_keys(processor(&mails)).await, [("account-1".to_owned(), 2)]);
    posts.calls().failing.clear();
    assert_eq!(retry(processor(&mails), "account-1").await, None);
    posts.calls().assert_complete(5, true);
    // Rolled forward.
    let letters = node::<true, _>(&subject, &world.store, &posts).await;
    rounds(&world, 6..=6).await;
    world.put("0", vec![payment(7)]).await;
    settle(&letters).await;
    stands_by(&mails).await;
    let calls = posts.calls();
    assert_eq!((calls.acted.len(), calls.repeats(), calls.overlaps), (6 * 12 + 1, 0, 0));
}

/// A program has run it, and then one that has renamed it. No node is left.
async fn renamed<S: Subject>(subject: &S) -> (World<S>, Posts<N>) {
    let (world, posts) = (World::new(subject).await, Posts::<N>::new(0));
    posts.open();
    let mails = node::<false, _>(subject, &world.store, &posts).await;
    rounds(&world, 1..=1).await;
    settle(&mails).await;
    assert!(mails.shutdown(LIMIT).await);
    let letters = node::<true, _>(subject, &world.store, &posts).await;
    rounds(&world, 2..=2).await;
    settle(&letters).await;
    assert!(letters.shutdown(LIMIT).await);
    (world, posts)
}

/// P10, P18
pub async fn a_reactor_that_is_renamed_again_after_a_rollback_is_told_its_name<S: Subject>(subject: S) {
    let (world, posts) = renamed(&subject).await;
    // Rolled back.
    let mails = node::<false, _>(&subject, &world.store, &posts).await;
    rounds(&world, 3..=3).await;
    settle(&mails).await;
    let backend = subject.again(&world.store.0).await;
    let post = || App::on(backend.clone()).reactor(Renamed(posts.clone())).lease(LEASE);
    says(post, "letters has the name mails again: say `was = \"mails\"`").await;
    rounds(&world, 4..=4).await;
    settle(&mails).await;
    posts.calls().assert_complete(4, true);
}

/// P10, P18
pub async fn what_a_program_is_about_to_take_back_is_not_forgotten<S: Subject>(subject: S) {
    let (world, posts) = renamed(&subject).await;
    let other = start(|| App::on(world.store.0.clone())).await;
    let backend = subject.again(&world.store.0).await;
    // It is long enough for a store that answers late, too: a node whose lease is over is not seen.
    let mails = || App::on(backend.clone()).reactor(Named::<false>(posts.clone())).lease(LEASE * 5);
    let mails = start(mails).await;
    eventually(async || {
        let nodes = rows(&world.store, "nodes").await;
        let is_seen = nodes.iter().any(|(_, row)| row["runs"].to_string().contains("mails"));
        if is_seen { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .await;
    // It has gone by itself once the program of before has it again.
    eventually(async || {
        let had_a_place = other.forget_processor("letters").await.map_err(|error| error.to_string())?;
        assert!(!had_a_place, "what was not handled would be left out");
        Ok(())
    })
    .await;
    rounds(&world, 3..=3).await;
    settle(&mails).await;
    posts.calls().assert_complete(3, true);
}

/// P10
pub async fn what_an_operator_asked_of_a_reactor_goes_with_its_name<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    posts.open();
    posts.calls().failing = BTreeMap::from([("account-1".to_owned(), 0)]);
    let mails = node::<false, _>(&subject, &world.store, &posts).await;
    rounds(&world, 1..=1).await;
    settle(&mails).await;
    discard(processor(&mails), "account-1", "nobody lives there").await;
    ask(|| processor(&mails).pause()).await;
    until(processor(&mails), |status| matches!(status.state, ProcessorState::Paused { .. })).await;
    rounds(&world, 2..=2).await;
    posts.calls().failing.clear();
    assert!(mails.shutdown(LIMIT).await);
    let letters = node::<true, _>(&subject, &world.store, &posts).await;
    until(processor(&letters), |status| matches!(status.state, ProcessorState::Paused { .. })).await;
    let skipped = ask(|| processor(&letters).skipped()).await;
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert_eq!(posts.calls().acted.len(), 11, "it acts while it is paused");
    ask(|| processor(&letters).resume()).await;
    settle(&letters).await;
    let calls = posts.calls();
    assert_eq!((calls.acted.len(), calls.repeats()), (11 + 12, 0));
}

/// P10, P18
pub async fn a_rename_of_many_rows_that_is_cut_short_is_taken_back_or_gone_on_with<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    posts.open();
    posts.calls().failing = BTreeMap::from([("account-1".to_owned(), 0)]);
    let mails = node::<false, _>(&subject, &world.store, &posts).await;
    rounds(&world, 1..=1).await;
    settle(&mails).await;
    assert!(mails.shutdown(LIMIT).await);
    skips::<S>(&world.store, "mails~1/skipped").await;
    let half = async || {
        let line = Double::new(subject.again(&world.store.0).await);
        line.set(Line::HoldsCommitsAfter("letters~1/skipped", 1));
        let app = || App::on(line.clone()).reactor(Named::<true>(posts.clone())).lease(LEASE);
        let held = async {
            while line.held() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // It ends in the middle.
        tokio::select! {
            _ = start(app) => panic!("it cannot have all rows"),
            () = held => {}
        }
        rows(&world.store, "letters~1/skipped").await.len()
    };
    assert!(half().await <= PORTION);
    // The older program takes it back once the other one is not on its way any more.
    let mails = node::<false, _>(&subject, &world.store, &posts).await;
    rounds(&world, 2..=2).await;
    settle(&mails).await;
    let left = async |table: &str| rows(&world.store, table).await.len();
    assert_eq!((left("mails~1/skipped").await, left("letters~1/skipped").await), (2 * PORTION, 0));
    assert_eq!(parked_keys(processor(&mails)).await, [("account-1".to_owned(), 2)]);
    assert!(mails.shutdown(LIMIT).await);
    // Or the newer one goes on with it.
    assert!(half().await <= PORTION);
    let letters = node::<true, _>(&subject, &world.store, &posts).await;
    settle(&letters).await;
    assert_eq!((left("mails~1/skipped").await, left("letters~1/skipped").await), (0, 2 * PORTION));
    posts.calls().failing.clear();
    assert_eq!(retry(processor(&letters), "account-1").await, None);
    posts.calls().assert_complete(2, true);
}

/// P10
pub async fn a_request_that_both_names_have_holds_no_rename_up<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    posts.open();
    posts.calls().failing = BTreeMap::from([("account-1".to_owned(), 0)]);
    let mails = node::<false, _>(&subject, &world.store, &posts).await;
    rounds(&world, 1..=1).await;
    settle(&mails).await;
    assert!(mails.shutdown(LIMIT).await);
    // Of one, whoever asked has gone before he found out that nothing is parked under that name.
    for name in ["letters", "mails"] {
        let ask = Build::first(name).requests().insert("account-1", Request::Retry).expect("JSON");
        let commit = Commit { rows: vec![ask], ..Commit::default() };
        world.store.commit(marked(commit)).await.expect("nobody has asked");
    }
    posts.calls().failing.clear();
    let letters = node::<true, _>(&subject, &world.store, &posts).await;
    settle(&letters).await;
    eventually(async || match &*parked_keys(processor(&letters)).await {
        [] => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .await;
    posts.calls().assert_complete(1, true);
    assert_eq!(rows(&world.store, "mails~1/requests").await, []);
}

/// P10, O8
pub async fn what_is_asked_of_a_reactor_by_its_former_name_is_done<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    posts.open();
    posts.calls().failing = BTreeMap::from([("account-1".to_owned(), 0)]);
    let mails = node::<false, _>(&subject, &world.store, &posts).await;
    rounds(&world, 1..=1).await;
    settle(&mails).await;
    let letters = node::<true, _>(&subject, &world.store, &posts).await;
    settle(&letters).await;
    stands_by(&mails).await;
    assert_eq!(parked_keys(processor(&mails)).await, [("account-1".to_owned(), 1)]);
    posts.calls().failing.clear();
    assert_eq!(retry(processor(&mails), "account-1").await, None);
    posts.calls().assert_complete(1, true);
    ask(|| processor(&mails).pause()).await;
    until(processor(&letters), |status| matches!(status.state, ProcessorState::Paused { .. })).await;
    rounds(&world, 2..=2).await;
    assert_eq!(posts.calls().acted.len(), 12, "it acts while it is paused");
    ask(|| processor(&mails).resume()).await;
    settle(&letters).await;
    posts.calls().assert_complete(2, true);
}

/// P14
pub async fn a_shutdown_waits_for_no_rename<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    posts.open();
    posts.calls().failing = BTreeMap::from([("account-1".to_owned(), 0)]);
    let line = Double::new(subject.again(&world.store.0).await);
    let mails = start(|| App::on(line.clone()).reactor(Named::<false>(posts.clone())).lease(LEASE)).await;
    rounds(&world, 1..=1).await;
    settle(&mails).await;
    let letters = node::<true, _>(&subject, &world.store, &posts).await;
    settle(&letters).await;
    stands_by(&mails).await;
    // It takes its name back, and does not come to the end of that.
    line.set(Line::HoldsCommits("mails~1/parked"));
    assert!(letters.shutdown(LIMIT).await);
    eventually(async || if line.held() > 0 { Ok(()) } else { Err("nothing is held".to_owned()) }).await;
    assert!(mails.shutdown(LIMIT).await);
    // The next one goes on with it.
    let mails = node::<false, _>(&subject, &world.store, &posts).await;
    rounds(&world, 2..=2).await;
    settle(&mails).await;
    assert_eq!(parked_keys(processor(&mails)).await, [("account-1".to_owned(), 2)]);
    posts.calls().failing.clear();
    assert_eq!(retry(processor(&mails), "account-1").await, None);
    posts.calls().assert_complete(2, true);
}
