//! What a store is found not to keep, of what only PostgreSQL has; the rest is in the suites of `es-core`.

use crate::shop::{open, write};

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
