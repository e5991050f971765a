//! Who may change a row that a call has changed: calls of its run, and nobody else until it is decided.

use std::time::Duration;

use es_core::guard::UndoLog as _;
use es_core::store::StoreError;
use es_postgres::{PgUndoLog, Refusal};
use sqlx::Connection as _;

use super::{Call, Ground, call, code, exec, new_run};

const ROWS: &str = "create table rows (id int, part text, v int, primary key (id, part));
    insert into rows select g, 'a', g from generate_series(1, 6) g";

async fn rows() -> Ground {
    Ground::of(ROWS, &["rows"]).await
}

#[tokio::test]
async fn another_run_is_told_who_has_the_row() {
    let ground = rows().await;
    let (first, second) = (call(), call());
    ground.runs(&first, &["update rows set v = 0 where id = 1", "delete from rows where id = 2"]).await;
    let meets =
        ["update rows set v = 1", "delete from rows where id = 1", "insert into rows values (2, 'a', 1)"];
    for sql in meets {
        let mut tx = ground.begin(&second).await;
        let error = exec(&mut tx, sql).await.unwrap_err();
        assert_eq!(code(&error), "ESU01");
        let Some(Refusal::Busy { run, what }) = Refusal::of(&error) else { panic!("{error}") };
        assert!(run == first.run() && what.contains("of public.rows is busy, held by run"), "{what}");
        let wrapped = StoreError::transient("taking a row", error);
        assert!(!PgUndoLog::is_taken(&std::fmt::Error) && PgUndoLog::is_taken(&wrapped));
        drop(tx);
    }
    // What is free it can have; and once it is decided, all.
    ground.runs(&second, &["update rows set v = 1 where id > 2"]).await;
    ground.confirm(&first).await;
    let third = call();
    ground.runs(&third, &[meets[2]]).await;
    ground.undo(&third).await.unwrap();
    ground.undo(&second).await.unwrap();
    ground.assert_over().await;
}

#[tokio::test]
async fn whoever_writes_without_a_run_is_refused_at_rows_of_a_run() {
    let ground = rows().await;
    let call = call();
    let changes = [
        "update rows set v = 0 where id = 1",
        "delete from rows where id = 2",
        "update rows set id = 30 where id = 3",
    ];
    ground.runs(&call, &changes).await;
    let refused = [
        "update rows set v = 9 where id = 1",
        "update rows set v = 9",
        "delete from rows where id = 30",
        "insert into rows values (2, 'a', 1)",
        "insert into rows values (3, 'a', 1)",
        "update rows set id = 3 where id = 4",
        "insert into rows values (1, 'a', 1) on conflict (id, part) do update set v = 7",
        "truncate rows",
    ];
    for sql in refused {
        for isolation in ["read committed", "repeatable read", "serializable"] {
            let within = format!("begin isolation level {isolation}; {sql}; commit");
            let error = ground.try_sql(&within).await.unwrap_err();
            let is_other = sql.starts_with("truncate") && isolation != "read committed";
            assert_eq!(code(&error), if is_other { "ESU05" } else { "ESU02" }, "{isolation}: {sql}: {error}");
            if !is_other {
                assert!(
                    matches!(Refusal::of(&error), Some(Refusal::Locked { run, .. }) if run == call.run())
                );
            }
        }
    }
    // Readers and writers of other rows are kept from nothing.
    for isolation in ["read committed", "serializable"] {
        let fine = "update rows set v = v + 1 where id = 5; insert into rows values (1, 'b', 1); \
            delete from rows where id = 1 and part = 'b'; select count(*) from rows";
        ground.sql(&format!("begin isolation level {isolation}; {fine}; commit")).await;
    }
    ground.undo(&call).await.unwrap();
    ground.sql("truncate rows").await;
    ground.assert_over().await;
}

/// A snapshot of before shows neither the change nor the lock.
#[tokio::test]
async fn a_snapshot_that_is_older_than_the_lock_does_not_get_around_it() {
    let ground = rows().await;
    for sql in ["update rows set v = 9 where id = 1", "insert into rows values (2, 'a', 1)"] {
        let call = call();
        let mut conn = ground.pool().acquire().await.unwrap().detach();
        exec(&mut conn, "begin isolation level repeatable read; select count(*) from rows").await.unwrap();
        ground.runs(&call, &["update rows set v = 0 where id = 1", "delete from rows where id = 2"]).await;
        let error = exec(&mut conn, sql).await.unwrap_err();
        assert_eq!(code(&error), "40001", "{error}");
        drop(conn.close().await);
        ground.undo(&call).await.unwrap();
    }
    ground.assert_over().await;
}

#[tokio::test]
async fn a_writer_that_waits_for_a_call_meets_its_lock() {
    let ground = rows().await;
    let call = call();
    let mut tx = ground.begin(&call).await;
    exec(&mut tx, "update rows set v = 0 where id = 1").await.unwrap();
    let waits = ground.try_sql("update rows set v = 9 where id = 1");
    let ends = async {
        let waiting = "pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
        while ground.count(waiting).await == 0 {
            tokio::task::yield_now().await;
        }
        call.guard(&ground.log).done(tx, "1".to_owned()).await.unwrap();
    };
    let (waited, ()) = tokio::join!(waits, ends);
    assert_eq!(code(&waited.unwrap_err()), "ESU02");
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.count("rows where id = 1 and v = 1").await, 1);
}

#[tokio::test]
async fn a_row_of_a_call_that_is_not_committed_is_not_waited_for_for_ever() {
    let ground = rows().await;
    let (first, second) = (call(), call());
    let mut tx = ground.begin(&first).await;
    exec(&mut tx, "update rows set v = 0 where id = 1").await.unwrap();
    let hasty = ground.log.clone().with_lock_timeout(Duration::from_millis(20));
    let es_core::guard::Guarded::Run(mut other) = second.guard(&hasty).forward().await.unwrap() else {
        panic!("it is the first")
    };
    let error = exec(&mut other, "update rows set v = 1 where id = 1").await.unwrap_err();
    assert_eq!(code(&error), "55P03");
}

#[tokio::test]
async fn calls_of_one_run_share_its_rows() {
    let ground = rows().await;
    let run = new_run();
    let (one, two) = (Call::of(run, "order/one"), Call::of(run, "order/two"));
    ground.runs(&one, &["update rows set v = 7 where id in (1, 2)"]).await;
    ground.runs(&two, &["update rows set v = 8 where id in (2, 3)"]).await;
    // What one lets go of, the other one still holds.
    ground.confirm(&one).await;
    assert_eq!(ground.all(&["es_undo.locks"]).await.len(), 2);
    let error = ground.try_sql("update rows set v = 9 where id = 2").await.unwrap_err();
    assert_eq!(code(&error), "ESU02");
    ground.sql("update rows set v = 9 where id = 1").await;
    ground.undo(&two).await.unwrap();
    assert_eq!(ground.count("rows where v = 7 and id = 2").await, 1);
    ground.assert_over().await;
}

/// In a session of its own an account may do no more than write to the table.
#[tokio::test]
async fn writers_need_no_privilege_on_the_log() {
    let ground = rows().await;
    let role = format!("writer_{}", new_run().simple());
    ground.sql(&format!("create role {role}; grant select, insert, update, delete on rows to {role}")).await;
    let call = call();
    ground.runs(&call, &["update rows set v = 0 where id = 1"]).await;
    ground
        .sql(&format!("set role {role}; update rows set v = 3 where id = 5; delete from rows where id = 6"))
        .await;
    let error =
        ground.try_sql(&format!("set role {role}; update rows set v = 3 where id = 1")).await.unwrap_err();
    assert_eq!(code(&error), "ESU02");
    for sql in
        ["delete from es_undo.locks", "select * from es_undo.images", "select es_undo.release(null, null)"]
    {
        let error = ground.try_sql(&format!("set role {role}; {sql}")).await.unwrap_err();
        assert_eq!(code(&error), "42501", "{sql}");
    }
    ground.undo(&call).await.unwrap();
    ground.sql(&format!("drop owned by {role}; drop role {role}")).await;
}
