//! A log of an earlier program.

use es_core::{ErrorKind, guard};
use es_postgres::testing::{self, Database};
use es_postgres::{PgGuarded, PgUndoLog};
use sqlx::{AssertSqlSafe, PgPool};

use super::{Call, Ground, call, exec};

/// What a program made that knew format 1.
const FORMAT_1: &str = include_str!("format_1.sql");

const ROWS: &str = "create table rows (id int primary key, v text);
    insert into rows values (1, 'a'), (2, 'b'), (3, 'c')";

/// Functions, columns and indexes.
async fn made(pool: &PgPool) -> Vec<String> {
    let made = "select format('%s(%s) %s %s %s', p.proname, pg_get_function_arguments(p.oid), p.prosrc, p.prosecdef, p.proconfig)
            from pg_proc p where p.pronamespace = 'es_undo'::regnamespace
        union all
        select format('%s.%s %s %s %s', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attstorage)
            from pg_attribute a join pg_class c on c.oid = a.attrelid
            where c.relnamespace = 'es_undo'::regnamespace and c.relkind = 'r' and a.attnum > 0 and not a.attisdropped
        union all
        select pg_get_indexdef(i.indexrelid) from pg_index i join pg_class c on c.oid = i.indrelid
            where c.relnamespace = 'es_undo'::regnamespace
        order by 1";
    sqlx::query_scalar(made).fetch_all(pool).await.unwrap()
}

/// A database with a log of format 1, and tables of the user's own, which it tracks.
async fn format_1(make: &str, tracked: &str) -> (Database, PgPool) {
    let database = testing::database().await;
    let pool = PgPool::connect(database.url()).await.unwrap();
    PgGuarded::new(pool.clone()).install().await.unwrap();
    run(&pool, FORMAT_1).await;
    run(&pool, &format!("{make}; select es_undo.track('{{{tracked}}}')")).await;
    (database, pool)
}

async fn run(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(pool).await.unwrap();
}

/// What a program that knew format 1 did for a call.
async fn runs(pool: &PgPool, call: &Call, changes: &str) {
    let begin = format!(
        "begin; insert into es_guard.guards (run, call, state, fingerprint, result)
            values ('{0}', '{1}', 'done', decode(lpad('7', 32, '0'), 'hex'), '1');
        select es_undo.begin('{0}', '{1}'); {changes}; commit",
        call.run(),
        call.name()
    );
    run(pool, &begin).await;
}

#[tokio::test]
async fn a_log_of_an_earlier_program_gets_its_functions_and_keeps_what_it_has() {
    let (database, pool) = format_1(ROWS, "rows").await;
    let role = format!("program_{}", super::new_run().simple());
    let grant = "grant select, insert, update, delete on es_undo.images, es_undo.locks to";
    run(&pool, &format!("create role {role}; {grant} {role}")).await;
    let call = call();
    let changes = "update rows set v = v || '!' where id < 3; update rows set v = v || '?' where id = 1;
        delete from rows where id = 3; insert into rows values (4, 'd'); update rows set id = 20 where id = 2";
    runs(&pool, &call, changes).await;
    let log = PgUndoLog::new(pool.clone());
    let old = guard::check(&log).await.unwrap_err().to_string();
    assert!(old.contains("call `PgUndoLog::install`") && old.contains("has format 1"), "{old}");
    let (one, two) = tokio::join!(log.install(), log.install());
    one.and(two).unwrap();
    guard::check(&log).await.unwrap();

    let fresh = Ground::of(ROWS, &["rows"]).await;
    assert_eq!(made(&pool).await, made(fresh.pool()).await);
    let may = format!(
        "select has_table_privilege('{role}', 'es_undo.images', 'insert')
        and has_table_privilege('{role}', 'es_undo.acts', 'insert')"
    );
    assert!(sqlx::query_scalar::<_, bool>(AssertSqlSafe(may)).fetch_one(&pool).await.unwrap());

    let ground = Ground::with(log, database);
    assert_eq!(ground.log.rows(call.run(), call.name()).await.unwrap().len(), 5);
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&["rows"]).await, fresh.all(&["rows"]).await);
    ground.assert_over().await;
    // What is new is there, too.
    let second = super::call();
    ground.runs(&second, &["delete from rows"]).await;
    ground.sql("alter table rows drop v; alter table rows add w text").await;
    super::blocked(ground.undo(&second).await);
    run(&pool, &format!("drop owned by {role}; drop role {role}")).await;
}

/// What is there is named as an undo names it, whatever the search path of the program.
#[tokio::test]
async fn what_an_earlier_program_has_noted_of_types_of_ones_own_is_undone() {
    let make = "create type mood as enum ('sad', 'glad'); create domain title as text;
        create table rows (id int primary key, m mood, n title); insert into rows values (1, 'sad', 'a')";
    let (database, pool) = format_1(make, "rows").await;
    let call = call();
    runs(&pool, &call, "update rows set m = 'glad', n = 'b'").await;
    let log = PgUndoLog::new(pool);
    log.install().await.unwrap();
    let ground = Ground::with(log, database);
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&["rows"]).await, ["rows (1,sad,a)"]);
    ground.assert_over().await;
}

/// A writer looks into the log while it has its table.
#[tokio::test]
async fn writers_end_before_a_log_is_made_anew() {
    let (database, pool) = format_1(ROWS, "rows").await;
    let waiting = async |n: i64| {
        let waiting = "select count(*) from pg_stat_activity
            where wait_event_type = 'Lock' and datname = current_database()";
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&pool).await.unwrap() != n {
            tokio::task::yield_now().await;
        }
    };
    let mut first = pool.acquire().await.unwrap().detach();
    exec(&mut first, "begin; select from rows where id = 1 for update").await.unwrap();
    let writes = run(&pool, "update rows set v = 'w' where id = 1");
    let log = PgUndoLog::new(pool.clone());
    let installs = async {
        waiting(1).await;
        log.install().await
    };
    let ends = async {
        waiting(2).await;
        exec(&mut first, "commit").await.unwrap();
    };
    let ((), installed, ()) = tokio::join!(writes, installs, ends);
    installed.unwrap();
    let ground = Ground::with(log, database);
    assert_eq!(ground.count("rows where v = 'w'").await, 1);
    // Nor does one that does not end keep all others waiting.
    ground.sql("update es_undo.about set format = 2").await;
    exec(&mut first, "begin; update rows set v = 'x' where id = 2").await.unwrap();
    let error = ground.log.install().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    ground.sql("update rows set v = 'y' where id = 1").await;
    exec(&mut first, "commit").await.unwrap();
    ground.log.install().await.unwrap();
}

#[tokio::test]
async fn a_log_of_format_2_gets_the_functions_that_it_lacks() {
    let ground = Ground::of(ROWS, &["rows"]).await;
    let new = made(ground.pool()).await;
    let call = call();
    ground.runs(&call, &["update rows set v = v || '!'"]).await;
    let old = "drop function es_undo.in_the_way; drop function es_undo.later_call;
        create function es_undo.later_call(of_run uuid, of_call text) returns text language sql as $$ select null $$;
        update es_undo.about set format = 2";
    ground.sql(old).await;
    assert!(guard::check(&ground.log).await.unwrap_err().to_string().contains("has format 2"));
    let (one, two) = tokio::join!(ground.log.install(), ground.log.install());
    one.and(two).unwrap();
    assert_eq!(made(ground.pool()).await, new);
    ground.undo(&call).await.unwrap();
    ground.assert_over().await;
}
