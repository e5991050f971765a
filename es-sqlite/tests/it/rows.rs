//! What only SQL shows of rows: which ranges a scan walks, and what the builds of a projection leave alone.

use es_core::store::Backend as _;
use es_core::store::{
    Builds as _, CURRENT, Commit, EventStore as _, HOT, RowStore as _, RowWrite, Tables, Transaction as _,
};
use es_sqlite::SqliteBackend;
use sqlx::Row as _;

fn write(table: &str, key: &str) -> RowWrite {
    RowWrite { table: table.into(), key: key.to_owned(), rev: 0, row: Some("{}".into()) }
}

#[tokio::test]
async fn many_scans_walk_nothing_but_their_spans() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    let explain = concat!("explain query plan ", include_str!("../../src/sql/scan_many.sql"));
    // Comments come before the statement.
    let query = sqlx::query(explain).bind("t").bind("[]").bind(1);
    let plan = query.fetch_all(&store.db()).await.unwrap();
    let plan: Vec<String> = plan.iter().map(|row| row.get(3)).collect();
    let ranges = plan.iter().filter(|step| step.contains("tbl=? AND key>? AND key<?")).count();
    assert_eq!(ranges, 2, "{plan:#?}");
    let sorts = plan.iter().filter(|step| step.contains("TEMP B-TREE") || step.contains("AUTOMATIC"));
    assert_eq!(sorts.count(), 0, "{plan:#?}");
}

/// Tables of the framework's own, and queues of extensions.
#[tokio::test]
async fn the_builds_of_a_projection_leave_reserved_tables_alone() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    let tables = |version| Tables { name: "p", version, schema: "create table mine (x)" };
    let hot = format!("{HOT}p");
    let reserved = ["es.p", "es.p.x", &hot, "hot.x", "nodes", "asked", "inline", "my rows"];
    let rows: Vec<RowWrite> = reserved
        .iter()
        .flat_map(|table| ["p", "p/1", "p/1~1", "p/1~1#0000", "p/1~1/parked"].map(|key| write(table, key)))
        .chain(["p/1~1", "p/1~1/parked", "p/1~2"].map(|table| write(table, "ada")))
        .chain([write(CURRENT, "p/10"), write(CURRENT, "other/1")])
        .collect();
    let kept = 5 * reserved.len() + 2;
    store.commit(Commit { rows, ..Commit::default() }).await.unwrap();
    store.install(&tables(1), 1).await.unwrap();
    store.install(&tables(1), 2).await.unwrap();
    store.switch(&tables(1), 2, Commit::default()).await.unwrap();
    store.clear(&tables(1), 1, Commit::default()).await.unwrap();
    store.uninstall(&tables(1), 1, Commit::default()).await.unwrap();
    store.install(&tables(2), 1).await.unwrap();
    store.publish(&tables(2), Commit::default()).await.unwrap();
    store.remove_version("p", 1, Commit::default()).await.unwrap();
    let left: i64 = sqlx::query_scalar("select count(*) from es_rows").fetch_one(&store.db()).await.unwrap();
    assert_eq!(left, i64::try_from(kept).unwrap());
    for table in reserved {
        assert_eq!(store.scan(table, None, 10).await.unwrap().len(), 5, "{table}");
    }
}

#[tokio::test]
async fn rows_of_a_transaction_and_of_a_switch_wake_who_watches() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    let tables = Tables { name: "p", version: 1, schema: "" };
    store.install(&tables, 1).await.unwrap();
    let mut wake = store.watch_rows("t", es_core::processor::Slices::ALL);
    let commit = |key: &str| Commit { rows: vec![write("t", key)], ..Commit::default() };
    let mut tx = store.begin().await.unwrap();
    *tx.staged() = commit("tx");
    tx.commit().await.unwrap();
    assert!(wake.has_changed().unwrap());
    for (i, key) in ["switch", "clear", "uninstall"].into_iter().enumerate() {
        wake.mark_unchanged();
        let done = match i {
            0 => store.switch(&tables, 1, commit(key)).await,
            1 => store.clear(&tables, 1, commit(key)).await,
            _ => store.uninstall(&tables, 2, commit(key)).await,
        };
        done.unwrap();
        assert!(wake.has_changed().unwrap(), "{key}");
    }
    wake.mark_unchanged();
    let mut tx = store.begin().await.unwrap();
    *tx.staged() = commit("rolled back");
    tx.rollback().await.unwrap();
    assert!(store.commit(commit("tx")).await.is_err());
    assert!(!wake.has_changed().unwrap(), "nothing was written");
}
