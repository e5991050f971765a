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

#[tokio::test]
async fn what_is_unique_and_free_is_kept_for_the_call_that_has_freed_it() {
    let make = "create table seats (id int primary key, who text unique, a int, b numeric, c float8 unique, unique (a, b));
        insert into seats values (1, 'ada', 1, 1.50, 1), (2, 'bob', 2, null, 2), (3, 'eve', 3, 3, 3)";
    let ground = Ground::of(make, &["seats"]).await;
    let (was, call) = (ground.all(&["seats"]).await, call());
    ground
        .runs(&call, &["delete from seats where id = 1", "update seats set who = 'x', a = 9 where id = 2"])
        .await;
    let refused = [
        "insert into seats values (9, 'ada')",
        "insert into seats values (9, 'bob')",
        "update seats set who = 'bob' where id = 3",
        "insert into seats values (9, null, 1, 1.5)",
    ];
    for sql in refused {
        assert_eq!(code(&ground.try_sql(sql).await.unwrap_err()), "ESU02", "{sql}");
        let other = super::call();
        let mut tx = ground.begin(&other).await;
        assert_eq!(code(&exec(&mut tx, sql).await.unwrap_err()), "ESU01", "{sql}");
    }
    // What was never taken, and what is null, is nobody's; nor is what a row had that is as it was.
    let free = "insert into seats values (8, null, 2, null), (9, 'zoe', 1, 2);
        update seats set who = who where id = 3; delete from seats where id > 3";
    ground.sql(free).await;
    assert_eq!(ground.log.undecided().await.unwrap()[0].rows, 2);
    // What an older snapshot does not show.
    let mut conn = ground.pool().acquire().await.unwrap().detach();
    exec(&mut conn, "begin isolation level repeatable read; select count(*) from seats").await.unwrap();
    let later = super::call();
    ground.runs(&later, &["update seats set who = 'y' where id = 3"]).await;
    let error = exec(&mut conn, "insert into seats values (9, 'eve')").await.unwrap_err();
    assert_eq!(code(&error), "40001", "{error}");
    drop(conn.close().await);
    // A call of the same run may have it.
    let same = Call::of(call.run(), "order/same");
    ground.runs(&same, &["update seats set who = 'ada' where id = 2"]).await;
    for call in [&same, &call, &later] {
        ground.undo(call).await.unwrap();
    }
    assert_eq!(ground.all(&["seats"]).await, was);
    ground.assert_over().await;
}

/// It writes to the locks, which is dear, only where its snapshot may hide one.
#[tokio::test]
async fn a_writer_with_a_snapshot_meets_only_the_keys_that_it_makes() {
    let ground = rows().await;
    let costs = [
        ("repeatable read", "update rows set v = v + 1", 0),
        ("repeatable read", "delete from rows where id = 1", 0),
        ("repeatable read", "update rows set id = id + 100 where id = 2", 1),
        ("serializable", "insert into rows values (50, 'a', 1), (51, 'a', 1)", 2),
        ("read uncommitted", "insert into rows values (60, 'a', 1)", 0),
        ("read uncommitted", "truncate rows", 0),
    ];
    for (isolation, sql, met) in costs {
        let mut conn = ground.pool().acquire().await.unwrap().detach();
        exec(&mut conn, &format!("begin isolation level {isolation}; {sql}")).await.unwrap();
        let inserted =
            "select n_tup_ins from pg_stat_xact_user_tables where relid = 'es_undo.locks'::regclass";
        let inserted: i64 = sqlx::query_scalar(inserted).fetch_one(&mut conn).await.unwrap();
        assert_eq!(inserted, met, "{isolation}: {sql}");
        exec(&mut conn, "commit").await.unwrap();
    }
}
