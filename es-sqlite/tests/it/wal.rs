//! The write-ahead log while reads overlap all the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use es_core::store::{Backend as _, Commit, EventStore as _, Transaction as _};
use es_core::testing::Log;
use es_sqlite::{SqliteBackend, SqliteOptions};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

async fn store(folder: &TempDir, limit: u64) -> SqliteBackend {
    let options = SqliteOptions::new(folder.path().join("store.db")).with_wal_limit(limit);
    let options = options.with_synchronous(es_sqlite::Synchronous::Normal);
    SqliteBackend::open_with(options).await.unwrap()
}

fn log_len(store: &SqliteBackend) -> u64 {
    let mut file = store.path().as_os_str().to_owned();
    file.push("-wal");
    std::fs::metadata(file).unwrap().len()
}

/// A commit of some KB.
fn large(n: usize) -> Commit {
    let mut commit = crate::files::commit(&format!("s-{n}"));
    commit.appends[0].events[0].data = format!("\"{}\"", "x".repeat(8_000)).into();
    commit
}

async fn write(store: &SqliteBackend, commits: usize) {
    for n in 0..commits {
        store.commit(large(n)).await.unwrap();
    }
}

/// Reads one after the other. Each has seen the file before it counts for a while.
async fn reads(store: &SqliteBackend, done: &AtomicBool) {
    let sql = "select (select max(position) from es_events), count(*)
               from (with recursive n (x) as (select 1 union all select x + 1 from n where x < 5000) select x from n)";
    while !done.load(Ordering::Relaxed) {
        drop(sqlx::query(sql).fetch_one(&store.db()).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_emptied_again_and_again_while_reads_overlap() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder, MIB).await;
    let done = AtomicBool::new(false);
    let writing = async {
        let (mut n, mut before, mut emptied) = (0, 0, 0);
        while emptied < 20 {
            n += 1;
            store.commit(large(n)).await.unwrap();
            let len = log_len(&store);
            assert!(len < 64 * MIB && n < 20_000, "{len} bytes after {n} commits, emptied {emptied} times");
            emptied += u64::from(len < before);
            before = len;
        }
        done.store(true, Ordering::Relaxed);
    };
    let reading = (0..4).map(|_| reads(&store, &done));
    futures::join!(writing, futures::future::join_all(reading));
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}

/// What SQLite does by itself: with a reader at any time it never begins the log again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_limit_the_log_grows_for_as_long_as_readers_overlap() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder, u64::MAX).await;
    write(&store, 1).await;
    let db = store.db();
    let begin = async || {
        let mut tx = db.pool().begin().await.unwrap();
        drop(sqlx::query("select max(position) from es_events").fetch_one(&mut *tx).await.unwrap());
        tx
    };
    let mut reader = begin().await;
    for n in 0..100 {
        for i in 0..10 {
            store.commit(large(10 * n + i)).await.unwrap();
        }
        // The next one begins before this one ends.
        let next = begin().await;
        reader.rollback().await.unwrap();
        reader = next;
    }
    let len = log_len(&store);
    assert!(len > 12 * MIB, "{len} bytes");
}

#[tokio::test]
async fn a_reader_that_stays_is_named_and_the_log_is_emptied_when_it_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder, MIB).await;
    let (log, _guard) = Log::catch();
    write(&store, 1).await;
    let mut reader = store.db().pool().begin().await.unwrap();
    drop(sqlx::query("select max(position) from es_events").fetch_one(&mut *reader).await.unwrap());
    let mut warned = Vec::new();
    while warned.is_empty() {
        write(&store, 50).await;
        warned = log.take();
        assert!(log_len(&store) < 256 * MIB, "nobody says so");
    }
    assert!(
        warned[0].contains("a reader has been open") && warned[0].contains("limit=1048576"),
        "{warned:?}"
    );
    // Others read and write on.
    write(&store, 10).await;
    store.head().await.unwrap();
    reader.rollback().await.unwrap();
    while log_len(&store) > MIB {
        write(&store, 1).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The one writer waits for another process as long as before.
    let mut tx = store.begin().await.unwrap();
    let timeout: i64 = sqlx::query_scalar("pragma busy_timeout").fetch_one(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(timeout, 5_000);
}
