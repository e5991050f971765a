//! Plans are made once, as a rule while a store is small; they must serve a large one.

use es_core::store::{
    Attempt, Commit, EventFilter, EventStore as _, ExpectedVersion, Position, RowStore as _, Span, Version,
};
use es_postgres::{PgBackend, testing};

use crate::support::{append, commit, count, mark, new_id, row, run, stream, until_count, with};

/// Rows, and events of as many streams. Read whole by every question, they would be a hundred times more.
const LARGE: usize = 4_000;

/// What a store is asked all the time.
async fn ask(store: &PgBackend) {
    let keys: Vec<String> = (0..20).map(|key| key.to_string()).collect();
    store.rows("v/1", &keys).await.unwrap();
    let span = Span { after: String::new(), before: None, limit: 10 };
    store.scan_many("v/1", &[span]).await.unwrap();
    store.stream(&stream("s"), Version(0), 10).await.unwrap();
    store.outcome(&mark("k", "s").key).await.unwrap();
    store.at(&[Position(1)]).await.unwrap();
    store.read(&EventFilter::all(), Position(0), 10).await.unwrap();
    store.commit(commit("s")).await.unwrap();
    store.commit(append("s", ExpectedVersion::Exists, 0)).await.unwrap();
    let rows = vec![row(&new_id().to_string(), 0, Some("1"))];
    store
        .commit(Commit { rows, outcomes: vec![mark(&new_id().to_string(), "s")], ..commit("s") })
        .await
        .unwrap();
    let never = Attempt { id: new_id(), appends: vec![(stream("s"), vec![new_id()])] };
    store.resolve(&never).await.unwrap();
}

#[tokio::test]
async fn plans_that_were_made_while_the_store_was_small_serve_a_large_one() {
    const READ: &str =
        "select coalesce(sum(seq_tup_read), 0)::bigint from pg_stat_user_tables where schemaname = 'es'";
    const OTHERS: &str = "select count(*) from pg_stat_activity where datname = current_database()
                          and backend_type = 'client backend' and pid <> pg_backend_pid()";
    let database = testing::database().await;
    let store = with(&database, |o| o.with_readers(1).with_notify(false)).await;
    ask(&store).await;
    run(database.url(), "analyze").await;
    ask(&store).await;
    for some in 0..4 {
        let keys = (0..LARGE / 4).map(|i| (some * LARGE / 4 + i).to_string());
        let (rows, appends) =
            keys.map(|key| (row(&key, 0, Some("1")), commit(&key).appends.remove(0))).unzip();
        store.commit(Commit { rows, appends, ..Commit::default() }).await.unwrap();
    }
    for _ in 0..100 {
        ask(&store).await;
    }
    // A connection that ends has told what it read.
    drop(store);
    until_count(database.url(), OTHERS, 0).await;
    let read = count(database.url(), READ).await;
    assert!(read < 10 * LARGE as i64, "{read} rows were read one after the other");
}
