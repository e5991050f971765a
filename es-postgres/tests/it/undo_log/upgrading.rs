//! A log of an earlier program.

use es_core::guard;
use es_postgres::testing;
use es_postgres::{PgGuarded, PgUndoLog};
use sqlx::{AssertSqlSafe, PgPool};

use super::{Ground, call};

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

#[tokio::test]
async fn a_log_of_an_earlier_program_gets_its_functions_and_keeps_what_it_has() {
    let database = testing::database().await;
    let pool = PgPool::connect(database.url()).await.unwrap();
    PgGuarded::new(pool.clone()).install().await.unwrap();
    let run = |sql: String| {
        let pool = pool.clone();
        async move { sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await.map(drop).unwrap() }
    };
    let role = format!("program_{}", super::new_run().simple());
    run(FORMAT_1.to_owned()).await;
    run(format!(
        "{ROWS}; select es_undo.track('{{rows}}'); create role {role};
        grant select, insert, update, delete on es_undo.images, es_undo.locks to {role}"
    ))
    .await;
    let call = call();
    let changes = "update rows set v = v || '!' where id < 3; update rows set v = v || '?' where id = 1;
        delete from rows where id = 3; insert into rows values (4, 'd'); update rows set id = 20 where id = 2";
    run(format!(
        "begin; insert into es_guard.guards (run, call, state, fingerprint, result)
            values ('{0}', '{1}', 'done', decode(lpad('7', 32, '0'), 'hex'), '1');
        select es_undo.begin('{0}', '{1}'); {changes}; commit",
        call.run(),
        call.name()
    ))
    .await;
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
    run(format!("drop owned by {role}; drop role {role}")).await;
}
