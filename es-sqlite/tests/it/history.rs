//! What a program does whose file becomes another one: restored into, replaced, adopted.

use std::path::Path;

use es_core::store::{
    Adopt, Commit, CommitError, EventStore as _, Position, RowStore as _, RowWrite, StreamId,
    Transaction as _, Version,
};
use es_core::store::{Backend as _, StoreError};
use es_core::{ErrorKind, store::RecordedEvent};
use es_sqlite::{SqliteBackend, SqliteOptions};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use crate::files::commit;

/// As another program that knows SQLite alone.
pub(crate) async fn run(file: &Path, sql: impl Into<String>) {
    let mut conn = SqliteConnectOptions::new().filename(file).connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

/// What comes of a restore into the open file: in one transaction it is as it was after so many events.
async fn restore(file: &Path, events: u64) {
    let sql = format!(
        "begin immediate; drop trigger es_events_delete; drop trigger es_streams_delete;
         delete from es_events where position > {events};
         delete from es_streams where id not in (select stream from es_events);
         delete from es_types where id not in (select type from es_events);
         delete from es_attempts; commit"
    );
    run(file, sql).await;
}

fn called(stream: &str, name: &'static str) -> Commit {
    let mut one = commit(stream);
    one.appends[0].events[0].name = name.into();
    one
}

async fn names(store: &SqliteBackend) -> Vec<String> {
    let events = store.stream(&StreamId::new("s").unwrap(), Version(0), 10).await.unwrap();
    events.iter().map(|event: &RecordedEvent| event.name.to_string()).collect()
}

fn row(rev: u64) -> Commit {
    let row = RowWrite { table: "v/1".into(), key: "k".to_owned(), rev, row: Some("{}".into()) };
    Commit { rows: vec![row], ..Commit::default() }
}

#[tokio::test]
async fn a_restore_into_the_open_file_is_noticed_with_the_next_read_or_append() {
    for reads in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        let living = SqliteBackend::open(&file).await.unwrap();
        living.commit(called("s", "first")).await.unwrap();
        living.commit(row(0)).await.unwrap();
        living.commit(called("s", "lost")).await.unwrap();
        assert_eq!(names(&living).await, ["first", "lost"]);
        restore(&file, 1).await;
        let fresh = SqliteBackend::open(&file).await.unwrap();
        // Its type has the number of the one that was lost.
        fresh.commit(called("s", "new")).await.unwrap();
        assert_eq!(living.history(), 0);
        if reads {
            assert_eq!(names(&living).await, ["first", "new"]);
        } else {
            let refused = living.commit(row(1)).await.unwrap_err();
            assert!(matches!(refused, CommitError::OtherHistory), "{refused}");
        }
        assert_eq!(living.history(), 1);
        living.commit(called("s", "lost")).await.unwrap();
        living.commit(row(1)).await.unwrap();
        for store in [&living, &fresh] {
            assert_eq!(names(store).await, ["first", "new", "lost"]);
            assert_eq!(store.verify().await.unwrap(), [""; 0]);
        }
        assert_eq!((living.history(), fresh.history()), (1, 0));
    }
}

#[tokio::test]
async fn what_a_transaction_of_the_users_own_was_decided_on_is_refused_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let living = SqliteBackend::open(&file).await.unwrap();
    living.commit(row(0)).await.unwrap();
    SqliteOptions::new(&file).adopt(Adopt::Restored).await.unwrap();
    let mut tx = living.begin().await.unwrap();
    *tx.staged() = row(1);
    let refused = tx.commit().await.unwrap_err();
    assert!(matches!(refused, CommitError::OtherHistory), "{refused}");
    let mut tx = living.begin().await.unwrap();
    *tx.staged() = row(1);
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_program_that_waits_is_woken_by_another_history() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let living = SqliteBackend::open(&file).await.unwrap();
    for _ in 0..3 {
        living.commit(commit("s")).await.unwrap();
    }
    let mut wake = living.watch();
    wake.mark_unchanged();
    restore(&file, 1).await;
    wake.changed().await.unwrap();
    assert_eq!((*wake.borrow(), living.history()), (Position(1), 1));
}

fn says(error: &StoreError, what: &str) {
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
    let text = error.to_string();
    assert!(text.contains(what) && text.contains("start the program again"), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_that_was_replaced_is_not_written_or_read_on_under_its_old_connections() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let living = SqliteBackend::open(&file).await.unwrap();
    living.commit(commit("s")).await.unwrap();
    let copy = folder.path().join("copy.db");
    run(&file, format!("vacuum into '{}'", copy.display())).await;
    for became in ["was replaced by another file", "was moved or removed"] {
        if became.contains("replaced") {
            std::fs::rename(&copy, &file).unwrap();
        } else {
            std::fs::rename(&file, &copy).unwrap();
        }
        match living.commit(commit("s")).await.unwrap_err() {
            CommitError::Store(error) => says(&error, became),
            other => panic!("{other}"),
        }
        says(&living.begin().await.unwrap_err(), became);
        says(&living.head().await.unwrap_err(), became);
        says(&living.stream(&StreamId::new("s").unwrap(), Version(0), 1).await.unwrap_err(), became);
        says(&living.rows("v/1", &["k".to_owned()]).await.unwrap_err(), became);
        says(&living.verify().await.unwrap_err(), became);
    }
}

#[tokio::test]
async fn what_is_no_store_is_not_adopted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes.db");
    let adopt = async |path: &Path| SqliteOptions::new(path).adopt(Adopt::Restored).await.unwrap_err();
    let missing = adopt(&file).await;
    assert!(missing.kind() == ErrorKind::Misuse && !file.exists(), "{missing}");
    let mut conn =
        SqliteConnectOptions::new().filename(&file).create_if_missing(true).connect().await.unwrap();
    sqlx::raw_sql("create table notes (text text)").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let other = adopt(&file).await.to_string();
    assert!(other.contains("notes.db holds no store"), "{other}");
    let memory = adopt(Path::new(":memory:")).await.to_string();
    assert!(memory.contains("give the path of a file"), "{memory}");
}
