//! The plain names of projections' tables, as readers know them that are not apps: psql, reports, scripts.

use es_core::ErrorKind;
use es_core::store::{Backend as _, Builds as _, Commit, Tables, Transaction as _};
use es_postgres::PgBackend;
use es_postgres::testing::Database;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tokio::time::timeout;

use crate::generations::{EVERYTHING, PAIRS, generation_seen, pairs, write};
use crate::support::{LIMIT, connect, count, data, fresh, refused, row, run, try_run};

/// Other columns, one table less and one more.
const CHANGED: Tables = Tables {
    name: "pairs",
    version: 2,
    schema: "create table totals (n text not null, more integer); create table extra (x integer)",
};

fn nothing() -> Commit {
    Commit::default()
}

/// A commit whose row tells whether it was applied.
fn marked() -> Commit {
    Commit { rows: vec![row("k", 0, Some("1"))], ..nothing() }
}

async fn was_applied(store: &PgBackend) -> bool {
    data(store, "v/1", "k").await.is_some()
}

/// What a connection that knows nothing of the store reads.
async fn number(conn: &mut PgConnection, sql: &'static str) -> i64 {
    let row = sqlx::query(sql).fetch_one(conn).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    row.try_get::<i64, _>(0).unwrap_or_else(|_| row.get::<i32, _>(0).into())
}

async fn is_there(conn: &mut PgConnection, name: &str) -> bool {
    let there = sqlx::query_scalar("select to_regclass($1) is not null").bind(name.to_owned());
    there.fetch_one(conn).await.unwrap()
}

async fn schemas(database: &Database) -> i64 {
    count(database.url(), "select count(*) from pg_namespace where nspname like 'es\\_pairs%'").await
}

#[tokio::test]
async fn a_plain_connection_follows_switches_publications_and_removals() {
    let (database, store) = fresh().await;
    let role = format!("reader_{}", database.name());
    run(database.url(), &format!("create role {role}")).await;
    pairs(&store).await;
    let mut reader = connect(database.url()).await;
    let granted = format!("grant select on totals, parts to {role}");
    sqlx::raw_sql(AssertSqlSafe(granted)).execute(&mut reader).await.unwrap();
    let generation = "select generation from totals";
    for to in [1, 2, 1, 2] {
        store.switch(&PAIRS, to, nothing()).await.unwrap();
        assert_eq!(number(&mut reader, generation).await, i64::from(to));
    }
    sqlx::query("insert into totals values (2, 7)").execute(&mut reader).await.unwrap();
    assert_eq!(
        number(&mut reader, "select count(*) from es_pairs_1_2.totals").await,
        2,
        "as it was written before"
    );
    sqlx::query("delete from totals where n = 7").execute(&mut reader).await.unwrap();

    store.install(&CHANGED, 1).await.unwrap();
    write(&store, &CHANGED, 1, "insert into totals values ('x', 5)").await;
    assert_eq!(number(&mut reader, generation).await, 2, "the other version has the names");
    store.publish(&CHANGED, nothing()).await.unwrap();
    assert_eq!(number(&mut reader, "select more from totals where n = 'x'").await, 5);
    assert!(is_there(&mut reader, "extra").await && !is_there(&mut reader, "parts").await);
    store.remove_version("pairs", 2, nothing()).await.unwrap();
    assert_eq!(number(&mut reader, generation).await, 2, "and back");
    assert!(!is_there(&mut reader, "extra").await && is_there(&mut reader, "parts").await);
    for name in ["totals", "parts"] {
        let may = sqlx::query_scalar::<_, bool>("select has_table_privilege($1, $2, 'select')")
            .bind(&role)
            .bind(name);
        assert!(may.fetch_one(&mut reader).await.unwrap(), "what was granted on {name} outlives its view");
    }
    store.remove_version("pairs", 1, nothing()).await.unwrap();
    assert!(!is_there(&mut reader, "totals").await && !is_there(&mut reader, "parts").await);
    assert_eq!(schemas(&database).await, 0);
    assert_eq!(count(database.url(), "select count(*) from es.published").await, 0);
    run(database.url(), &format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_the_plain_name_that_does_not_end_is_named_and_nothing_changes() {
    let (database, store) = fresh().await;
    pairs(&store).await;
    store.install(&CHANGED, 1).await.unwrap();
    let mut reader = connect(database.url()).await;
    // The store's own readers are not.
    let mut ours = store.db().pool().begin().await.unwrap();
    sqlx::query("select * from totals, parts").fetch_all(&mut *ours).await.unwrap();
    let read = "set application_name = 'monthly report'; begin; select * from totals";
    sqlx::raw_sql(read).execute(&mut reader).await.unwrap();
    let refusals = [
        refused(timeout(LIMIT, store.switch(&PAIRS, 2, marked())).await.unwrap()),
        refused(timeout(LIMIT, store.publish(&CHANGED, marked())).await.unwrap()),
        refused(timeout(LIMIT, store.remove_version("pairs", 1, marked())).await.unwrap()),
    ];
    for error in refusals {
        let text = es_core::chain(&error);
        assert_eq!(error.kind(), ErrorKind::Transient, "{text}");
        for word in ["monthly report", "relation public.totals", "end its transaction, or try again later"] {
            assert!(text.contains(word), "{text}");
        }
        assert!(!text.contains("es_pairs_1_1"), "{text}");
    }
    ours.rollback().await.unwrap();
    assert!(!was_applied(&store).await);
    assert_eq!(generation_seen(&store).await, 1);
    assert_eq!(number(&mut reader, "select generation from totals").await, 1);
    // What the names do not mean is no affair of theirs.
    write(&store, &PAIRS, 2, "update totals set n = 3").await;
    store.install(&CHANGED, 2).await.unwrap();
    store.switch(&CHANGED, 2, nothing()).await.unwrap();
    sqlx::raw_sql("commit").execute(&mut reader).await.unwrap();
    store.switch(&PAIRS, 2, marked()).await.unwrap();
    assert!(was_applied(&store).await);
    assert_eq!(number(&mut reader, "select n from totals").await, 3);
}

#[tokio::test]
async fn a_view_of_others_on_a_plain_name_follows_it_while_it_can() {
    let (database, store) = fresh().await;
    pairs(&store).await;
    run(database.url(), "create view mine as select generation, n from totals").await;
    let mut reader = connect(database.url()).await;
    for to in [2, 1] {
        store.switch(&PAIRS, to, nothing()).await.unwrap();
        assert_eq!(number(&mut reader, "select generation from mine").await, i64::from(to));
    }
    store.install(&CHANGED, 1).await.unwrap();
    let error = refused(store.publish(&CHANGED, marked()).await);
    assert_eq!(error.kind(), ErrorKind::Misuse, "{}", es_core::chain(&error));
    for word in ["view public.mine", "drop them, and recreate them afterwards"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(!was_applied(&store).await);
    assert_eq!(number(&mut reader, "select generation from mine").await, 1);
    run(database.url(), "drop view mine").await;
    store.publish(&CHANGED, marked()).await.unwrap();
    assert_eq!(number(&mut reader, "select count(more) from totals").await, 0);
}

#[tokio::test]
async fn a_plain_name_that_somebody_else_has_is_refused_when_tables_are_installed() {
    let (database, store) = fresh().await;
    run(database.url(), "create table parts (theirs integer)").await;
    let belongs = |error: es_core::store::StoreError| {
        assert_eq!(error.kind(), ErrorKind::Misuse, "{}", es_core::chain(&error));
        assert!(
            error
                .to_string()
                .contains("public.parts: what it names is there already, and belongs to somebody else")
        );
    };
    belongs(store.install(&PAIRS, 1).await.unwrap_err());
    assert_eq!(schemas(&database).await, 0);
    assert_eq!(count(database.url(), "select count(*) from es.projections, es.published").await, 0);
    store.install(&CHANGED, 1).await.unwrap();
    belongs(store.install(&PAIRS, 1).await.unwrap_err());
    run(database.url(), "drop table parts").await;
    store.install(&PAIRS, 1).await.unwrap();
    // Not there yet when it was installed.
    run(database.url(), "create table parts (theirs integer)").await;
    let error = refused(store.publish(&PAIRS, marked()).await);
    assert!(error.to_string().contains("belongs to somebody else"), "{error}");
    assert!(!was_applied(&store).await);
    assert_eq!(count(database.url(), "select count(more) from totals").await, 0);
}

/// A store whose first generations have the plain names themselves, as the version before made them.
async fn old(made: &[(&Tables, u32, bool, &str)]) -> Database {
    let database = es_postgres::testing::database().await;
    let mut conn = connect(database.url()).await;
    sqlx::raw_sql("create schema es").execute(&mut conn).await.unwrap();
    for step in &es_postgres::migrations("es").unwrap()[..5] {
        sqlx::raw_sql(AssertSqlSafe(step.sql.clone())).execute(&mut conn).await.unwrap();
    }
    let note = "insert into es.store (identity, schema) values ('01890000-0000-7000-8000-000000000001', 5)";
    sqlx::raw_sql(note).execute(&mut conn).await.unwrap();
    for (tables, generation, current, place) in made {
        let place_of = (*place != "public").then_some(*place);
        let make = format!(
            "create schema if not exists {place}; set search_path = {place}, public; {}",
            tables.schema
        );
        sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut conn).await.unwrap();
        let note = "insert into es.projections
                    select $1, $2, $3, $4, $5, $6, jsonb_agg(jsonb_build_array(o.kind, o.name) order by o.id desc)
                    from es.objects() o where o.place = $7::name";
        let note = sqlx::query(note).bind(tables.name).bind(tables.version.cast_signed());
        let note =
            note.bind(generation.cast_signed()).bind(current).bind(place_of).bind(tables.schema).bind(*place);
        note.execute(&mut conn).await.unwrap();
    }
    conn.close().await.unwrap();
    database
}

const PEOPLE: Tables = Tables { name: "people", version: 1, schema: EVERYTHING };
/// Schemas in which there is anything of people.
const PLACES: &str =
    "select count(distinct place) from es.objects() where name like '%people%' or name like '%visit%'";

#[tokio::test]
async fn tables_of_the_version_before_have_their_names_until_others_need_them() {
    let database = old(&[(&PEOPLE, 1, true, "public")]).await;
    let mut reader = connect(database.url()).await;
    sqlx::raw_sql("select visit('ada', '2026-01-01'); grant select on visits to public")
        .execute(&mut reader)
        .await
        .unwrap();
    let store = PgBackend::connect(database.url()).await.unwrap();
    for _ in 0..2 {
        store.install(&PEOPLE, 1).await.unwrap();
    }
    write(&store, &PEOPLE, 1, "select visit('bob', '2026-01-01')").await;
    sqlx::raw_sql("select visit('bob', '2026-01-02')").execute(&store.db()).await.unwrap();
    let (people, visits) = ("select count(*) from people", "select count(*) from visits");
    assert_eq!((number(&mut reader, people).await, number(&mut reader, visits).await), (2, 3));
    assert_eq!(count(database.url(), PLACES).await, 1, "they are where they were");
    store.install(&PEOPLE, 2).await.unwrap();
    write(&store, &PEOPLE, 2, "select visit('eve', '2026-01-01')").await;
    assert_eq!(number(&mut reader, people).await, 2);

    // Whoever reads the tables themselves is in the way, once.
    sqlx::raw_sql("begin; select * from people").execute(&mut reader).await.unwrap();
    let error = refused(timeout(LIMIT, store.switch(&PEOPLE, 2, marked())).await.unwrap());
    assert_eq!(error.kind(), ErrorKind::Transient, "{}", es_core::chain(&error));
    assert!(es_core::chain(&error).contains("relation public.people"), "{}", es_core::chain(&error));
    sqlx::raw_sql("commit").execute(&mut reader).await.unwrap();
    assert!(!was_applied(&store).await);
    assert_eq!((number(&mut reader, people).await, number(&mut reader, visits).await), (2, 3));
    store.switch(&PEOPLE, 2, marked()).await.unwrap();
    assert_eq!((number(&mut reader, people).await, number(&mut reader, visits).await), (1, 1));
    // A program of the version before that is still open follows as well.
    let mut other = connect(database.url()).await;
    sqlx::raw_sql("select es.follow()").execute(&mut other).await.unwrap();
    let path = "select count(*) from pg_settings where name = 'search_path' and setting like 'es\\_people\\_1\\_2, %'";
    assert_eq!(number(&mut other, path).await, 1);
    let public = "select count(*) from es.objects() where place = 'public' and kind <> 'view'";
    assert_eq!(count(database.url(), public).await, 0, "all of it moved");
    assert!(
        is_there(&mut reader, "es_people_1_1.visits_all").await && !is_there(&mut reader, "visits_all").await
    );
    let granted = "select count(*) from information_schema.table_privileges
                   where grantee = 'PUBLIC' and table_schema = 'public' and table_name = 'visits'";
    assert_eq!(number(&mut reader, granted).await, 1);

    // It works where it is now: types, functions, triggers, partitions.
    write(&store, &PEOPLE, 1, "select visit('ada', '2026-01-03')").await;
    let found = store.compare(&PEOPLE, 1, 2, 0).await.unwrap();
    assert_eq!(
        found.iter().map(|d| (&*d.table, d.added + d.removed + d.changed)).next(),
        Some(("people", 2))
    );
    store.switch(&PEOPLE, 1, nothing()).await.unwrap();
    assert_eq!((number(&mut reader, people).await, number(&mut reader, visits).await), (2, 4));
    store.clear(&PEOPLE, 1, nothing()).await.unwrap();
    assert_eq!(number(&mut reader, people).await, 0);
    store.remove_version("people", 1, nothing()).await.unwrap();
    assert_eq!(count(database.url(), PLACES).await, 0);
}

#[tokio::test]
async fn another_version_takes_the_names_of_tables_of_the_version_before() {
    let database = old(&[(&PAIRS, 1, true, "public")]).await;
    run(database.url(), "insert into totals values (1, 1)").await;
    let store = PgBackend::connect(database.url()).await.unwrap();
    store.install(&CHANGED, 1).await.unwrap();
    let mut reader = connect(database.url()).await;
    assert_eq!(number(&mut reader, "select n from totals").await, 1);
    store.publish(&CHANGED, nothing()).await.unwrap();
    assert_eq!(number(&mut reader, "select count(more) from totals").await, 0);
    write(&store, &PAIRS, 1, "update totals set n = 2").await;
    store.publish(&PAIRS, nothing()).await.unwrap();
    assert_eq!(number(&mut reader, "select n from totals").await, 2);
    // A version that has the names itself can go as well.
    let database = old(&[(&PAIRS, 1, true, "public")]).await;
    let store = PgBackend::connect(database.url()).await.unwrap();
    store.install(&CHANGED, 1).await.unwrap();
    store.remove_version("pairs", 1, nothing()).await.unwrap();
    assert_eq!(count(database.url(), "select count(more) from totals").await, 0);
    assert!(try_run(database.url(), "select * from parts").await.is_err());
}

/// It has switched, and its first generation still has the names.
#[tokio::test]
async fn a_store_of_the_version_before_that_has_switched_gives_the_names_to_what_is_current() {
    let made: [(&Tables, u32, bool, &str); 2] =
        [(&PAIRS, 1, false, "public"), (&PAIRS, 2, true, "es_pairs_1_2")];
    let filled = async |database: &Database| {
        run(
            database.url(),
            "insert into totals values (1, 1); insert into es_pairs_1_2.totals values (2, 2)",
        )
        .await;
        run(database.url(), "insert into parts values (1, 1); insert into es_pairs_1_2.parts values (2, 2)")
            .await;
        let store = PgBackend::connect(database.url()).await.unwrap();
        store.install(&PAIRS, 2).await.unwrap();
        assert_eq!(generation_seen(&store).await, 2);
        store
    };
    let read = "select generation from totals";
    let database = old(&made).await;
    let store = filled(&database).await;
    store.uninstall(&PAIRS, 1, nothing()).await.unwrap();
    assert_eq!((count(database.url(), "select n from totals").await, generation_seen(&store).await), (2, 2));

    let database = old(&made).await;
    let store = filled(&database).await;
    let mut reader = connect(database.url()).await;
    store.switch(&PAIRS, 1, nothing()).await.unwrap();
    assert_eq!(number(&mut reader, read).await, 1);
    store.switch(&PAIRS, 2, nothing()).await.unwrap();
    assert_eq!(number(&mut reader, read).await, 2);
    assert!(is_there(&mut reader, "es_pairs_1_1.totals").await);
}

/// Whose tables have the names themselves, and which has not locked them yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_began_on_plain_names_writes_what_they_meant_then() {
    let database = old(&[(&PAIRS, 1, true, "public")]).await;
    let store = PgBackend::connect(database.url()).await.unwrap();
    store.install(&PAIRS, 2).await.unwrap();
    store.install(&CHANGED, 1).await.unwrap();
    let mut tx = store.begin_at(&PAIRS, 1, LIMIT).await.unwrap();
    let changing = tokio::spawn({
        let store = store.clone();
        async move { store.publish(&CHANGED, nothing()).await }
    });
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    while !changing.is_finished() && count(database.url(), waits).await == 0 {
        tokio::task::yield_now().await;
    }
    sqlx::raw_sql("insert into totals values (1, 7)").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    if let Err(late) = changing.await.unwrap() {
        // It does not wait for long.
        assert_eq!(late.kind(), ErrorKind::Transient, "{}", es_core::chain(&late));
        store.publish(&CHANGED, nothing()).await.unwrap();
    }
    assert_eq!(count(database.url(), "select n from es_pairs_1_1.totals").await, 7);
    assert_eq!(
        count(database.url(), "select count(*) from totals").await,
        0,
        "the other version has the names"
    );
}
