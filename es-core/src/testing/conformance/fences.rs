//! What fences late writes is never deleted, whatever goes and comes back: W4.

use serde::{Deserialize, Serialize};

use super::data::encoded;
use super::domain::{AccountEvent, deposited};
use super::patient::{Patient, ask};
use super::payments::answered;
use super::{LIMIT, Subject, settle, start, store};
use crate::event::Event as _;
use crate::processor::{Processor, ProcessorError, RebuildOptions, Reset};
use crate::projection::{Change, Projection, View, tables_of};
use crate::state::{Freeze, generations};
use crate::store::{Commit, CommitError, EventFilter, RecordedEvent, RowWrite, StoredRow};
use crate::{App, AppBuilder, BoxError};

pub(super) type Store<S> = Patient<<S as Subject>::Backend>;

/// Names that the framework has for tables of its own, or for kinds of them; and one that it has not.
const NAMES: [&str; 10] = [
    "fenced",
    "checkpoints",
    "nodes",
    "generations",
    "current",
    "asked",
    "inline",
    "hot.x",
    "es.x",
    "es.control",
];

/// Sums up deposits, under one of the names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sum<const NAME: usize, const VERSION: u32> {
    sum: i64,
}

impl<const NAME: usize, const VERSION: u32> Projection for Sum<NAME, VERSION> {
    const NAME: &'static str = NAMES[NAME];
    const VERSION: u32 = VERSION;
    fn filter() -> EventFilter {
        EventFilter::of_enum::<AccountEvent>()
    }
}

impl<const NAME: usize, const VERSION: u32> View for Sum<NAME, VERSION> {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let mut changes = Vec::new();
        for payload in AccountEvent::decode(event)? {
            if let AccountEvent::Deposited(e) = payload {
                changes.push(Change::new(event.stream.as_str().to_owned(), move |row: &mut Self| {
                    row.sum += e.amount;
                    Ok(())
                }));
            }
        }
        Ok(changes)
    }
}

pub(super) type Old = Sum<0, 1>;
pub(super) type New = Sum<0, 2>;

pub(super) async fn deposit<S: Subject>(store: &Store<S>) {
    for account in 0..8 {
        store.put(&format!("account-{account}"), vec![encoded(&deposited(1))]).await;
    }
}

pub(super) async fn sum<V: View<Key = String> + Into<i64>>(app: &App) -> i64 {
    let id = "account-0".to_owned();
    for _ in 0..1_000 {
        if let Ok(row) = app.view::<V>(&id).await {
            return row.map_or(0, Into::into);
        }
    }
    panic!("the store did not answer in 1,000 tries")
}

impl<const NAME: usize, const VERSION: u32> From<Sum<NAME, VERSION>> for i64 {
    fn from(row: Sum<NAME, VERSION>) -> Self {
        row.sum
    }
}

/// An app with one version, until it has handled everything.
pub(super) async fn run<S: Subject, V: View>(store: &Store<S>) -> App {
    let app = start(|| App::on(store.0.clone()).view::<V>()).await;
    settle(&app).await;
    app
}

pub(super) async fn end(app: App) {
    assert!(app.shutdown(LIMIT).await);
}

/// The rows that fence the workers of the view's first version, with those of ranges that are none any more.
async fn shares<S: Subject>(store: &Store<S>) -> Vec<StoredRow> {
    let all = store.scan("checkpoints", 10_000).await;
    all.into_iter().filter(|row| row.key.starts_with("fenced/1~")).collect()
}

/// Those that a worker can have.
async fn live<S: Subject>(store: &Store<S>) -> Vec<StoredRow> {
    let is_live = |row: &StoredRow| {
        let share: serde_json::Value = serde_json::from_slice(&row.data).expect("a share is JSON");
        share["last"].is_u64()
    };
    shares::<S>(store).await.into_iter().filter(is_live).collect()
}

/// What a worker writes that has read these rows: each of them with a row of the view.
async fn assert_late<S: Subject>(store: &Store<S>, read: &[StoredRow]) {
    let now = shares::<S>(store).await;
    for StoredRow { key, rev, data } in read {
        if let Some(row) = now.iter().find(|row| row.key == *key) {
            assert!(row.rev > *rev, "{key} was at {rev}, and began again: {row:?}");
        }
        let (build, _) = key.split_once('#').expect("a build and a slice");
        let write = |table: &str, key: &str, rev, row| RowWrite {
            table: table.into(),
            key: key.to_owned(),
            rev,
            row: Some(row),
        };
        let rows = vec![
            write("checkpoints", key, *rev, data.clone()),
            write(build, "account-late", 0, r#"{"sum":666}"#.into()),
        ];
        let late = store.commit(Commit { rows, ..Commit::default() }).await;
        assert!(matches!(late, Err(CommitError::Fenced { .. })), "{key} at {rev}: {late:?}");
    }
}

/// W4, P11
pub async fn what_a_removed_version_writes_late_is_refused_also_once_it_is_back<S: Subject>(subject: S) {
    let store = store(&subject).await;
    deposit::<S>(&store).await;
    let app = start(|| App::on(store.0.clone()).view::<Old>().workers(4)).await;
    settle(&app).await;
    end(app).await;
    let first = live::<S>(&store).await;
    assert!(!first.is_empty());
    for round in 1..=2 {
        end(run::<S, New>(&store).await).await;
        let mut gone = false;
        while !gone {
            gone = super::versions::removed(&store, "fenced", 1).await.unwrap_or_default();
        }
        assert_late::<S>(&store, &first).await;
        let app = run::<S, Old>(&store).await;
        assert_late::<S>(&store, &first).await;
        deposit::<S>(&store).await;
        settle(&app).await;
        assert_eq!(sum::<Old>(&app).await, round + 1);
        assert_eq!(store.row("fenced/1~1", "account-late").await, None);
        end(app).await;
        assert_late::<S>(&store, &first).await;
    }
}

/// W4, P11
pub async fn no_number_of_a_build_is_given_twice<S: Subject>(subject: S) {
    let store = store(&subject).await;
    deposit::<S>(&store).await;
    let (mut last, mut read) = (1, Vec::new());
    for _ in 0..2 {
        let app = run::<S, Old>(&store).await;
        let processor: &Processor = app.processor::<Old>().expect("it runs");
        let given_up = ask(|| processor.rebuild_online(RebuildOptions::default())).await;
        assert!(given_up.generation() > last, "{} was given before", given_up.generation());
        ask(|| given_up.caught_up(LIMIT)).await;
        read.extend(live::<S>(&store).await);
        answered(|| given_up.abort()).await.expect("it is not read");
        let rebuild = ask(|| processor.rebuild_online(RebuildOptions::default())).await;
        assert!(rebuild.generation() > given_up.generation());
        last = rebuild.generation();
        ask(|| rebuild.caught_up(LIMIT)).await;
        answered(|| rebuild.switch()).await.expect("it has caught up");
        read.extend(live::<S>(&store).await);
        ask(|| processor.drop_previous()).await;
        assert_eq!(sum::<Old>(&app).await, 1);
        end(app).await;
        end(run::<S, New>(&store).await).await;
    }
    let app = run::<S, Old>(&store).await;
    assert_late::<S>(&store, &read).await;
    assert_eq!(sum::<Old>(&app).await, 1);
}

/// P8, P12
pub async fn a_reset_is_refused_while_queries_are_switched<S: Subject>(subject: S) {
    let store = store(&subject).await;
    deposit::<S>(&store).await;
    let app = run::<S, Old>(&store).await;
    let builds = generations();
    let mut row = ask(|| builds.get(&store.0, "fenced/1")).await.expect("it has begun");
    row.value.freeze = Freeze { until: Some(i64::MAX), ..Freeze::default() };
    let frozen = builds.put(&row).expect("it is JSON");
    store.commit(Commit { rows: vec![frozen], ..Commit::default() }).await.expect("nothing else writes it");
    let processor = app.processor::<Old>().expect("it runs");
    let refused = loop {
        match processor.reset(Reset::Start).await {
            Err(ProcessorError::Store(_)) => {}
            answer => break answer.expect_err("queries are switched"),
        }
    };
    assert!(matches!(refused, ProcessorError::Switching { .. }), "{refused}");
    assert_eq!(sum::<Old>(&app).await, 1);
}

/// Rebuilds a view in every way, and ends with what it should be.
async fn rebuilt<S: Subject, V: View<Key = String> + Into<i64>>(store: &Store<S>, app: &App, expected: i64) {
    let (processor, name) = (app.processor::<V>().expect("it runs"), tables_of::<V>().stored_name());
    answered(|| processor.reset(Reset::Start)).await.unwrap_or_else(|e| panic!("{name}: {e}"));
    let rebuild = ask(|| processor.rebuild_online(RebuildOptions::default())).await;
    ask(|| rebuild.caught_up(LIMIT)).await;
    answered(|| rebuild.switch()).await.unwrap_or_else(|e| panic!("{name}: {e}"));
    ask(|| processor.drop_previous()).await;
    settle(app).await;
    assert_eq!(sum::<V>(app).await, expected, "{name}");
    for table in ["checkpoints", "generations", "current"] {
        let rows = store.scan(table, 10_000).await;
        assert!(rows.iter().any(|row| row.key.starts_with(&name)), "{table} has lost {name}");
    }
    assert!(!store.scan("nodes", 10).await.is_empty());
}

/// W4
pub async fn a_projection_named_like_the_framework_harms_nothing<S: Subject>(subject: S) {
    let store = store(&subject).await;
    deposit::<S>(&store).await;
    let wiring = || -> AppBuilder<S::Backend> {
        let wiring = App::on(store.0.clone()).view::<Sum<0, 1>>().view::<Sum<2, 1>>().view::<Sum<3, 1>>();
        wiring.view::<Sum<4, 1>>().view::<Sum<5, 1>>().view::<Sum<6, 1>>().view::<Sum<7, 1>>()
    };
    let app = start(|| wiring().view::<Sum<1, 1>>()).await;
    settle(&app).await;
    rebuilt::<S, Sum<1, 1>>(&store, &app, 1).await;
    rebuilt::<S, Sum<2, 1>>(&store, &app, 1).await;
    rebuilt::<S, Sum<3, 1>>(&store, &app, 1).await;
    rebuilt::<S, Sum<4, 1>>(&store, &app, 1).await;
    rebuilt::<S, Sum<5, 1>>(&store, &app, 1).await;
    rebuilt::<S, Sum<6, 1>>(&store, &app, 1).await;
    rebuilt::<S, Sum<7, 1>>(&store, &app, 1).await;
    end(app).await;
    // Another version takes the place of the first.
    let app = start(|| wiring().view::<Sum<1, 2>>()).await;
    deposit::<S>(&store).await;
    settle(&app).await;
    rebuilt::<S, Sum<1, 2>>(&store, &app, 2).await;
    assert_eq!((sum::<Sum<0, 1>>(&app).await, sum::<Sum<2, 1>>(&app).await), (2, 2));
    end(app).await;
    let refused = [
        App::on(store.0.clone()).view::<Sum<8, 1>>().start().await,
        App::on(store.0.clone()).live_view::<Sum<9, 1>>().start().await,
        App::on(store.0.clone()).inline_view::<Sum<8, 1>>().start().await,
    ];
    for refused in refused {
        let refused = refused.expect_err("the name is reserved").to_string();
        assert!(refused.contains("reserved"), "{refused}");
    }
}
