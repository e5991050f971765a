//! Partitions of the log.

use es_core::store::Backend as _;
use es_core::store::{
    EventFilter, EventStore as _, ExpectedVersion, Position, Transaction as _, Version, read_all,
};
use es_postgres::PgBackend;
use es_postgres::testing::ServerOptions;

use crate::shop::{append, open, versions, write};

const PARTITIONS: &str = "select count(*) from pg_inherits where inhparent = 'es.events'::regclass";

async fn partitions(backend: &PgBackend) -> i64 {
    sqlx::query_scalar(PARTITIONS).fetch_one(&backend.db()).await.unwrap()
}

#[tokio::test]
async fn a_log_with_events_becomes_partitions_and_goes_on() {
    let (_database, backend) = open().await;
    write(&backend, "a", 70).await;
    backend.partition(20).await.unwrap();
    let before = partitions(&backend).await;
    for _ in 0..10 {
        write(&backend, "a", 7).await;
    }
    assert!(partitions(&backend).await > before);
    assert_eq!(versions(&backend, "a", 0).await, (1..=140).collect::<Vec<_>>());
    let all = read_all(&backend, &EventFilter::all(), Position(0)).await.unwrap();
    assert_eq!(all.events.len(), 140);
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
    let log: i64 = sqlx::query_scalar("select count(*) from es.log").fetch_one(&backend.db()).await.unwrap();
    assert_eq!(log, 140);
}

#[tokio::test]
async fn partitions_are_made_while_others_append() {
    let (database, backend) = open().await;
    let other = PgBackend::connect(database.url()).await.unwrap();
    let writer = tokio::spawn(async move {
        for i in 0..200 {
            write(&other, &format!("s-{}", i % 7), 3).await;
        }
    });
    backend.partition(50).await.unwrap();
    writer.await.unwrap();
    assert_eq!(backend.head().await.unwrap(), Position(600));
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_commit_larger_than_partitions_is_written_whole() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    assert_eq!(write(&backend, "a", 1_000).await.position, Position(1_000));
    assert_eq!(versions(&backend, "a", 990).await, (991..=1_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_store_that_was_open_before_makes_partitions_too() {
    let (database, other) = open().await;
    PgBackend::connect(database.url()).await.unwrap().partition(5).await.unwrap();
    for _ in 0..40 {
        write(&other, "a", 1).await;
    }
    assert_eq!(versions(&other, "a", 0).await, (1..=40).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_transaction_without_a_partition_may_try_again() {
    let (database, other) = open().await;
    PgBackend::connect(database.url()).await.unwrap().partition(5).await.unwrap();
    let mut failed = 0;
    for _ in 0..10 {
        // The next partition is made in the background, in time or not. Who found none has made room: it fails once.
        if let Err(error) = six(&other).await {
            assert_eq!(error.kind(), es_core::ErrorKind::Transient, "{error}");
            failed += 1;
            six(&other).await.unwrap();
        }
    }
    assert!(failed > 0);
    assert_eq!(backend_versions(&other).await, 60);
}

async fn six(backend: &PgBackend) -> Result<(), es_core::store::CommitError> {
    let mut tx = backend.begin().await?;
    *tx.staged() = append("a", ExpectedVersion::Any, 6);
    tx.commit().await.map(drop)
}

async fn backend_versions(backend: &PgBackend) -> usize {
    versions(backend, "a", 0).await.len()
}

#[tokio::test]
async fn a_partition_refuses_to_be_changed() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "a", 30).await;
    let names: Vec<String> = sqlx::query_scalar(
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'es.events'::regclass
         union all select 'es.events'",
    )
    .fetch_all(&backend.db())
    .await
    .unwrap();
    assert!(names.len() > 3);
    for name in names {
        for change in ["update {} set data = ''", "delete from {}", "truncate {}"] {
            let sql = sqlx::AssertSqlSafe(change.replace("{}", &name));
            let error = sqlx::raw_sql(sql).execute(&backend.db()).await.unwrap_err();
            assert!(error.to_string().contains("append-only"), "{name}: {error}");
        }
    }
}

#[tokio::test]
async fn versions_are_unique_within_a_partition() {
    let (_database, backend) = open().await;
    backend.partition(10).await.unwrap();
    write(&backend, "a", 15).await;
    let again =
        "insert into es.events select position + 1, stream_id, version, type_id, recorded_at, envelope, data
                 from es.events where position = 15";
    let error = sqlx::raw_sql(again).execute(&backend.db()).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("23505"));
}

#[tokio::test]
async fn a_partitioning_that_was_broken_off_stops_nobody() {
    let (_database, backend) = open().await;
    write(&backend, "a", 5).await;
    let left = "alter table es.events add constraint events_first check (position <= 8) not valid";
    sqlx::raw_sql(left).execute(&backend.db()).await.unwrap();
    assert_eq!(write(&backend, "a", 10).await.position, Position(15));
    sqlx::raw_sql(left.replace('8', "100").leak() as &'static str).execute(&backend.db()).await.unwrap();
    backend.partition(10).await.unwrap();
    assert_eq!(write(&backend, "a", 100).await.versions, vec![Version(115)]);
}

#[tokio::test]
async fn a_size_of_nothing_is_refused() {
    let (_database, backend) = open().await;
    let error = backend.partition(0).await.unwrap_err();
    assert_eq!(error.kind(), es_core::ErrorKind::Misuse, "{error}");
    assert!(error.to_string().contains("at least 1"), "{error}");
}

/// It gives way only to who waits for as long as it takes to look for a deadlock.
#[tokio::test]
async fn partitions_are_made_while_autovacuum_is_at_the_log() {
    const AT_IT: &str = "select count(*) from pg_stat_progress_vacuum where relid = 'es.events'::regclass";
    let server = tokio::task::spawn_blocking(|| {
        let options =
            ServerOptions::new().setting("deadlock_timeout", "100ms").setting("autovacuum_naptime", "1s");
        options.setting("log_autovacuum_min_duration", "0").start().unwrap()
    });
    let server = server.await.unwrap();
    let database = server.database().await.unwrap();
    let backend = PgBackend::connect(database.url()).await.unwrap();
    for _ in 0..2 {
        write(&backend, "a", 10_000).await;
    }
    let slow =
        "alter table es.events set (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,
        autovacuum_vacuum_insert_threshold = 1, autovacuum_vacuum_insert_scale_factor = 0)";
    sqlx::raw_sql(slow).execute(&backend.db()).await.unwrap();
    while sqlx::query_scalar::<_, i64>(AT_IT).fetch_one(&backend.db()).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    backend.partition(10_000).await.unwrap();
    assert!(partitions(&backend).await > 1);
    assert_eq!(versions(&backend, "a", 19_990).await.len(), 10);
}

#[tokio::test]
async fn who_is_in_the_way_of_partitions_is_named() {
    use sqlx::Connection as _;
    let (database, backend) = open().await;
    write(&backend, "a", 5).await;
    let mut reader = sqlx::PgConnection::connect(database.url()).await.unwrap();
    let mut reader = reader.begin().await.unwrap();
    let reading = "select pg_backend_pid() from es.events limit 1";
    let process: i32 = sqlx::query_scalar(reading).fetch_one(&mut *reader).await.unwrap();
    let error = backend.partition(10).await.unwrap_err();
    assert_eq!(error.kind(), es_core::ErrorKind::Transient);
    let error = es_core::chain(&error);
    assert!(
        error.contains(&format!("process {process} (client backend, in a transaction since ")),
        "{error}"
    );
    reader.rollback().await.unwrap();
    backend.partition(10).await.unwrap();
}

#[tokio::test]
async fn a_server_without_room_for_the_locks_of_all_partitions_is_named() {
    let server = tokio::task::spawn_blocking(|| {
        let few = ServerOptions::new().setting("max_connections", "20");
        few.setting("max_prepared_transactions", "0")
            .setting("max_locks_per_transaction", "10")
            .start()
            .unwrap()
    });
    let server = server.await.unwrap();
    let database = server.database().await.unwrap();
    let options = es_postgres::PgOptions::new(database.url()).unwrap().with_readers(1).with_connections(1);
    let backend = PgBackend::connect_with(options.clone()).await.unwrap();
    let problems = async || {
        let findings = options.check().await.unwrap();
        findings.into_iter().filter(|finding| finding.harmless).flat_map(|finding| finding.problems)
    };
    assert!(!problems().await.any(|problem| problem.contains("max_locks_per_transaction")));
    backend.partition(10).await.unwrap();
    write(&backend, "a", 200).await;
    let named: Vec<String> = problems().await.filter(|problem| problem.contains("partitions")).collect();
    assert!(matches!(&named[..], [one] if one.contains("`max_locks_per_transaction`")), "{named:?}");
}
