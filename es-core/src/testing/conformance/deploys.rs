//! Two programs on one store: P17, P18, P19, P27.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::data::{encoded, raw};
use super::domain::{Deposited, Opened, opened};
use super::double::{Double, Line};
use super::patient::{Patient, ask};
use super::payments::{eventually, parked_keys, payment, until};
use super::{LIMIT, Subject, settle, start, store};
use crate::event::Event as _;
use crate::processor::{
    Backfill, Processor, ProcessorError, ProcessorOptions, ProcessorState, ProcessorStatus, RebuildOptions,
    Receipt,
};
use crate::projection::{Change, Code, Projection, View};
use crate::services::{Scope, Services};
use crate::store::{Backend, EventFilter, EventStore as _, NewEvent, RecordedEvent, RowStore};
use crate::{App, BoxError, Reactor};

/// Short, so that a node which has gone is soon known to be.
const LEASE: Duration = Duration::from_millis(400);
/// A shape of payments that only newer programs know.
const NEWER: u32 = 99;
/// A program that also handles what an older one does not.
const HANDLES_MORE: u64 = 9;
/// A program that handles that, and nothing of what an older one does.
const HANDLES_OTHER: u64 = 8;

/// How many payments each program took in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coded<const CODE: u64>(BTreeMap<u64, u64>);

impl<const CODE: u64> Projection for Coded<CODE> {
    const NAME: &'static str = "coded";
    fn filter() -> EventFilter {
        match CODE {
            HANDLES_MORE => EventFilter::of::<Deposited>().or(EventFilter::of::<Opened>()),
            HANDLES_OTHER => EventFilter::of::<Opened>(),
            _ => EventFilter::of::<Deposited>(),
        }
    }
    fn code() -> Code {
        let code = Code::new(CODE);
        match CODE {
            HANDLES_MORE => code.handling::<Deposited>().handling::<Opened>(),
            HANDLES_OTHER => code.handling::<Opened>(),
            _ => code.handling::<Deposited>(),
        }
    }
}

impl<const CODE: u64> View for Coded<CODE> {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        if CODE < 2 || event.schema != NEWER {
            super::domain::AccountEvent::decode(event)?;
        }
        let count = |row: &mut Self| {
            *row.0.entry(CODE).or_default() += 1;
            Ok(())
        };
        Ok(vec![Change::new(event.stream.as_str().to_owned(), count)])
    }
}

fn newer() -> NewEvent {
    raw("account.deposited", NEWER, r#"{"cents":100}"#)
}

async fn run<const CODE: u64, S: Subject>(subject: &S, of: &Patient<S::Backend>) -> App {
    let backend = subject.again(&of.0).await;
    start(|| App::on(backend.clone()).view::<Coded<CODE>>().lease(LEASE)).await
}

fn refuses() -> ProcessorOptions {
    ProcessorOptions::default().backfill(Backfill::Refuse)
}

fn coded(app: &App) -> &Processor {
    &app.processors()[0]
}

const ACCOUNTS: [&str; 4] = ["account-a", "account-b", "account-c", "account-d"];

/// One more payment into each account.
async fn pay<B: Backend + RowStore + Clone>(store: &Patient<B>, event: impl Fn() -> NewEvent) {
    for account in ACCOUNTS {
        store.put(account, vec![event()]).await;
    }
}

/// How many payments each program took in, the same in each account.
async fn counts<B: Backend + RowStore + Clone>(store: &Patient<B>) -> BTreeMap<u64, u64> {
    let mut all = Vec::new();
    for account in ACCOUNTS {
        let row = store.row("coded/1", account).await.expect("it has a row");
        all.push(serde_json::from_slice::<Coded<0>>(&row.data).expect("JSON").0);
    }
    all.dedup();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn is<const N: usize>(counts: [(u64, u64); N]) -> BTreeMap<u64, u64> {
    BTreeMap::from(counts)
}

async fn stands_by(app: &App) {
    until(coded(app), |status| status.state == ProcessorState::StandingBy).await;
}

/// P18
pub async fn the_newer_of_two_programs_works_and_the_older_stands_by<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    pay(&store, || payment(1)).await;
    settle(&old).await;
    let new = run::<2, _>(&subject, &store).await;
    pay(&store, || payment(1)).await;
    settle(&new).await;
    assert_eq!(counts(&store).await, is([(1, 1), (2, 1)]), "from its start on, all is its own");
    stands_by(&old).await;
    // The older one starts again, in the middle of a deploy.
    assert!(old.shutdown(LIMIT).await);
    let old = run::<1, _>(&subject, &store).await;
    pay(&store, || payment(1)).await;
    settle(&old).await;
    stands_by(&old).await;
    assert_eq!(counts(&store).await, is([(1, 1), (2, 2)]));
    // Rolled back.
    assert!(new.shutdown(LIMIT).await);
    pay(&store, || payment(1)).await;
    settle(&old).await;
    assert_eq!(counts(&store).await, is([(1, 2), (2, 2)]));
    // Rolled forward: it waits until the last node of the older one has gone.
    let new = run::<2, _>(&subject, &store).await;
    stands_by(&new).await;
    assert!(old.shutdown(LIMIT).await);
    pay(&store, || payment(1)).await;
    settle(&new).await;
    assert_eq!(counts(&store).await, is([(1, 2), (2, 3)]));
    assert_eq!(parked_keys(coded(&new)).await, []);
}

/// P18
pub async fn a_rebuild_is_made_by_one_program<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    for _ in 0..3 {
        pay(&store, || payment(1)).await;
    }
    settle(&old).await;
    let new = run::<2, _>(&subject, &store).await;
    let rebuild = ask(|| coded(&new).rebuild_online(RebuildOptions::default())).await;
    ask(|| rebuild.caught_up(LIMIT)).await;
    ask(|| rebuild.switch()).await;
    settle(&new).await;
    assert_eq!(counts(&store).await, is([(2, 3)]));
    pay(&store, || payment(1)).await;
    settle(&old).await;
    assert_eq!(counts(&store).await, is([(2, 4)]));
}

/// P17
pub async fn a_program_that_handles_more_than_was_handled_says_so<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    pay(&store, || payment(1)).await;
    settle(&old).await;
    // Nothing of what it handles in addition was passed.
    let more = run::<HANDLES_MORE, _>(&subject, &store).await;
    pay(&store, || encoded(&opened("Ada"))).await;
    settle(&more).await;
    assert_eq!(counts(&store).await, is([(1, 1), (HANDLES_MORE, 1)]));
    assert!(more.shutdown(LIMIT).await);
    // Now it is: by the older program, that has nobody else beside it any more.
    pay(&store, || encoded(&opened("Bob"))).await;
    pay(&store, || payment(1)).await;
    settle(&old).await;
    // It stands by while the older one is alive, and then it is told.
    let backend = subject.again(&store.0).await;
    assert!(old.shutdown(LIMIT).await);
    eventually(|| async {
        match App::on(backend.clone())
            .view::<Coded<HANDLES_MORE>>()
            .lease(LEASE)
            .processors(refuses())
            .start()
            .await
        {
            Err(error) if error.to_string().contains("handles account.opened now") => Ok(()),
            Err(error) => Err(error.to_string()),
            Ok(app) => {
                app.shutdown(LIMIT).await;
                Err("it has started".to_owned())
            }
        }
    })
    .await;
}

/// P27
pub async fn an_event_of_a_newer_program_is_left_to_it<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    pay(&store, || payment(1)).await;
    settle(&old).await;
    // A newer program that runs no processors has written it.
    pay(&store, newer).await;
    pay(&store, || payment(1)).await;
    let fails = |state: &ProcessorState| matches!(state, ProcessorState::Failing { error, attempts, .. } if error.contains("schema is newer") && *attempts > 3);
    until(coded(&old), |status| fails(&status.state)).await;
    assert_eq!(parked_keys(coded(&old)).await, []);
    assert!(!old.health().await.is_healthy());
    let new = run::<2, _>(&subject, &store).await;
    settle(&new).await;
    assert_eq!(counts(&store).await, is([(1, 1), (2, 2)]));
    stands_by(&old).await;
    assert_eq!(parked_keys(coded(&new)).await, []);
}

/// P17
pub async fn what_was_handled_before_a_rollback_is_not_missed_after_it<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let more = run::<HANDLES_MORE, _>(&subject, &store).await;
    pay(&store, || encoded(&opened("Ada"))).await;
    settle(&more).await;
    assert!(more.shutdown(LIMIT).await);
    let less = run::<1, _>(&subject, &store).await;
    pay(&store, || payment(1)).await;
    settle(&less).await;
    // Beside it: what handles more is newer, whichever came first.
    let more = run::<HANDLES_MORE, _>(&subject, &store).await;
    pay(&store, || payment(1)).await;
    settle(&more).await;
    stands_by(&less).await;
    assert_eq!(counts(&store).await, is([(1, 1), (HANDLES_MORE, 2)]));
}

/// P18
pub async fn a_rebuild_whose_program_has_gone_begins_again<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    for _ in 0..3 {
        pay(&store, || payment(1)).await;
    }
    settle(&old).await;
    let begun = ask(|| coded(&old).rebuild_online(RebuildOptions::default())).await;
    ask(|| begun.caught_up(LIMIT)).await;
    assert!(old.shutdown(LIMIT).await);
    let new = run::<2, _>(&subject, &store).await;
    let rebuild = ask(|| coded(&new).rebuilding()).await.expect("it is under way");
    let of_new = || async {
        let mut rows = Vec::new();
        for account in ACCOUNTS {
            let row = store.row("coded/1~2", account).await;
            rows.push(row.map(|row| serde_json::from_slice::<Coded<0>>(&row.data).expect("JSON").0));
        }
        let right = rows.iter().all(|row| *row == Some(is([(2, 3)])));
        if right { Ok(()) } else { Err(format!("{rows:?}")) }
    };
    eventually(of_new).await;
    ask(|| rebuild.switch()).await;
    settle(&new).await;
    assert_eq!(counts(&store).await, is([(2, 3)]));
}

/// P18
pub async fn a_rebuild_of_an_older_program_is_not_switched_to<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    pay(&store, || payment(1)).await;
    settle(&old).await;
    let rebuild = ask(|| coded(&old).rebuild_online(RebuildOptions::default())).await;
    ask(|| rebuild.caught_up(LIMIT)).await;
    let more = run::<HANDLES_MORE, _>(&subject, &store).await;
    pay(&store, || encoded(&opened("Ada"))).await;
    settle(&more).await;
    let error = loop {
        match rebuild.switch().await {
            Err(error) if error.kind() == crate::ErrorKind::Transient => {}
            answer => break answer.expect_err("queries would miss what only the newer one handles"),
        }
    };
    assert!(matches!(error, ProcessorError::OlderCode { .. }), "{error}");
    settle(&more).await;
    assert_eq!(counts(&store).await, is([(1, 1), (HANDLES_MORE, 1)]));
}

/// P18
pub async fn a_switch_meets_a_start_that_takes_the_build_over_that_is_read<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let line = Double::new(subject.again(&store.0).await);
    let old = start(|| App::on(line.clone()).view::<Coded<1>>().lease(LEASE)).await;
    pay(&store, || payment(1)).await;
    settle(&old).await;
    let rebuild = ask(|| coded(&old).rebuild_online(RebuildOptions::default())).await;
    ask(|| rebuild.caught_up(LIMIT)).await;
    // What is read is ahead of it by this.
    line.set(Line::HoldsCommits("coded/1~2"));
    pay(&store, || payment(1)).await;
    settle(&old).await;
    let switch = async {
        loop {
            match rebuild.switch().await {
                Err(ProcessorError::NotCaughtUp { .. } | ProcessorError::Switching { .. }) => {}
                Err(error) if error.kind() == crate::ErrorKind::Transient => {}
                answer => break answer,
            }
        }
    };
    let newer = async {
        eventually(async || {
            let row = store.row("generations", "coded/1").await.expect("it is run");
            let row: serde_json::Value = serde_json::from_slice(&row.data).expect("JSON");
            if row["frozen"].is_null() { Err(row.to_string()) } else { Ok(()) }
        })
        .await;
        let more = run::<HANDLES_MORE, _>(&subject, &store).await;
        line.set(Line::Up);
        more
    };
    let (switched, more) = futures::join!(switch, newer);
    let error = switched.expect_err("queries would be switched to what an older program makes");
    assert!(matches!(error, ProcessorError::OlderCode { .. }), "{error}");
    pay(&store, || encoded(&opened("Ada"))).await;
    settle(&more).await;
    assert_eq!(counts(&store).await, is([(1, 2), (HANDLES_MORE, 1)]));
}

/// P13, P17
pub async fn what_a_newer_program_passes_is_not_said_to_be_there<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    pay(&store, || payment(1)).await;
    settle(&old).await;
    let head = async || ask(|| store.0.head()).await;
    let one = |position| Receipt { position, events: Some(1) };
    let before = head().await;
    // It is, with its next look.
    old.until_ready(LIMIT).await.expect("it has caught up");
    let other = run::<HANDLES_OTHER, _>(&subject, &store).await;
    stands_by(&old).await;
    assert!(old.ready(), "queries find what they found before");
    pay(&store, || payment(1)).await;
    settle(&other).await;
    let passed = head().await;
    until(coded(&old), |status| status.position >= passed).await;
    let waits = async |receipt: Receipt, limit| coded(&old).wait_or_stale(receipt, limit).await;
    for receipt in [one(passed), Receipt::from(passed)] {
        let is_there = ask(|| waits(receipt, LEASE)).await;
        assert!(!is_there, "the program that has passed it does not handle it");
    }
    assert!(ask(|| waits(one(before), LIMIT)).await, "it was handled before");
    assert_eq!(counts(&store).await, is([(1, 1)]));
    // Rolled back: it is rebuilt for its sake.
    assert!(other.shutdown(LIMIT).await);
    assert!(ask(|| waits(one(passed), LIMIT)).await);
    assert_eq!(counts(&store).await, is([(1, 2)]));
}

/// Another projection of the same programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside<const CODE: u64>(u64);

impl<const CODE: u64> Projection for Beside<CODE> {
    const NAME: &'static str = "a-beside";
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
    fn code() -> Code {
        Code::new(CODE).handling::<Deposited>()
    }
}

impl<const CODE: u64> View for Beside<CODE> {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let count = |row: &mut Self| {
            row.0 += 1;
            Ok(())
        };
        Ok(vec![Change::new(event.stream.as_str().to_owned(), count)])
    }
}

/// P17
pub async fn a_start_that_is_refused_takes_nothing_over<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let backend = subject.again(&store.0).await;
    let old = || App::on(backend.clone()).view::<Beside<1>>().view::<Coded<1>>().lease(LEASE);
    let old = start(old).await;
    pay(&store, || encoded(&opened("Ada"))).await;
    pay(&store, || payment(1)).await;
    settle(&old).await;
    let makers = async || {
        let keys = ["a-beside/1~1", "coded/1~1"].map(str::to_owned);
        ask(|| store.0.rows("es.codes", &keys))
            .await
            .into_iter()
            .map(|row| row.map(|row| row.data))
            .collect::<Vec<_>>()
    };
    let before = makers().await;
    assert!(before.iter().all(Option::is_some));
    eventually(|| async {
        let new = App::on(store.0.clone()).view::<Beside<2>>().view::<Coded<HANDLES_MORE>>();
        match new.lease(LEASE).processors(refuses()).start().await {
            Err(error) if error.to_string().contains("handles account.opened now") => Ok(()),
            Err(error) => Err(error.to_string()),
            Ok(_) => panic!("it has missed events"),
        }
    })
    .await;
    assert_eq!(makers().await, before);
}

/// P18
pub async fn a_program_that_cannot_go_on_with_a_build_says_why_for_as_long_as_that_is_so<S: Subject>(
    subject: S,
) {
    let store = store(&subject).await;
    let line = Double::new(store.0.clone());
    let old = run::<1, _>(&subject, &store).await;
    let more = || App::on(line.clone()).view::<Coded<HANDLES_MORE>>().lease(LEASE);
    let new = start(|| more().processors(refuses())).await;
    pay(&store, || payment(1)).await;
    settle(&new).await;
    stands_by(&old).await;
    // The older one goes on without it, and passes what it does not handle.
    line.set(Line::Down);
    pay(&store, || encoded(&opened("ada"))).await;
    pay(&store, || payment(1)).await;
    settle(&old).await;
    line.set(Line::Up);
    let cannot = |state: &ProcessorState| matches!(state, ProcessorState::Unsettled { error } if error.contains("handles account.opened now"));
    until(coded(&new), |status| cannot(&status.state)).await;
    let looks = async || {
        let nodes = ask(|| store.0.scan("nodes", None, 100)).await;
        nodes.iter().map(|node| node.rev).max().unwrap_or_default()
    };
    let since = looks().await;
    eventually(async || {
        let status = coded(&new).status();
        assert!(cannot(&status.state), "{status:?}");
        let n = looks().await;
        if n > since + 8 { Ok(()) } else { Err(format!("{n} looks")) }
    })
    .await;
    assert!(!new.health().await.is_healthy());
}

/// P18
pub async fn an_outage_longer_than_a_lease_lets_nothing_be_taken_back<S: Subject>(subject: S) {
    // Long enough for a busy machine: within one of them the newer node must be seen again.
    let lease = Duration::from_secs(1);
    let store = store(&subject).await;
    let line = Double::new(store.0.clone());
    let old = start(|| App::on(line.clone()).view::<Coded<1>>().lease(lease)).await;
    pay(&store, || payment(1)).await;
    settle(&old).await;
    let new = start(|| App::on(line.clone()).view::<Coded<2>>().lease(lease)).await;
    settle(&new).await;
    stands_by(&old).await;
    // Long after it has begun, for until then it is believed to be starting.
    tokio::time::sleep(lease * 9 / 2).await;
    line.set(Line::Down);
    tokio::time::sleep(lease * 3 / 2).await;
    line.set(Line::Up);
    pay(&store, || payment(1)).await;
    settle(&new).await;
    stands_by(&old).await;
    assert_eq!(counts(&store).await, is([(1, 1), (2, 1)]));
}

/// An effect that takes its time.
#[derive(Clone, Debug)]
struct Sends<const CODE: u64> {
    may: Arc<Semaphore>,
    /// Which programs act at this moment, and which did before.
    acting: Arc<Mutex<(Vec<u64>, Vec<u64>)>>,
}

impl<const CODE: u64> Sends<CODE> {
    fn note(&self, what: impl FnOnce(&mut (Vec<u64>, Vec<u64>))) {
        what(&mut self.acting.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl<const CODE: u64> Reactor for Sends<CODE> {
    const NAME: &'static str = "sends";
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
    fn code() -> Code {
        Code::new(CODE).handling::<Deposited>()
    }
    async fn react(&self, _: &RecordedEvent, _: Scope<'_>) -> Result<(), BoxError> {
        self.note(|(now, _)| now.push(CODE));
        self.may.acquire().await?.forget();
        self.note(|(now, before)| {
            assert_eq!(*now, [CODE], "no two at once");
            before.append(now);
        });
        Ok(())
    }
    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

/// P18
pub async fn an_effect_that_is_under_way_is_not_repeated_by_a_deploy<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let sends = Sends::<1> { may: Arc::new(Semaphore::new(0)), acting: Arc::default() };
    let acting = || sends.acting.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let backend = subject.again(&store.0).await;
    let old = start(|| App::on(backend.clone()).reactor(sends.clone()).lease(LEASE)).await;
    pay(&store, || payment(1)).await;
    let begun = || async { if acting().0 == [1] { Ok(()) } else { Err(format!("{:?}", acting())) } };
    eventually(begun).await;
    let newer = Sends::<2> { may: sends.may.clone(), acting: sends.acting.clone() };
    let new = start(|| App::on(store.0.clone()).reactor(newer.clone()).lease(LEASE)).await;
    // Time enough for the newer program to do the same beside it.
    tokio::time::sleep(LEASE * 2).await;
    assert_eq!(acting().0, [1]);
    sends.may.add_permits(1_000);
    settle(&new).await;
    stands_by(&old).await;
    let before = acting().1.len();
    pay(&store, || payment(1)).await;
    settle(&new).await;
    assert!(acting().1[before..].iter().all(|code| *code == 2), "the newer one goes on: {:?}", acting());
    assert_eq!(parked_keys(coded(&new)).await, []);
}

/// P27
pub async fn an_operator_of_an_old_program_gets_an_answer<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let new = run::<2, _>(&subject, &store).await;
    pay(&store, newer).await;
    settle(&new).await;
    assert!(new.shutdown(LIMIT).await);
    let old = run::<1, _>(&subject, &store).await;
    pay(&store, || payment(1)).await;
    settle(&old).await;
    let keys = ["account-a".to_owned()];
    let refused = loop {
        match coded(&old).rebuild_keys(&keys, LIMIT).await {
            Err(error) if error.kind() == crate::ErrorKind::Transient => {}
            answer => break answer.expect_err("it cannot read the first event"),
        }
    };
    assert!(refused.to_string().contains("schema is newer"), "{}", crate::chain(&refused));
    pay(&store, || payment(1)).await;
    settle(&old).await;
    assert_eq!(counts(&store).await, is([(1, 2), (2, 1)]), "and the others go on");
}

/// A type of payments that only newer programs know.
const FROZEN: &str = "account.frozen";
/// A program that knows it.
const KNOWS: bool = true;

/// Counts all events, and says nothing of its code: what it wants to see is all that is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told<const KNOWS: bool>(u64);

impl<const KNOWS: bool> Projection for Told<KNOWS> {
    const NAME: &'static str = "told";
    fn filter() -> EventFilter {
        EventFilter::all()
    }
}

impl<const KNOWS: bool> View for Told<KNOWS> {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        if !KNOWS || *event.name != *FROZEN && event.schema != NEWER {
            super::domain::AccountEvent::decode(event)?;
        }
        let count = |row: &mut Self| {
            row.0 += 1;
            Ok(())
        };
        Ok(vec![Change::new(event.stream.as_str().to_owned(), count)])
    }
}

async fn told<const KNOWS: bool, S: Subject>(subject: &S, of: &Patient<S::Backend>) -> App {
    let backend = subject.again(&of.0).await;
    start(|| App::on(backend.clone()).view::<Told<KNOWS>>().lease(LEASE)).await
}

/// Until each account has so many events, and none is parked.
async fn all_told<B: Backend + RowStore + Clone>(app: &App, store: &Patient<B>, expected: u64) {
    settle(app).await;
    for account in ACCOUNTS {
        let row = store.row("told/1", account).await.expect("it has a row");
        assert_eq!(serde_json::from_slice::<Told<KNOWS>>(&row.data).expect("JSON").0, expected);
    }
    assert_eq!(parked_keys(coded(app)).await, []);
}

/// Two programs that do not say what they are share the slices, until the older one meets what it does not know.
///
/// P27
pub async fn a_node_leaves_what_it_does_not_know_to_one_next_to_it<S: Subject>(subject: S) {
    for unknown in [|| raw(FROZEN, 1, "{}"), newer] {
        let store = store(&subject).await;
        let (old, new) =
            (told::<{ !KNOWS }, _>(&subject, &store).await, told::<KNOWS, _>(&subject, &store).await);
        pay(&store, || payment(1)).await;
        all_told(&new, &store, 1).await;
        let shared = |status: &ProcessorStatus| {
            let owners: BTreeSet<_> = status.ranges.iter().filter_map(|range| range.owner).collect();
            owners.len() == 2
        };
        until(coded(&old), shared).await;
        pay(&store, unknown).await;
        pay(&store, || payment(1)).await;
        all_told(&new, &store, 3).await;
        stands_by(&old).await;
        let healthy =
            || async { if old.health().await.is_healthy() { Ok(()) } else { Err("it is not".to_owned()) } };
        eventually(healthy).await;
        // Without the newer one, the older goes on with what it knows.
        assert!(new.shutdown(LIMIT).await);
        pay(&store, || payment(1)).await;
        all_told(&old, &store, 4).await;
    }
}

/// P27
pub async fn an_event_of_an_unknown_type_is_left_to_a_newer_program<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = told::<{ !KNOWS }, _>(&subject, &store).await;
    // A newer program that runs no processors has written it.
    pay(&store, || raw(FROZEN, 1, "{}")).await;
    pay(&store, || payment(1)).await;
    let fails = |state: &ProcessorState| matches!(state, ProcessorState::Failing { error, attempts, .. } if error.contains("its type is unknown to this program") && *attempts > 3);
    until(coded(&old), |status| fails(&status.state)).await;
    assert_eq!(parked_keys(coded(&old)).await, []);
    assert!(!old.health().await.is_healthy());
    let new = told::<KNOWS, _>(&subject, &store).await;
    all_told(&new, &store, 2).await;
    stands_by(&old).await;
}
