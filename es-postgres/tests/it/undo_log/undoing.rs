//! What an undo takes back, and when it does not.

use es_core::guard::{self, GuardError, Guarded};
use es_core::{ErrorKind, Timestamp};
use sqlx::Connection as _;

use super::{Call, Ground, blocked, call, exec, left, new_run};

const ITEMS: &str = r#"create schema "Sh op";
    create table "Sh op"."It""ems" (
        shop int, "Name" text, left_over numeric default 5, seen timestamptz default '2024-02-03 04:05:06+07',
        id int generated always as identity, twice int generated always as (shop * 2) stored,
        primary key (shop, "Name"));
    insert into "Sh op"."It""ems" (shop, "Name") values (1, 'tea'), (2, 'a"b''\'), (3, 'ä'), (4, 'd')"#;
const ITEMS_TABLE: &str = r#""Sh op"."It""ems""#;

async fn items() -> Ground {
    Ground::of(ITEMS, &[ITEMS_TABLE]).await
}

/// Of every kind, some rows more than once.
const CHANGES: [&str; 6] = [
    r#"update "Sh op"."It""ems" set left_over = left_over + 1 where shop < 3"#,
    r#"update "Sh op"."It""ems" set left_over = null, seen = 'infinity' where shop < 3"#,
    r#"update "Sh op"."It""ems" set shop = shop + 10 where shop = 2"#,
    r#"delete from "Sh op"."It""ems" where shop = 4"#,
    r#"insert into "Sh op"."It""ems" (shop, "Name") values (4, 'new'), (5, 'e')"#,
    r#"delete from "Sh op"."It""ems" where shop = 5"#,
];

#[tokio::test]
async fn what_a_call_has_changed_is_taken_back() {
    let ground = items().await;
    let (was, call) = (ground.all(&[ITEMS_TABLE]).await, call());
    ground.runs(&call, &CHANGES).await;
    assert_ne!(ground.all(&[ITEMS_TABLE]).await, was);
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&[ITEMS_TABLE]).await, was);
    ground.assert_over().await;
    // Once: what comes after it is refused, and a second undo has nothing to do.
    assert!(matches!(call.guard(&ground.log).forward().await, Err(GuardError::Hanging)));
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&[ITEMS_TABLE]).await, was);
}

#[tokio::test]
async fn what_is_confirmed_stays_and_is_free() {
    let ground = items().await;
    let call = call();
    ground.runs(&call, &CHANGES).await;
    let changed = ground.all(&[ITEMS_TABLE]).await;
    ground.confirm(&call).await;
    ground.assert_over().await;
    assert_eq!(ground.all(&[ITEMS_TABLE]).await, changed);
    assert!(matches!(call.guard(&ground.log).undo(true).await, Err(GuardError::Confirmed)));
    ground.sql(r#"update "Sh op"."It""ems" set left_over = 1"#).await;
}

#[tokio::test]
async fn a_call_that_comes_twice_is_noted_once() {
    let ground = items().await;
    let call = call();
    ground.runs(&call, &CHANGES).await;
    let noted = ground.noted().await;
    assert!(
        matches!(call.guard(&ground.log).forward().await.unwrap(), Guarded::Done(output) if output == "1")
    );
    assert_eq!(ground.noted().await, noted);
}

#[tokio::test]
async fn what_is_rolled_back_within_a_call_is_not_undone() {
    let ground = items().await;
    let (was, call) = (ground.all(&[ITEMS_TABLE]).await, call());
    let mut tx = ground.begin(&call).await;
    exec(&mut tx, CHANGES[0]).await.unwrap();
    let mut inner = tx.begin().await.unwrap();
    exec(&mut inner, r#"update "Sh op"."It""ems" set left_over = 77"#).await.unwrap();
    exec(&mut inner, r#"delete from "Sh op"."It""ems""#).await.unwrap();
    inner.rollback().await.unwrap();
    exec(&mut tx, CHANGES[3]).await.unwrap();
    call.guard(&ground.log).done(tx, "1".to_owned()).await.unwrap();
    assert_eq!((ground.noted().await, ground.count("es_undo.locks").await), (3, 3));
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&[ITEMS_TABLE]).await, was);
}

#[tokio::test]
async fn a_call_that_is_rolled_back_leaves_nothing() {
    let ground = items().await;
    let (was, call) = (ground.all(&[ITEMS_TABLE]).await, call());
    let mut tx = ground.begin(&call).await;
    exec(&mut tx, CHANGES[0]).await.unwrap();
    let refused = call.guard(&ground.log).refused(tx, "no".to_owned()).await.unwrap();
    assert_eq!((refused, ground.all(&[ITEMS_TABLE]).await), (Err("no".to_owned()), was));
    ground.assert_over().await;
    // The connection notes nothing any more.
    left(&ground.log).await;
    ground.sql(CHANGES[0]).await;
    ground.assert_over().await;
}

/// Each changes one row many times, in the time that one needs for that.
#[tokio::test]
async fn fifty_changes_of_a_row_by_three_calls_of_a_run_are_undone_in_their_order() {
    let make = "create table rows (id int primary key, v int, w text); insert into rows values (1, 0, 'w')";
    let ground = Ground::of(make, &["rows"]).await;
    let (was, run) = (ground.all(&["rows"]).await, new_run());
    let calls = ["order/a", "order/b", "order/c"].map(|name| Call::of(run, name));
    for (call, (n, set)) in
        calls.iter().zip([(20, "v = i % 3"), (20, "w = 'w' || i % 2"), (10, "v = i, w = i")])
    {
        let many =
            format!("do $$ begin for i in 1..{n} loop update rows set {set} where id = 1; end loop; end $$");
        ground.runs(call, &[&many]).await;
    }
    // In whichever order they come, those whose turn it is not wait.
    for of in [&calls[0], &calls[1]] {
        let error = ground.undo(of).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    }
    for of in [2, 1, 0] {
        ground.undo(&calls[of]).await.unwrap();
    }
    assert_eq!(ground.all(&["rows"]).await, was);
    ground.assert_over().await;
}

#[tokio::test]
async fn a_row_that_has_changed_since_is_shown_and_nothing_is_half_undone() {
    let make = "create table rows (id int primary key, v text); insert into rows values (1, 'a'), (2, 'b'), (3, 'c')";
    let ground = Ground::of(make, &["rows"]).await;
    let (was, call) = (ground.all(&["rows"]).await, call());
    let changes =
        ["update rows set v = v || '!'", "insert into rows values (4, 'd')", "delete from rows where id = 3"];
    ground.runs(&call, &changes).await;
    ground.past_the_triggers("update rows set v = 'x, \"y\"' where id = 2").await;
    let dirty = ground.all(&["rows"]).await;
    let why = blocked(ground.undo(&call).await);
    let says =
        r#"row (2) of public.rows has changed since (before: (2,b); after: (2,b!); now: (2,"x, ""y"""))"#;
    assert_eq!(why, says);
    assert_eq!(ground.all(&["rows"]).await, dirty, "nothing of it is undone");
    let rows = ground.log.rows(call.run(), call.name()).await.unwrap();
    let shown: Vec<_> =
        rows.iter().map(|row| (&*row.key, row.before.as_deref(), row.after.as_deref())).collect();
    let expected = [
        ("(2)", Some("(2,b)"), Some("(2,b!)")),
        ("(1)", Some("(1,a)"), Some("(1,a!)")),
        ("(3)", Some("(3,c)"), None),
        ("(4)", None, Some("(4,d)")),
    ];
    assert_eq!(shown, expected);
    assert!(rows[0].has_changed && rows[1..].iter().all(|row| !row.has_changed));
    assert_eq!(rows[0].now.as_deref(), Some(r#"(2,"x, ""y""")"#));
    // Put right by a person, in either way.
    ground.past_the_triggers("update rows set v = 'b' where id = 2").await;
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&["rows"]).await, was);
    ground.assert_over().await;
}

#[tokio::test]
async fn a_table_that_has_another_shape_by_now_waits_for_a_person() {
    let make = "create table rows (id int primary key, v text); insert into rows values (1, 'a')";
    let ground = Ground::of(make, &["rows"]).await;
    let call = call();
    ground.runs(&call, &["update rows set v = 'b'"]).await;
    ground.sql("alter table rows add column w int").await;
    let why = blocked(ground.undo(&call).await);
    assert!(why.contains("public.rows has other columns than when its rows were noted"), "{why}");
    assert_eq!(ground.all(&["rows"]).await, ["rows (1,b,)"]);
    // What is known of it is shown all the same.
    let shown = ground.log.rows(call.run(), call.name()).await.unwrap();
    assert_eq!(shown.len(), 1);
    assert_eq!((shown[0].before.as_deref(), shown[0].after.as_deref()), (Some("(1,a)"), Some("(1,b)")));
    assert_eq!((shown[0].now.as_deref(), shown[0].has_changed), (None, true));
    ground.sql("alter table rows drop column w").await;
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&["rows"]).await, ["rows (1,a)"]);
    // A column that came since is noted from the next call on.
    ground.sql("alter table rows add column x int default 3").await;
    let second = super::call();
    ground.runs(&second, &["update rows set x = 4"]).await;
    ground.undo(&second).await.unwrap();
    assert_eq!(ground.all(&["rows"]).await, ["rows (1,a,3)"]);
}

/// Row text says nothing of columns: as many of them, of types that can be read, are no proof.
#[tokio::test]
async fn columns_that_were_exchanged_since_are_not_exchanged_in_a_row() {
    let make = "create table rows (id int primary key, a text, b text, at timestamp);
        insert into rows values (1, 'A', 'B', '2024-01-01 12:00')";
    let others = [
        ["alter table rows drop a; alter table rows add a text", "alter table rows drop a"],
        ["alter table rows rename a to c; alter table rows rename b to a", "alter table rows drop a"],
        ["alter table rows alter at type timestamptz", "alter table rows drop at"],
    ];
    for [other, back] in others {
        let ground = Ground::of(make, &["rows"]).await;
        let call = call();
        ground.runs(&call, &["delete from rows"]).await;
        ground.sql(other).await;
        let why = blocked(ground.undo(&call).await);
        assert!(
            why.contains("public.rows has other columns than when its rows were noted"),
            "{other}: {why}"
        );
        assert_eq!(ground.count("rows").await, 0, "{other}");
        ground.sql(back).await;
        blocked(ground.undo(&call).await);
        ground.sql("drop table rows").await;
        let why = blocked(ground.undo(&call).await);
        assert!(why.contains("is gone"), "{other}: {why}");
        assert_eq!(ground.log.rows(call.run(), call.name()).await.unwrap().len(), 1, "{other}");
    }
}

#[tokio::test]
async fn a_trigger_that_came_since_waits_for_a_person() {
    let make = "create table rows (id int primary key, v text); insert into rows values (1, 'a');
        create function loud() returns trigger language plpgsql as $$ begin new.v = upper(new.v); return new; end $$";
    let ground = Ground::of(make, &["rows"]).await;
    let call = call();
    ground.runs(&call, &["update rows set v = 'b'"]).await;
    ground.sql("create trigger loud before update on rows for each row execute function loud()").await;
    let why = blocked(ground.undo(&call).await);
    assert!(why.contains("trigger loud of public.rows would fire again"), "{why}");
    ground.sql("drop trigger loud on rows").await;
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&["rows"]).await, ["rows (1,a)"]);
}

#[tokio::test]
async fn what_is_forgotten_is_forgotten_with_its_guard_rows() {
    let ground = items().await;
    let call = call();
    ground.runs(&call, &CHANGES).await;
    guard::forget(&ground.log, Timestamp::MAX).await.unwrap();
    ground.assert_over().await;
    assert!(matches!(call.guard(&ground.log).undo(true).await, Err(GuardError::Expired)));
}

#[tokio::test]
async fn a_call_that_ends_its_noting_is_refused() {
    let ground = items().await;
    let was = ground.all(&[ITEMS_TABLE]).await;
    let call = call();
    let mut tx = ground.begin(&call).await;
    exec(&mut tx, "reset all").await.unwrap();
    exec(&mut tx, CHANGES[0]).await.unwrap();
    let Err(GuardError::Store(error)) = call.guard(&ground.log).done(tx, "1".to_owned()).await else {
        panic!("it was committed")
    };
    assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
    assert_eq!(ground.all(&[ITEMS_TABLE]).await, was);
}

/// Text with a backslash is another one there.
#[tokio::test]
async fn an_undo_is_the_same_where_backslashes_escape() {
    let make =
        "create table rows (id int primary key); create function quiet() returns trigger language plpgsql
            as $$ begin return null; end $$;
        create trigger quiet after insert on rows when (not es_undo.undoing()) execute function quiet()";
    let ground = Ground::of(make, &["rows"]).await;
    let call = call();
    ground.runs(&call, &["insert into rows values (1)"]).await;
    let undo = format!("select es_undo.restore('{}', '{}')", call.run(), call.name());
    ground.sql(&format!("set standard_conforming_strings = off; {undo}")).await;
    ground.assert_over().await;
}

#[tokio::test]
async fn an_undo_waits_for_no_later_call_that_has_nothing_to_do_with_what_is_in_its_way() {
    let make = "create table orders (id int primary key, code text unique); create table others (id int primary key);
        create table parts (id int primary key, of_order int references orders);
        insert into orders values (1, 'a'), (2, 'b'); insert into parts values (1, 1)";
    let ground = Ground::of(make, &["orders", "others", "parts"]).await;
    let was = ground.all(&["orders", "parts"]).await;
    // What is done first, what is done later, what somebody else does, what the undo then says, and how that is set right.
    let cases = [
        (
            ["insert into orders values (3, 'c')", "insert into others values (1)"],
            "insert into parts values (9, 3)",
            r#"violates foreign key constraint "parts_of_order_fkey" on table "parts""#,
            "delete from parts where id = 9",
        ),
        (
            // A part that is gone refers to nothing that somebody else has made.
            ["insert into orders values (3, 'c')", "update orders set code = 'bb' where id = 2"],
            "insert into parts values (9, 3)",
            r#"violates foreign key constraint "parts_of_order_fkey" on table "parts""#,
            "delete from parts where id = 9",
        ),
        (
            ["delete from parts where id = 1", "insert into parts values (5, 2)"],
            "delete from orders where id = 1",
            r#"violates foreign key constraint "parts_of_order_fkey""#,
            "insert into orders values (1, 'a')",
        ),
        (
            ["update orders set code = 'aa' where id = 1", "insert into others values (1)"],
            "set session_replication_role = replica; update orders set code = 'a' where id = 2",
            r#"violates unique constraint "orders_code_key""#,
            "set session_replication_role = replica; update orders set code = 'b' where id = 2",
        ),
    ];
    for ([first, later], other, says, right) in cases {
        let run = new_run();
        let [a, c] = ["order/a", "order/c"].map(|name| Call::of(run, name));
        ground.runs(&a, &[first]).await;
        ground.runs(&c, &[later]).await;
        ground.sql(other).await;
        let why = blocked(ground.undo(&a).await);
        assert!(why.contains(says), "{first}; {later}; {other}: {why}");
        ground.undo(&c).await.unwrap();
        ground.sql(right).await;
        ground.undo(&a).await.unwrap();
        assert_eq!(ground.all(&["orders", "parts"]).await, was, "{first}; {later}; {other}");
        ground.assert_over().await;
    }
}

/// In both directions, and for what is unique.
#[tokio::test]
async fn an_undo_waits_for_the_later_call_that_is_in_its_way() {
    let make = "create table orders (id int primary key, code text unique);
        create table parts (id int primary key, of_order int references orders);
        insert into orders values (1, 'a'), (2, 'b'); insert into parts values (1, 1)";
    let ground = Ground::of(make, &["orders", "parts"]).await;
    let was = ground.all(&["orders", "parts"]).await;
    let cases = [
        ["insert into orders values (3, 'c')", "insert into parts values (2, 3)"],
        ["delete from parts where id = 1", "delete from orders where id = 1"],
        ["update parts set of_order = 2 where id = 1", "delete from orders where id = 1"],
        ["update orders set code = 'aa' where id = 1", "update orders set code = 'a' where id = 2"],
    ];
    for [first, later] in cases {
        let run = new_run();
        let [a, c] = ["order/a", "order/c"].map(|name| Call::of(run, name));
        ground.runs(&a, &[first]).await;
        ground.runs(&c, &[later]).await;
        let error = ground.undo(&a).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{first}; {later}: {error}");
        // The database is well.
        assert!(error.is_taken() && !error.is_in_progress());
        let why = es_core::chain(&error);
        assert!(why.contains("it is undone once order/c is"), "{first}; {later}: {why}");
        ground.undo(&c).await.unwrap();
        ground.undo(&a).await.unwrap();
        assert_eq!(ground.all(&["orders", "parts"]).await, was, "{first}; {later}");
        ground.assert_over().await;
    }
}
