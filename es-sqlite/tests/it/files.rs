//! What only a file can show: how it opens, what is refused, who waits for whom, what a drop leaves.

use std::path::Path;
use std::time::Duration;

use es_core::ErrorKind;
use es_core::event::Metadata;
use es_core::id::Ids;
use es_core::store::{
    Append, Attempt, Backend as _, Builds as _, Commit, CommitError, Committed, EventFilter, EventStore as _,
    ExpectedVersion, Name, NewEvent, Position, Resolution, RowStore as _, RowWrite, StoreError, StreamId,
    Tables, Transaction as _, Version,
};
use es_sqlite::{SqliteBackend, SqliteOptions};

pub(crate) fn commit(stream: &str) -> Commit {
    let event = NewEvent {
        id: Ids::default().next(),
        name: Name::from("thing.done"),
        schema: 1,
        codec: Name::from("json"),
        data: "{}".into(),
        tags: Vec::new(),
        metadata: Metadata::default().into(),
    };
    let stream = StreamId::new(stream).unwrap();
    Commit {
        appends: vec![Append { stream, expected: ExpectedVersion::Any, events: vec![event] }],
        ..Commit::default()
    }
}

async fn refused(path: impl AsRef<Path>) -> StoreError {
    match SqliteBackend::open(path).await {
        Ok(_) => panic!("it opens"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = refused(folder.path().join("no/such.db")).await;
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(
        error.to_string().contains("the folder") && error.to_string().contains("is not there"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_of_another_kind_is_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "no database, but long enough to be one: ".repeat(100)).unwrap();
    let error = refused(&file).await;
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
    assert!(
        error.to_string().contains("notes.txt") && error.to_string().contains("no SQLite database"),
        "{error}"
    );
    let folder = refused(folder.path()).await.to_string();
    assert!(folder.contains("is a folder"), "{folder}");
    let empty = refused("").await.to_string();
    assert!(empty.contains("is empty"), "{empty}");
}

/// B64
#[tokio::test]
async fn the_address_of_a_server_is_refused_without_its_password() {
    let address = "postgres://ada:s3cret@db.example/shop";
    let error = refused(address).await;
    assert_eq!(error.kind(), ErrorKind::Misuse);
    let options = SqliteOptions::new(address);
    let said = format!("{error} {error:?} {options:?}");
    assert!(said.contains("address of a server") && !said.contains("s3cret"), "{said}");
}

/// B61
#[tokio::test]
async fn the_last_position_is_given_out_and_none_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteBackend::open(folder.path().join("store.db")).await.unwrap();
    store.commit(commit("a")).await.unwrap();
    let far = "drop trigger es_events_update; update es_events set position = 9223372036854775806";
    let mut conn =
        <sqlx::SqliteConnection as sqlx::Connection>::connect(&format!("sqlite:{}", store.path().display()))
            .await
            .unwrap();
    sqlx::raw_sql(far).execute(&mut conn).await.unwrap();
    let outcomes = futures::future::join_all((0..2).map(|n| store.commit(commit(&format!("b{n}"))))).await;
    assert_eq!(outcomes[0].as_ref().unwrap().position, Position(i64::MAX as u64));
    assert!(matches!(outcomes[1], Err(CommitError::Overflow { .. })), "{:?}", outcomes[1]);
    assert!(matches!(store.commit(commit("c")).await, Err(CommitError::Overflow { .. })));
}

#[test]
fn the_write_path_shows_its_queue_its_batches_and_its_answers() {
    let numbers = es_core::testing::Numbers::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&numbers, || {
        runtime.block_on(async {
            let store = SqliteBackend::open(":memory:").await.unwrap();
            let commits = (0..20).map(|n| store.commit(commit(&format!("s{n}"))));
            futures::future::try_join_all(commits).await.unwrap();
            let mut stale = commit("s0");
            stale.appends[0].expected = ExpectedVersion::NoStream;
            store.commit(stale).await.unwrap_err();
            let lost = Attempt { id: Ids::default().next(), appends: Vec::new() };
            store.resolve(&lost).await.unwrap();
        });
    });
    let of = |series: &str| numbers.of(series);
    assert_eq!(of("es_commits_total outcome=written"), 20.0, "{numbers:#?}");
    assert_eq!(of("es_commits_total outcome=conflict"), 1.0);
    assert_eq!(of("es_commits_resolved_total found=never"), 1.0);
    assert!(of("es_write_wait_seconds queue=commits") >= 21.0, "one for each commit: {numbers:#?}");
    assert!(of("es_write_turn_seconds queue=commits") >= 2.0);
    assert!(of("es_write_flush_seconds queue=commits") >= 2.0);
    assert_eq!(of("es_write_waiting queue=commits"), 0.0, "all were answered");
}

#[tokio::test]
async fn a_file_of_a_newer_program_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let store = SqliteBackend::open(&file).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    sqlx::query("update es_store set schema = 99").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let error = refused(&file).await;
    assert_eq!(error.to_string(), "the database has schema 99, this program knows 5: use a newer program");
}

#[tokio::test]
async fn two_openers_at_once_share_one_store() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let all = futures::future::join_all((0..8).map(|_| SqliteBackend::open(&file))).await;
    let identities: Vec<_> = all.into_iter().map(|store| store.unwrap().identity()).collect();
    assert!(identities.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test]
async fn a_store_in_memory_is_private_and_leaves_nothing() {
    let (one, two) =
        (SqliteBackend::open(":memory:").await.unwrap(), SqliteBackend::open(":memory:").await.unwrap());
    one.commit(commit("a")).await.unwrap();
    assert_eq!((one.head().await.unwrap(), two.head().await.unwrap()), (Position(1), Position(0)));
    let file = one.path().to_owned();
    assert!(file.exists());
    drop(one);
    assert!(!file.parent().unwrap().exists());
}

#[tokio::test]
async fn a_task_that_holds_a_transaction_is_refused_and_not_left_waiting() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let error = store.commit(commit("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse);
    assert!(error.to_string().contains("would wait for itself"), "{error}");
    assert!(store.begin().await.is_err());
    // Another task waits, and is served.
    let other = tokio::spawn({
        let store = store.clone();
        async move { store.commit(commit("b")).await }
    });
    *tx.staged() = commit("c");
    tx.commit().await.unwrap();
    other.await.unwrap().unwrap();
    assert_eq!(store.head().await.unwrap(), Position(2));
}

#[tokio::test]
async fn a_dropped_transaction_is_rolled_back_and_lets_others_write() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    let mut tx = store.begin().await.unwrap();
    sqlx::query("create table mine (x)").execute(&mut *tx).await.unwrap();
    *tx.staged() = commit("a");
    drop(tx);
    store.commit(commit("b")).await.unwrap();
    assert_eq!(store.head().await.unwrap(), Position(1));
    assert!(sqlx::query("select * from mine").fetch_optional(&store.db()).await.is_err());
}

/// Polls a future `polls` times at most, then drops it.
async fn dropped_after<F: Future>(polls: usize, future: F) {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        if futures::poll!(future.as_mut()).is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_dropped_at_any_poll_the_store_goes_on() {
    let store = SqliteBackend::open_with(SqliteOptions::new(":memory:").with_readers(1)).await.unwrap();
    let stream = StreamId::new("s").unwrap();
    for polls in 0..40 {
        dropped_after(polls, store.commit(commit("s"))).await;
        dropped_after(polls, store.read(&EventFilter::all(), Position(0), 10)).await;
        dropped_after(polls, store.stream(&stream, Version(0), 10)).await;
        dropped_after(polls, store.begin()).await;
        dropped_after(polls, async {
            let mut tx = store.begin().await.unwrap();
            sqlx::query("create table if not exists mine (x)").execute(&mut *tx).await.unwrap();
            *tx.staged() = commit("t");
            tx.commit().await
        })
        .await;
        let works = store.commit(commit("u"));
        tokio::time::timeout(Duration::from_secs(60), works).await.expect("nobody keeps the store").unwrap();
    }
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn one_request_whose_data_does_not_fit_fails_alone() {
    // A trigger of the user's own stands in for whatever a database can refuse.
    let store = SqliteBackend::open(":memory:").await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let trigger = "create trigger no_b before insert on es_streams when new.name = 'b'
                   begin select raise(abort, 'no b'); end";
    sqlx::raw_sql(trigger).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let all = ["a", "b", "c"].map(|stream| store.commit(commit(stream)));
    let [a, b, c] = futures::future::join_all(all).await.try_into().unwrap();
    assert!(a.is_ok() && c.is_ok());
    assert!(matches!(b, Err(CommitError::Store(StoreError::Misuse { .. }))), "{b:?}");
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_row_that_one_commit_deletes_and_the_next_writes_is_there() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    let write = |rev, row: Option<&'static str>| {
        let row = RowWrite { table: "v/1".into(), key: "k".to_owned(), rev, row: row.map(Into::into) };
        Commit { rows: vec![row], ..Commit::default() }
    };
    let writes = [write(0, Some("1")), write(1, None), write(0, Some("2"))];
    for outcome in in_one_batch(&store, writes.into()).await {
        outcome.unwrap();
    }
    let rows = store.rows("v/1", &["k".to_owned()]).await.unwrap();
    assert_eq!(rows[0].as_ref().map(|row| &row.data[..]), Some(&b"2"[..]));
}

/// SQLite ends a transaction by itself after some errors; whoever goes on must not keep half of it.
#[tokio::test]
async fn a_transaction_that_sqlite_has_rolled_back_keeps_nothing_and_says_so() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    let mut tx = store.begin().await.unwrap();
    sqlx::query("create table mine (x text unique)").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    for commits in [true, false] {
        let mut tx = store.begin().await.unwrap();
        sqlx::query("insert into mine values ('first')").execute(&mut *tx).await.unwrap();
        let again = sqlx::query("insert or rollback into mine values ('first')").execute(&mut *tx).await;
        assert!(again.is_err());
        let after = sqlx::query("insert into mine values ('after')").execute(&mut *tx).await;
        assert!(after.is_err(), "it would commit by itself");
        *tx.staged() = commit("a");
        if commits {
            let error = tx.commit().await.unwrap_err().to_string();
            assert!(error.contains("has rolled this transaction back"), "{error}");
        } else {
            tx.rollback().await.unwrap();
        }
        let kept: i64 = sqlx::query_scalar("select count(*) from mine").fetch_one(&store.db()).await.unwrap();
        assert_eq!((kept, store.head().await.unwrap()), (0, Position(0)));
    }
    store.commit(commit("a")).await.unwrap();
}

#[tokio::test]
async fn a_transaction_may_be_handed_to_another_task() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let theirs = tokio::spawn({
        let store = store.clone();
        async move {
            *tx.staged() = commit("a");
            let refused = store.commit(commit("b")).await.unwrap_err();
            tx.commit().await.unwrap();
            refused
        }
    });
    assert!(theirs.await.unwrap().to_string().contains("would wait for itself"));
    store.commit(commit("b")).await.unwrap();
}

#[tokio::test]
async fn a_transaction_dropped_outside_the_runtime_lets_others_write() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let (store, other) =
        (SqliteBackend::open(&file).await.unwrap(), SqliteBackend::open(&file).await.unwrap());
    let tx = store.begin().await.unwrap();
    std::thread::spawn(move || drop(tx)).join().unwrap();
    other.commit(commit("a")).await.unwrap();
}

/// Everything of one batch: it waits together while the connection is held.
async fn in_one_batch(store: &SqliteBackend, commits: Vec<Commit>) -> Vec<Result<Committed, CommitError>> {
    let held = store.begin().await.unwrap();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { futures::future::join_all(commits.into_iter().map(|commit| store.commit(commit))).await }
    });
    tokio::task::yield_now().await;
    held.rollback().await.unwrap();
    waiting.await.unwrap()
}

#[tokio::test]
async fn each_commit_of_a_batch_is_told_about_its_own_conflict() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    let mut first = commit("s");
    first.appends[0].expected = ExpectedVersion::NoStream;
    first.appends[0].events.extend([commit("s"), commit("s")].map(|mut c| c.appends[0].events.remove(0)));
    store.commit(first.clone()).await.unwrap();
    let stale = |version| {
        let mut stale = commit("s");
        stale.appends[0].expected = ExpectedVersion::Exact(Version(version));
        Commit { explain: true, ..stale }
    };
    let short = Commit { explain: false, ..stale(0) };
    let outcomes = in_one_batch(&store, vec![short, stale(2), first, stale(1)]).await;
    let since = |outcome: &Result<Committed, CommitError>| match outcome {
        Err(CommitError::Conflict { since, .. }) => since.iter().map(|e| e.version.0).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(since(&outcomes[0]), [0_u64; 0]);
    assert_eq!(since(&outcomes[1]), [3]);
    assert!(outcomes[2].is_ok(), "the same events where they stand: {:?}", outcomes[2]);
    assert_eq!(since(&outcomes[3]), [2, 3]);
}

#[tokio::test]
async fn what_was_dropped_while_it_waited_is_resolved_for_good() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    let held = store.begin().await.unwrap();
    let lost = commit("a");
    let attempt = Attempt::of(Ids::default().next(), &lost);
    dropped_after(3, store.commit(lost)).await;
    let resolving = tokio::spawn({
        let (store, attempt) = (store.clone(), attempt.clone());
        async move { store.resolve(&attempt).await }
    });
    tokio::task::yield_now().await;
    held.rollback().await.unwrap();
    let found = resolving.await.unwrap().unwrap();
    assert_eq!(found == Resolution::Never, store.head().await.unwrap() == Position(0));
    assert_eq!(store.resolve(&attempt).await.unwrap(), found, "it never changes its mind");
}

#[tokio::test]
async fn events_cannot_be_changed_or_deleted() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    store.commit(commit("a")).await.unwrap();
    for sql in ["update es_events set version = 9", "delete from es_events", "delete from es_streams"] {
        let mut tx = store.begin().await.unwrap();
        let error = sqlx::query(sql).execute(&mut *tx).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{error}");
        tx.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn verify_finds_what_was_tampered_with() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    for stream in ["a", "b", "a"] {
        store.commit(commit(stream)).await.unwrap();
    }
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
    let mut tx = store.begin().await.unwrap();
    let tamper = "drop trigger es_events_delete; drop trigger es_events_update;
                  insert into es_projections values ('p', 1, 2, 0, '', '[[\"table\",\"lost\"]]', '~1.2');
                  delete from es_events where position = 1; update es_events set data = x'7b' where position = 2";
    sqlx::raw_sql(tamper).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let found = store.verify().await.unwrap().join("\n");
    assert!(found.contains("there are 2 events and the last is at position 3"), "{found}");
    assert!(found.contains("a has 1 events and its last version is 2"), "{found}");
    assert!(found.contains("position 2 in b"), "{found}");
    assert!(found.contains("p/1~2 has no lost"), "{found}");
}

const BALANCES: &str = "create table balances (id text primary key, amount integer not null)";

#[tokio::test]
async fn the_tables_of_a_projection_are_made_once_and_again_when_cleared() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    let v1 = Tables { name: "balances", version: 1, schema: BALANCES };
    store.install(&v1, 1).await.unwrap();
    let count = || async {
        sqlx::query_scalar::<_, i64>("select count(*) from balances").fetch_one(&store.db()).await.unwrap()
    };
    let fill = || async {
        let mut tx = store.begin().await.unwrap();
        sqlx::query("insert into balances values ('a', 1)").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    };
    fill().await;
    store.install(&v1, 1).await.unwrap();
    assert_eq!(count().await, 1, "a second start keeps the rows");
    let edited = Tables { schema: "create table balances (id text)", ..v1 };
    let error = store.install(&edited, 1).await.unwrap_err().to_string();
    assert!(error.contains("raise `version`"), "{error}");
    store.clear(&v1, 1, Commit::default()).await.unwrap();
    assert_eq!(count().await, 0, "a cleared one does not");
    fill().await;
    store.install(&Tables { version: 2, ..v1 }, 1).await.unwrap();
    assert_eq!(count().await, 1, "another version has tables of its own");
    let renamed = Tables { name: "accounts", version: 1, schema: "create table if not exists balances (x)" };
    let error = store.install(&renamed, 1).await.unwrap_err().to_string();
    assert!(error.contains("belongs to somebody else"), "{error}");
    let broken = Tables { name: "broken", version: 1, schema: "create tabel" };
    assert!(
        store.install(&broken, 1).await.unwrap_err().to_string().contains("the schema of projection broken")
    );
}

#[tokio::test]
async fn a_read_only_file_can_be_read_and_a_write_fails_fast() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let store = SqliteBackend::open(&file).await.unwrap();
    store.commit(commit("a")).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    sqlx::query("pragma query_only = on").execute(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    let error = store.commit(commit("b")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
    assert!(error.to_string().contains("read-only"), "{error}");
    assert_eq!(store.head().await.unwrap(), Position(1));
}

#[tokio::test]
async fn a_file_that_another_process_writes_is_waited_for_and_then_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let other = SqliteBackend::open(&file).await.unwrap();
    let store =
        SqliteBackend::open_with(SqliteOptions::new(&file).with_lock_timeout(Duration::from_millis(50)))
            .await
            .unwrap();
    let held = other.begin().await.unwrap();
    let error = store.commit(commit("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    held.rollback().await.unwrap();
    store.commit(commit("a")).await.unwrap();
}
