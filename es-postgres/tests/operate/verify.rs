//! What a store is found not to keep, of what only PostgreSQL has; the rest is in the suites of `es-core`.

use es_core::store::Position;

use crate::shop::{open, told, write};

#[tokio::test]
async fn each_thing_that_is_wrong_is_named() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "a", 1).await;
    write(&backend, "a", 24).await;
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
    for (wrong, right, named) in [
        (
            "alter sequence es.streams_stream_id_seq restart; select nextval('es.event_types_type_id_seq')",
            "select nextval('es.streams_stream_id_seq')",
            "numbers nothing twice",
        ),
        (
            "update es.partitions set first = 12 where first = 21",
            "update es.partitions set first = 21 where first = 12",
            "partitions are what is noted of them",
        ),
    ] {
        sqlx::raw_sql(wrong).execute(&backend.db()).await.unwrap();
        let found = backend.verify().await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|line| line.contains(named)), "{wrong}: {found:#?}");
        sqlx::raw_sql(right).execute(&backend.db()).await.unwrap();
        assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_was_verified_before_is_left_out() {
    let (_database, backend) = open().await;
    write(&backend, "a", 5).await;
    write(&backend, "b", 5).await;
    write(&backend, "a", 5).await;
    let hole = "begin; set local es.maintenance = 'on'; delete from es.events where position = 3; commit";
    sqlx::raw_sql(hole).execute(&backend.db()).await.unwrap();
    // The event behind it goes on from the one that is gone.
    for (after, wrong) in [(0, true), (2, true), (3, true), (4, false), (7, false), (15, false), (100, false)]
    {
        let found = backend.verify_after(Position(after)).await.unwrap();
        assert_eq!(!found.is_empty(), wrong, "{after}: {found:#?}");
    }
    // The last event of a stream before the position is what it goes on from.
    let hole = "begin; set local es.maintenance = 'on'; update es.events set version = 20 where position = 12; commit";
    sqlx::raw_sql(hole).execute(&backend.db()).await.unwrap();
    assert!(!backend.verify_after(Position(11)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_payload_that_cannot_be_read_is_named_and_hides_nothing() {
    let (_database, backend) = open().await;
    write(&backend, "a", 5).await;
    let broken = "begin; set local es.maintenance = 'on';
        update es.events set data = '{' where position = 2; update es.events set data = '\\xff' where position = 3;
        update es.events set data = '{\"s\":\"\\\\ud800\"}' where position = 4; commit";
    sqlx::raw_sql(broken).execute(&backend.db()).await.unwrap();
    let found = backend.verify().await.unwrap();
    assert_eq!(found.len(), 3, "{found:#?}");
    for (line, position) in found.iter().zip(2..) {
        assert!(line.contains(&format!("payloads in JSON can be read: position {position}: ")), "{line}");
    }
    assert_eq!(backend.verify_after(Position(3)).await.unwrap().len(), 1);
    let shown: i64 =
        sqlx::query_scalar("select count(data) from es.log").fetch_one(&backend.db()).await.unwrap();
    assert_eq!(shown, 4);
}

#[tokio::test]
async fn a_place_that_cannot_be_read_is_named_beside_the_others() {
    let (_database, backend) = open().await;
    write(&backend, "a", 5).await;
    let broken = "insert into es.rows values ('checkpoints', 'bad/1~1#0000', 1, 'not json'),
        ('checkpoints', 'ahead/1~1#0000', 1, '{\"position\":6,\"last\":1023}')";
    sqlx::raw_sql(broken).execute(&backend.db()).await.unwrap();
    let found = backend.verify().await.unwrap();
    assert_eq!(found.len(), 2, "{found:#?}");
    for named in ["the place of bad/1~1#0000 cannot be read", "checkpoint ahead/1~1#0000 at 6"] {
        assert!(found.iter().any(|line| line.contains(named)), "{found:#?}");
    }
}

/// Index entries of events and tags that were read, and rows of them, one after the other.
const READ: &str =
    "select (select coalesce(sum(idx_tup_read), 0) from pg_stat_user_indexes where schemaname = 'es'
        and (relname = 'tags' or relname like 'events%'))::bigint
    + (select coalesce(sum(seq_tup_read), 0) from pg_stat_user_tables where schemaname = 'es'
        and (relname = 'tags' or relname like 'events%'))::bigint";

#[tokio::test]
async fn of_what_was_verified_before_little_is_read() {
    let (database, backend) = open().await;
    backend.partition(2_000).await.unwrap();
    for name in ["a", "b", "c", "d"] {
        write(&backend, name, 5_000).await;
    }
    write(&backend, "a", 1).await;
    sqlx::raw_sql("vacuum analyze es.events").execute(&backend.db()).await.unwrap();
    sqlx::raw_sql("vacuum analyze es.tags").execute(&backend.db()).await.unwrap();
    drop(backend);
    let before = told(&database, READ).await;
    let backend = es_postgres::PgBackend::connect(database.url()).await.unwrap();
    assert_eq!(backend.verify_after(Position(19_990)).await.unwrap(), Vec::<String>::new());
    drop(backend);
    let read = told(&database, READ).await - before;
    assert!(read < 2_000, "{read} entries were read to verify 11 events");
}
