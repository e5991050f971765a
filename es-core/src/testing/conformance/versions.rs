//! Versions of a projection next to each other, and programs that handle more than before: P17, P19, P28.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::data::encoded;
use super::domain::{Deposited, Opened, opened};
use super::double::{Double, Line};
use super::patient::{Patient, ask};
use super::payments::{eventually, payment};
use super::{LIMIT, Subject, settle, start, store};
use crate::processor::{Backfill, Processor, ProcessorError, ProcessorOptions, RebuildOptions};
use crate::projection::{Change, Code, Project, Projection, View};
use crate::store::{
    Backend, EventFilter, EventStore as _, NewEvent, RecordedEvent, RowStore, StoreError, Tables,
};
use crate::{App, AppBuilder, BeforeReady, BoxError, ErrorKind};

/// Short, so that a node which has gone is soon known to be.
pub(super) const LEASE: Duration = Duration::from_millis(400);
pub(super) const ACCOUNTS: [&str; 4] = ["account-a", "account-b", "account-c", "account-d"];

/// How much was paid into each account, times the version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times<const VERSION: u32>(i64);

impl<const VERSION: u32> Projection for Times<VERSION> {
    const NAME: &'static str = "times";
    const VERSION: u32 = VERSION;
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
}

impl<const VERSION: u32> View for Times<VERSION> {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let Some(Deposited { amount, .. }) = event.payload::<Deposited>()? else { return Ok(Vec::new()) };
        let add = move |row: &mut Self| {
            row.0 += amount * i64::from(VERSION);
            Ok(())
        };
        Ok(vec![Change::new(event.stream.as_str().to_owned(), add)])
    }
}

/// The same as a table.
pub(super) struct Paid<S, const VERSION: u32>(PhantomData<fn() -> S>);

impl<S, const VERSION: u32> Paid<S, VERSION> {
    pub(super) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<S: Subject, const VERSION: u32> Projection for Paid<S, VERSION> {
    const NAME: &'static str = "paid-versions";
    const VERSION: u32 = VERSION;
    const SCHEMA: &'static str = S::PAID;
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
}

impl<S: Subject, const VERSION: u32> Project<<S::Backend as Backend>::Tx> for Paid<S, VERSION> {
    async fn project(
        &self,
        event: &RecordedEvent,
        tx: &mut <S::Backend as Backend>::Tx,
    ) -> Result<(), BoxError> {
        let Some(Deposited { amount, .. }) = event.payload::<Deposited>()? else { return Ok(()) };
        S::pay(tx, event.stream.as_str(), amount * i64::from(VERSION)).await
    }
}

pub(super) async fn run<const VERSION: u32, S: Subject>(subject: &S, of: &Patient<S::Backend>) -> App {
    let backend = subject.again(&of.0).await;
    start(|| wired::<VERSION, S>(&backend)).await
}

pub(super) fn wired<const VERSION: u32, S: Subject>(backend: &S::Backend) -> AppBuilder<S::Backend> {
    App::on(backend.clone()).view::<Times<VERSION>>().projection(Paid::<S, VERSION>::new()).lease(LEASE)
}

/// One more payment into each account.
pub(super) async fn pay<B: Backend + RowStore + Clone>(store: &Patient<B>) {
    put(store, || payment(1)).await;
}

async fn put<B: Backend + RowStore + Clone>(store: &Patient<B>, event: impl Fn() -> NewEvent) {
    for account in ACCOUNTS {
        store.put(account, vec![event()]).await;
    }
}

pub(super) fn all(amount: i64) -> BTreeMap<String, i64> {
    ACCOUNTS.into_iter().map(|account| (account.to_owned(), amount)).collect()
}

/// What the programs of a version answer, from its view and its table, once they are as far as the log.
pub(super) async fn assert_paid<const VERSION: u32, S: Subject>(app: &App, payments: i64) {
    settle(app).await;
    let expected = all(payments * i64::from(VERSION));
    let mut rows = BTreeMap::new();
    for account in ACCOUNTS.map(str::to_owned) {
        let row = answered(|| app.view::<Times<VERSION>>(&account)).await;
        rows.extend(row.map(|row| (account, row.0)));
    }
    assert_eq!(rows, expected);
    let mut seen = S::paid_through(app.services()).await;
    while seen.is_err() {
        seen = S::paid_through(app.services()).await;
    }
    assert_eq!(seen.expect("it was just asked"), expected);
}

async fn answered<T, F: Future<Output = Result<T, crate::query::QueryError>>>(
    mut ask: impl FnMut() -> F,
) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{}", crate::chain(&error)),
        }
    }
}

pub(super) async fn until_ready(app: &App) {
    app.until_ready(LIMIT).await.unwrap_or_else(|late| panic!("{late}"));
}

/// What readers see that are no apps.
pub(super) async fn plain<S: Subject>(store: &Patient<S::Backend>, expected: &BTreeMap<String, i64>) {
    eventually(|| async {
        match S::paid(&store.0).await {
            Ok(paid) if paid == *expected => Ok(()),
            Ok(paid) => Err(format!("{paid:?}")),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

/// P19
pub async fn versions_live_next_to_each_other<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    pay(&store).await;
    assert_paid::<1, S>(&old, 1).await;
    let new = run::<2, _>(&subject, &store).await;
    assert_paid::<2, S>(&new, 1).await;
    pay(&store).await;
    assert_paid::<1, S>(&old, 2).await;
    assert_paid::<2, S>(&new, 2).await;
    // In the middle of a deploy the older one starts again.
    assert!(old.shutdown(LIMIT).await);
    pay(&store).await;
    let old = run::<1, _>(&subject, &store).await;
    assert_paid::<1, S>(&old, 3).await;
    assert_paid::<2, S>(&new, 3).await;
    // Rolled back, and forward again: each goes on from where it was.
    assert!(new.shutdown(LIMIT).await);
    pay(&store).await;
    assert_paid::<1, S>(&old, 4).await;
    let new = run::<2, _>(&subject, &store).await;
    assert_paid::<2, S>(&new, 4).await;
    assert_paid::<1, S>(&old, 4).await;
}

/// P19
pub async fn a_node_that_only_looks_on_changes_nothing<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    pay(&store).await;
    assert_paid::<1, S>(&old, 1).await;
    let before = ask(|| old.processors()[0].versions()).await;
    let backend = subject.again(&store.0).await;
    let looks_on = start(|| wired::<2, S>(&backend).looks_on()).await;
    let other = start(|| wired::<1, S>(&backend).looks_on()).await;
    assert_paid::<1, S>(&other, 1).await;
    let after = ask(|| old.processors()[0].versions()).await;
    let numbers = |all: &[crate::processor::VersionStatus]| all.iter().map(|v| v.version).collect::<Vec<_>>();
    assert_eq!((numbers(&before), numbers(&after)), (vec![1], vec![1]));
    assert!(!looks_on.ready(), "nobody has built its version");
}

/// P19
pub async fn a_new_version_is_ready_once_it_has_caught_up<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    pay(&store).await;
    until_ready(&old).await;
    let line = Double::new(subject.again(&store.0).await);
    line.set(Line::HoldsOpenings);
    let wiring = |before| {
        let app = App::on(line.clone()).view::<Times<2>>().projection(Paid::<S, 2>::new());
        app.lease(LEASE).before_ready(before)
    };
    let answers = start(|| wiring(BeforeReady::AsIs)).await;
    let refuses = start(|| wiring(BeforeReady::Refuse)).await;
    let waits = start(|| wiring(BeforeReady::Wait(LIMIT))).await;
    let late = answers.until_ready(Duration::from_millis(1)).await.expect_err("it handles nothing yet");
    assert!(matches!(late, ProcessorError::NotReady { .. }), "{late}");
    assert!(!answers.ready() && !refuses.ready() && !waits.ready());
    assert!(old.ready(), "the older one is not touched");
    let is_there = || IsThere::<S>(PhantomData);
    answers.query(is_there()).await.expect("it answers what is there");
    let refused = refuses.query(is_there()).await.expect_err("it is not ready");
    assert!(matches!(refused, crate::query::QueryError::NotReady { .. }), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::Transient);
    plain::<S>(&store, &all(1)).await;
    let opening = async {
        // Whoever waits is waiting by then.
        tokio::task::yield_now().await;
        line.set(Line::Up);
    };
    let (answer, ()) = futures::join!(waits.query(is_there()), opening);
    answer.expect("it waits until then");
    assert!(waits.processor::<Paid<S, 2>>().expect("it runs it").is_ready());
    for app in [&answers, &refuses, &waits] {
        until_ready(app).await;
        assert_paid::<2, S>(app, 1).await;
    }
}

/// P19
pub async fn a_new_version_is_watched_and_takes_the_names_of_the_older_one<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    pay(&store).await;
    settle(&old).await;
    plain::<S>(&store, &all(1)).await;
    let line = Double::new(subject.again(&store.0).await);
    line.set(Line::HoldsOpenings);
    let waits = ProcessorOptions::default().handler_limit(LIMIT * 10);
    let wiring = || App::on(line.clone()).projection(Paid::<S, 2>::new()).lease(LEASE);
    let new = start(|| wiring().processors(waits)).await;
    let first = ask(|| new.rebuild_online::<Paid<S, 2>>(RebuildOptions::default())).await;
    assert_eq!(first.generation(), 1, "it is the build that has begun by itself");
    let early = loop {
        match first.switch().await {
            Err(ProcessorError::Store(error)) if error.kind() == ErrorKind::Transient => {}
            answer => break answer.expect_err("it has nothing yet"),
        }
    };
    assert!(matches!(early, ProcessorError::NotCaughtUp { .. }), "{early}");
    plain::<S>(&store, &all(1)).await;
    line.set(Line::Up);
    ask(|| first.caught_up(LIMIT)).await;
    ask(|| first.switch()).await;
    plain::<S>(&store, &all(2)).await;
    assert!(old.ready(), "the older one is there as before");
    pay(&store).await;
    settle(&new).await;
    plain::<S>(&store, &all(4)).await;
    // From now on a rebuild is one of its own.
    let next = ask(|| new.rebuild_online::<Paid<S, 2>>(RebuildOptions::default())).await;
    assert_eq!(next.generation(), 2);
    ask(|| next.abort()).await;
}

/// A question to the newer version.
struct IsThere<S>(PhantomData<fn() -> S>);

impl<S: Subject> crate::query::Query for IsThere<S> {
    type Answer = ();
    type Handler = Paid<S, 2>;
}

impl<S: Subject> crate::query::Answer<IsThere<S>> for Paid<S, 2> {
    type Env<'e> = ();
    async fn answer(&self, _: IsThere<S>, (): ()) -> Result<(), BoxError> {
        Ok(())
    }
}

/// P28
pub async fn the_plain_names_follow_the_newest_version_that_runs<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    pay(&store).await;
    settle(&old).await;
    plain::<S>(&store, &all(1)).await;
    let new = run::<2, _>(&subject, &store).await;
    plain::<S>(&store, &all(2)).await;
    let rebuild = ask(|| new.rebuild_online::<Paid<S, 2>>(RebuildOptions::default())).await;
    ask(|| rebuild.caught_up(LIMIT)).await;
    ask(|| rebuild.switch()).await;
    pay(&store).await;
    settle(&new).await;
    plain::<S>(&store, &all(4)).await;
    // Rolled back.
    assert!(new.shutdown(LIMIT).await);
    pay(&store).await;
    settle(&old).await;
    plain::<S>(&store, &all(3)).await;
    let new = run::<2, _>(&subject, &store).await;
    settle(&new).await;
    plain::<S>(&store, &all(6)).await;
}

pub(super) fn of<P: Projection>(app: &App) -> &Processor {
    app.processor::<P>().expect("the app runs it")
}

/// P19
pub async fn a_version_that_nobody_runs_is_dropped<S: Subject>(subject: S) {
    let store = store(&subject).await;
    // It lives, also while the machine has no time for it.
    let backend = subject.again(&store.0).await;
    let old = start(|| wired::<1, S>(&backend).lease(LIMIT)).await;
    pay(&store).await;
    settle(&old).await;
    let new = run::<2, _>(&subject, &store).await;
    until_ready(&new).await;
    settle(&new).await;
    let is_run = drop_version::<Times<2>>(&new, 1).await.expect_err("a live node runs it");
    assert!(matches!(is_run, ProcessorError::RunBy { .. }), "{is_run}");
    let own = drop_version::<Times<2>>(&new, 2).await.expect_err("it is the app's own");
    assert!(matches!(own, ProcessorError::InUse { .. }), "{own}");
    assert_paid::<1, S>(&old, 1).await;
    assert!(old.shutdown(LIMIT).await);
    let noted = || async {
        let versions = of::<Times<2>>(&new).versions().await.map_err(|e| e.to_string())?;
        match &versions[..] {
            [old, new]
                if old.unseen_since.is_some() && new.unseen_since.is_none() && new.nodes.len() == 1 =>
            {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    };
    eventually(noted).await;
    // Asked again after an error, another one may have come to the end of it.
    drop_version::<Times<2>>(&new, 1).await.expect("nobody runs it");
    drop_version::<Paid<S, 2>>(&new, 1).await.expect("nobody runs it");
    assert!(!drop_version::<Times<2>>(&new, 1).await.expect("it has gone"));
    assert_eq!(store.row("times/1~1", "account-a").await, None);
    plain::<S>(&store, &all(2)).await;
    assert_paid::<2, S>(&new, 1).await;
    // A program of before builds it again.
    pay(&store).await;
    let old = run::<1, _>(&subject, &store).await;
    assert_paid::<1, S>(&old, 2).await;
    assert_paid::<2, S>(&new, 2).await;
}

pub(super) async fn drop_version<P: Projection>(app: &App, version: u32) -> Result<bool, ProcessorError> {
    for _ in 0..1_000 {
        match of::<P>(app).drop_version(version).await {
            Err(error) if error.kind() == ErrorKind::Transient => {}
            answer => return answer,
        }
    }
    panic!("no answer in 1,000 tries")
}

/// P19
pub async fn a_version_goes_by_itself_when_no_node_has_run_it_for_long<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    pay(&store).await;
    settle(&old).await;
    let backend = subject.again(&store.0).await;
    let keeps = ProcessorOptions::default().keep_versions(Duration::from_millis(1));
    let new = start(|| wired::<2, S>(&backend).processors(keeps)).await;
    settle(&new).await;
    pay(&store).await;
    assert_paid::<1, S>(&old, 2).await;
    assert!(old.shutdown(LIMIT).await);
    let gone = || async {
        let versions = of::<Paid<S, 2>>(&new).versions().await.map_err(|e| e.to_string())?;
        let row = store.row("times/1~1", "account-a").await;
        if versions.len() == 1 && row.is_none() { Ok(()) } else { Err(format!("{versions:?}, {row:?}")) }
    };
    eventually(gone).await;
    assert_paid::<2, S>(&new, 2).await;
}

/// P19
pub async fn a_node_that_looks_on_is_not_ready_for_a_version_that_has_gone<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let old = run::<1, _>(&subject, &store).await;
    pay(&store).await;
    settle(&old).await;
    let backend = subject.again(&store.0).await;
    let looks_on = start(|| wired::<1, S>(&backend).looks_on()).await;
    until_ready(&looks_on).await;
    assert_paid::<1, S>(&looks_on, 1).await;
    let new = run::<2, _>(&subject, &store).await;
    until_ready(&new).await;
    assert!(old.shutdown(LIMIT).await);
    // Once the newer one has the plain names.
    eventually(async || {
        let paid = of::<Paid<S, 2>>(&new).drop_version(1).await;
        let times = of::<Times<2>>(&new).drop_version(1).await;
        if paid.is_ok() && times.is_ok() { Ok(()) } else { Err(format!("{paid:?}, {times:?}")) }
    })
    .await;
    let is_ready = async || if looks_on.ready() { Err("it is ready".to_owned()) } else { Ok(()) };
    eventually(is_ready).await;
    let head = ask(|| store.0.head()).await;
    for processor in looks_on.processors() {
        eventually(async || match processor.wait_or_stale(head, Duration::from_millis(20)).await {
            Ok(false) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
    // None of the newer one's rows is taken for its own.
    let paid = S::paid_through(looks_on.services()).await.unwrap_or_default();
    assert!(paid.is_empty(), "{paid:?}");
    let old = run::<1, _>(&subject, &store).await;
    assert_paid::<1, S>(&old, 1).await;
    until_ready(&looks_on).await;
    assert_paid::<1, S>(&looks_on, 1).await;
}

/// Removes a version, as a program does that believes no node runs it.
pub(super) async fn removed<B: Backend + RowStore + Clone>(
    store: &Patient<B>,
    projection: &str,
    version: u32,
) -> Result<bool, StoreError> {
    let noted = crate::processor::noted(&store.0, projection).await?;
    crate::processor::remove_version(&store.0, projection, version, noted).await
}

/// A version that went while a node with it was not seen, though it runs.
///
/// P19
pub async fn a_version_that_is_taken_away_from_its_node_is_built_again<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let app = run::<1, _>(&subject, &store).await;
    pay(&store).await;
    assert_paid::<1, S>(&app, 1).await;
    for tables in [
        Tables { name: "times", version: 1, schema: "" },
        Tables { name: "paid-versions", version: 1, schema: S::PAID },
    ] {
        let mut gone = false;
        while !gone {
            gone = removed(&store, tables.name, tables.version).await.unwrap_or_default();
        }
    }
    pay(&store).await;
    eventually(|| async {
        settle(&app).await;
        let row = app.view::<Times<1>>(&"account-a".to_owned()).await.map_err(|e| e.to_string())?;
        let paid = S::paid_through(app.services()).await.map_err(|e| e.to_string())?;
        if row == Some(Times(2)) && paid == all(2) { Ok(()) } else { Err(format!("{row:?}, {paid:?}")) }
    })
    .await;
}

/// Counts payments, and with `MORE` openings as well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted<const MORE: u32>(u64);

impl<const MORE: u32> Projection for Counted<MORE> {
    const NAME: &'static str = "counted";
    fn filter() -> EventFilter {
        let payments = EventFilter::of::<Deposited>();
        if MORE > 0 { payments.or(EventFilter::of::<Opened>()) } else { payments }
    }
    fn code() -> Code {
        let code = Code::new(u64::from(MORE)).handling::<Deposited>();
        if MORE > 0 { code.handling::<Opened>() } else { code }
    }
}

impl<const MORE: u32> View for Counted<MORE> {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let count = |row: &mut Self| {
            row.0 += 1;
            Ok(())
        };
        Ok(vec![Change::new(event.stream.as_str().to_owned(), count)])
    }
}

async fn counting<const MORE: u32, S: Subject>(
    subject: &S,
    of: &Patient<S::Backend>,
    options: ProcessorOptions,
) -> App {
    let backend = subject.again(&of.0).await;
    start(|| App::on(backend.clone()).view::<Counted<MORE>>().lease(LEASE).processors(options)).await
}

/// Until each account has this row.
async fn counted<B: Backend + RowStore + Clone>(store: &Patient<B>, expected: u64) {
    eventually(|| async {
        let mut rows = Vec::new();
        for account in ACCOUNTS {
            let row = store.row("counted/1", account).await;
            rows.push(row.map(|row| serde_json::from_slice::<Counted<0>>(&row.data).expect("JSON").0));
        }
        if rows.iter().all(|row| *row == Some(expected)) { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
}

/// P17
pub async fn a_projection_whose_program_handles_more_is_rebuilt_by_itself<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let less = counting::<0, _>(&subject, &store, ProcessorOptions::default()).await;
    put(&store, || encoded(&opened("Ada"))).await;
    pay(&store).await;
    settle(&less).await;
    counted(&store, 1).await;
    // Next to it, and after it: nothing is missed, and whoever waits sees all of it.
    let more = counting::<1, _>(&subject, &store, ProcessorOptions::default()).await;
    settle(&more).await;
    counted(&store, 2).await;
    until_ready(&more).await;
    assert!(less.shutdown(LIMIT).await);
    pay(&store).await;
    settle(&more).await;
    counted(&store, 3).await;
    // The build of before goes by itself.
    eventually(|| async {
        let kept = store.row("counted/1~1", "account-a").await;
        kept.map_or(Ok(()), |row| Err(format!("{row:?}")))
    })
    .await;
}

/// P17
pub async fn whoever_waits_for_a_projection_that_is_rebuilt_by_itself_sees_all_of_it<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let less = counting::<0, _>(&subject, &store, ProcessorOptions::default()).await;
    put(&store, || encoded(&opened("Ada"))).await;
    pay(&store).await;
    settle(&less).await;
    assert!(less.shutdown(LIMIT).await);
    let more = counting::<1, _>(&subject, &store, ProcessorOptions::default()).await;
    let done = crate::store::Position(store.head().await);
    loop {
        match of::<Counted<1>>(&more).wait_for(done, LIMIT).await {
            Ok(()) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
        }
    }
    let account = "account-a".to_owned();
    let row = answered(|| more.view::<Counted<1>>(&account)).await;
    assert_eq!(row, Some(Counted(2)));
}

/// P17
pub async fn a_node_that_looks_on_is_not_ready_for_what_an_older_program_makes<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let less = counting::<0, _>(&subject, &store, ProcessorOptions::default()).await;
    put(&store, || encoded(&opened("Ada"))).await;
    pay(&store).await;
    settle(&less).await;
    let backend = subject.again(&store.0).await;
    let looks_on = start(|| App::on(backend.clone()).view::<Counted<1>>().lease(LEASE).looks_on()).await;
    let head = crate::store::Position(store.head().await);
    // The rows are as far as the log, but without the openings.
    let late = looks_on.until_ready(LEASE * 3).await.expect_err("nobody counts the openings");
    assert!(matches!(late, ProcessorError::NotReady { .. }), "{late}");
    of::<Counted<1>>(&looks_on).wait_for(head, LEASE).await.expect_err("nobody counts the openings");
    let more = counting::<1, _>(&subject, &store, ProcessorOptions::default()).await;
    until_ready(&more).await;
    until_ready(&looks_on).await;
    let account = "account-a".to_owned();
    let row = answered(|| looks_on.view::<Counted<1>>(&account)).await;
    assert_eq!(row, Some(Counted(2)));
}

/// P17
pub async fn what_was_missed_is_left_out_if_that_was_chosen<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let skips = ProcessorOptions::default().backfill(Backfill::Skip);
    let less = counting::<0, _>(&subject, &store, skips).await;
    put(&store, || encoded(&opened("Ada"))).await;
    pay(&store).await;
    settle(&less).await;
    assert!(less.shutdown(LIMIT).await);
    let more = counting::<1, _>(&subject, &store, skips).await;
    put(&store, || encoded(&opened("Bob"))).await;
    settle(&more).await;
    until_ready(&more).await;
    counted(&store, 2).await;
}
