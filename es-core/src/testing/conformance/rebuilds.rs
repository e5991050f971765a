//! Builds beside the one that is read, and the switch between them: P11 and P12.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{Stream, StreamExt as _};

use super::cluster::overwrite;
use super::data::encoded;
use super::domain::{AccountEvent, deposited, opened, withdrawn};
use super::double::{Double, Line};
use super::patient::{Patient, ask};
use super::payments::{
    KINDS, Kind, Ledger, Poison, World, answered, eventually, parked_keys, payment, retry, rows, until,
};
use super::reading::balance;
use super::readside::Balance;
use super::{LIMIT, Subject, settle, start, store};
use crate::event::Event as _;
use crate::processor::{
    Desk, KnownBuilds, Processor, ProcessorError, ProcessorState, Progress, Rebuild, RebuildOptions,
    RebuildStep,
};
use crate::projection::{OnFailure, Project, Projection};
use crate::store::{Backend, Commit, EventFilter, Position, RecordedEvent, RowWrite};
use crate::{App, BoxError, ErrorKind};

/// Sums up what was paid into each account, through SQL. Clones share whether they fail.
#[derive(Debug)]
pub struct PaidIn<S> {
    /// Fails at amounts of 666.
    fails: Arc<AtomicBool>,
    /// Counts twice: a mistake that a rebuild mends.
    doubles: Arc<AtomicBool>,
    subject: PhantomData<fn() -> S>,
}

impl<S> Default for PaidIn<S> {
    fn default() -> Self {
        Self { fails: Arc::default(), doubles: Arc::default(), subject: PhantomData }
    }
}

impl<S> Clone for PaidIn<S> {
    fn clone(&self) -> Self {
        Self { fails: self.fails.clone(), doubles: self.doubles.clone(), subject: PhantomData }
    }
}

impl<S: Subject + 'static> Projection for PaidIn<S> {
    const NAME: &'static str = "paid";
    const SCHEMA: &'static str = S::PAID;
    const ON_FAILURE: OnFailure = OnFailure::Park;
    fn filter() -> EventFilter {
        EventFilter::of_enum::<AccountEvent>()
    }
}

impl<S: Subject + 'static> Project<<S::Backend as Backend>::Tx> for PaidIn<S> {
    async fn project(
        &self,
        event: &RecordedEvent,
        tx: &mut <S::Backend as Backend>::Tx,
    ) -> Result<(), BoxError> {
        for payload in AccountEvent::decode(event)? {
            let amount = match payload {
                AccountEvent::Deposited(e) => e.amount,
                AccountEvent::Withdrawn(e) => -e.amount,
                AccountEvent::Opened(_) | AccountEvent::Closed(_) | AccountEvent::Rated(_) => continue,
            };
            if amount == 666 && self.fails.load(Ordering::SeqCst) {
                return Err("nobody pays that".into());
            }
            let times = 1 + i64::from(self.doubles.load(Ordering::SeqCst));
            S::pay(tx, event.stream.as_str(), amount * times).await?;
        }
        Ok(())
    }
}

type Store<S> = Patient<<S as Subject>::Backend>;

/// Asks until the store answers.
macro_rules! patient {
    ($ask:expr) => {
        loop {
            match $ask.await {
                Err(error) if error.kind() == ErrorKind::Transient => {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                outcome => break outcome,
            }
        }
    };
}

async fn paid<S: Subject>(store: &Store<S>) -> BTreeMap<String, i64> {
    S::paid(&store.0).await.unwrap_or_else(|e| panic!("reading what was paid: {e}"))
}

/// What a plain fold of the log gives.
async fn folded<S: Subject>(store: &Store<S>) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    for event in store.all().await {
        for payload in AccountEvent::decode(&event).expect("the suites' own events") {
            match payload {
                AccountEvent::Deposited(e) => {
                    *sums.entry(event.stream.as_str().to_owned()).or_default() += e.amount;
                }
                AccountEvent::Withdrawn(e) => {
                    *sums.entry(event.stream.as_str().to_owned()).or_default() -= e.amount;
                }
                AccountEvent::Opened(_) | AccountEvent::Closed(_) | AccountEvent::Rated(_) => {}
            }
        }
    }
    sums
}

async fn deposit<S: Subject>(store: &Store<S>, account: u64, amount: i64) {
    store.put(&format!("account-{account}"), vec![encoded(&deposited(amount))]).await;
}

async fn begun<P: Projection>(app: &App, options: RebuildOptions) -> Rebuild {
    patient!(app.rebuild_online::<P>(options)).expect("it can be built")
}

fn processor<P: Projection>(app: &App) -> &Processor {
    app.processor::<P>().expect("it runs")
}

/// P11
pub async fn an_online_rebuild_is_read_from_the_switch_on<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let paid_in = PaidIn::<S>::default();
    paid_in.doubles.store(true, Ordering::SeqCst);
    let app = start(|| App::on(store.0.clone()).view::<Balance>().projection(paid_in.clone())).await;
    for i in 0..20 {
        deposit::<S>(&store, i % 4, 10).await;
    }
    settle(&app).await;
    assert_eq!(paid::<S>(&store).await["account-0"], 100, "twice as much as was paid");
    paid_in.doubles.store(false, Ordering::SeqCst);
    let rebuild = begun::<PaidIn<S>>(&app, RebuildOptions::default()).await;
    patient!(rebuild.caught_up(LIMIT)).expect("it goes on by itself");
    deposit::<S>(&store, 0, 1).await;
    settle(&app).await;
    assert_eq!(paid::<S>(&store).await["account-0"], 101, "what is read has not changed");
    loop {
        let report = patient!(rebuild.report(3)).expect("both are there");
        if report.old == report.new && report.new.0 >= 21 {
            let paid = &report.differences[0];
            assert_eq!((paid.added, paid.removed, paid.changed), (0, 0, 4), "{report:?}");
            assert_eq!(paid.samples.len(), 3);
            break;
        }
        tokio::task::yield_now().await;
    }
    patient!(rebuild.switch()).expect("it has caught up");
    assert_eq!(paid::<S>(&store).await, folded::<S>(&store).await);
    deposit::<S>(&store, 3, 5).await;
    settle_current(&app, &store).await;
    assert_eq!(paid::<S>(&store).await, folded::<S>(&store).await, "events appended since are in it");
    while patient!(processor::<PaidIn<S>>(&app).drop_previous()).expect("it is not read") {}
    deposit::<S>(&store, 3, 5).await;
    settle_current(&app, &store).await;
    assert_eq!(paid::<S>(&store).await, folded::<S>(&store).await);
}

/// Until what is read is as far as the log, also while a node is finding out which build that is.
async fn settle_current<B: Backend + Clone>(app: &App, store: &Patient<B>) {
    let head = Position(store.head().await);
    for processor in app.processors() {
        loop {
            let Some(row) = store.row("generations", processor.name()).await else { break };
            let row: serde_json::Value = serde_json::from_slice(&row.data).expect("JSON");
            if row["current"] == u64::from(processor.status().generation) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        processor.reach(head, LIMIT).await.unwrap_or_else(|late| panic!("{}", crate::chain(&late)));
    }
}

/// P11, P12
pub async fn readers_beside_a_rebuild_see_no_older_state<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    // Two ranges: they are seldom at one position.
    let wiring = || App::on(store.0.clone()).view::<Balance>().projection(PaidIn::<S>::default()).workers(2);
    let app = start(wiring).await;
    for _ in 0..50 {
        deposit::<S>(&store, 0, 1).await;
    }
    settle(&app).await;
    let ended = Arc::new(AtomicBool::new(false));
    let reads = async {
        let (mut least, mut view_least, mut n) = (50, 50, 0_u64);
        while !ended.load(Ordering::SeqCst) {
            let sum = paid::<S>(&store).await.get("account-0").copied().unwrap_or_default();
            assert!(sum >= least, "{sum} after {least}");
            least = sum;
            let view = balance(&app, "0").await.unwrap_or_default().amount;
            assert!(view >= view_least, "{view} after {view_least}");
            view_least = view;
            n += 1;
            tokio::task::yield_now().await;
        }
        n
    };
    // A task of its own: one that waits for itself is refused.
    let writes = tokio::spawn({
        let (store, ended) = (store.clone(), ended.clone());
        async move {
            while !ended.load(Ordering::SeqCst) {
                deposit::<S>(&store, 0, 1).await;
                tokio::task::yield_now().await;
            }
        }
    });
    let rebuilds = async {
        for _ in 0..2 {
            let rebuild = begun::<PaidIn<S>>(&app, RebuildOptions::default()).await;
            let view = begun::<Balance>(&app, RebuildOptions::default()).await;
            for rebuild in [rebuild, view] {
                patient!(rebuild.caught_up(LIMIT)).expect("it goes on by itself");
                patient!(rebuild.switch()).expect("it has caught up");
            }
            patient!(processor::<PaidIn<S>>(&app).roll_back()).expect("the old one is there");
            patient!(processor::<Balance>(&app).roll_back()).expect("the old one is there");
            patient!(processor::<PaidIn<S>>(&app).roll_back()).expect("and the new one is still there");
            for processor in app.processors() {
                patient!(processor.drop_previous()).expect("it is not read");
            }
        }
        ended.store(true, Ordering::SeqCst);
    };
    let (reads, ()) = tokio::join!(reads, rebuilds);
    assert!(reads > 0);
    writes.await.expect("appends are accepted");
    settle_current(&app, &store).await;
    assert_eq!(paid::<S>(&store).await, folded::<S>(&store).await);
    let view = balance(&app, "0").await.expect("there").amount;
    assert_eq!(view, folded::<S>(&store).await["account-0"]);
}

/// P11
pub async fn a_rebuild_goes_on_after_a_restart_or_is_given_up<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let paid_in = PaidIn::<S>::default();
    let wiring = || App::on(store.0.clone()).projection(paid_in.clone());
    let app = start(wiring).await;
    for i in 0..10 {
        deposit::<S>(&store, i % 2, 1).await;
    }
    deposit::<S>(&store, 1, 666).await;
    settle(&app).await;
    paid_in.fails.store(true, Ordering::SeqCst);
    let rebuild = begun::<PaidIn<S>>(&app, RebuildOptions::default()).await;
    let stands_still = |progress: &Progress| matches!(progress.state, ProcessorState::Halted { .. });
    let mut progress = Box::pin(rebuild.progress());
    loop {
        let looked = progress.next().await.expect("it does not get past the failure");
        if looked.is_ok_and(|progress| stands_still(&progress)) {
            break;
        }
    }
    drop(progress);
    let refused = patient!(rebuild.switch()).expect_err("it cannot get to where the other one is");
    assert!(matches!(refused, ProcessorError::Halted { .. }), "{refused}");
    assert!(app.shutdown(LIMIT).await);

    let app = start(wiring).await;
    let again =
        patient!(processor::<PaidIn<S>>(&app).rebuilding()).expect("the store answers").expect("still there");
    assert_eq!(again.generation(), rebuild.generation());
    assert_eq!(begun::<PaidIn<S>>(&app, RebuildOptions::default()).await.generation(), again.generation());
    assert_eq!(paid::<S>(&store).await, folded::<S>(&store).await, "the old one serves");
    paid_in.fails.store(false, Ordering::SeqCst);
    patient!(processor::<PaidIn<S>>(&app).resume()).expect("the store answers");
    let mut progress = Box::pin(again.progress());
    while progress.next().await.is_some() {
        patient!(processor::<PaidIn<S>>(&app).resume()).expect("the store answers");
    }
    patient!(again.switch()).expect("it has caught up");
    assert_eq!(paid::<S>(&store).await, folded::<S>(&store).await);

    patient!(processor::<PaidIn<S>>(&app).drop_previous()).expect("it is not read");
    let given_up = begun::<PaidIn<S>>(&app, RebuildOptions::default()).await;
    patient!(given_up.abort()).expect("nobody reads it");
    patient!(given_up.abort()).expect("harmless");
    assert!(patient!(processor::<PaidIn<S>>(&app).rebuilding()).expect("the store answers").is_none());
    deposit::<S>(&store, 0, 7).await;
    settle_current(&app, &store).await;
    assert_eq!(paid::<S>(&store).await, folded::<S>(&store).await);
}

/// The last look at a rebuild.
async fn end_of(
    progress: impl Stream<Item = Result<Progress, ProcessorError>>,
) -> Option<Result<Progress, ProcessorError>> {
    tokio::time::timeout(LIMIT, progress.collect::<Vec<_>>()).await.expect("it ends").pop()
}

/// P11
pub async fn a_rebuild_is_watched_through_an_outage<S: Subject>(subject: S) {
    let world = World::<S>::new(&subject).await;
    let line = Double::new(world.store.0.clone());
    let app = start(|| App::on(line.clone()).view::<Ledger>()).await;
    world.pay("a", 1..=3).await;
    settle(&app).await;
    let rebuild = ask(|| processor::<Ledger>(&app).rebuild_online(RebuildOptions::default())).await;
    line.set(Line::Down);
    let mut progress = Box::pin(rebuild.progress());
    let away = progress.next().await.expect("it goes on").expect_err("the store is away");
    assert_eq!(away.kind(), ErrorKind::Transient, "{away}");
    let before = line.refusals();
    let mending = async {
        eventually(async || if line.refusals() > before { Ok(()) } else { Err("nobody asked".to_owned()) })
            .await;
        line.set(Line::Up);
    };
    let (caught_up, ()) = futures::join!(rebuild.caught_up(LIMIT), mending);
    caught_up.expect("the store is there again");
    let end = end_of(progress).await;
    assert!(matches!(&end, Some(Ok(progress)) if progress.is_complete()), "{end:?}");
    ask(|| rebuild.abort()).await;
    let end = end_of(rebuild.progress()).await;
    assert!(matches!(end, Some(Err(ProcessorError::Dropped { .. }))), "{end:?}");
}

/// O6, P11
pub async fn what_helps_a_rebuild_that_is_halted_is_told_on_every_node<S: Subject>(subject: S) {
    let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
    let ms = std::time::Duration::from_millis;
    let wiring =
        |backend: &S::Backend| App::on(backend.clone()).view::<Ledger>().processor_retries(1, ms(1), ms(4));
    let other = subject.again(&world.store.0).await;
    let nodes = [
        start(|| wiring(&world.store.0).lease(ms(400))).await,
        start(|| wiring(&other).lease(ms(400))).await,
    ];
    // Longer than what is stored of an error.
    world.put("a", vec![poison.payment(1, "long")]).await;
    settle(&nodes[0]).await;
    let rebuild = ask(|| processor::<Ledger>(&nodes[0]).rebuild_online(RebuildOptions::default())).await;
    for node in &nodes {
        let error = || {
            let builds = processor::<Ledger>(node).builds();
            let build = builds.into_iter().find(|status| status.generation == rebuild.generation());
            match build.map(|status| status.state) {
                Some(ProcessorState::Halted { error, .. }) => Ok(error),
                other => Err(format!("{other:?}")),
            }
        };
        eventually(async || error().map(drop)).await;
        let error = error().expect("it stays halted");
        assert!(error.contains("poisoned") && error.contains("begin a lenient one"), "{}", error.len());
    }
}

/// P11
pub async fn a_lenient_rebuild_parks_what_fails<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let paid_in = PaidIn::<S>::default();
    paid_in.fails.store(true, Ordering::SeqCst);
    let ms = std::time::Duration::from_millis;
    let wiring = || App::on(store.0.clone()).projection(paid_in.clone()).processor_retries(1, ms(1), ms(4));
    let app = start(wiring).await;
    deposit::<S>(&store, 0, 1).await;
    deposit::<S>(&store, 1, 666).await;
    deposit::<S>(&store, 1, 1).await;
    settle(&app).await;
    let processor = processor::<PaidIn<S>>(&app);
    assert_eq!(ask(|| processor.parked(None, 10)).await.len(), 1);
    let rebuild = begun::<PaidIn<S>>(&app, RebuildOptions::default().lenient()).await;
    let mut progress = Box::pin(rebuild.progress());
    while progress.next().await.is_some() {}
    patient!(rebuild.switch()).expect("it has caught up");
    settle_current(&app, &store).await;
    assert_eq!(paid::<S>(&store).await, BTreeMap::from([("account-0".to_owned(), 1)]));
    let parked = ask(|| processor.parked(None, 10)).await;
    assert_eq!((parked.len(), parked[0].events), (1, 2), "{parked:?}");
}

/// P11
pub async fn a_rebuild_with_other_options_than_the_one_under_way_is_refused<S: Subject + 'static>(
    subject: S,
) {
    let store = store(&subject).await;
    let paid_in = PaidIn::<S>::default();
    paid_in.fails.store(true, Ordering::SeqCst);
    let ms = std::time::Duration::from_millis;
    let app =
        start(|| App::on(store.0.clone()).projection(paid_in.clone()).processor_retries(1, ms(1), ms(4)))
            .await;
    deposit::<S>(&store, 0, 666).await;
    settle(&app).await;
    let strict = begun::<PaidIn<S>>(&app, RebuildOptions::default()).await;
    let halted = patient!(strict.switch()).expect_err("nobody pays that");
    assert!(matches!(&halted, ProcessorError::Halted { error, .. } if error.contains("abort")), "{halted}");
    let lenient = || RebuildOptions::default().lenient();
    let refused = patient!(app.rebuild_online::<PaidIn<S>>(lenient())).expect_err("it is strict");
    assert!(matches!(refused, ProcessorError::OtherOptions { .. }), "{refused}");
    let same = begun::<PaidIn<S>>(&app, RebuildOptions::default()).await;
    assert_eq!(same.generation(), strict.generation());
    patient!(strict.abort()).expect("it is not read");
    let other = begun::<PaidIn<S>>(&app, lenient()).await;
    patient!(other.caught_up(LIMIT)).expect("it parks what fails");
}

/// P11
pub async fn queries_go_back_to_a_build_that_stands_where_theirs_does<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>()).await;
    deposit::<S>(&store, 0, 1).await;
    settle(&app).await;
    let rebuild = begun::<Balance>(&app, RebuildOptions::default()).await;
    patient!(rebuild.caught_up(LIMIT)).expect("it goes on by itself");
    patient!(rebuild.switch()).expect("it has caught up");
    let processor = processor::<Balance>(&app);
    for amount in 2..20 {
        patient!(processor.pause()).expect("it runs");
        until(processor, |status| matches!(status.state, ProcessorState::Paused { .. })).await;
        // Neither takes it in, wherever they stand.
        deposit::<S>(&store, 0, amount).await;
        let back = patient!(processor.roll_back());
        patient!(processor.resume()).expect("it was paused");
        settle(&app).await;
        match back {
            Ok(()) => return assert_eq!(processor.status().generation, 1),
            Err(ProcessorError::NotCaughtUp { why, .. }) => assert!(why.contains("paused"), "{why:?}"),
            Err(error) => panic!("{error}"),
        }
        let head = Position(store.head().await);
        eventually(async || match processor.builds() {
            builds if builds.iter().all(|build| build.position == head) => Ok(()),
            builds => Err(format!("{builds:?}")),
        })
        .await;
    }
    panic!("it is behind what is read though it stands at the same position");
}

/// P11
pub async fn what_cannot_be_switched_to_is_refused<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>()).await;
    deposit::<S>(&store, 0, 1).await;
    settle(&app).await;
    let none = patient!(processor::<Balance>(&app).roll_back()).expect_err("there is nothing to go back to");
    assert!(matches!(none, ProcessorError::NoOlder { .. }), "{none}");
    let rebuild = begun::<Balance>(&app, RebuildOptions::default()).await;
    patient!(rebuild.caught_up(LIMIT)).expect("it goes on by itself");
    patient!(rebuild.switch()).expect("it has caught up");
    let kept = patient!(app.rebuild_online::<Balance>(RebuildOptions::default())).expect_err("one is kept");
    assert!(matches!(kept, ProcessorError::OlderKept { .. }), "{kept}");
    let current = patient!(rebuild.abort()).expect_err("it is read");
    assert!(matches!(current, ProcessorError::InUse { .. }), "{current}");
    assert_eq!(balance(&app, "0").await.expect("there").amount, 1);
}

/// P12
pub async fn rebuilt_online_equals_built_step_by_step<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>().workers(3)).await;
    for i in 0..60_u64 {
        let event = match i % 5 {
            0 => opened("ada"),
            1 | 2 => deposited(i64::try_from(i).expect("small")),
            _ => withdrawn(1),
        };
        store.put(&format!("account-{}", i * i % 7), vec![encoded(&event)]).await;
        if i % 20 == 0 {
            settle(&app).await;
        }
    }
    settle(&app).await;
    let rebuild = begun::<Balance>(&app, RebuildOptions::default()).await;
    let mut progress = Box::pin(rebuild.progress());
    while progress.next().await.is_some() {}
    let report = patient!(rebuild.report(5)).expect("both are there");
    assert!(report.is_empty(), "{report:?}");
    assert_eq!(report.old, report.new);
}

/// P12
pub async fn rows_of_some_keys_are_built_anew_while_others_go_on<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>().projection(PaidIn::<S>::default())).await;
    for i in 0..30 {
        deposit::<S>(&store, i % 3, 1).await;
    }
    settle(&app).await;
    // Somebody has broken two rows by hand; one of them is asked for.
    for key in ["0", "1"] {
        break_row::<S>(&store, "balance/1~1", key).await;
    }
    let views = processor::<Balance>(&app);
    patient!(views.rebuild_keys(&["0".to_owned(), "none".to_owned()], LIMIT)).expect("it is a view");
    assert_eq!(balance(&app, "0").await.expect("there").amount, 10);
    assert_eq!(balance(&app, "1").await.expect("there").amount, 999);
    assert_eq!(balance(&app, "none").await, None, "no event made it");
    assert_eq!(patient!(views.rebuild_tenant("nobody", LIMIT)).expect("it is a view"), 0);
    deposit::<S>(&store, 0, 5).await;
    settle(&app).await;
    assert_eq!(balance(&app, "0").await.expect("there").amount, 15);
    let sql = patient!(processor::<PaidIn<S>>(&app).rebuild_keys(&["account-0".to_owned()], LIMIT));
    let refused = sql.expect_err("rows of SQL have no key");
    assert!(matches!(refused, ProcessorError::NotRebuildable { .. }), "{refused}");
}

/// P12
pub async fn a_row_that_fails_keeps_no_other_from_being_rebuilt<S: Subject>(subject: S) {
    let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
    let app = world.start().await;
    poison.mend();
    for account in ["a", "b", "c"] {
        world.put(account, vec![payment(1), poison.payment(2, "half b"), payment(3)]).await;
    }
    settle(&app).await;
    poison.relapse();
    for account in ["a", "b", "c"] {
        overwrite::<S>(
            &world.store,
            "ledger/1~1",
            account,
            br#"{"n":9,"sum":9,"last":9,"disorder":9,"replayed":9}"#,
        )
        .await;
    }
    // Asked for by three callers, so that they stand together when it goes on.
    let processor = processor::<Ledger>(&app);
    ask(|| processor.pause()).await;
    until(processor, |status| matches!(status.state, ProcessorState::Paused { .. })).await;
    let rebuild = async |key: &str| {
        let keys = [key.to_owned()];
        answered(|| processor.rebuild_keys(&keys, LIMIT)).await
    };
    let resume = async {
        eventually(async || match rows(&world.store, "ledger/1~1/afresh").await.len() {
            3 => Ok(()),
            n => Err(format!("{n} are asked for")),
        })
        .await;
        ask(|| processor.resume()).await;
    };
    let (a, b, c, ()) = tokio::join!(rebuild("a"), rebuild("b"), rebuild("c"), resume);
    assert!(a.is_ok() && c.is_ok(), "{a:?}, {c:?}");
    match b {
        Err(ProcessorError::RowFailed { key, error, .. }) => {
            assert!(key == "b" && error.contains("poisoned"), "{key}: {error}");
        }
        other => panic!("its handler fails: {other:?}"),
    }
    for account in ["a", "c"] {
        let tally = world.tally(account).await.expect("a row");
        assert_eq!((tally.n, tally.sum, tally.disorder), (3, 6, 0), "{account}");
    }
    assert_eq!(world.tally("b").await.expect("a row").n, 9, "it is as it was");
}

/// P11
pub async fn what_was_asked_of_a_build_goes_with_it<S: Subject>(subject: S) {
    let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
    let app = world.start().await;
    poison.mend();
    world.put("a", vec![poison.payment(1, "fails")]).await;
    settle(&app).await;
    let ledger = app.processor::<Ledger>().expect("it runs");
    poison.relapse();
    let keys = ["a".to_owned()];
    let asked = answered(|| ledger.rebuild_keys(&keys, LIMIT)).await;
    assert!(matches!(asked, Err(ProcessorError::RowFailed { .. })), "{asked:?}");
    poison.mend();
    assert_eq!(rows(&world.store, "ledger/1~1/afresh").await.len(), 1);
    let rebuild = ask(|| ledger.rebuild_online(RebuildOptions::default())).await;
    ask(|| rebuild.caught_up(LIMIT)).await;
    ask(|| rebuild.switch()).await;
    ask(|| ledger.drop_previous()).await;
    eventually(async || match rows(&world.store, "ledger/1~1/afresh").await.len() {
        0 => Ok(()),
        n => Err(format!("{n} rows of a build that has gone")),
    })
    .await;
}

/// P12, K1
pub async fn the_row_of_a_key_that_was_parked_since_is_not_rebuilt<S: Subject + 'static>(subject: S) {
    let (world, poison) = (World::<S>::new(&subject).await, Poison::new());
    let line = Double::new(subject.again(&world.store.0).await);
    let app = start(|| World::<S>::wiring(&world.store.0)).await;
    let asking = start(|| App::on(line.clone()).view::<Ledger>().looks_on()).await;
    world.pay("a", 1..=2).await;
    settle(&app).await;
    let keys = ["a".to_owned()];
    line.set(Line::HoldsCommits("ledger/1~1/afresh"));
    let asked = async {
        loop {
            match processor::<Ledger>(&asking).rebuild_keys(&keys, LIMIT).await {
                Err(error) if error.kind() == ErrorKind::Transient && line.held() == 0 => {}
                answer => break answer,
            }
        }
    };
    let meanwhile = async {
        while line.held() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        world.put("a", vec![poison.payment(3, "fails"), payment(4)]).await;
        settle(&app).await;
        assert_eq!(parked_keys(processor::<Ledger>(&app)).await, [("a".to_owned(), 2)]);
        line.set(Line::Up);
    };
    match tokio::join!(asked, meanwhile).0 {
        Err(ProcessorError::RowFailed { key, error, .. }) => {
            assert!(key == "a" && error.contains("parked"), "{key}: {error}");
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
        Ok(()) => panic!("what waits would be handled twice"),
    }
    assert_eq!(world.tally("a").await.expect("a row").n, 2, "it is as it was");
    poison.mend();
    for kind in KINDS {
        assert_eq!(retry(kind.of(&app), &kind.key("a")).await, None);
    }
    world.assert_complete("a", 4).await;
    ask(|| processor::<Ledger>(&app).rebuild_keys(&keys, LIMIT)).await;
    world.assert_complete("a", 4).await;
}

/// Pays into accounts until it is told to stop.
async fn keeps_paying<S: Subject>(world: &World<S>, stop: &AtomicBool) {
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        for account in ["a", "b", "c"] {
            world.put(account, vec![payment(n)]).await;
        }
        // As fast as the processors can follow.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

/// Reports of one position, so many of them.
async fn reports(rebuild: &Rebuild, n: usize) -> Vec<crate::processor::RebuildReport> {
    let mut reports = Vec::new();
    while reports.len() < n {
        let report = patient!(rebuild.report(3)).expect("both are there");
        reports.extend((report.old == report.new).then_some(report));
    }
    reports
}

/// P29
pub async fn a_report_beside_writers_compares_both_builds_at_one_position<S: Subject>(subject: S) {
    let (world, stop) = (World::new(&subject).await, AtomicBool::new(false));
    world.pay("z", 1..=3).await;
    let app = start(|| World::<S>::wiring(&world.store.0).workers(3)).await;
    settle(&app).await;
    // Before anything is written that one of them would see as a replay: rows say that.
    let mut rebuilds = Vec::new();
    for kind in KINDS {
        rebuilds.push((kind, ask(|| kind.of(&app).rebuild_online(RebuildOptions::default())).await));
    }
    let compared = async {
        for (kind, rebuild) in rebuilds {
            ask(|| rebuild.caught_up(LIMIT)).await;
            for report in reports(&rebuild, 3).await {
                assert!(report.is_empty(), "{kind:?}: {report:?}");
            }
            // A row that nobody writes any more, and one of nobody's.
            match kind {
                Kind::View => {
                    let row = world.store.row("ledger/1~2", "z").await.expect("it has caught up");
                    let other = String::from_utf8_lossy(&row.data).replace("\"sum\":6", "\"sum\":7");
                    drop(overwrite::<S>(&world.store, "ledger/1~2", "z", other.as_bytes()).await);
                }
                Kind::Table => pay_in_build::<S>(&world, 2, "nobody", 5).await,
            }
            let report = reports(&rebuild, 1).await.remove(0);
            let found = report.differences.iter().map(|d| (d.added, d.removed, d.changed));
            let found: Vec<_> = found.filter(|found| *found != (0, 0, 0)).collect();
            let right = if kind == Kind::View { (0, 0, 1) } else { (1, 0, 0) };
            assert_eq!(found, [right], "{kind:?}: {report:?}");
        }
        stop.store(true, Ordering::SeqCst);
    };
    futures::join!(compared, keeps_paying(&world, &stop));
    // Nothing is held any more, and nothing is lost.
    settle(&app).await;
    let sum = world.sum(Kind::View, "a").await;
    assert!(sum > 0);
    assert_eq!(sum, world.sum(Kind::Table, "a").await);
}

/// Adds an amount to a row of a build, as its handler does.
async fn pay_in_build<S: Subject>(world: &World<S>, generation: u32, key: &str, amount: i64) {
    let tables = crate::store::Tables { name: "payments", version: 1, schema: S::PAID };
    loop {
        let mut tx = world.store.begin_at(&tables, generation).await;
        S::pay(&mut tx, key, amount).await.unwrap_or_else(|e| panic!("paying {key}: {e}"));
        let staged = super::patient::marked(Commit::default());
        crate::store::Transaction::staged(&mut tx).rows.extend(staged.rows);
        if world.store.finish(tx).await.expect("nothing stands against it") {
            return;
        }
    }
}

/// Somebody breaks a row of a view by hand.
async fn break_row<S: Subject>(store: &Store<S>, table: &str, key: &str) {
    let rev = store.row(table, key).await.expect("there").rev;
    let row = Some(r#"{"amount":999,"n_payments":1}"#.into());
    let broken = RowWrite { table: table.to_owned().into(), key: key.to_owned(), rev, row };
    store.commit(Commit { rows: vec![broken], ..Commit::default() }).await.expect("nobody writes it now");
}

/// E40
pub async fn a_tool_without_the_code_rebuilds_a_view<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).view::<Balance>()).await;
    for i in 0..12 {
        deposit::<S>(&store, i % 3, 10).await;
    }
    settle(&app).await;
    break_row::<S>(&store, "balance/1~1", "0").await;
    let desk = patient!(Desk::of(store.0.clone(), "balance/1")).expect("it has run");
    let none = patient!(desk.would(RebuildStep::Switch)).expect_err("nothing is being built");
    assert!(matches!(none, ProcessorError::NoRebuild { .. }), "{none}");
    let none = patient!(desk.would(RebuildStep::RollBack)).expect_err("there is nothing to go back to");
    assert!(matches!(none, ProcessorError::NoOlder { .. }), "{none}");
    assert_eq!(patient!(desk.would(RebuildStep::Begin)).expect("it can be built"), 2);
    assert!(patient!(desk.rebuilding()).expect("it is a view").is_none(), "nothing has begun by that");

    let rebuild = patient!(desk.rebuild_online(RebuildOptions::default())).expect("it can be built");
    assert_eq!(rebuild.generation(), 2);
    assert_eq!(patient!(desk.would(RebuildStep::Begin)).expect("it goes on with that"), 2);
    patient!(rebuild.caught_up(LIMIT)).expect("the node builds it");
    let report = loop {
        let report = patient!(rebuild.report(3)).expect("both are there");
        if report.old == report.new && report.new.0 >= 12 {
            break report;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(report.differences.iter().map(|one| one.changed).sum::<u64>(), 1, "{report:?}");
    assert_eq!(balance(&app, "0").await.expect("there").amount, 999, "what is read has not changed");
    assert_eq!(patient!(desk.would(RebuildStep::Switch)).expect("it has caught up"), 2);
    patient!(rebuild.switch()).expect("it has caught up");
    assert_eq!(balance(&app, "0").await.expect("there").amount, 40);

    let KnownBuilds { current, previous, reached, head, .. } =
        patient!(desk.builds()).expect("they are there");
    assert_eq!((current, previous, head), (2, Some(1), Position(12)));
    assert_eq!(reached, BTreeMap::from([(1, Position(12)), (2, Position(12))]));
    for refused in [
        patient!(desk.would(RebuildStep::Begin)).map(drop),
        patient!(desk.rebuild_online(RebuildOptions::default())).map(drop),
    ] {
        let refused = refused.expect_err("an older one is kept");
        assert!(matches!(refused, ProcessorError::OlderKept { .. }), "{refused}");
    }
    patient!(desk.roll_back()).expect("the old one is there");
    assert_eq!(balance(&app, "0").await.expect("there").amount, 999);
    patient!(desk.rebuild_keys(&["0".to_owned()], LIMIT)).expect("it is a view");
    assert_eq!(balance(&app, "0").await.expect("there").amount, 40, "also one row alone is built anew");
    assert_eq!(patient!(desk.would(RebuildStep::DropPrevious)).expect("it is kept"), 2);
    while patient!(desk.drop_previous()).expect("it is not read") {}

    let rebuild = patient!(desk.rebuild_online(RebuildOptions::default())).expect("none is kept");
    assert_eq!(patient!(desk.would(RebuildStep::Abort)).expect("it is under way"), rebuild.generation());
    patient!(rebuild.abort()).expect("it is not read");
    assert!(patient!(desk.rebuilding()).expect("it is a view").is_none());
    deposit::<S>(&store, 0, 1).await;
    settle_current(&app, &store).await;
    assert_eq!(balance(&app, "0").await.expect("there").amount, 41);
}

/// E40
pub async fn a_tool_without_the_code_goes_on_with_tables_and_makes_none<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let app = start(|| App::on(store.0.clone()).projection(PaidIn::<S>::default())).await;
    for i in 0..6 {
        deposit::<S>(&store, i % 3, 10).await;
    }
    settle(&app).await;
    let desk = patient!(Desk::of(store.0.clone(), "paid/1")).expect("it has run");
    for refused in [
        patient!(desk.would(RebuildStep::Begin)).map(drop),
        patient!(desk.rebuild_online(RebuildOptions::default())).map(drop),
        patient!(desk.rebuild_keys(&["0".to_owned()], LIMIT)),
    ] {
        let refused = refused.expect_err("it has tables");
        assert!(matches!(refused, ProcessorError::NotRebuildable { .. }), "{refused}");
    }
    let known = patient!(desk.builds()).expect("they are there");
    assert_eq!((known.current, known.building), (1, None), "nothing has begun");

    let begun = begun::<PaidIn<S>>(&app, RebuildOptions::default()).await;
    let rebuild = patient!(desk.rebuild_online(RebuildOptions::default())).expect("it goes on with that");
    assert_eq!(rebuild.generation(), begun.generation());
    patient!(rebuild.caught_up(LIMIT)).expect("the node builds it");
    let refused = patient!(rebuild.report(3)).expect_err("tables are compared by code");
    assert!(matches!(refused, ProcessorError::NotRebuildable { .. }), "{refused}");
    patient!(rebuild.switch()).expect("it has caught up");
    deposit::<S>(&store, 0, 1).await;
    settle_current(&app, &store).await;
    assert_eq!(paid::<S>(&store).await, folded::<S>(&store).await);
    patient!(desk.roll_back()).expect("the old one is there");
    while patient!(desk.drop_previous()).expect("it is not read") {}
    deposit::<S>(&store, 0, 1).await;
    settle_current(&app, &store).await;
    assert_eq!(paid::<S>(&store).await, folded::<S>(&store).await);
    let known = patient!(desk.builds()).expect("they are there");
    assert_eq!((known.current, known.previous, known.leaving), (1, None, Vec::new()));
}

/// E40
pub async fn a_tool_without_the_code_says_what_a_rebuild_waits_for<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    let wiring = || App::on(store.0.clone()).view::<Balance>();
    let app = start(wiring).await;
    deposit::<S>(&store, 0, 1).await;
    settle(&app).await;
    let desk = patient!(Desk::of(store.0.clone(), "balance/1")).expect("it has run");
    patient!(desk.pause()).expect("the store takes it");
    let rebuild = patient!(desk.rebuild_online(RebuildOptions::default())).expect("it can be built");
    let first = async || {
        let look = async || rebuild.progress().boxed().next().await.expect("it is looked at");
        patient!(look()).expect("it is there")
    };
    let paused = first().await;
    assert!(matches!(paused.state, ProcessorState::Paused { .. }), "{paused:?}");
    assert!(paused.why_not.is_some_and(|why| why.contains("it is paused")));
    // It may be over later, as an outage of the store may.
    let refused = loop {
        match desk.would(RebuildStep::Switch).await.expect_err("it waits") {
            ProcessorError::Store(_) => tokio::task::yield_now().await,
            refused => break refused,
        }
    };
    assert!(matches!(refused, ProcessorError::NotCaughtUp { .. }), "{refused}");
    app.shutdown(LIMIT).await;
    patient!(desk.resume()).expect("the store takes it");
    assert!(first().await.why_not.is_some_and(|why| why.contains("no node works on it")));
    let _app = start(wiring).await;
    patient!(rebuild.caught_up(LIMIT)).expect("the node builds it");
    patient!(rebuild.switch()).expect("it has caught up");
}
