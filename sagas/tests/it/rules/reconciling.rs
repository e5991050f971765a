//! Two sides that are to say the same: Z1 to Z3.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::store::{Commit, RowStore as _, StoredRow, Table};
use es_core::{BoxError, Timestamp};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use sagas::overview::Transactions as _;
use sagas::reconcile::{self, Class, Difference, Entry, ReconcileError, Reconciliation, Redriven, Report};
use sagas::saga::{Outcome, RunShown, RunStatus};
use serde_json::{Value, json};

use super::Subject;
use super::ground::Ground;
use super::trip::{Play, Trips, trip};

const MINUTE: Duration = Duration::from_secs(60);

/// The rows of a table of the store, in the order of their keys, two at a time.
fn rows_of<S: Subject>(
    backend: &S::Backend,
    table: &'static str,
) -> impl Stream<Item = Result<(String, u64), BoxError>> + Send + use<S> {
    let begin = (backend.clone(), Some(None::<String>));
    let pages = stream::try_unfold(begin, move |(backend, after)| async move {
        let Some(after) = after else { return Ok(None) };
        let page: Vec<StoredRow> = backend.scan(table, after.as_deref(), 2).await?;
        let next = page.last().map(|row| Some(row.key.clone()));
        let rows = page
            .into_iter()
            .map(|row| Ok::<_, BoxError>((row.key.clone(), serde_json::from_slice::<u64>(&row.data)?)));
        Ok::<_, BoxError>(Some((stream::iter(rows.collect::<Vec<_>>()), (backend, next))))
    });
    pages.try_flatten()
}

fn two_tables<S: Subject>(ground: &Ground<'_, S>) -> Reconciliation<String, u64> {
    let (one, two) = (ground.backend.clone(), ground.backend.clone());
    let between = Reconciliation::between(
        "orders",
        ground.backend.clone(),
        move || rows_of::<S>(&one, "orders"),
        move || rows_of::<S>(&two, "ledger"),
    );
    between.unwrap().looks_again_after(Duration::ZERO)
}

async fn writes<S: Subject>(ground: &Ground<'_, S>, table: &'static str, rows: &[(&str, u64)]) {
    let table = Table::<u64>::new(table).unwrap();
    let rows = rows.iter().map(|(key, value)| table.insert(*key, *value).unwrap()).collect();
    ground.commit(Commit { rows, ..Commit::default() }).await;
}

/// Runs it until the store has answered.
async fn runs<S: Subject, K, V>(ground: &Ground<'_, S>, of: &Reconciliation<K, V>) -> Report
where
    K: Ord + Clone + std::fmt::Display + Send + Sync + 'static,
    V: PartialEq + std::fmt::Debug + Send + Sync + 'static,
{
    ground.ask(async || of.run().await).await
}

fn keys(report: &Report, class: Class) -> Vec<&str> {
    report.first.iter().filter(|of| of.class == class).map(|of| &*of.key).collect()
}

/// Z1
pub(super) async fn two_tables_that_differ_are_reported_class_by_class<S: Subject>(subject: &S) {
    let ground = Ground::open(subject).await;
    let same: Vec<(String, u64)> = (0..50).map(|n| (format!("k{n:03}"), n)).collect();
    let same: Vec<(&str, u64)> = same.iter().map(|(key, n)| (&**key, *n)).collect();
    writes(&ground, "orders", &same).await;
    writes(&ground, "ledger", &same).await;
    let books = two_tables(&ground).first(2);
    assert_eq!(ground.ask(async || books.last().await).await, None);
    let report = runs(&ground, &books).await;
    assert!(report.is_clean() && report.keys == 50, "{report}");

    writes(&ground, "orders", &[("a", 1), ("b", 2), ("c", 3), ("z", 9), ("m", 4)]).await;
    writes(&ground, "ledger", &[("k999", 5), ("m", 5)]).await;
    let report = runs(&ground, &books).await;
    assert_eq!((report.of(Class::MissingRight), keys(&report, Class::MissingRight)), (4, vec!["a", "b"]));
    assert_eq!((report.of(Class::MissingLeft), keys(&report, Class::MissingLeft)), (1, vec!["k999"]));
    assert_eq!((report.of(Class::Mismatch), keys(&report, Class::Mismatch)), (1, vec!["m"]));
    assert!(!report.is_clean() && report.keys == 56, "{report}");
    let mismatch = report.first.iter().find(|of| of.class == Class::Mismatch).unwrap();
    assert_eq!((mismatch.left.as_deref(), mismatch.right.as_deref()), (Some("4"), Some("5")));
    assert_eq!(ground.ask(async || two_tables(&ground).last().await).await, Some(report.clone()));

    // A person accepts one, until it changes.
    let error = books.accept(mismatch, "ada", " ").await.unwrap_err();
    assert!(matches!(error, ReconcileError::By(_)), "{error}");
    ground.ask(async || books.accept(mismatch, "ada", "a discount").await).await;
    let report = runs(&ground, &books).await;
    assert_eq!((report.of(Class::Mismatch), report.accepted), (0, 1));
    let ledger = Table::<Value>::new("ledger").unwrap();
    ground.overwrite(&ledger, "m", &json!(6)).await;
    assert_eq!(keys(&runs(&ground, &books).await, Class::Mismatch), ["m"]);

    // What is missing is done again; what cannot be is said.
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let own = asked.clone();
    let redriving = two_tables(&ground).redrive(Class::MissingRight, move |found| {
        own.lock().unwrap().insert((found.key.clone(), found.left, found.right));
        async move { if found.key == "b" { Err("it is closed".into()) } else { Ok(()) } }
    });
    let report = runs(&ground, &redriving).await;
    let all = ["a", "b", "c", "z"].into_iter().zip([1, 2, 3, 9]);
    let all: BTreeSet<_> = all.map(|(key, n)| (key.to_owned(), Some(n), None)).collect();
    assert_eq!(*asked.lock().unwrap(), all);
    assert_eq!((report.redriven, report.failed), (3, 1));
    let came = |of: &Difference| (of.class, of.key.clone(), of.redriven.clone());
    let failed = Redriven::Failed("it is closed".to_owned());
    assert!(
        report
            .first
            .iter()
            .map(came)
            .any(|of| of == (Class::MissingRight, "b".to_owned(), Some(failed.clone())))
    );
    assert!(report.first.iter().filter(|of| of.class != Class::MissingRight).all(|of| of.redriven.is_none()));

    // A side that has a key twice, or is not in order, or cannot be read.
    let of = |left: &'static [(u8, u8)], right: &'static [(u8, u8)]| {
        let side = |all: &'static [(u8, u8)]| move || stream::iter(all).map(|of| Ok::<_, BoxError>(*of));
        let between = Reconciliation::between("bytes", ground.backend.clone(), side(left), side(right));
        between.unwrap().looks_again_after(Duration::ZERO)
    };
    let report = runs(&ground, &of(&[(1, 1), (2, 1), (2, 1)], &[(1, 1), (2, 1)])).await;
    assert_eq!((report.keys, keys(&report, Class::Duplicate)), (2, vec!["2"]));
    let error = of(&[(1, 1)], &[(2, 1), (1, 1)]).run().await.unwrap_err();
    assert!(matches!(error, ReconcileError::OutOfOrder { .. } | ReconcileError::Store(_)), "{error}");
    let torn = Reconciliation::<u8, u8>::between(
        "torn",
        ground.backend.clone(),
        || stream::iter([Err::<(u8, u8), BoxError>("it is away".into())]),
        || stream::iter([Ok::<_, BoxError>((1, 1))]),
    );
    let error = torn.unwrap().run().await.unwrap_err();
    assert!(matches!(error, ReconcileError::Read(_) | ReconcileError::Store(_)), "{error}");
}

/// Z2
pub(super) async fn what_goes_on_or_has_just_changed_is_no_difference<S: Subject>(subject: &S) {
    let ground = Ground::open(subject).await;
    let now = ground.ask(async || es_core::EventStore::now(&ground.backend).await).await;
    // Live on one side; changed a moment ago; settled; and one that changes while it is looked at.
    let looks = Arc::new(AtomicUsize::new(0));
    let own = looks.clone();
    let entries = move |now: Timestamp| {
        let changing = own.fetch_add(1, Ordering::Relaxed);
        vec![
            Entry::new("changing", changing),
            Entry::new("live", 1).live(true),
            Entry::new("settled", 1).changed_at(now - MINUTE * 2),
            Entry::new("touched", 1),
            Entry::new("young", 1).changed_at(now - MINUTE / 2),
        ]
    };
    let left = move || stream::iter(entries(now)).map(Ok::<_, BoxError>);
    let right = || stream::iter(Vec::<Entry<&str, usize>>::new()).map(Ok::<_, BoxError>);
    let between = Reconciliation::between("pending", ground.backend.clone(), left, right).unwrap();
    let between = between.looks_again_after(Duration::ZERO);
    let between = between.pending_if(|key| async move { Ok(key == "touched") });
    let report = runs(&ground, &between).await;
    assert_eq!((keys(&report, Class::MissingRight), report.pending), (vec!["settled"], 4), "{report}");
    // What is young settles.
    ground.seconds(120);
    let report = runs(&ground, &between).await;
    assert_eq!(
        (keys(&report, Class::MissingRight), report.pending),
        (vec!["settled", "young"], 3),
        "{report}"
    );
    assert_eq!(runs(&ground, &between.settles(MINUTE * 10)).await.of(Class::MissingRight), 0);
}

/// Z3
pub(super) async fn a_head_that_does_not_say_what_its_journal_does_is_found<S: Subject>(subject: &S) {
    let trips = Trips::start(subject).await;
    let ground = &trips.ground;
    assert_eq!(trips.run("done", trip()).await, Outcome::Completed);
    trips.run("gone", trip().with("pay", &[Play::Refuses])).await;
    trips.begin("stuck", &trip().with("mail", &[Play::Fails])).await;
    let waits = trips.begin("waits", &trip().with("flight", &[Play::Waits])).await;
    trips.until("stuck", "parked", |shown: &RunShown| shown.status == RunStatus::Parked).await;
    while !trips.outside.is_waiting("waits", "flight") {
        ground.pause().await;
    }
    let journals = reconcile::journals(&trips.nodes[0].transactions(), ground.backend.clone()).unwrap();
    let journals = journals.looks_again_after(Duration::ZERO).settles(Duration::ZERO);
    let report = runs(ground, &journals).await;
    assert!(report.is_clean() && report.keys == 4, "{report}");

    // Somebody repairs rows by hand.
    let (heads, records) =
        (Table::<Value>::new("txn.heads.trip").unwrap(), Table::<Value>::new("txn.journal.trip").unwrap());
    let change = async |of: &str, field: &str, to: Value| {
        let rows = ground.ask(|| heads.all(&ground.backend)).await;
        let row = rows.into_iter().find(|row| row.value["key"] == of).expect("it is there");
        let (run, mut head) = (row.key.rsplit_once(':').unwrap().1.to_owned(), row.value);
        let before = std::mem::replace(&mut head[field], to);
        ground.overwrite(&heads, &run, &head).await;
        before
    };
    change("done", "outcome", json!({"abandoned": {"actor": "eve", "reason": "no"}})).await;
    change("gone", "records", json!(99)).await;
    let report = runs(ground, &journals).await;
    assert_eq!((report.differences(), report.of(Class::Mismatch)), (2, 2), "{report}");
    let done = report.first.iter().find(|of| of.key.contains("\"done\"")).expect("it is named");
    assert!(done.left.as_ref().is_some_and(|left| left.contains("abandoned by eve")), "{done}");
    assert!(done.right.as_ref().is_some_and(|right| right.contains("completed")), "{done}");
    let gone = report.first.iter().find(|of| of.key.contains("\"gone\"")).expect("it is named");
    assert!(gone.left.as_ref().is_some_and(|left| left.contains("99 records")), "{gone}");
    // One that goes on is none, whatever it says.
    let before = change("waits", "records", json!(77)).await;
    assert_eq!(runs(ground, &journals).await.differences(), 2);
    change("waits", "records", before).await;

    // A journal of no run, and a run without a journal.
    let rows = ground.ask(|| records.all(&ground.backend)).await;
    let nobody = "0500:019000000000700080000000000000ab:00000000000000000001";
    let row = records.insert(nobody, rows[0].value.clone()).unwrap();
    ground.commit(Commit { rows: vec![row], ..Commit::default() }).await;
    let report = runs(ground, &journals).await;
    assert_eq!((report.of(Class::MissingLeft), report.of(Class::Mismatch)), (1, 2), "{report}");
    assert!(
        keys(&report, Class::MissingLeft)[0].contains("01900000-0000-7000-8000-0000000000ab"),
        "{report}"
    );
    let stuck = ground.ask(|| heads.all(&ground.backend)).await;
    let stuck = stuck.into_iter().find(|row| row.value["key"] == "stuck").unwrap();
    let own = rows.iter().filter(|row| row.key.starts_with(&format!("{}:", stuck.key)));
    let lost = own.map(|row| records.delete(row)).collect();
    ground.commit(Commit { rows: lost, ..Commit::default() }).await;
    let report = runs(ground, &journals).await;
    assert_eq!((report.of(Class::MissingRight), report.of(Class::MissingLeft)), (1, 1), "{report}");
    assert!(keys(&report, Class::MissingRight)[0].contains("\"stuck\""), "{report}");
    drop(waits);
    trips.outside.let_go();
    trips.end().await;
}
