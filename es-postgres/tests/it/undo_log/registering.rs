//! Which tables are tracked, and which are refused, by name.

use es_core::ErrorKind;

use super::{Ground, call};

const TABLES: &str = r#"
    create table plain (id int primary key, v int);
    create table "no Key" (v int);
    create table parted (id int primary key) partition by range (id);
    create table part partition of parted for values from (0) to (9);
    create table base (id int primary key);
    create table derived (primary key (id)) inherits (base);
    create table floating (f float8 primary key);
    create table patient (id int primary key deferrable);
    create table ruled (id int primary key);
    create rule "its Rule" as on delete to ruled do instead nothing;
    create table secured (id int primary key);
    alter table secured enable row level security;
    create unlogged table brief (id int primary key);
    create view seen as select * from plain;
    create table parents (id int primary key);
    create table children (id int primary key, parent int references parents on delete cascade);
    create table loud (id int primary key);
    create function loud() returns trigger language plpgsql as $$ begin return null; end $$;
    create trigger "its Trigger" after insert on loud for each statement execute function loud();
    create trigger quiet after insert on loud for each statement when (not es_undo.undoing()) execute function loud();
    create table padded (c bpchar primary key);
    create domain own_bpchar as bpchar;
    create domain own_own_bpchar as own_bpchar;
    create table own_padded (c own_own_bpchar primary key);
    create domain own_char as char(3);
    create table own_padded_well (c own_char primary key);
    create table choosy (id int primary key, n int);
    create trigger at_times before insert on choosy for each row when (not es_undo.undoing() or new.n > 0) execute function loud();
    create trigger but_then before insert on choosy for each row when (new.id = 1 or new.n > 0 and not es_undo.undoing())
        execute function loud();
    create trigger quiet_too before insert on choosy for each row when (not es_undo.undoing() and new.n > 0) execute function loud();
    create trigger quiet_as_well before insert on choosy for each row when ((new.n > 0 or new.n < 9) and not es_undo.undoing())
        execute function loud();"#;

const BLIND: &str =
    "create collation blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    create table blindly (id text collate blind primary key)";

#[tokio::test]
async fn what_cannot_be_restored_is_refused_by_name() {
    let ground = Ground::bare(TABLES).await;
    // A server that was built without ICU knows no such collation.
    let has_icu = ground.try_sql(BLIND).await.is_ok();
    let refused = [
        (r#""no Key""#, r#"public."no Key" has no primary key"#),
        ("parted", "public.parted is partitioned"),
        ("part", "public.part is a partition"),
        ("base", "public.base inherits, or is inherited from"),
        ("derived", "public.derived inherits, or is inherited from"),
        ("floating", "column f of the primary key of public.floating has type double precision"),
        ("blindly", "column id of the primary key of public.blindly has a collation"),
        ("patient", "public.patient has a primary key that is deferrable"),
        ("ruled", r#"public.ruled has the rule "its Rule""#),
        ("secured", "public.secured has row security"),
        ("brief", "public.brief is temporary or unlogged"),
        ("seen", "public.seen is no table"),
        (
            "parents",
            "rows of public.children go or change with those of public.parents (children_parent_fkey)",
        ),
        ("loud", r#"trigger "its Trigger" of public.loud would fire again"#),
        ("padded", "column c of the primary key of public.padded has type character"),
        ("own_padded", "column c of the primary key of public.own_padded has type public.own_own_bpchar"),
        ("choosy", "trigger at_times of public.choosy would fire again"),
        ("choosy", "trigger but_then of public.choosy would fire again"),
        ("pg_class", "pg_class is of the system"),
        ("es_undo.locks", "es_undo.locks is of the system"),
        ("nothing", r#"relation "nothing" does not exist"#),
    ];
    for (table, says) in refused.into_iter().filter(|(table, _)| has_icu || *table != "blindly") {
        // All of them or none.
        let error = ground.log.track(&["plain", table]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
        assert!(error.to_string().contains(says), "{table}: {error}");
        assert!(!error.to_string().contains("quiet"), "{error}");
        assert_eq!(ground.count("es_undo.tables").await, 0);
    }
    ground.log.track(&["own_padded_well"]).await.unwrap();
    ground.log.untrack("own_padded_well").await.unwrap();
    ground.log.track(&["parents", "children"]).await.unwrap();
    let error = ground.log.untrack("children").await.unwrap_err().to_string();
    assert!(error.contains("go or change with those of public.parents, which is tracked"), "{error}");
    ground.log.untrack("parents").await.unwrap();
    ground.log.untrack("children").await.unwrap();
    let left =
        "pg_proc where pronamespace = 'es_undo'::regnamespace and proname ~ '^(insert|update|delete)_'";
    assert_eq!(ground.count(left).await, 0);
    assert_eq!(ground.count("pg_trigger where tgname like 'es_undo%'").await, 0);
}

#[tokio::test]
async fn a_table_is_tracked_from_then_on_and_until_it_is_decided() {
    let ground =
        Ground::bare("create table rows (id int primary key, v int); insert into rows values (1, 1)").await;
    let (before, call) = (call(), call());
    ground.runs(&before, &["update rows set v = 2"]).await;
    ground.log.track(&["rows"]).await.unwrap();
    // Twice is once.
    ground.log.track(&["public.rows"]).await.unwrap();
    ground.log.install().await.unwrap();
    ground.undo(&before).await.unwrap();
    assert_eq!(ground.all(&["rows"]).await, ["rows (1,2)"]);
    ground.runs(&call, &["update rows set v = 3"]).await;
    let error = ground.log.untrack("rows").await.unwrap_err().to_string();
    assert!(error.contains(&format!("public.rows has images of run {}", call.run())), "{error}");
    ground.undo(&call).await.unwrap();
    ground.log.untrack("rows").await.unwrap();
    let after = super::call();
    ground.runs(&after, &["update rows set v = 4"]).await;
    ground.assert_over().await;
}

#[tokio::test]
async fn names_of_the_user_are_never_taken_for_sql() {
    let make = r#"create schema "a'b$body$";
        create table "a'b$body$"."t %1$s {keys} ""x""" ("k '%2$s $trigger$" int, "v ""; drop table x --" text, "$body$" text,
            primary key ("k '%2$s $trigger$", "$body$"));
        insert into "a'b$body$"."t %1$s {keys} ""x""" values (1, 'a', 'b')"#;
    let table = r#""a'b$body$"."t %1$s {keys} ""x""""#;
    let ground = Ground::of(make, &[table]).await;
    let (was, call) = (ground.all(&[table]).await, call());
    let changes = [
        format!(r#"update {table} set "v ""; drop table x --" = 'c'"#),
        format!(r#"update {table} set "$body$" = 'd'"#),
        format!("insert into {table} values (2, 'x', 'y')"),
    ];
    ground.runs(&call, &changes.each_ref().map(String::as_str)).await;
    assert!(ground.try_sql(&format!("delete from {table}")).await.is_err());
    ground.undo(&call).await.unwrap();
    assert_eq!(ground.all(&[table]).await, was);
    ground.assert_over().await;
}

#[tokio::test]
async fn a_call_cannot_truncate_what_is_tracked() {
    let ground = Ground::of("create table rows (id int primary key)", &["rows"]).await;
    let mut tx = ground.begin(&call()).await;
    let error = super::exec(&mut tx, "truncate rows").await.unwrap_err();
    assert!(error.to_string().contains("TRUNCATE cannot be undone, use DELETE"), "{error}");
}

#[tokio::test]
async fn a_database_without_the_log_says_what_to_do() {
    let database = es_postgres::testing::database().await;
    let log = es_postgres::PgUndoLog::new(sqlx::PgPool::connect(database.url()).await.unwrap());
    let without = es_core::guard::check(&log).await.unwrap_err();
    assert!(without.to_string().contains("`PgUndoLog::install`"), "{without}");
    assert!(log.track(&["x"]).await.unwrap_err().to_string().contains("`PgUndoLog::install`"));
    let (one, two) = tokio::join!(log.install(), log.install());
    one.and(two).unwrap();
    es_core::guard::check(&log).await.unwrap();
    sqlx::query("update es_undo.about set format = 4").execute(log.pool()).await.unwrap();
    let newer = log.install().await.unwrap_err();
    assert!(newer.to_string().contains("has format 4, this program knows 3"), "{newer}");
}

/// What is done to a table that is tracked, so that it is not noted any more, or not by all ways to write to it.
#[tokio::test]
async fn tables_that_are_not_noted_any_more_are_found_when_a_program_starts() {
    let make = "create table rows (id int primary key, v int); insert into rows values (1, 1);
        create table all_rows (id int not null, v int); create table parted (id int primary key, v int) partition by range (id)";
    let done = [
        ("alter table rows inherit all_rows", "public.rows inherits"),
        ("alter table parted attach partition rows for values from (0) to (9)", "public.rows is a partition"),
        ("create table derived () inherits (rows)", "public.rows inherits"),
        ("alter table rows enable row level security", "public.rows has row security"),
        ("create rule its as on delete to rows do instead nothing", "public.rows has the rule its"),
        ("alter table rows disable trigger user", "trigger es_undo_update of public.rows is switched off"),
        (
            "alter table rows enable replica trigger es_undo_insert",
            "trigger es_undo_insert of public.rows is switched off",
        ),
        ("drop trigger es_undo_delete on rows", "public.rows has lost its trigger es_undo_delete"),
        (
            "alter table rows rename id to key",
            "trigger es_undo_insert of public.rows is for other columns of keys",
        ),
        (
            "alter table rows add unique (v)",
            "trigger es_undo_insert of public.rows is for other columns of keys",
        ),
    ];
    for (sql, says) in done {
        let ground = Ground::of(make, &["rows"]).await;
        let call = call();
        ground.runs(&call, &["update rows set v = 2"]).await;
        es_core::guard::check(&ground.log).await.unwrap();
        ground.sql(sql).await;
        let error = es_core::guard::check(&ground.log).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
        assert!(error.to_string().contains(says), "{sql}: {error}");
        // Nor is anything undone there.
        let why = super::blocked(ground.undo(&call).await);
        assert!(why.contains(says) || why.contains("has other columns"), "{sql}: {why}");
        assert_eq!(ground.count("only rows where v = 2").await, 1, "{sql}");
    }
}

#[tokio::test]
async fn a_table_that_is_made_again_is_tracked_again() {
    let make = "create table rows (id int primary key, v int); insert into rows values (1, 1)";
    let ground = Ground::of(make, &["rows"]).await;
    ground.sql(&format!("drop table rows; {make}")).await;
    let error = es_core::guard::check(&ground.log).await.unwrap_err().to_string();
    assert!(
        error.contains("public.rows is gone: track what has come in its place, or untrack it"),
        "{error}"
    );
    ground.log.track(&["rows"]).await.unwrap();
    es_core::guard::check(&ground.log).await.unwrap();
    assert_eq!(ground.count("es_undo.tables").await, 1);
    ground.sql("drop table rows").await;
    assert!(ground.log.untrack("rows").await.is_err());
    ground.log.untrack("public.rows").await.unwrap();
    es_core::guard::check(&ground.log).await.unwrap();
}

/// A trigger that was switched off is on again, and what is unique by now is kept.
#[tokio::test]
async fn a_table_that_is_tracked_again_is_noted_as_it_is_now() {
    let ground = Ground::of(
        "create table rows (id int primary key, v int); insert into rows values (1, 1)",
        &["rows"],
    )
    .await;
    ground.sql("alter table rows disable trigger es_undo_update; alter table rows add unique (v)").await;
    ground.log.track(&["rows"]).await.unwrap();
    es_core::guard::check(&ground.log).await.unwrap();
    let call = call();
    ground.runs(&call, &["update rows set v = 2"]).await;
    assert_eq!(super::code(&ground.try_sql("insert into rows values (2, 1)").await.unwrap_err()), "ESU02");
    ground.undo(&call).await.unwrap();
    ground.assert_over().await;
}
