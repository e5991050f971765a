//! What only a file shows of a redaction, and what looks at a store come upon what cannot be read.

use es_core::store::{
    Backend as _, Commit, EventStore as _, Position, RowWrite, StreamId, Transaction as _, Version,
};
use es_sqlite::SqliteBackend;

use crate::files::commit;
use crate::history::run;

#[tokio::test]
async fn what_was_replaced_is_nowhere_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let store = SqliteBackend::open(&file).await.unwrap();
    // Small, and on pages of its own.
    for secret in ["the-secret", &"the-secret,".repeat(1_000)] {
        let mut one = commit("s");
        one.appends[0].events[0].data = format!("{secret:?}").into();
        store.commit(one).await.unwrap();
    }
    let holds = || {
        let files = ["store.db", "store.db-wal"].map(|name| std::fs::read(folder.path().join(name)).unwrap());
        files.iter().any(|bytes| bytes.windows(10).any(|some| some == b"the-secret"))
    };
    assert!(holds());
    for version in [1, 2] {
        store.redact(&StreamId::new("s").unwrap(), Version(version), "null".into()).await.unwrap();
    }
    assert!(!holds());
}

#[tokio::test]
async fn the_guard_lets_one_payload_through_and_nothing_else() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    for _ in 0..2 {
        store.commit(commit("s")).await.unwrap();
    }
    for (sql, refused) in [
        ("update es_history set redacts = 1; update es_events set data = x'30' where position = 1", false),
        ("update es_history set redacts = 1; update es_events set data = x'30' where position = 2", true),
        ("update es_history set redacts = 1; update es_events set version = 9 where position = 1", true),
        ("update es_history set redacts = 1; update es_events set head = x'00' where position = 1", true),
        ("update es_history set redacts = 1; delete from es_events where position = 1", true),
        ("update es_events set data = x'30' where position = 1", true),
    ] {
        let mut tx = store.begin().await.unwrap();
        let done = sqlx::raw_sql(sql).execute(&mut *tx).await;
        assert_eq!(done.is_err(), refused, "{sql}: {done:?}");
        tx.rollback().await.unwrap();
    }
    store.redact(&StreamId::new("s").unwrap(), Version(1), "1".into()).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let after = "update es_events set data = x'30' where position = 1";
    assert!(sqlx::raw_sql(after).execute(&mut *tx).await.is_err(), "it is up again");
    tx.rollback().await.unwrap();
    // One that somebody has left open is found.
    run(store.path(), "update es_history set redacts = 1").await;
    let found = store.verify().await.unwrap().join("\n");
    assert!(found.contains("position 1 is being redacted"), "{found}");
}

/// B65
#[tokio::test]
async fn a_checkpoint_that_cannot_be_read_is_named_and_the_others_are_shown() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    store.commit(commit("s")).await.unwrap();
    let row = |key: &str, row: &'static str| RowWrite {
        table: "checkpoints".into(),
        key: key.to_owned(),
        rev: 0,
        row: Some(row.into()),
    };
    let rows = vec![
        row("broken", "{"),
        row("here", r#"{"position":1,"last":1023}"#),
        row("merged", r#"{"position":1}"#),
        row("new", r#"{"last":1023}"#),
    ];
    store.commit(Commit { rows, ..Commit::default() }).await.unwrap();
    let stats = store.stats().await.unwrap();
    assert_eq!(stats.checkpoints, [("new".to_owned(), Position(0)), ("here".to_owned(), Position(1))]);
    assert_eq!(stats.unreadable, ["broken"]);
    assert_eq!((stats.store, stats.head, stats.streams), (store.identity(), Position(1), 1));
    assert!(stats.bytes > 0);
    let view: Vec<(String, Option<i64>)> =
        sqlx::query_as("select name, position from es_checkpoints order by name")
            .fetch_all(&store.db())
            .await
            .unwrap();
    let shown: Vec<_> = view.iter().map(|(name, position)| (&**name, *position)).collect();
    assert_eq!(shown, [("broken", None), ("here", Some(1)), ("new", None)]);
    let found = store.verify().await.unwrap();
    assert!(matches!(&found[..], [one] if one.contains("checkpoint broken cannot be read")), "{found:#?}");
    run(store.path(), "insert into es_projections values ('p', 1, 1, 1, '', '{', '')").await;
    let found = store.verify().await.unwrap();
    let cannot = "every generation of a projection has its tables: what is stored cannot be read";
    assert!(matches!(&found[..], [_, two] if two.contains(cannot)), "{found:#?}");
}
