//! Generations of the tables of projections, as only a server has them: search paths, plans, locks, DDL of all kinds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use es_core::ErrorKind;
use es_core::store::{
    Backend as _, Builds as _, Commit, CommitError, EventStore as _, INLINE, RowStore as _, Tables,
    Transaction as _,
};
use es_postgres::testing::Database;
use es_postgres::{PgBackend, Tx};
use sqlx::{Connection as _, Executor as _, Row as _};
use tokio::time::timeout;

use crate::support::{
    LIMIT, append, assert_sound, commit, connect, count, data, dropped_after, fresh, refused, row, row_of,
    run, step, try_run, until_count, with,
};

/// Two tables that are always written together.
const PAIR: &str = "create table totals (generation integer not null, n bigint not null);
    create table parts (generation integer not null, n bigint not null)";
pub(crate) const PAIRS: Tables = Tables { name: "pairs", version: 1, schema: PAIR };

fn nothing() -> Commit {
    Commit::default()
}

async fn at(store: &PgBackend, tables: &Tables, generation: u32) -> Tx {
    store.begin_at(tables, generation, LIMIT).await.unwrap()
}

async fn sql(tx: &mut Tx, text: &'static str) {
    sqlx::raw_sql(text).execute(&mut **tx).await.unwrap_or_else(|e| panic!("{text}: {e}"));
}

/// Runs SQL in one generation.
pub(crate) async fn write(store: &PgBackend, tables: &Tables, generation: u32, text: &'static str) {
    let mut tx = at(store, tables, generation).await;
    sql(&mut tx, text).await;
    tx.commit().await.unwrap();
}

async fn installed(store: &PgBackend, tables: &Tables) {
    store.install(tables, 1).await.unwrap();
    store.install(tables, 2).await.unwrap();
}

/// Sets the number in both tables of a generation.
async fn set(store: &PgBackend, generation: u32, n: i64) {
    let mut tx = at(store, &PAIRS, generation).await;
    for table in ["update totals set n = $1", "update parts set n = $1"] {
        sqlx::query(table).bind(n).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// Both generations of the pair, each with its number.
pub(crate) async fn pairs(store: &PgBackend) {
    installed(store, &PAIRS).await;
    for generation in [1, 2] {
        let mut tx = at(store, &PAIRS, generation).await;
        for table in ["insert into totals values ($1, 0)", "insert into parts values ($1, 0)"] {
            sqlx::query(table).bind(generation.cast_signed()).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
    }
}

const READ: &str = "select t.generation, t.n, p.generation, p.n from totals t, parts p";

fn seen(row: &sqlx::postgres::PgRow) -> (i32, i64) {
    let (generation, n): (i32, i64) = (row.get(0), row.get(1));
    assert_eq!((row.get::<i32, _>(2), row.get::<i64, _>(3)), (generation, n), "both of one generation");
    (generation, n)
}

/// What a query sees now.
pub(crate) async fn generation_seen(store: &PgBackend) -> usize {
    let row = sqlx::query(READ).fetch_one(&store.db()).await.unwrap();
    usize::try_from(seen(&row).0).unwrap()
}

/// Plays the part of a process that switches there and back, and ends with the second generation.
pub(crate) async fn switch_often(url: &str) {
    let store = PgBackend::connect(url).await.unwrap();
    for n in 0..51 {
        store.switch(&PAIRS, if n % 2 == 0 { 2 } else { 1 }, nothing()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_beside_switches_see_one_whole_generation_and_never_go_back() {
    let (database, store) = fresh().await;
    let other = with(&database, |o| o.with_connections(4)).await;
    pairs(&store).await;
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = [&store, &other, &other, &other]
        .into_iter()
        .map(|store| {
            let (store, done) = (store.clone(), done.clone());
            tokio::spawn(async move {
                let (mut last, mut changes) = ((1, 0), 0);
                while !done.load(Ordering::Relaxed) {
                    let rows = sqlx::query(READ).fetch_all(&store.db()).await.unwrap();
                    assert_eq!(rows.len(), 1, "neither empty nor partial");
                    let now = seen(&rows[0]);
                    assert!(now.1 >= last.1, "{now:?} after {last:?}");
                    changes += u32::from(now.0 != last.0);
                    last = now;
                }
                changes
            })
        })
        .collect();
    let mut current = 1;
    for n in 1..=60 {
        // The one that is read first: whoever comes late to the other one finds it no further.
        set(&store, current, n).await;
        set(&store, 3 - current, n).await;
        if n % 4 == 0 {
            current = 3 - current;
            store.switch(&PAIRS, current, nothing()).await.unwrap();
        }
    }
    done.store(true, Ordering::Relaxed);
    let changes: u32 = futures::future::try_join_all(readers).await.unwrap().into_iter().sum();
    assert!(changes > 0, "they saw switches");
    assert_sound(database.url(), &store).await;
}

#[tokio::test]
async fn a_reader_that_keeps_its_transaction_keeps_its_generation_and_stops_no_switch() {
    let (_database, store) = fresh().await;
    pairs(&store).await;
    let mut reader = store.db().pool().begin().await.unwrap();
    sqlx::query("set transaction isolation level repeatable read").execute(&mut *reader).await.unwrap();
    assert_eq!(seen(&sqlx::query(READ).fetch_one(&mut *reader).await.unwrap()), (1, 0));
    for (n, to) in [(1, 2), (2, 1), (3, 2)] {
        set(&store, 1, n).await;
        set(&store, 2, n).await;
        // Neither waits for the other.
        timeout(LIMIT, store.switch(&PAIRS, to, nothing())).await.unwrap().unwrap();
        let now = timeout(LIMIT, sqlx::query(READ).fetch_one(&store.db())).await.unwrap().unwrap();
        assert_eq!(seen(&now), (to.cast_signed(), n));
        assert_eq!(seen(&sqlx::query(READ).fetch_one(&mut *reader).await.unwrap()), (1, 0));
    }
    reader.rollback().await.unwrap();
}

#[tokio::test]
async fn prepared_statements_on_one_connection_follow_the_switch() {
    let database = es_postgres::testing::database().await;
    let store = with(&database, |o| o.with_connections(1)).await;
    pairs(&store).await;
    let pid =
        || async { sqlx::query_scalar::<_, i32>("select pg_backend_pid()").fetch_one(&store.db()).await };
    let all = || async {
        let row = sqlx::query("select * from totals").fetch_one(&store.db()).await.unwrap();
        row.get::<i32, _>(0)
    };
    let first = pid().await.unwrap();
    for to in [1, 2, 1, 2] {
        store.switch(&PAIRS, to, nothing()).await.unwrap();
        // Often enough for a plan that is kept.
        for _ in 0..7 {
            assert_eq!(all().await, to.cast_signed());
        }
        for generation in [1, 2] {
            let mut tx = at(&store, &PAIRS, generation).await;
            let row = sqlx::query("select * from totals").fetch_one(&mut *tx).await.unwrap();
            assert_eq!(row.get::<i32, _>(0), generation.cast_signed());
            tx.rollback().await.unwrap();
        }
        let mut tx = store.begin().await.unwrap();
        let row = sqlx::query("select * from totals").fetch_one(&mut *tx).await.unwrap();
        assert_eq!(row.get::<i32, _>(0), to.cast_signed());
    }
    assert_eq!(pid().await.unwrap(), first, "one connection did it all");
}

#[tokio::test]
async fn savepoints_keep_the_generation_and_whatever_a_user_sets_is_undone() {
    let database = es_postgres::testing::database().await;
    let store = with(&database, |o| o.with_connections(1)).await;
    pairs(&store).await;
    let mut tx = at(&store, &PAIRS, 2).await;
    let savepoint = tx.savepoint().await.unwrap();
    assert!(sqlx::query("select 1 / 0").execute(&mut *tx).await.is_err());
    tx.rollback_to(&savepoint).await.unwrap();
    sql(&mut tx, "update totals set n = 7").await;
    tx.commit().await.unwrap();
    for setting in ["set search_path = pg_catalog", "reset all"] {
        sqlx::raw_sql(setting).execute(&store.db()).await.unwrap();
        assert_eq!(seen(&sqlx::raw_sql(READ).fetch_one(&store.db()).await.unwrap()), (1, 0), "{setting}");
    }
    store.switch(&PAIRS, 2, nothing()).await.unwrap();
    let n: i64 =
        sqlx::query_scalar("select n from totals").persistent(false).fetch_one(&store.db()).await.unwrap();
    assert_eq!(n, 7);
}

#[tokio::test]
async fn the_search_path_of_the_url_is_kept() {
    let database = es_postgres::testing::database().await;
    run(database.url(), "create schema own; create schema \"Odd name\"").await;
    let url = format!("{}&options=-c%20search_path=own,%22Odd%5C%20name%22", database.url());
    let store = PgBackend::connect(&url).await.unwrap();
    let balances =
        Tables { name: "Bälances of {es}'s", version: 1, schema: "create table balances (n bigint)" };
    installed(&store, &balances).await;
    write(&store, &balances, 1, "insert into balances values (1)").await;
    write(&store, &balances, 2, "insert into balances values (2)").await;
    assert_eq!(count(database.url(), "select n from own.balances").await, 1);
    let path = || async {
        sqlx::query_scalar::<_, String>("select current_setting('search_path')").fetch_one(&store.db()).await
    };
    let first = path().await.unwrap();
    assert!(first.ends_with(", own,\"Odd name\""), "{first}");
    store.switch(&balances, 2, nothing()).await.unwrap();
    let second = path().await.unwrap();
    assert!(second != first && second.ends_with(", own,\"Odd name\""), "{second}");
    assert_eq!(count(database.url(), "select n from own.balances").await, 2);
    let n: i64 = sqlx::query_scalar("select n from balances").fetch_one(&store.db()).await.unwrap();
    assert_eq!(n, 2);
    // The plain names of another projection are where its user wants them, not in there.
    let more = Tables { name: "more", version: 1, schema: "create table more (n bigint)" };
    store.install(&more, 1).await.unwrap();
    assert_eq!(count(database.url(), "select count(*) from own.more").await, 0);
    store.clear(&more, 1, nothing()).await.unwrap();
    assert_eq!(count(database.url(), "select count(*) from own.more").await, 0);
}

pub(crate) const EVERYTHING: &str = "
    create type mood as enum ('good', 'bad');
    create sequence numbers;
    create table people (
        id bigint generated always as identity primary key, number bigint not null default nextval('numbers'),
        name text not null unique, mood mood not null default 'good', notes json, best bigint references people
    );
    create index people_mood on people (mood);
    create table visits (person bigint not null references people, day date not null, primary key (person, day))
        partition by range (day);
    create table visits_all partition of visits default;
    alter table people add last date, add foreign key (id, last) references visits deferrable initially deferred;
    create function visit(who text, at date) returns void language plpgsql as $$
    begin
        insert into people (name) values (who) on conflict (name) do update set mood = 'bad';
        insert into visits select id, at from people where name = who;
    end $$;
    create function count_visit() returns trigger language plpgsql as $$
    begin
        update people set notes = json_build_object('last', new.day) where id = new.person;
        return null;
    end $$;
    create trigger count_visit after insert on visits for each row execute function count_visit();
    create function first_of(p people) returns text language sql as $$ select p.name $$;
    create view merry as select p.name, first_of(p) from people p where mood = 'good';
    create materialized view days as select distinct day from visits";

#[tokio::test]
async fn whatever_a_ddl_makes_stands_in_each_generation_and_goes_with_it() {
    let (database, store) = fresh().await;
    let tables = Tables { name: "people", version: 1, schema: EVERYTHING };
    installed(&store, &tables).await;
    write(&store, &tables, 1, "select visit('ada', '2026-01-01')").await;
    for day in
        ["select visit('ada', '2026-01-01')", "select visit('ada', '2026-01-02'), visit('bob', '2026-01-01')"]
    {
        write(&store, &tables, 2, day).await;
    }
    write(&store, &tables, 2, "refresh materialized view days").await;
    let numbers = || async {
        let all = "select (select count(*) from people), (select count(*) from visits), (select count(*) from merry),
                          (select count(*) from days), (select coalesce(max(number), 0) from people),
                          (select count(*) from people where notes ->> 'last' is not null)";
        let row = sqlx::query(all).fetch_one(&store.db()).await.unwrap();
        (0..6).map(|i| row.get(i)).collect::<Vec<i64>>()
    };
    assert_eq!(numbers().await, [1, 1, 1, 0, 1, 1]);
    let differences = store.compare(&tables, 1, 2, 9).await.unwrap();
    let found: Vec<_> = differences.iter().map(|d| (&*d.table, d.added, d.removed, d.changed)).collect();
    assert_eq!(found, [("people", 1, 0, 1), ("visits", 2, 0, 0)]);
    store.switch(&tables, 2, nothing()).await.unwrap();
    assert_eq!(numbers().await[..4], [2, 3, 1, 2]);
    store.clear(&tables, 2, nothing()).await.unwrap();
    assert_eq!(numbers().await[..4], [0, 0, 0, 0]);
    store.uninstall(&tables, 1, nothing()).await.unwrap();
    let public = "select count(*) from es.objects() where place = 'public' and kind = 'view'";
    assert_eq!(count(database.url(), public).await, 4, "the plain names of two tables and two views");
    let public = "select count(*) from es.objects() where place = 'public'";
    assert_eq!(count(database.url(), public).await, 4);
    store.install(&tables, 3).await.unwrap();
    store.switch(&tables, 3, nothing()).await.unwrap();
    store.uninstall(&tables, 2, nothing()).await.unwrap();
    let places = "select count(*) from pg_namespace where nspname like 'es\\_people%'";
    assert_eq!(count(database.url(), places).await, 1);
    store.install(&Tables { version: 2, ..tables }, 1).await.unwrap();
    assert_eq!(count(database.url(), places).await, 2);
    store.remove_version("people", 1, nothing()).await.unwrap();
    assert_eq!(count(database.url(), places).await, 1);
    assert_eq!(numbers().await[..4], [0, 0, 0, 0]);
    store.remove_version("people", 2, nothing()).await.unwrap();
    assert_eq!(count(database.url(), places).await, 0);
    assert_eq!(count(database.url(), public).await, 0);
}

#[tokio::test]
async fn what_belongs_to_somebody_else_is_not_dropped() {
    let (database, store) = fresh().await;
    pairs(&store).await;
    store.switch(&PAIRS, 2, nothing()).await.unwrap();
    run(database.url(), "create view mine as select n from es_pairs_1_1.totals").await;
    run(database.url(), "create view theirs as select n from es_pairs_1_2.totals").await;
    let refused_by = |error: CommitError, word: &str| {
        assert_eq!(error.kind(), ErrorKind::Misuse, "{}", es_core::chain(&error));
        assert!(error.to_string().contains(word), "{error}");
    };
    let v = || Commit { rows: vec![row("k", 0, Some("1"))], ..nothing() };
    refused_by(refused(store.uninstall(&PAIRS, 1, v()).await), "view mine");
    refused_by(refused(store.clear(&PAIRS, 2, v()).await), "view theirs");
    assert_eq!(data(&store, "v/1", "k").await, None, "nothing was done");
    assert_eq!(count(database.url(), "select count(*) from mine, theirs").await, 1);
    run(database.url(), "drop view mine; drop view theirs; create table es_pairs_1_2.stray (n int)").await;
    store.switch(&PAIRS, 1, nothing()).await.unwrap();
    refused_by(refused(store.uninstall(&PAIRS, 2, v()).await), "es_pairs_1_2");
    run(database.url(), "drop table es_pairs_1_2.stray").await;
    store.uninstall(&PAIRS, 2, v()).await.unwrap();
    assert!(data(&store, "v/1", "k").await.is_some());
}

#[tokio::test]
async fn what_a_ddl_waits_for_is_not_its_fault() {
    let database = es_postgres::testing::database().await;
    let store = with(&database, |o| o.with_lock_timeout(Duration::from_millis(200))).await;
    run(database.url(), "create table parent (id int primary key)").await;
    let mut conn = connect(database.url()).await;
    let mut locks = conn.begin().await.unwrap();
    locks.execute("lock table parent in access exclusive mode").await.unwrap();
    let child = Tables { name: "child", version: 1, schema: "create table child (p int references parent)" };
    let error = store.install(&child, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    locks.rollback().await.unwrap();
    store.install(&child, 1).await.unwrap();
    let wrong = Tables { name: "wrong", version: 1, schema: "create table wrong (p int references nothing)" };
    assert_eq!(store.install(&wrong, 1).await.unwrap_err().kind(), ErrorKind::Misuse);
}

#[tokio::test]
async fn a_ddl_that_reaches_beyond_its_own_schema_has_no_second_generation() {
    let (database, store) = fresh().await;
    run(database.url(), "create function helper() returns integer language sql as 'select 1'").await;
    let all = [
        "create table public.a (n bigint)",
        "create table if not exists public.b (n bigint)",
        "create schema own; create table own.c (n bigint)",
        "drop table if exists d; create table d (n bigint)",
        "create table e (n bigint); create or replace function public.helper() returns integer language sql as 'select 2'",
    ];
    for (version, schema) in (1..).zip(all) {
        let tables = Tables { name: ["a", "b", "c", "d", "e"][version - 1], version: 1, schema };
        store.install(&tables, 1).await.unwrap();
        let error = store.install(&tables, 2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{schema}: {}", es_core::chain(&error));
        assert!(error.to_string().contains("write names without a schema"), "{schema}: {error}");
        assert!(store.begin_at(&tables, 2, LIMIT).await.is_err(), "{schema}");
        at(&store, &tables, 1).await.rollback().await.unwrap();
    }
    assert_eq!(count(database.url(), "select count(*) from d").await, 0);
    let made = "select count(*) from pg_namespace where nspname like 'es\\_%'";
    assert_eq!(count(database.url(), made).await, 1, "that of `d`, which drops nothing the first time");
    let edited = Tables { name: "a", version: 1, schema: "create table a (n bigint)" };
    assert!(store.install(&edited, 2).await.unwrap_err().to_string().contains("raise `version`"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_of_generations_is_dropped_half_way_is_done_or_not_and_can_be_done_again() {
    let database = es_postgres::testing::database().await;
    let store = with(&database, |o| o.with_connections(2)).await;
    store.install(&PAIRS, 1).await.unwrap();
    for polls in (0..60).step_by(3) {
        let _dropped = dropped_after(polls, store.install(&PAIRS, 2)).await;
        store.install(&PAIRS, 2).await.unwrap();
        set(&store, 2, 1).await;
        let _dropped = dropped_after(polls, store.switch(&PAIRS, 2, nothing())).await;
        store.switch(&PAIRS, 2, nothing()).await.unwrap();
        let _dropped = dropped_after(polls, store.clear(&PAIRS, 2, nothing())).await;
        assert_eq!(sqlx::query(READ).fetch_all(&store.db()).await.unwrap().len(), 0);
        store.switch(&PAIRS, 1, nothing()).await.unwrap();
        let _dropped = dropped_after(polls, store.uninstall(&PAIRS, 2, nothing())).await;
        let _dropped = dropped_after(polls, store.compare(&PAIRS, 1, 1, 1)).await;
        store.uninstall(&PAIRS, 2, nothing()).await.unwrap();
    }
    assert_eq!(count(database.url(), "select count(*) from es.projections").await, 1);
    assert_sound(database.url(), &store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switches_and_installations_of_several_processes_take_turns() {
    let (database, store) = fresh().await;
    let other = PgBackend::connect(database.url()).await.unwrap();
    let all = [(&store, 1), (&other, 2), (&store, 2), (&other, 1)].map(|(s, g)| s.install(&PAIRS, g));
    futures::future::try_join_all(all).await.unwrap();
    let all = (0..40).map(|i| [&store, &other][i % 2].switch(&PAIRS, 1 + u32::from(i % 3 == 0), nothing()));
    futures::future::try_join_all(all).await.unwrap();
    assert_eq!(count(database.url(), "select count(*) from es.projections where current").await, 1);
    assert_eq!(count(database.url(), "select count(*) from es.projections").await, 2);
}

#[tokio::test]
async fn a_comparison_knows_keys_and_does_without() {
    let (_database, store) = fresh().await;
    let ddl = "create table keyed (a integer, b text, n numeric, j json, primary key (b, a));
               create table bare (n integer, p point)";
    let tables = Tables { name: "both", version: 1, schema: ddl };
    installed(&store, &tables).await;
    let same = store.compare(&tables, 1, 2, 5).await.unwrap();
    assert!(same.iter().all(|d| d.added + d.removed + d.changed == 0 && d.samples.is_empty()), "{same:?}");
    assert_eq!(same.len(), 2);
    write(
        &store,
        &tables,
        1,
        "insert into keyed values (1, 'x', 1.0, '{\"k\": 1}'), (2, 'x', 2, null), (3, 'x', null, null);
         insert into bare values (1, null), (1, null), (2, '(1,2)'), (null, null)",
    )
    .await;
    write(
        &store,
        &tables,
        2,
        "insert into keyed values (1, 'x', 1.00, '{\"k\":1}'), (2, 'x', 3, null), (4, 'x', null, null), (5, 'y', 1, '[]');
         insert into bare values (1, null), (2, '(1,3)'), (null, null)",
    )
    .await;
    let found = store.compare(&tables, 1, 2, 2).await.unwrap();
    let numbers: Vec<_> = found.iter().map(|d| (&*d.table, d.added, d.removed, d.changed)).collect();
    assert_eq!(numbers, [("bare", 1, 2, 0), ("keyed", 2, 1, 1)]);
    assert!(found.iter().all(|d| d.samples.len() == 2));
    let all = store.compare(&tables, 1, 2, 100).await.unwrap();
    let changed = all[1].samples.iter().find(|s| s.old.is_some() && s.new.is_some()).unwrap();
    assert!(
        changed.old.as_ref().unwrap().contains(r#""n": 2"#)
            && changed.new.as_ref().unwrap().contains(r#""n": 3"#)
    );
    let back = store.compare(&tables, 2, 1, 0).await.unwrap();
    assert_eq!((back[0].added, back[0].removed, back[1].added, back[1].removed), (2, 1, 1, 2));
    assert!(back.iter().all(|d| d.samples.is_empty()));
    let error = store.compare(&tables, 1, 3, 0).await.unwrap_err();
    assert!(error.to_string().contains("not installed"), "{error}");
    let none = Tables { name: "keyed_view", version: 1, schema: "" };
    installed(&store, &none).await;
    assert_eq!(store.compare(&none, 1, 2, 5).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_falls_silent_does_not_stand_in_the_way() {
    let (database, store) = fresh().await;
    pairs(&store).await;
    // On a busy machine, it may be silent too long before its first word.
    let mut silent = loop {
        let mut tx = store.begin_at(&PAIRS, 2, Duration::from_millis(50)).await.unwrap();
        if sqlx::query("update totals set n = 1").execute(&mut *tx).await.is_ok() {
            break tx;
        }
    };
    // Waits for the lock of the silent one.
    timeout(LIMIT, set(&store, 2, 2)).await.unwrap();
    let error = sqlx::query("update totals set n = 3").execute(&mut *silent).await.unwrap_err();
    assert!(store.is_transient(&error), "{error}");
    drop(silent);
    let mut patient = with(&database, |o| o.with_statement_timeout(Duration::ZERO))
        .await
        .begin_at(&PAIRS, 2, Duration::from_secs(7))
        .await
        .unwrap();
    let idle = "select current_setting('idle_in_transaction_session_timeout')";
    assert_eq!(sqlx::query_scalar::<_, String>(idle).fetch_one(&mut *patient).await.unwrap(), "7s");
    assert_sound_after(&database, &store, patient).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_take_longer_to_delete_than_a_statement_may_take_are_deleted_all_the_same() {
    let (database, _) = fresh().await;
    let store = with(&database, |o| o.with_statement_timeout(Duration::from_millis(300))).await;
    let tables = Tables { name: "large", version: 1, schema: "" };
    installed(&store, &tables).await;
    for generation in [1, 2] {
        let rows = vec![row_of(&tables.rows(generation), "a", 0, Some("1"))];
        store.commit(Commit { rows, ..nothing() }).await.unwrap();
    }
    let slow = "create function slow() returns trigger language plpgsql as
                $$ begin perform pg_sleep(0.7); return null; end $$;
                create trigger slow before delete on es.rows for each statement execute function slow()";
    run(database.url(), slow).await;
    store.clear(&tables, 1, nothing()).await.unwrap();
    store.uninstall(&tables, 2, nothing()).await.unwrap();
    assert_eq!(count(database.url(), "select count(*) from es.rows where tbl like 'large%'").await, 0);
}

async fn assert_sound_after(database: &Database, store: &PgBackend, tx: Tx) {
    tx.rollback().await.unwrap();
    assert_sound(database.url(), store).await;
}

#[tokio::test]
async fn a_name_stands_for_the_table_that_current_names_and_only_to_readers() {
    let (_database, store) = fresh().await;
    let write = |rows| store.commit(Commit { rows, ..nothing() });
    write(vec![row_of("v/1~1", "a", 0, Some("1")), row_of("v/1~1", "b", 0, Some("1"))]).await.unwrap();
    write(vec![row_of("v/1~2", "a", 0, Some("2")), row_of("v/1~2", "c", 0, Some("2"))]).await.unwrap();
    assert_eq!(data(&store, "v/1", "a").await, None);
    for (rev, n, keys) in [(0, "1", ["a", "b"]), (1, "2", ["a", "c"]), (2, "1", ["a", "b"])] {
        let to = if n == "1" { "v/1~1" } else { "v/1~2" };
        write(vec![row_of("current", "v/1", rev, Some(to))]).await.unwrap();
        assert_eq!(data(&store, "v/1", "a").await.as_deref(), Some(n));
        let found = store.scan("v/1", None, 10).await.unwrap();
        assert_eq!(found.iter().map(|row| &*row.key).collect::<Vec<_>>(), keys);
        assert_eq!(store.scan("v/1", Some("a"), 10).await.unwrap().len(), 1);
        assert_eq!(data(&store, "v/1~2", "a").await.as_deref(), Some("2"), "a whole name stands for itself");
    }
    // A write means the table that it names, and so does whoever explains its refusal.
    write(vec![row_of("v/1", "a", 0, Some("3"))]).await.unwrap();
    assert_eq!(data(&store, "v/1", "a").await.as_deref(), Some("1"));
    let error = refused(write(vec![row_of("v/1", "a", 0, Some("3"))]).await);
    assert!(matches!(error, CommitError::Fenced { .. }), "{error:?}");
    write(vec![row_of("v/1", "a", 1, Some("4"))]).await.unwrap();
    write(vec![row_of("current", "v/1", 3, None)]).await.unwrap();
    assert_eq!(data(&store, "v/1", "a").await.as_deref(), Some("4"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_another_set_of_inline_projections_are_refused_through_both_doors() {
    let (database, store) = fresh().await;
    let other = PgBackend::connect(database.url()).await.unwrap();
    let naming = |inline| Commit { inline, ..commit("s") };
    let moved = |rev| Commit { rows: vec![row_of(INLINE.0, INLINE.1, rev, Some("{}"))], ..nothing() };
    for stored in 0..3 {
        for named in 0..4 {
            let mut tx = other.begin().await.unwrap();
            *tx.staged() = naming(named);
            let both = [store.commit(naming(named)).await, tx.commit().await];
            for outcome in both {
                match outcome {
                    Ok(_) => assert_eq!(named, stored),
                    Err(CommitError::Inline { stored: s, named: n }) => assert_eq!((s, n), (stored, named)),
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
        // Whoever writes no event names no set.
        let only = Commit { rows: vec![row(&stored.to_string(), 0, Some("1"))], inline: 77, ..nothing() };
        store.commit(only).await.unwrap();
        other
            .commit(Commit { inline: 77, ..append("s", es_core::store::ExpectedVersion::Exists, 0) })
            .await
            .unwrap();
        store.commit(moved(stored)).await.unwrap();
    }
    // Of a crowd, those that name it right get through, and nobody else.
    let crowd = (0..60_u64).map(|i| {
        let store = if i % 2 == 0 { store.clone() } else { other.clone() };
        tokio::spawn(async move {
            (i % 3 == 0, store.commit(Commit { inline: 3 + i % 3, ..commit("s") }).await.is_ok())
        })
    });
    for (right, accepted) in futures::future::try_join_all(crowd).await.unwrap() {
        assert_eq!(right, accepted);
    }
    // It is judged after the rest, and the events that were refused are nowhere.
    let both = Commit { inline: 9, ..append("s", es_core::store::ExpectedVersion::NoStream, 1) };
    assert!(matches!(refused(store.commit(both).await), CommitError::Conflict { .. }));
    let error = Commit { rows: vec![row("0", 9, Some("1"))], ..naming(9) };
    assert!(matches!(refused(store.commit(error).await), CommitError::Inline { .. }));
    assert_eq!(store.head().await.unwrap().0, 3 * 2 + 20);
    assert_sound(database.url(), &store).await;
}

#[tokio::test]
async fn people_see_checkpoints_slice_by_slice() {
    let (database, store) = fresh().await;
    let merged = row_of("checkpoints", "balances/1~1#512", 0, Some(r#"{"position":3,"epoch":2}"#));
    let rows =
        vec![step("balances/1~1", 0, 42), step("balances/1~2", 0, 7), step("balances/1~2#512", 0, 9), merged];
    store.commit(Commit { rows, ..nothing() }).await.unwrap();
    store.commit(append("s", es_core::store::ExpectedVersion::Any, 50)).await.unwrap();
    let found: Vec<_> =
        store.stats().await.unwrap().checkpoints.into_iter().map(|(name, p)| (name, p.0)).collect();
    let expected = [("balances/1~2", 7), ("balances/1~2#512", 9), ("balances/1~1", 42)];
    assert_eq!(found, expected.map(|(name, position)| (name.to_owned(), position)));
    assert_eq!(
        count(database.url(), "select position from es.checkpoints where name = 'balances/1~1'").await,
        42
    );
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
    run(database.url(), "delete from es.checkpoints where name = 'balances/1~2'").await;
    assert_eq!(store.stats().await.unwrap().checkpoints.len(), 2);
}

#[derive(Debug)]
enum Wrapped {
    Shown(sqlx::Error),
    Own(sqlx::Error),
}

impl std::fmt::Display for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a handler failed")
    }
}

impl std::error::Error for Wrapped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Own(error) => Some(error),
            // As `#[error(transparent)]` does it.
            Self::Shown(error) => error.source(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_did_is_told_from_what_a_handler_did() {
    let database = es_postgres::testing::database().await;
    let store = with(&database, |o| o.with_lock_timeout(Duration::from_millis(20))).await;
    run(database.url(), "create table mine (x integer primary key); insert into mine values (1)").await;
    let fails = async |text: &'static str| {
        let mut tx = store.begin().await.unwrap();
        sqlx::raw_sql(text).execute(&mut *tx).await.expect_err(text)
    };
    let holder = connect(database.url()).await;
    let mut holder = holder;
    sqlx::query("select pg_advisory_lock(7)").execute(&mut holder).await.unwrap();
    let transient = [
        "set local statement_timeout = 1; select pg_sleep(10)",
        "select pg_advisory_xact_lock(7)",
        "select pg_terminate_backend(pg_backend_pid())",
        "do $$ begin raise serialization_failure; end $$",
        "do $$ begin raise deadlock_detected; end $$",
        "do $$ begin raise too_many_connections; end $$",
        "do $$ begin raise cannot_connect_now; end $$",
        "do $$ begin raise disk_full; end $$",
        "do $$ begin raise connection_failure; end $$",
    ];
    for text in transient {
        let error = fails(text).await;
        assert!(store.is_transient(&error), "{text}: {error}");
        assert!(store.is_transient(&Wrapped::Shown(error)), "{text}");
        assert!(store.is_transient(&Wrapped::Own(fails(text).await)), "{text}");
    }
    let wrong = [
        "select 1 / 0",
        "insert into mine values (1)",
        "insert into nowhere values (1)",
        "selec 1",
        "select 'x'::integer",
        "do $$ begin raise exception 'no'; end $$",
        "do $$ begin raise feature_not_supported; end $$",
    ];
    for text in wrong {
        let error = fails(text).await;
        assert!(!store.is_transient(&error), "{text}: {error}");
        assert!(!store.is_transient(&Wrapped::Own(error)), "{text}");
    }
    let mut tx = store.begin().await.unwrap();
    drop(sqlx::query("select 1 / 0").execute(&mut *tx).await);
    let after = sqlx::query("select 1").execute(&mut *tx).await.unwrap_err();
    assert!(!store.is_transient(&after), "{after}");
    drop(tx);
    let decoded = sqlx::query_scalar::<_, i64>("select 'x'").fetch_one(&store.db()).await.unwrap_err();
    assert!(!store.is_transient(&decoded));
    assert!(store.is_transient(&sqlx::Error::PoolTimedOut));
    assert!(!store.is_transient(&sqlx::Error::RowNotFound));
    let misuse = es_core::store::StoreError::misuse("no");
    assert!(!store.is_transient(&misuse) && !store.is_transient(&CommitError::from(misuse)));
    let away = es_core::store::StoreError::transient("x", sqlx::Error::PoolTimedOut);
    assert!(store.is_transient(&away) && store.is_transient(&CommitError::from(away)));
    assert!(!store.is_transient(&std::io::Error::other("a file of the handler's own")));
}

/// A plan that a changed table has made useless is left behind with its connection.
#[tokio::test]
async fn a_handler_that_met_a_changed_table_is_asked_again_on_another_connection() {
    let database = es_postgres::testing::database().await;
    let store = with(&database, |o| o.with_connections(1)).await;
    run(database.url(), "create table mine (x integer)").await;
    let read = async || {
        let mut tx = store.begin().await.unwrap();
        sqlx::query("select * from mine").fetch_all(&mut *tx).await
    };
    read().await.unwrap();
    run(database.url(), "alter table mine add column y text").await;
    let error = read().await.unwrap_err();
    assert!(store.is_transient(&error), "{error}");
    read().await.unwrap();
}

#[tokio::test]
async fn the_clock_is_the_servers_or_the_options_own() {
    let (database, store) = fresh().await;
    let (before, now) = (store.now().await.unwrap(), store.now().await.unwrap());
    assert!(before <= now);
    store.commit(commit("s")).await.unwrap();
    let clock = es_core::testing::TestClock::default();
    let tested = with(&database, |o| o.with_clock(clock.clone())).await;
    assert_eq!(tested.now().await.unwrap(), es_core::clock::Clock::now(&clock));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_that_somebody_reads_is_not_waited_for_long_by_whoever_drops_it() {
    let (database, store) = fresh().await;
    pairs(&store).await;
    store.switch(&PAIRS, 2, nothing()).await.unwrap();
    let mut reader = connect(database.url()).await;
    sqlx::raw_sql("begin; select * from es_pairs_1_1.totals").execute(&mut reader).await.unwrap();
    let error = refused(timeout(LIMIT, store.uninstall(&PAIRS, 1, nothing())).await.unwrap());
    assert_eq!(error.kind(), ErrorKind::Transient, "{}", es_core::chain(&error));
    sqlx::raw_sql("commit").execute(&mut reader).await.unwrap();
    store.uninstall(&PAIRS, 1, nothing()).await.unwrap();
    assert!(try_run(database.url(), "select * from es_pairs_1_1.totals").await.is_err());
    until_count(database.url(), "select count(*) from es.projections", 1).await;
}
