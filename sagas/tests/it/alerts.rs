//! Alert rules: the file for Prometheus, what `promtool` makes of it, and how a node keeps them itself.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::clock::Clock as _;
use es_core::store::Table;
use es_core::testing::conformance::double::{Double, Line};
use futures::{StreamExt as _, stream};
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use sagas::alerts::{RULES, prometheus_rules};
use sagas::es_core::memory::{MemoryBackend, Tx};
use sagas::es_core::testing::TestClock;
use sagas::es_core::{App, BoxError};
use sagas::reconcile::{Reconciles as _, Reconciliation, Reconciliations as _, Scheduled};
use sagas::saga::{
    Call, Child, Cx, Ran, Remote, Retry, RunFilter, Saga, SagaApp as _, SagaInput, SagaSignal, Sagas as _,
    Signal, Step, StepError, SubSaga, Undo, Verb,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The file as it is committed. With `ES_WRITE_ALERTS` set this test writes it.
#[test]
fn the_committed_file_is_what_the_rules_say() {
    let file = alerts().join("sagas.rules.yml");
    if std::env::var_os("ES_WRITE_ALERTS").is_some() {
        std::fs::write(&file, prometheus_rules()).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap();
    assert!(committed == prometheus_rules(), "run this test with ES_WRITE_ALERTS=1");
}

#[test]
fn each_alert_stands_in_the_guide() {
    let guide = std::fs::read_to_string(alerts().join("../../docs/guide.md")).unwrap();
    for rule in RULES {
        assert!(guide.contains(&format!("| `{}` |", rule.name)), "{}", rule.name);
    }
}

fn alerts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts")
}

/// `PROMTOOL` names the program; `cargo xtask test` does, where it can. Else it is looked for among those of the system.
fn promtool() -> Option<Command> {
    let named = std::env::var_os("PROMTOOL").filter(|named| !named.is_empty());
    let program = || named.clone().unwrap_or_else(|| "promtool".into());
    match Command::new(program()).arg("--version").output() {
        Ok(_) => Some(Command::new(program())),
        Err(error) if named.is_some() => panic!("{named:?} does not start: {error}"),
        Err(_) => None,
    }
}

#[test]
fn prometheus_reads_the_rules_and_they_fire_when_they_should() {
    for (what, file) in [("check", "sagas.rules.yml"), ("test", "sagas.test.yml")] {
        let Some(mut promtool) = promtool() else { return };
        let run = promtool.args([what, "rules", file]).current_dir(alerts()).output().unwrap();
        let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "promtool {what} rules {file}: {said}");
    }
}

#[derive(Serialize, Deserialize)]
struct Errand {
    works: bool,
}

impl SagaInput for Errand {}

/// Fails as long as it is told to. Nobody knows whether it has run.
struct Deliver;

impl Step<Errand> for Deliver {
    const NAME: &'static str = "deliver";
    type Needs = ();
    type Output = ();
    type Refusal = Infallible;
    type Place = Remote;

    async fn run(&self, cx: Cx<'_, Errand, ()>, _: &mut Call) -> Result<(), StepError<Infallible>> {
        if cx.input.works { Ok(()) } else { Err(StepError::Retry("the door is shut".into())) }
    }

    fn retry(&self) -> Retry {
        let brief = Duration::from_millis(5);
        Retry::default().pauses(brief, brief).late(2, Duration::from_secs(3_600))
    }
}

fn errand() -> Saga<Errand, Tx> {
    Saga::new("errand", 1).deadline(Duration::from_secs(30)).pivot(Deliver).build()
}

/// Time goes on, for the app and for its store, until this is so.
async fn until<T>(clock: &TestClock, mut is_so: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..10_000 {
        if let Some(found) = is_so().await {
            return found;
        }
        let pause = Duration::from_millis(200);
        tokio::time::sleep(pause).await;
        clock.advance(pause);
    }
    panic!("it never came to that")
}

#[test]
fn a_node_warns_of_what_its_own_numbers_say_and_counts_for_others() {
    let counts = Counts::default();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&counts, || runtime.block_on(warned(&counts)));
    let all = counts.all();
    let of = |name: &str| all.get(name).copied();
    assert_eq!(of("es_saga_started_total"), Some(2.0), "{all:?}");
    assert_eq!(of("es_saga_ended_total/completed"), Some(1.0));
    assert_eq!(of("es_saga_ended_total/abandoned"), Some(1.0));
    assert_eq!(of("es_saga_ended_total/undone"), Some(0.0));
    assert_eq!(of("es_saga_failed_calls_total"), Some(2.0));
    assert_eq!(of("es_saga_fenced_total"), Some(0.0));
    assert_eq!(of("es_saga_deadline_seconds"), Some(30.0));
    assert!(of("es_saga_seconds/completed").is_some() && of("es_saga_looked_timestamp_seconds") > Some(0.0));
    for zero in ["es_saga_parked", "es_saga_damaged", "es_saga_open", "es_saga_oldest_seconds"] {
        assert_eq!(of(zero), Some(0.0), "{zero}");
    }
}

async fn warned(counts: &Counts) {
    let clock = TestClock::default();
    let backend = MemoryBackend::with_clock(clock.clone());
    let app = App::on(backend).clock(clock.clone()).saga(errand()).start().await.unwrap();
    let outcome = app.start_saga("works", &Errand { works: true }).await.unwrap();
    until(&clock, async || outcome.ended().await.unwrap()).await;
    let fails = app.start_saga("fails", &Errand { works: false }).await.unwrap();
    let alerts = async || app.health().await.engines.remove(0).alerts;
    let first = until(&clock, async || alerts().await.into_iter().next()).await;
    // The run is older than two deadlines for as long as it is parked: both come to be so at about the same time.
    let names = until(&clock, async || Some(alerts().await).filter(|all| all.len() == 2)).await;
    assert!(names.iter().any(|alert| alert.name == first.name));
    let parked = names.iter().find(|alert| alert.name == "SagaParked").expect("it is parked");
    assert!(
        !parked.urgent && parked.text.contains("errand") && parked.text.contains("Runs::waiting"),
        "{parked:?}"
    );
    assert!(app.health().await.is_healthy(), "a run that waits for a person is no illness of the app");
    let runs = app.saga_runs::<Errand>().unwrap();
    assert_eq!(runs.name(), "errand");
    // The same in one alert over all patterns, with a count that whoever collects metrics sees.
    let engines = app.health().await.engines;
    let all = engines.iter().find(|engine| engine.group == "transactions").expect("it warns");
    let [alert] = &all.alerts[..] else { panic!("{all:?}") };
    assert!(alert.name == "TransactionsWaiting" && !alert.urgent, "{alert:?}");
    assert!(alert.text.starts_with("1 transactions need a person: 1 of saga errand;"), "{}", alert.text);
    assert_eq!(counts.all().get("es_transactions_waiting").copied(), Some(1.0));
    let mut asked =
        std::pin::pin!(runs.ask("fails", Verb::Abandon, "ada", "nobody is home", Duration::from_secs(60)));
    until(&clock, async || futures::poll!(&mut asked).is_ready().then_some(())).await;
    until(&clock, async || fails.ended().await.unwrap()).await;
    until(&clock, async || alerts().await.is_empty().then_some(())).await;
    until(&clock, async || (app.health().await.engines.len() == 1).then_some(())).await;
    assert_eq!(counts.all().get("es_transactions_waiting").copied(), Some(0.0));
    assert!(app.shutdown(Duration::from_secs(10)).await);
}

#[test]
fn runs_of_a_version_that_no_node_has_are_counted() {
    let counts = Counts::default();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let alone = async {
        let clock = TestClock::default();
        let backend = MemoryBackend::with_clock(clock.clone());
        let on = || App::on(backend.clone()).clock(clock.clone());
        let older = on().saga(errand()).start().await.unwrap();
        older.start_saga("fails", &Errand { works: false }).await.unwrap();
        let n = || counts.all().get("es_saga_unattended").copied();
        until(&clock, async || n().filter(|n| *n == 0.0)).await;
        assert!(older.shutdown(Duration::from_secs(10)).await);
        let newer = || Saga::new("errand", 2).deadline(Duration::from_secs(30)).pivot(Deliver).build();
        let app = on().saga(newer()).start().await.unwrap();
        until(&clock, async || n().filter(|n| *n == 1.0)).await;
        let alerts = async || app.health().await.engines.remove(0).alerts;
        let alert = until(&clock, async || alerts().await.into_iter().next()).await;
        assert!(alert.urgent && alert.name == "SagaUnattended", "{alert:?}");
        assert!(app.shutdown(Duration::from_secs(10)).await);
        let both = on().saga(newer()).earlier_saga(errand()).start().await.unwrap();
        until(&clock, async || n().filter(|n| *n == 0.0)).await;
        assert!(both.shutdown(Duration::from_secs(10)).await);
    };
    metrics::with_local_recorder(&counts, || runtime.block_on(alone));
}

#[test]
fn runs_that_cannot_be_forgotten_are_counted_and_an_alarm() {
    let counts = Counts::default();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let stays = async {
        let clock = TestClock::default();
        let line = Double::new(MemoryBackend::with_clock(clock.clone()));
        let app = App::on(line.clone()).clock(clock.clone()).saga(errand()).start().await.unwrap();
        for key in ["a", "b"] {
            let run = app.start_saga(key, &Errand { works: true }).await.unwrap();
            until(&clock, async || run.ended().await.unwrap()).await;
        }
        let n = || counts.all().get("es_saga_unforgotten").copied();
        until(&clock, async || n().filter(|n| *n == 0.0)).await;
        line.set(Line::Refuses("txn.ended.errand"));
        clock.advance(Duration::from_secs(32 * 24 * 60 * 60));
        until(&clock, async || n().filter(|n| *n == 2.0)).await;
        let alerts = async || app.health().await.engines.remove(0).alerts;
        let alert = until(&clock, async || alerts().await.into_iter().next()).await;
        assert!(!alert.urgent && alert.name == "SagaUnforgotten", "{alert:?}");
        line.set(Line::Up);
        until(&clock, async || n().filter(|n| *n == 0.0)).await;
        until(&clock, async || alerts().await.is_empty().then_some(())).await;
        assert_eq!(counts.all()["es_saga_forgotten_total"], 2.0);
        assert!(app.shutdown(Duration::from_secs(10)).await);
    };
    metrics::with_local_recorder(&counts, || runtime.block_on(stays));
}

/// A saga whose only step is one that is sent a word.
#[derive(Serialize, Deserialize)]
struct Whole {}

impl SagaInput for Whole {}

#[derive(Serialize, Deserialize)]
struct Word {}

impl SagaSignal for Word {
    type Saga = Errand;
    const NAME: &'static str = "word";
}

struct Part;

impl SubSaga<Whole> for Part {
    const NAME: &'static str = "part";
    type Needs = ();
    type Saga = Errand;
    type Gives = Signal<Word>;

    fn input(&self, _: Cx<'_, Whole>) -> Errand {
        Errand { works: true }
    }
}

#[test]
fn a_saga_within_that_sleeps_before_its_first_record_is_counted_once() {
    let counts = Counts::default();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let sleeps = async {
        let clock = TestClock::default();
        let backend = MemoryBackend::with_clock(clock.clone());
        let part = Saga::new("errand", 1).step(Signal::<Word>::new()).build();
        let app = App::on(backend.clone()).clock(clock.clone()).saga(part);
        let app = app.saga(Saga::new("whole", 1).pivot(Child::of(Part)).build()).start().await.unwrap();
        app.start_saga("a", &Whole {}).await.unwrap();
        let wakes = Table::<Value>::new("hot.txn.wakes.errand.v1").unwrap();
        let mut last = String::new();
        for _ in 0..3 {
            // It lies down until in a month.
            last = until(&clock, async || {
                let key = wakes.all(&backend).await.unwrap().pop().map(|row| row.key)?;
                let due: i64 = key.split(':').nth(1).unwrap().parse().unwrap();
                (key != last && due > clock.now().as_microsecond() + 3_600_000_000).then_some(key)
            })
            .await;
            clock.advance(Duration::from_secs(31 * 24 * 60 * 60));
        }
        assert!(app.shutdown(Duration::from_secs(10)).await);
    };
    metrics::with_local_recorder(&counts, || runtime.block_on(sleeps));
    assert_eq!(counts.all()["es_saga_started_total"], 2.0);
}

impl Undo<Errand> for Deliver {
    async fn undo(&self, _: Cx<'_, Errand, ()>, _: Ran<()>, _: &mut Call) -> Result<(), BoxError> {
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Stamp {}

impl SagaSignal for Stamp {
    type Saga = Whole;
    const NAME: &'static str = "stamp";
}

struct Parcel;

impl SubSaga<Whole> for Parcel {
    const NAME: &'static str = "parcel";
    type Needs = ();
    type Saga = Errand;
    type Gives = Deliver;

    fn input(&self, _: Cx<'_, Whole>) -> Errand {
        Errand { works: true }
    }
}

#[tokio::test(start_paused = true)]
async fn a_saga_within_is_old_if_no_node_has_the_one_that_it_waits_for() {
    let clock = TestClock::default();
    let backend = MemoryBackend::with_clock(clock.clone());
    let on = || App::on(backend.clone()).clock(clock.clone());
    let within = || Saga::new("errand", 1).deadline(Duration::from_secs(30)).step(Deliver).build();
    let around = Saga::new("whole", 1).step(Child::of(Parcel)).step(Signal::<Stamp>::new()).build();
    let both = on().saga(within()).saga(around).start().await.unwrap();
    both.start_saga("a", &Whole {}).await.unwrap();
    let wakes = Table::<Value>::new("hot.txn.wakes.errand.v1").unwrap();
    until(&clock, async || wakes.all(&backend).await.unwrap().pop().filter(|row| row.value["waits"] == true))
        .await;
    assert!(both.shutdown(Duration::from_secs(10)).await);
    let app = on().saga(within()).start().await.unwrap();
    let alerts = async || app.health().await.engines.remove(0).alerts;
    let alert = until(&clock, async || alerts().await.into_iter().next()).await;
    assert!(alert.name == "SagaOld", "{alert:?}");
    let runs = app.saga_runs::<Errand>().unwrap();
    let [run] = &runs.list(&RunFilter::default(), None, 10).await.unwrap().runs[..] else { panic!("one") };
    let shown = runs.show(&run.key).await.unwrap();
    assert!(shown.waits_for.ends_with("no node is running that has version 1 of whole \"a\""), "{shown:?}");
    assert!(app.shutdown(Duration::from_secs(10)).await);
}

/// The alert of a reconciliation, if there is one on this node.
async fn unreconciled(app: &App) -> Option<String> {
    let engines = app.health().await.engines;
    let own = engines.into_iter().find(|engine| engine.group == "reconcile.books")?;
    let [alert] = &own.alerts[..] else { panic!("{own:?}") };
    assert_eq!(alert.name, "Unreconciled");
    Some(alert.text.clone())
}

#[tokio::test(start_paused = true)]
async fn a_reconciliation_runs_by_itself_on_one_node_and_each_node_warns() {
    const EVERY: Duration = Duration::from_secs(120);
    let (clock, looks) = (TestClock::default(), Arc::new(AtomicU64::new(0)));
    let (backend, ledger) =
        (MemoryBackend::with_clock(clock.clone()), Arc::new(Mutex::new(vec![(1_u8, 5_u8)])));
    let node = async || {
        let (backend, looks, ledger) = (backend.clone(), looks.clone(), ledger.clone());
        let app = App::on(backend.clone()).clock(clock.clone()).reconcile(EVERY, |_| {
            let orders = move || {
                looks.fetch_add(1, Ordering::Relaxed);
                stream::iter([Ok::<_, BoxError>((1_u8, 5_u8))])
            };
            let ledger = move || stream::iter(ledger.lock().unwrap().clone()).map(Ok::<_, BoxError>);
            Reconciliation::<u8, u8>::between("books", backend, orders, ledger)
        });
        app.start().await.unwrap()
    };
    let apps = [node().await, node().await];
    let looked = || looks.load(Ordering::Relaxed);
    let pass = async |time: Duration| {
        let end = clock.now() + time;
        until(&clock, async || (clock.now() >= end).then_some(())).await;
    };
    // Both sides agree: one look, by one of the two.
    pass(EVERY / 2).await;
    assert_eq!(looked(), 1);
    assert_eq!((unreconciled(&apps[0]).await, unreconciled(&apps[1]).await), (None, None));
    // They differ: two looks, and both nodes say so.
    ledger.lock().unwrap()[0].1 = 4;
    pass(EVERY).await;
    assert_eq!(looked(), 3);
    for app in &apps {
        let text = unreconciled(app).await.expect("it warns");
        assert!(text.contains("1 mismatch"), "{text}");
    }
    ledger.lock().unwrap()[0].1 = 5;
    pass(EVERY).await;
    assert_eq!((unreconciled(&apps[0]).await, unreconciled(&apps[1]).await), (None, None));
    assert_eq!(looked(), 4);
    for app in apps {
        assert!(app.shutdown(Duration::from_secs(10)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_a_node_leaves_behind_as_it_stops_is_run_by_another() {
    let (clock, looks) = (TestClock::default(), Arc::new(AtomicU64::new(0)));
    let backend = MemoryBackend::with_clock(clock.clone());
    let node = async |hangs: bool| {
        let (store, looks) = (backend.clone(), looks.clone());
        let app = App::on(backend.clone()).clock(clock.clone()).reconcile(DAY, |_| {
            let orders = move || {
                looks.fetch_add(1, Ordering::Relaxed);
                if hangs {
                    stream::pending().boxed()
                } else {
                    stream::iter([Ok::<_, BoxError>((1, 5))]).boxed()
                }
            };
            Reconciliation::<u8, u8>::between("books", store, orders, || {
                stream::iter([Ok::<_, BoxError>((1, 5))])
            })
        });
        app.start().await.unwrap()
    };
    let first = node(true).await;
    until(&clock, async || (looks.load(Ordering::Relaxed) == 1).then_some(())).await;
    assert!(first.shutdown(Duration::from_secs(10)).await);
    // It is not a day until then.
    let second = node(false).await;
    until(&clock, async || (looks.load(Ordering::Relaxed) == 2).then_some(())).await;
    assert!(second.shutdown(Duration::from_secs(10)).await);
}

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn the_reconciliations_of_an_app_are_seen_to_through_it_and_each_has_its_name() {
    let backend = MemoryBackend::new();
    let books = |name: &'static str, is: u8| {
        let side = |is| move || stream::iter([Ok::<_, BoxError>((1_u8, is))]);
        let between = Reconciliation::between(name, backend.clone(), side(5), side(is));
        between.map(|between| between.looks_again_after(Duration::ZERO))
    };
    let on = || App::on(backend.clone()).reconcile(DAY, |_| books("books", 4));
    let app = on().reconcile(DAY, |_| books("tills", 5)).start().await.unwrap();
    let all = app.reconciliations();
    assert_eq!(all.iter().map(Scheduled::name).collect::<Vec<_>>(), ["books", "tills"]);
    assert!(all[1].run().await.unwrap().is_clean());
    let report = all[0].run().await.unwrap();
    let keys: Vec<_> = report.first.iter().map(|of| &*of.key).collect();
    assert_eq!((all[0].last().await.unwrap().as_ref(), keys), (Some(&report), vec!["1"]));
    all[0].accept(&report.first[0], "ada", "a discount").await.unwrap();
    let accepted = all[0].accepted().await.unwrap();
    assert_eq!((accepted.len(), &*accepted[0].actor, &*accepted[0].reason), (1, "ada", "a discount"));
    assert!(all[0].run().await.unwrap().is_clean());
    assert!(all[0].withdraw("1").await.unwrap());
    assert!(!all[0].run().await.unwrap().is_clean());
    assert!(app.shutdown(Duration::from_secs(10)).await);
    // Two of one name would share what they have found.
    let error = on().reconcile(DAY, |_| books("books", 5)).start().await.unwrap_err();
    assert!(error.to_string().contains("two reconciliations are named \"books\""), "{error}");
}

/// What is counted, by name and outcome.
#[derive(Clone, Debug, Default)]
struct Counts(Arc<Mutex<BTreeMap<String, Arc<Number>>>>);

/// A counter or a gauge; of a histogram the last value.
#[derive(Debug, Default)]
struct Number(AtomicU64, AtomicU64);

impl metrics::CounterFn for Number {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }
    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl metrics::GaugeFn for Number {
    fn increment(&self, _: f64) {}
    fn decrement(&self, _: f64) {}
    fn set(&self, value: f64) {
        self.1.store(value.to_bits(), Ordering::Relaxed);
    }
}

impl HistogramFn for Number {
    fn record(&self, value: f64) {
        self.1.store(value.to_bits(), Ordering::Relaxed);
    }
}

impl Counts {
    fn of(&self, key: &Key) -> Arc<Number> {
        let outcome = key.labels().find(|label| label.key() == "outcome");
        let name = key.name().to_owned() + &outcome.map(|of| format!("/{}", of.value())).unwrap_or_default();
        self.0.lock().unwrap().entry(name).or_default().clone()
    }

    fn all(&self) -> BTreeMap<String, f64> {
        let value = |Number(count, bits): &Number| {
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let count = count.load(Ordering::Relaxed) as f64;
            count + f64::from_bits(bits.load(Ordering::Relaxed))
        };
        self.0.lock().unwrap().iter().map(|(name, number)| (name.clone(), value(number))).collect()
    }
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.of(key).into()
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.of(key).into()
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.of(key).into()
    }
}
