//! A dump, and what it is restored into.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use es_core::store::{
    Bookmark, Commit, EventFilter, EventStore as _, Position, RowStore as _, Subscription, Version, read_all,
};
use es_postgres::PgBackend;
use es_postgres::testing::{Database, Server};

use crate::support::{commit, exact, mark, refused, row, step, stream};

pub(crate) async fn server() -> Server {
    tokio::task::spawn_blocking(Server::start).await.unwrap().unwrap()
}

/// Runs a program of the server on one of its databases.
pub(crate) fn on(server: &Server, database: &Database, program: &str, more: &[&str]) {
    let mut command = Command::new(server.bin().join(program));
    command.arg("-h").arg(server.socket_dir()).args(["-p", &server.port().to_string(), "-U", server.user()]);
    command.args(["-d", database.name()]).args(more).stdin(Stdio::null());
    // Also where the applications may not write now.
    command.env("PGOPTIONS", "-c default_transaction_read_only=off");
    let done = command.output().unwrap();
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
}

pub(crate) fn dump(server: &Server, database: &Database, file: &Path) {
    on(server, database, "pg_dump", &["-Fc", "-f", file.to_str().unwrap()]);
}

fn restore(server: &Server, database: &Database, file: &Path) {
    on(server, database, "pg_restore", &["--exit-on-error", file.to_str().unwrap()]);
}

async fn fill(store: &PgBackend, events: usize) {
    for _ in 0..events {
        store.commit(commit("s")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_dump_is_the_same_store_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dump");
    let (old, new) = (server().await, server().await);
    let (from, to) = (old.database().await.unwrap(), new.database().await.unwrap());
    let store = Arc::new(PgBackend::connect(from.url()).await.unwrap());
    fill(&store, 20).await;
    let everything = Commit {
        outcomes: vec![mark("k", "t")],
        rows: vec![step("p/1", 0, 5), row("k", 0, Some("1"))],
        ..exact("t", 0)
    };
    store.commit(everything.clone()).await.unwrap();
    let mut subscription = Subscription::new(store.clone(), EventFilter::all(), Position(0));
    for _ in 0..10 {
        subscription.next().await.unwrap();
    }
    dump(&old, &from, &file);
    restore(&new, &to, &file);
    let restored = Arc::new(PgBackend::connect(to.url()).await.unwrap());
    assert_eq!(restored.identity(), store.identity());
    let all = |store: Arc<PgBackend>| async move {
        read_all(&*store, &EventFilter::all(), Position(0)).await.unwrap()
    };
    assert_eq!(all(restored.clone()).await, all(store.clone()).await);
    assert_eq!(restored.stats().await.unwrap().checkpoints, [("p/1".to_owned(), Position(5))]);
    assert_eq!(restored.rows("v/1", &["k".to_owned()]).await.unwrap()[0].as_ref().unwrap().rev, 1);
    // What was asked before is answered as before.
    let again = everything;
    assert_eq!(
        refused(restored.commit(again.clone()).await).to_string(),
        refused(store.commit(again).await).to_string()
    );
    // A subscription goes on from its position, through what is appended now.
    let mut subscription = Subscription::new(restored.clone(), EventFilter::all(), subscription.position());
    restored.commit(exact("t", 1)).await.unwrap();
    restored.commit(exact("new", 0)).await.unwrap();
    for position in 11..=23 {
        assert_eq!(subscription.next().await.unwrap().position, Some(Position(position)));
    }
    assert_eq!(restored.stream(&stream("t"), Version(0), 10).await.unwrap().len(), 2);
    assert_eq!(restored.verify().await.unwrap(), [""; 0]);
}

async fn bookmark(store: &PgBackend, position: u64) -> Bookmark {
    Bookmark::of(store, Position(position)).await.unwrap()
}

/// Positions behind those of the dump are given out again: whoever remembers one looks at the event there, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_dump_gives_positions_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dump");
    let server = server().await;
    let (from, to) = (server.database().await.unwrap(), server.database().await.unwrap());
    let store = PgBackend::connect(from.url()).await.unwrap();
    fill(&store, 5).await;
    dump(&server, &from, &file);
    fill(&store, 5).await;
    let (old, new) = (bookmark(&store, 5).await, bookmark(&store, 8).await);
    restore(&server, &to, &file);
    let restored = PgBackend::connect(to.url()).await.unwrap();
    assert_eq!(restored.head().await.unwrap(), Position(5));
    // A reader that is ahead of the store waits, and says nothing.
    let ahead = restored.read(&EventFilter::all(), Position(8), 10).await.unwrap();
    assert!(ahead.events.is_empty() && !ahead.more);
    let error = new.check(&restored).await.unwrap_err().to_string();
    assert!(error.contains("no event stands there any more"), "{error}");
    fill(&restored, 5).await;
    let error = new.check(&restored).await.unwrap_err().to_string();
    assert!(error.contains("another event stands there now"), "{error}");
    old.check(&restored).await.unwrap();
    assert_eq!(restored.verify().await.unwrap(), [""; 0]);
}
