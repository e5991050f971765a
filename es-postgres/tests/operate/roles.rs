//! What each role may do, and what it may not.

use std::sync::atomic::{AtomicU64, Ordering};

use es_core::store::{
    Backend as _, Builds as _, Check, Commit, EventStore as _, ExpectedVersion, IdempotencyKey, Outcome,
    OutcomeMark, Position, RowWrite, Snapshot, SnapshotStore as _, Tables, Transaction as _, Version,
};
use es_postgres::testing::Database;
use es_postgres::{PgBackend, PgOptions};

use crate::shop::{append, as_role, open, stream, write};

/// Roles belong to the whole server, so each test takes a schema of its own.
pub(crate) async fn store() -> (Database, String) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let schema = format!("es_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let database = es_postgres::testing::database().await;
    run(&database, &es_postgres::roles(&schema).unwrap()).await.unwrap();
    let owner = as_role(&database, &format!("{schema}_owner")).with_schema(&schema).unwrap();
    PgBackend::connect_with(owner.with_migrate(true)).await.unwrap();
    // It can be run again, and has to be after a migration.
    run(&database, &es_postgres::roles(&schema).unwrap()).await.unwrap();
    run(&database, &es_postgres::roles(&schema).unwrap()).await.unwrap();
    (database, schema)
}

fn options(database: &Database, schema: &str, role: &str) -> PgOptions {
    as_role(database, &format!("{schema}_{role}")).with_schema(schema).unwrap()
}

async fn run(database: &Database, sql: &str) -> Result<(), sqlx::Error> {
    use sqlx::Connection as _;
    let mut conn = sqlx::PgConnection::connect(database.url()).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut conn).await.map(drop)
}

/// The SQLSTATE of what this role may not do.
async fn refused(database: &Database, schema: &str, role: &str, sql: &str) -> String {
    let sql = format!("set role {schema}_{role}; {}", sql.replace("{es}", schema));
    let error = run(database, &sql).await.expect_err(&sql);
    error.as_database_error().unwrap().code().unwrap().into_owned()
}

#[tokio::test]
async fn a_writer_does_what_an_application_does() {
    let (database, schema) = store().await;
    let backend = PgBackend::connect_with(options(&database, &schema, "writer")).await.unwrap();
    let everything = || {
        let mut commit = append("a", ExpectedVersion::NoStream, 2);
        commit.checks.push(Check { stream: stream("b"), expected: ExpectedVersion::NoStream });
        commit.outcomes.push(OutcomeMark {
            key: IdempotencyKey::new("k").unwrap(),
            outcome: Outcome {
                fingerprint: 1,
                stream: stream("a"),
                version: Version(2),
                position: Position(0),
                events: 2,
                refusal: None,
            },
        });
        commit.rows.push(RowWrite {
            table: "v/1".into(),
            key: "k".to_owned(),
            rev: 0,
            row: Some("1".into()),
        });
        commit.condition = Some(es_core::store::AppendCondition {
            fail_if_events_match: es_core::store::EventFilter::all(),
            after: Position(0),
        });
        commit
    };
    backend.commit(everything()).await.unwrap();
    let mut tx = backend.begin().await.unwrap();
    *tx.staged() = append("b", ExpectedVersion::NoStream, 1);
    tx.commit().await.unwrap();
    let events = backend.stream(&stream("a"), Version(0), 10).await.unwrap();
    let snapshot = Snapshot {
        stream: stream("a"),
        version: Version(2),
        event: events[1].id,
        schema: 1,
        data: "2".into(),
    };
    backend.put_snapshot(snapshot).await.unwrap();
    assert!(backend.snapshot(&stream("a")).await.unwrap().is_some());
    backend.drop_snapshot(&stream("a")).await.unwrap();
    let attempt = es_core::store::Attempt::of(uuid::Uuid::from_u128(7), &everything());
    backend.resolve(&attempt).await.unwrap();
    assert_eq!(backend.verify().await.unwrap(), Vec::<String>::new());
    assert_eq!(backend.head().await.unwrap(), Position(3));
    backend.position_at("2020-01-01T00:00:00Z".parse().unwrap()).await.unwrap();
    backend.stats().await.unwrap();
}

#[tokio::test]
async fn a_writer_installs_projections_where_it_may_create() {
    let (database, schema) = store().await;
    run(&database, &format!("create schema own authorization {schema}_writer")).await.unwrap();
    let backend = PgBackend::connect_with(options(&database, &schema, "writer")).await.unwrap();
    let tables = Tables { name: "totals", version: 1, schema: "create table own.totals (n bigint)" };
    backend.install(&tables, 1).await.unwrap();
    backend.clear(&tables, 1, Commit::default()).await.unwrap();
    let grant = format!("grant create on database {} to {schema}_writer", database.name());
    let error = backend.install(&tables, 2).await.unwrap_err().to_string();
    assert!(error.contains(&grant), "{error}");
    run(&database, &grant).await.unwrap();
    let error = backend.install(&tables, 2).await.unwrap_err().to_string();
    assert!(error.contains("write names without a schema"), "{error}");
    run(&database, &format!("grant create on schema public to {schema}_writer")).await.unwrap();
    let tables = Tables { name: "sums", version: 1, schema: "create table sums (n bigint)" };
    backend.install(&tables, 1).await.unwrap();
    backend.install(&tables, 2).await.unwrap();
    backend.switch(&tables, 2, Commit::default()).await.unwrap();
    assert_eq!(backend.compare(&tables, 1, 2, 1).await.unwrap().len(), 1);
    backend.clear(&tables, 2, Commit::default()).await.unwrap();
    backend.uninstall(&tables, 1, Commit::default()).await.unwrap();
}

#[tokio::test]
async fn a_writer_that_makes_no_schema_has_one_version_until_it_may() {
    let (database, schema) = store().await;
    run(&database, &format!("grant create on schema public to {schema}_writer")).await.unwrap();
    let backend = PgBackend::connect_with(options(&database, &schema, "writer")).await.unwrap();
    let old = Tables { name: "totals", version: 1, schema: "create table totals (n bigint)" };
    let new = Tables { name: "totals", version: 2, schema: "create table totals (n text, more bigint)" };
    backend.install(&old, 1).await.unwrap();
    let mut tx = backend.begin_at(&old, 1, std::time::Duration::from_secs(60)).await.unwrap();
    sqlx::query("insert into totals values (1)").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    run(&database, "do $$ begin assert (select n from public.totals) = 1; end $$").await.unwrap();
    let grant = format!("grant create on database {} to {schema}_writer", database.name());
    for (tables, generation) in [(&old, 2), (&new, 1)] {
        let error = backend.install(tables, generation).await.unwrap_err().to_string();
        assert!(error.contains(&grant), "{error}");
    }
    run(&database, &grant).await.unwrap();
    backend.install(&new, 1).await.unwrap();
    backend.publish(&new, Commit::default()).await.unwrap();
    run(&database, "do $$ begin assert (select count(more) from public.totals) = 0; end $$").await.unwrap();
    backend.publish(&old, Commit::default()).await.unwrap();
    run(&database, "do $$ begin assert (select n from public.totals) = 1; end $$").await.unwrap();
    // A schema alone is not enough: the plain names are views elsewhere.
    run(&database, &format!("revoke create on schema public from {schema}_writer")).await.unwrap();
    let other = Tables { name: "sums", version: 1, schema: "create table sums (n bigint)" };
    let error = backend.install(&other, 1).await.unwrap_err().to_string();
    assert!(error.contains("grant create on schema public"), "{error}");
}

#[tokio::test]
async fn a_writer_goes_on_into_partitions() {
    let (database, schema) = store().await;
    let owner = PgBackend::connect_with(options(&database, &schema, "owner")).await.unwrap();
    let writer = PgBackend::connect_with(options(&database, &schema, "writer")).await.unwrap();
    write(&writer, "a", 10).await;
    owner.partition(10).await.unwrap();
    for _ in 0..10 {
        write(&writer, "a", 10).await;
    }
    assert_eq!(owner.archive_unloadable(Position(60)).await.unwrap().len(), 4);
    write(&writer, "a", 10).await;
    assert_eq!(writer.verify().await.unwrap(), Vec::<String>::new());
    // The script knows partitions as well.
    run(&database, &es_postgres::roles(&schema).unwrap()).await.unwrap();
    write(&writer, "a", 30).await;
}

#[tokio::test]
async fn a_writer_changes_nothing_that_was_appended() {
    let (database, schema) = store().await;
    let owner = PgBackend::connect_with(options(&database, &schema, "owner")).await.unwrap();
    write(&owner, "a", 10).await;
    let partitioned = async || owner.partition(5).await.unwrap();
    for round in 0..2 {
        for sql in [
            "update {es}.events set data = ''",
            "delete from {es}.events",
            "truncate {es}.events",
            "set es.maintenance = 'on'; update {es}.events set data = ''",
            "set es.maintenance = 'on'; delete from {es}.streams",
            "update {es}.store set archived = 0",
            "insert into {es}.archived_streams values (1, 1, 1, 1, now(), '', '')",
            "drop table {es}.events",
            "alter table {es}.events disable trigger all",
            "create table {es}.mine (n int)",
            "select {es}.redact('a', 1, '1')",
            "select {es}.archive(10)",
            "select {es}.attach_archive('events_archived_1_10')",
            "select {es}.forget(now() - interval '1 year')",
            "select {es}.shut('select 1')",
            "call {es}.partition(10)",
            "select {es}.make_partition(100)",
            "select {es}.become_partition(1, 1)",
        ] {
            assert_eq!(refused(&database, &schema, "writer", sql).await, "42501", "{sql}");
        }
        if round == 0 {
            partitioned().await;
            let sql = "insert into {es}.events_1 select * from {es}.events limit 0";
            assert_eq!(refused(&database, &schema, "writer", sql).await, "42501");
        }
    }
}

#[tokio::test]
async fn a_reader_reads_the_log_and_nothing_else() {
    let (database, schema) = store().await;
    let owner = PgBackend::connect_with(options(&database, &schema, "owner")).await.unwrap();
    write(&owner, "a", 10).await;
    for _ in 0..2 {
        let read = format!("set role {schema}_reader; select * from {schema}.log");
        run(&database, &read).await.unwrap();
        let tables: Vec<String> = sqlx::query_scalar(
            "select c.oid::regclass::text from pg_class c
             where c.relnamespace = $1::regnamespace and c.relkind in ('r', 'p', 'v') and c.relname <> 'log'",
        )
        .bind(&schema)
        .fetch_all(&owner.db())
        .await
        .unwrap();
        for table in tables {
            let sql = format!("select * from {table}");
            assert_eq!(refused(&database, &schema, "reader", &sql).await, "42501", "{sql}");
        }
        for call in ["select {es}.add_partition()", "select {es}.position_at(0)"] {
            assert_eq!(refused(&database, &schema, "reader", call).await, "42501", "{call}");
        }
        owner.partition(10).await.unwrap();
    }
}

#[tokio::test]
async fn whoever_is_no_writer_is_told_what_is_missing() {
    let (database, schema) = store().await;
    let error = PgBackend::connect_with(options(&database, &schema, "reader")).await.unwrap_err();
    assert!(error.to_string().contains("the account lacks"), "{error}");
    let revoke = format!(
        "revoke insert on {schema}.events from {schema}_writer;
         revoke execute on function {schema}.add_partition from {schema}_writer"
    );
    run(&database, &revoke).await.unwrap();
    let error = PgBackend::connect_with(options(&database, &schema, "writer")).await.unwrap_err();
    let text = error.to_string();
    for missing in ["insert on", "execute on add_partition", "role of a writer"] {
        assert!(text.contains(missing), "{text}");
    }
}

#[tokio::test]
async fn only_the_owner_redacts() {
    let (_database, backend) = open().await;
    let may = "select has_function_privilege('public', oid, 'execute') from pg_proc
               where pronamespace = 'es'::regnamespace and proname in ('redact', 'archive', 'partition', 'add_partition')";
    let may: Vec<bool> = sqlx::query_scalar(may).fetch_all(&backend.db()).await.unwrap();
    assert_eq!(may, [false; 4]);
}
