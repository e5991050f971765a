//! What only a file shows of attempts: who else sees a witness, how long it stays, and what a commit without a runtime
//! leaves.

use std::time::Duration;

use es_core::ErrorKind;
use es_core::clock::Clock as _;
use es_core::id::Ids;
use es_core::store::{
    Append, AppendCondition, Attempt, Backend as _, Builds as _, Check, Commit, CommitError, EventFilter,
    EventStore as _, ExpectedVersion, IdempotencyKey, Outcome, OutcomeMark, Position, Resolution, RowWrite,
    StoreError, StreamId, Tables, Transaction as _, Version,
};
use es_core::testing::TestClock;
use es_sqlite::{SqliteBackend, SqliteOptions};
use sqlx::Connection as _;

use crate::files::commit;

fn row(key: &str) -> Commit {
    let row = RowWrite { table: "t".into(), key: key.to_owned(), rev: 0, row: Some("{}".into()) };
    Commit { rows: vec![row], ..Commit::default() }
}

fn stream() -> StreamId {
    StreamId::new("a").unwrap()
}

fn key() -> Commit {
    let (stream, version) = (stream(), Version(0));
    let outcome =
        Outcome { fingerprint: 1, stream, version, position: Position(0), events: 0, refusal: None };
    let mark = OutcomeMark { key: IdempotencyKey::new("k").unwrap(), outcome };
    Commit { outcomes: vec![mark], ..Commit::default() }
}

/// Everything that writes nothing.
fn only_looks() -> Vec<Commit> {
    let (stream, expected) = (stream(), ExpectedVersion::Exact(Version(1)));
    let check = Check { stream: stream.clone(), expected };
    let append = Append { stream, expected, events: Vec::new() };
    let condition = AppendCondition { fail_if_events_match: EventFilter::all(), after: Position(1) };
    vec![
        Commit { checks: vec![check], ..Commit::default() },
        Commit { appends: vec![append], ..Commit::default() },
        Commit { condition: Some(condition), ..Commit::default() },
        Commit::default(),
    ]
}

/// Everything that a commit can be without events.
fn without_events() -> Vec<Commit> {
    let writes = [row("a"), key()];
    writes.into_iter().chain(only_looks()).collect()
}

fn named(commit: Commit) -> (Commit, Attempt) {
    let commit = Commit { attempt: Ids::default().next(), ..commit };
    let attempt = Attempt::of(commit.attempt, &commit);
    (commit, attempt)
}

async fn is_applied(store: &SqliteBackend, attempt: &Attempt) -> bool {
    match store.resolve(attempt).await.unwrap() {
        Resolution::Applied(committed) => {
            assert_eq!(committed.versions, vec![Version(1); attempt.appends.len()]);
            true
        }
        Resolution::Never => false,
    }
}

async fn count(store: &SqliteBackend) -> i64 {
    sqlx::query_scalar("select count(*) from es_attempts").fetch_one(&store.db()).await.unwrap()
}

#[tokio::test]
async fn another_process_sees_the_witness_of_each_kind_of_commit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let store = SqliteBackend::open(&file).await.unwrap();
    let other = SqliteBackend::open(&file).await.unwrap();
    store.commit(commit("a")).await.unwrap();
    assert_eq!(count(&store).await, 0, "its event proves it");
    let tables = Tables { name: "p", version: 1, schema: "create table mine (x)" };
    store.install(&tables, 1).await.unwrap();
    store.install(&tables, 2).await.unwrap();
    let mut attempts = Vec::new();
    for commit in [row("a"), key()] {
        let (commit, attempt) = named(commit);
        store.commit(commit).await.unwrap();
        attempts.push(attempt);
    }
    let looks = only_looks();
    for (i, commit) in [row("tx")].into_iter().chain(looks).enumerate() {
        let (commit, attempt) = named(commit);
        let mut tx = store.begin().await.unwrap();
        // What the user writes is proven as well.
        sqlx::query("insert into mine values (?)").bind(i as i64).execute(&mut *tx).await.unwrap();
        *tx.staged() = commit;
        tx.commit().await.unwrap();
        attempts.push(attempt);
    }
    for (i, key) in ["switch", "clear", "uninstall"].into_iter().enumerate() {
        let (commit, attempt) = named(row(key));
        let done = match i {
            0 => store.switch(&tables, 2, commit).await,
            1 => store.clear(&tables, 1, commit).await,
            _ => store.uninstall(&tables, 1, commit).await,
        };
        done.unwrap();
        attempts.push(attempt);
    }
    for store in [&other, &store] {
        for attempt in &attempts {
            assert!(is_applied(store, attempt).await, "{attempt:?}");
        }
        // Whoever has used one name twice is told what it stands for.
        let with_events =
            Attempt { appends: vec![(stream(), vec![Ids::default().next()])], ..attempts[0].clone() };
        assert!(is_applied(store, &with_events).await);
    }
}

/// Each commit that writes makes others see another version of the data.
#[tokio::test]
async fn what_only_looks_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let store = SqliteBackend::open(&file).await.unwrap();
    store.commit(commit("a")).await.unwrap();
    let mut other = sqlx::SqliteConnection::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    let version = "select data_version from pragma_data_version";
    let before: i64 = sqlx::query_scalar(version).fetch_one(&mut other).await.unwrap();
    for look in only_looks() {
        let (commit, _) = named(look.clone());
        for commit in [commit, look] {
            let committed = store.commit(commit.clone()).await.unwrap();
            assert_eq!(committed.versions, vec![Version(1); commit.appends.len()]);
        }
    }
    let after: i64 = sqlx::query_scalar(version).fetch_one(&mut other).await.unwrap();
    assert_eq!((count(&store).await, after), (0, before));
    store.commit(row("a")).await.unwrap();
    let after: i64 = sqlx::query_scalar(version).fetch_one(&mut other).await.unwrap();
    assert_eq!((count(&store).await, after > before), (1, true));
}

#[tokio::test]
async fn what_one_process_gave_up_another_cannot_write() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let store = SqliteBackend::open(&file).await.unwrap();
    let other = SqliteBackend::open(&file).await.unwrap();
    for late in without_events().into_iter().chain([commit("b")]) {
        let (late, attempt) = named(late);
        assert_eq!(other.resolve(&attempt).await.unwrap(), Resolution::Never);
        let refused = store.commit(late.clone()).await.unwrap_err().to_string();
        assert!(refused.contains("was given up"), "{refused}");
        let mut tx = store.begin().await.unwrap();
        *tx.staged() = late;
        let refused = tx.commit().await.unwrap_err().to_string();
        assert!(refused.contains("was given up"), "{refused}");
        assert_eq!(store.resolve(&attempt).await.unwrap(), Resolution::Never);
    }
    assert_eq!(store.head().await.unwrap(), Position(0));
}

#[test]
fn a_commit_whose_runtime_ends_is_unknown_under_a_name_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(SqliteBackend::open(&file)).unwrap();
    let lost = async {
        let held = store.begin().await.unwrap();
        let waiting = tokio::spawn({
            let store = store.clone();
            async move { store.commit(row("a")).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        std::thread::spawn(move || drop(runtime)).join().unwrap();
        let outcome = waiting.await.unwrap();
        held.rollback().await.unwrap();
        outcome
    };
    let here = tokio::runtime::Runtime::new().unwrap();
    let Err(CommitError::Unknown(attempt)) = here.block_on(lost) else { panic!("nobody can know") };
    assert_eq!(attempt.id.get_version_num(), 7);
    let resolution = here.block_on(async {
        let other = SqliteBackend::open(&file).await.unwrap();
        other.resolve(&attempt).await.unwrap()
    });
    assert_eq!(resolution, Resolution::Never);
}

#[tokio::test]
async fn witnesses_are_removed_after_an_hour_and_fences_stay() {
    let clock = TestClock::default();
    let store = SqliteBackend::open_with(SqliteOptions::new(":memory:").with_clock(clock.clone()));
    let store = store.await.unwrap();
    let ids =
        Ids::new(std::sync::Arc::new(clock.clone()), std::sync::Arc::new(es_core::entropy::SystemEntropy));
    let named = |key: &str| {
        let commit = Commit { attempt: ids.next(), ..row(key) };
        (Attempt::of(commit.attempt, &commit), commit)
    };
    let (given_up, _) = named("never");
    assert_eq!(store.resolve(&given_up).await.unwrap(), Resolution::Never);
    let mut old = Vec::new();
    for i in 0..200 {
        let (attempt, commit) = named(&format!("old {i}"));
        store.commit(commit).await.unwrap();
        old.push(attempt);
    }
    clock.advance(Duration::from_secs(59 * 60));
    assert!(is_applied(&store, &old[0]).await, "within the hour");
    clock.advance(Duration::from_secs(10 * 60));
    assert!(is_applied(&store, &old[0]).await, "nothing was written since, so it is there still");
    // In rounds, each of which removes twice as many as were added since the last one.
    for (round, left) in [(1, 1 + 200 + 64 - 2 * 64), (2, 1 + 2 * 64)] {
        for i in 0..64 {
            let (attempt, commit) = named(&format!("new {round} {i}"));
            store.commit(commit).await.unwrap();
            assert!(is_applied(&store, &attempt).await);
        }
        assert_eq!(count(&store).await, left);
    }
    let gone = store.resolve(&old[0]).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Misuse);
    assert!(gone.to_string().contains("too old to be known"), "{gone}");
    assert_eq!(store.resolve(&given_up).await.unwrap(), Resolution::Never, "it never changes its mind");
    let one_without_a_time = Attempt { id: uuid::Uuid::from_u128(7), ..Attempt::default() };
    assert_eq!(store.resolve(&one_without_a_time).await.unwrap(), Resolution::Never);
}

/// The clock of whoever named it may be ahead: its witness is there for as long as it can be asked for.
#[tokio::test]
async fn a_witness_is_kept_for_as_long_as_its_attempt_counts_as_young() {
    let clock = TestClock::default();
    let store = SqliteBackend::open_with(SqliteOptions::new(":memory:").with_clock(clock.clone()));
    let store = store.await.unwrap();
    let ahead = Ids::default().at(clock.now() + Duration::from_secs(30 * 60));
    let attempt = Attempt { id: ahead, ..Attempt::default() };
    store.commit(Commit { attempt: ahead, ..row("ahead") }).await.unwrap();
    let round = async |name: &str| {
        for i in 0..64 {
            store.commit(row(&format!("{name} {i}"))).await.unwrap();
        }
    };
    for minutes in [66, 23] {
        clock.advance(Duration::from_secs(minutes * 60));
        round(&format!("after {minutes}")).await;
        assert!(is_applied(&store, &attempt).await);
    }
    clock.advance(Duration::from_secs(10 * 60));
    round("later").await;
    let gone: StoreError = store.resolve(&attempt).await.unwrap_err();
    assert!(gone.to_string().contains("too old to be known"), "{gone}");
}
