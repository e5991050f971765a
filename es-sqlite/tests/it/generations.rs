//! Generations of a projection's tables in one file: names, references, who sees what, and what a failure leaves.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use es_core::BoxError;
use es_core::store::{
    Backend as _, Builds as _, CURRENT, Commit, CommitError, Difference, EventStore as _, Generation, INLINE,
    Position, RowStore as _, RowWrite, Sample, StoreError, Tables, Transaction as _,
};
use es_sqlite::{SqliteBackend, Tx};
use sqlx::AssertSqlSafe;

use crate::files::commit;

const IDLE: Duration = Duration::from_secs(1);

const ACCOUNTS: Tables = Tables {
    name: "accounts",
    version: 1,
    schema: "create table owners (id integer primary key autoincrement, name text not null unique) strict;
             create table balances (
                 owner integer not null primary key references owners (id),
                 amount integer not null,
                 doubled integer generated always as (amount * 2) stored
             ) strict;
             create index if not exists main.balances_by_amount on balances (amount) where amount > 0;
             create unique index [by \"owner] on balances (owner, amount);
             create table changes (owner integer references balances (owner), amount integer);
             create trigger if not exists balances_changed after insert on balances
             begin insert into changes values (new.owner, new.amount); end;
             insert into owners (id, name) values (7, 'the bank''s own');
             insert into balances (owner, amount) values (7, 0)",
};

async fn store() -> SqliteBackend {
    SqliteBackend::open(":memory:").await.unwrap()
}

/// A store with these generations; the first one is the current one.
async fn with(tables: &Tables, generations: impl IntoIterator<Item = Generation>) -> SqliteBackend {
    let store = store().await;
    for generation in generations {
        store.install(tables, generation).await.unwrap();
    }
    store
}

async fn run(tx: &mut Tx, sql: impl Into<String>) {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(&mut **tx).await.unwrap();
}

/// Runs SQL as a handler of one generation does.
pub(crate) async fn write(
    store: &SqliteBackend,
    tables: &Tables,
    generation: Generation,
    sql: impl Into<String>,
) {
    let mut tx = store.begin_at(tables, generation, IDLE).await.unwrap();
    run(&mut tx, sql).await;
    tx.commit().await.unwrap();
}

/// Runs SQL as anybody does.
pub(crate) async fn own(store: &SqliteBackend, sql: &str) {
    let mut tx = store.begin().await.unwrap();
    run(&mut tx, sql).await;
    tx.commit().await.unwrap();
}

async fn number(store: &SqliteBackend, sql: impl Into<String>) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.into())).fetch_one(&store.db()).await.unwrap()
}

pub(crate) async fn texts(store: &SqliteBackend, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&store.db()).await.unwrap()
}

/// The whole schema, by name, without what SQLite makes by itself.
async fn schema(store: &SqliteBackend) -> BTreeMap<String, String> {
    let sql = "select name, tbl_name || ': ' || sql from sqlite_schema where sql is not null";
    let rows = sqlx::query_as::<_, (String, String)>(sql).fetch_all(&store.db()).await.unwrap();
    rows.into_iter().collect()
}

async fn switch(store: &SqliteBackend, tables: &Tables, to: Generation) {
    store.switch(tables, to, Commit::default()).await.unwrap();
}

fn row(table: &str, key: &str, rev: u64, data: &'static str) -> Commit {
    let row = RowWrite { table: table.into(), key: key.to_owned(), rev, row: Some(data.into()) };
    Commit { rows: vec![row], ..Commit::default() }
}

pub(crate) fn misuse<T: std::fmt::Debug>(refused: Result<T, impl Into<CommitError>>) -> String {
    match refused.map_err(Into::into) {
        Err(CommitError::Store(StoreError::Misuse { what })) => what,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_generation_has_tables_keys_indexes_triggers_and_rows_of_its_own() {
    let store = with(&ACCOUNTS, [1, 2, 3]).await;
    let made = schema(&store).await;
    for (name, text) in [
        (
            "balances_by_amount~1.2",
            "balances~1.2: CREATE INDEX \"balances_by_amount~1.2\" on \"balances~1.2\" (amount)",
        ),
        (
            "by \"owner~1.3",
            "balances~1.3: CREATE UNIQUE INDEX \"by \"\"owner~1.3\" on \"balances~1.3\" (owner, amount)",
        ),
        ("balances_changed~1.2", "insert into \"changes~1.2\" values"),
        ("balances~1.3", "references \"owners~1.3\" (id)"),
        ("changes~1.2", "references \"balances~1.2\" (owner)"),
    ] {
        assert!(made[name].contains(text), "{name}: {}", made[name]);
    }
    for (table, expected) in [("balances~1.2", 1), ("changes~1.2", 1), ("owners~1.3", 1), ("changes", 1)] {
        let count = number(&store, format!("select count(*) from \"{table}\"")).await;
        assert_eq!(count, expected, "rows that the schema puts into {table}");
    }
    write(&store, &ACCOUNTS, 2, "insert into owners (name) values ('ada')").await;
    assert_eq!(
        number(&store, "select max(id) from \"owners~1.2\"").await,
        8,
        "it counts on from the schema's rows"
    );
}

#[tokio::test]
async fn references_mean_the_tables_of_their_own_generation() {
    let store = with(&ACCOUNTS, [1, 2]).await;
    let before = schema(&store).await;
    let pay =
        "insert into owners (id, name) values (1, 'ada'); insert into balances (owner, amount) values (1, 5)";
    for generation in [2, 1] {
        write(&store, &ACCOUNTS, generation, pay).await;
        assert_eq!(
            number(&store, "select count(*) from changes where amount = 5").await,
            2 - i64::from(generation)
        );
        assert_eq!(number(&store, "select amount from \"changes~1.2\" where owner = 1").await, 5);
    }
    assert_eq!(schema(&store).await.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for round in 0..3 {
        switch(&store, &ACCOUNTS, 2 - round % 2).await;
        let broken = "select count(*) from pragma_foreign_key_check";
        assert_eq!(number(&store, broken).await, 0);
        let parent = "select distinct \"table\" from pragma_foreign_key_list('balances')";
        assert_eq!(texts(&store, parent).await, ["owners"]);
    }
    let query = "insert into balances (owner, amount) values (2, 9)";
    own(&store, query).await;
    assert_eq!(number(&store, "select count(*) from changes where amount = 9").await, 1);
    assert_eq!(number(&store, "select count(*) from \"changes~1.1\" where amount = 9").await, 0);
}

#[tokio::test]
async fn what_others_refer_to_is_the_name() {
    let store = with(&ACCOUNTS, [1, 2]).await;
    own(
        &store,
        "create view rich as select balances.owner, amount from balances where amount > 100;
         create table notes (owner integer references balances (owner), text text);
         create table log (amount integer);
         create trigger noted after insert on notes
         begin insert into log select amount from balances where owner = new.owner; end",
    )
    .await;
    let theirs = || async {
        let mut all = schema(&store).await;
        all.retain(|name, _| ["rich", "notes", "noted", "log"].contains(&name.as_str()));
        all
    };
    let before = theirs().await;
    let unquoted = |all: BTreeMap<String, String>| {
        all.into_iter().map(|(name, sql)| (name, sql.replace('"', ""))).collect::<BTreeMap<_, _>>()
    };
    write(&store, &ACCOUNTS, 2, "insert into balances (owner, amount) values (1, 222)").await;
    assert_eq!(unquoted(theirs().await), unquoted(before.clone()), "as if nothing had been renamed");
    own(&store, "insert into balances (owner, amount) values (1, 111)").await;
    for (to, amount) in [(2, 222), (1, 111), (2, 222)] {
        switch(&store, &ACCOUNTS, to).await;
        assert_eq!(unquoted(theirs().await), unquoted(before.clone()));
        assert_eq!(number(&store, "select amount from rich").await, amount);
        own(&store, "insert into notes values (1, 'x')").await;
        assert_eq!(number(&store, "select amount from log order by rowid desc limit 1").await, amount);
    }
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
    store.uninstall(&ACCOUNTS, 1, Commit::default()).await.unwrap();
    assert_eq!(number(&store, "select amount from rich").await, 222);
}

#[tokio::test]
async fn names_of_any_kind_stay_what_they_are() {
    let tables = Tables {
        name: "strange's/\"names\"",
        version: 4,
        schema:
            "create table \"a \"\"b\"\" c\" (\"key ' \"\" x\" text primary key, [select] blob) without rowid;
                 create table 'from' (`group` references \"a \"\"b\"\" c\");
                 create index \"in~2\" on \"from\" (\"group\");
                 create trigger [on'] after insert on \"from\" begin
                     insert or ignore into \"a \"\"b\"\" c\" values (new.\"group\", x'00ff'); end;
                 create table größe~1 (x);
                 create table \"~\" (x)"
                .trim_start(),
    };
    // A tilde is no letter of a plain name.
    let refused = misuse(store().await.install(&tables, 1).await);
    assert!(refused.contains("does not run"), "{refused}");
    let schema_sql = tables.schema.replace("größe~1", "\"größe~1\"").leak();
    let tables = Tables { schema: schema_sql, ..tables };
    let store = with(&tables, [1, 2, 3]).await;
    let before = schema(&store).await;
    for generation in [1, 2, 3] {
        write(&store, &tables, generation, format!("insert into \"from\" values ('k{generation}')")).await;
    }
    for to in [3, 1, 2] {
        switch(&store, &tables, to).await;
        let keys = texts(&store, "select \"key ' \"\" x\" from \"a \"\"b\"\" c\"").await;
        assert_eq!(keys, [format!("k{to}")]);
    }
    switch(&store, &tables, 1).await;
    assert_eq!(schema(&store).await.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    let [_, from, ..] = &store.compare(&tables, 1, 3, 9).await.unwrap()[..] else { panic!("four tables") };
    let sample =
        |old: Option<&str>, new: Option<&str>| Sample { old: old.map(Into::into), new: new.map(Into::into) };
    assert_eq!(
        from.samples,
        [sample(Some(r#"{"group":"k1"}"#), None), sample(None, Some(r#"{"group":"k3"}"#))]
    );
    for generation in [2, 3] {
        store.uninstall(&tables, generation, Commit::default()).await.unwrap();
    }
    assert!(!schema(&store).await.keys().any(|name| name.ends_with("~1.3")));
}

const PAIRS: Tables = Tables {
    name: "pairs",
    version: 1,
    schema: "create table lefts (n integer primary key, generation integer);
             create table rights (n integer primary key, generation integer)",
};

/// Every table has one more row with each transaction, and all of them say of which generation they are.
const SEEN: &str = "select (select count(*) from lefts) - (select count(*) from rights),
                           (select min(generation) from lefts), (select max(generation) from rights)";

fn pair(generation: Generation) -> String {
    format!(
        "insert into lefts (generation) values ({generation}); insert into rights (generation) values ({generation})"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_whole_generations_beside_writers_and_switches() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteBackend::open(folder.path().join("store.db")).await.unwrap();
    for generation in [1, 2] {
        store.install(&PAIRS, generation).await.unwrap();
        write(&store, &PAIRS, generation, pair(generation)).await;
    }
    for switches in [false, true] {
        let (done, mut reads) = (AtomicBool::new(false), 0);
        let writing = async {
            for round in 0..40 {
                for generation in [2, 1] {
                    write(&store, &PAIRS, generation, pair(generation)).await;
                }
                if switches {
                    switch(&store, &PAIRS, 2 - round % 2).await;
                }
            }
            done.store(true, Ordering::Relaxed);
        };
        let other = SqliteBackend::open(store.path()).await.unwrap();
        let reading = async {
            while !done.load(Ordering::Relaxed) {
                let row = sqlx::query_as::<_, (i64, i64, i64)>(SEEN).fetch_one(&other.db()).await.unwrap();
                assert!(row == (0, 1, 1) || switches && row == (0, 2, 2), "{row:?}");
                reads += 1;
            }
        };
        futures::join!(writing, reading);
        assert!(reads > 0);
    }
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}

/// Drops a future the next time that it waits, after so many times that it was woken; whether it came to its end.
async fn dropped_after<F: Future>(wakes: usize, future: F) -> bool {
    let (mut future, mut left) = (std::pin::pin!(future), wakes);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(true),
        Poll::Pending if left == 0 => Poll::Ready(false),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_dropped_at_any_await_the_names_are_right() {
    let store = with(&ACCOUNTS, [1, 2]).await;
    own(&store, "create view rich as select * from balances").await;
    let plain = || async {
        let mut names = schema(&store).await;
        names.values_mut().for_each(|sql| *sql = sql.replace('"', ""));
        names
    };
    let before = plain().await;
    let pay = "insert into balances (owner, amount) values (1, 5)";
    let (mut finished, mut unfinished) = (0, 0);
    for wakes in 0..60 {
        let all: [std::pin::Pin<Box<dyn Future<Output = ()>>>; 3] = [
            Box::pin(async {
                let mut tx = store.begin_at(&ACCOUNTS, 2, IDLE).await.unwrap();
                run(&mut tx, pay).await;
                run(&mut tx, "delete from balances where owner = 1").await;
                tx.commit().await.unwrap();
            }),
            Box::pin(async {
                let refused = store.switch(&ACCOUNTS, 2, row("v", "k", 99, "never")).await;
                assert!(matches!(refused, Err(CommitError::Fenced { .. })), "{refused:?}");
            }),
            Box::pin(async {
                let refused = store.clear(&ACCOUNTS, 2, row("v", "k", 99, "never")).await;
                assert!(matches!(refused, Err(CommitError::Fenced { .. })), "{refused:?}");
            }),
        ];
        for future in all {
            if dropped_after(wakes, future).await {
                finished += 1;
            } else {
                unfinished += 1;
            }
        }
        store.commit(commit("s")).await.unwrap();
        assert_eq!(plain().await, before, "after {wakes} wakes");
    }
    assert!(finished > 0 && unfinished > 0);
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_is_dropped_is_done_or_not_done() {
    let store = with(&PAIRS, [1, 2]).await;
    own(&store, "create view v as select generation from lefts; create table notes (n references lefts (n))")
        .await;
    for generation in [1, 2] {
        write(&store, &PAIRS, generation, pair(generation)).await;
    }
    let current = "select generation from es_projections where current = 1";
    let mut switched = 0;
    for wakes in 0..80 {
        let before = number(&store, current).await;
        let to = 3 - u32::try_from(before).unwrap();
        let answered = dropped_after(wakes, store.switch(&PAIRS, to, Commit::default())).await;
        store.commit(commit("s")).await.unwrap();
        let now = number(&store, current).await;
        assert!(now == i64::from(to) || !answered, "after {wakes} wakes");
        switched += i64::from(now != before);
        assert_eq!(number(&store, "select generation from v").await, now, "after {wakes} wakes");
        assert_eq!(number(&store, format!("select generation from \"rights~1.{}\"", 3 - now)).await, 3 - now);
        assert_eq!(texts(&store, "select \"table\" from pragma_foreign_key_list('notes')").await, ["lefts"]);
    }
    assert!((1..80).contains(&switched));
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_transaction_that_sqlite_ended_says_so_and_leaves_the_names() {
    let store = with(&ACCOUNTS, [1, 2]).await;
    let before = schema(&store).await;
    let mut tx = store.begin_at(&ACCOUNTS, 2, IDLE).await.unwrap();
    let twice = "insert or rollback into owners (id, name) values (7, 'again')";
    sqlx::query(twice).execute(&mut *tx).await.unwrap_err();
    let refused = misuse(tx.commit().await);
    assert!(refused.contains("has rolled this transaction back"), "{refused}");
    assert_eq!(schema(&store).await, before);
    let mut tx = store.begin_at(&ACCOUNTS, 2, IDLE).await.unwrap();
    run(&mut tx, "delete from changes").await;
    *tx.staged() = row("v", "k", 99, "never");
    assert!(matches!(tx.commit().await, Err(CommitError::Fenced { .. })));
    assert_eq!(schema(&store).await, before);
    assert_eq!(number(&store, "select count(*) from \"changes~1.2\"").await, 1);
}

#[tokio::test]
async fn generations_outlive_the_program_and_an_installation_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    for (round, current, next) in [(1, 1, 3), (2, 3, 17), (3, 17, 1)] {
        let store = SqliteBackend::open(&file).await.unwrap();
        for generation in [1, 2, 3, 17] {
            store.install(&PAIRS, generation).await.unwrap();
            write(&store, &PAIRS, generation, pair(generation)).await;
        }
        assert_eq!(number(&store, "select min(generation) from lefts").await, current);
        assert_eq!(number(&store, "select count(*) from \"rights~1.2\"").await, round);
        switch(&store, &PAIRS, next).await;
    }
}

#[tokio::test]
async fn many_generations_stand_beside_each_other() {
    let store = with(&PAIRS, 1..=30).await;
    for generation in 1..=30 {
        write(&store, &PAIRS, generation, pair(generation)).await;
    }
    for to in [30, 12, 1, 29] {
        switch(&store, &PAIRS, to).await;
        assert_eq!(number(&store, "select sum(generation) from lefts").await, i64::from(to));
    }
    for generation in (1..=30).filter(|generation| *generation != 29) {
        store.uninstall(&PAIRS, generation, Commit::default()).await.unwrap();
        store.uninstall(&PAIRS, generation, Commit::default()).await.unwrap();
    }
    let left = "select name from sqlite_schema where name like '%lefts%' or name like '%rights%'";
    assert_eq!(texts(&store, left).await, ["lefts", "rights"]);
    let refused = misuse(store.uninstall(&PAIRS, 29, Commit::default()).await);
    assert!(refused.contains("is the one that queries read"), "{refused}");
    // The first one again, beside.
    store.install(&PAIRS, 1).await.unwrap();
    assert_eq!(number(&store, "select count(*) from \"lefts~1.1\"").await, 0);
    assert_eq!(number(&store, "select generation from lefts").await, 29);
}

#[tokio::test]
async fn the_first_generation_may_come_later_or_not_at_all() {
    let store = with(&PAIRS, [2]).await;
    write(&store, &PAIRS, 2, pair(2)).await;
    let plain = "select count(*) from sqlite_schema where name = 'lefts'";
    assert_eq!(number(&store, plain).await, 0, "no query reads what nobody has switched to");
    store.install(&PAIRS, 1).await.unwrap();
    write(&store, &PAIRS, 1, pair(1)).await;
    assert_eq!(number(&store, "select generation from lefts").await, 1);
    let store = with(&PAIRS, [2]).await;
    write(&store, &PAIRS, 2, pair(2)).await;
    switch(&store, &PAIRS, 2).await;
    assert_eq!(number(&store, "select generation from lefts").await, 2);
}

#[tokio::test]
async fn a_generation_that_is_not_installed_is_named() {
    let store = with(&PAIRS, [1, 2]).await;
    for refused in [
        misuse(store.begin_at(&PAIRS, 3, IDLE).await),
        misuse(store.switch(&PAIRS, 3, Commit::default()).await),
        misuse(store.compare(&PAIRS, 1, 3, 0).await),
    ] {
        assert_eq!(refused, "generation 3 of pairs/1 is not installed: install it first");
    }
    assert_eq!(number(&store, "select count(*) from lefts").await, 0);
}

#[tokio::test]
async fn a_cleared_generation_is_as_the_schema_makes_it() {
    let store = with(&ACCOUNTS, [1, 2]).await;
    let name = |generation: Generation| ACCOUNTS.rows(generation);
    for (table, rev) in [(name(1), 0), (format!("{}/x", name(1)), 0), (name(10), 0), (name(2), 0)] {
        store.commit(row(&table, "k", rev, "{}")).await.unwrap();
    }
    let fill = "insert into owners (name) values ('ada'); insert into balances (owner, amount) values (8, 5)";
    let before = schema(&store).await;
    for (current, cleared) in [(1, 1), (1, 2), (2, 1), (2, 2), (1, 1)] {
        switch(&store, &ACCOUNTS, current).await;
        for generation in [1, 2] {
            store.clear(&ACCOUNTS, generation, Commit::default()).await.unwrap();
            write(&store, &ACCOUNTS, generation, fill).await;
        }
        let refused = store.clear(&ACCOUNTS, cleared, row("v", "k", 99, "never")).await;
        assert!(matches!(refused, Err(CommitError::Fenced { .. })), "{refused:?}");
        let rows = |generation: Generation| {
            let beside = if current == generation { String::new() } else { format!("~1.{generation}") };
            number(&store, format!("select count(*) from \"balances{beside}\""))
        };
        assert_eq!(rows(cleared).await, 2, "nothing was done");
        store.clear(&ACCOUNTS, cleared, Commit::default()).await.unwrap();
        assert_eq!((rows(cleared).await, rows(3 - cleared).await), (1, 2), "the schema's own row is left");
    }
    assert_eq!(schema(&store).await.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    let left = texts(&store, "select tbl from es_rows order by tbl").await;
    assert_eq!(left, [name(10)]);
}

#[tokio::test]
async fn a_version_is_removed_with_all_its_generations_and_what_fences_its_workers_stays() {
    let store = with(&PAIRS, [1, 2, 3]).await;
    switch(&store, &PAIRS, 2).await;
    let rows = [
        ("pairs/1~2", "k"),
        ("pairs/1~3/x", "k"),
        (CURRENT, "pairs/1"),
        ("checkpoints", "pairs/1"),
        ("checkpoints", "pairs/1~2"),
        ("pairs/10~1", "k"),
        ("pairs/2~1", "k"),
        (CURRENT, "pairs/10"),
        ("checkpoints", "pairs/10~1"),
    ];
    for (table, key) in rows {
        store.commit(row(table, key, 0, "other")).await.unwrap();
    }
    let edited = Tables { schema: "create table lefts (n)", ..PAIRS };
    for refused in [store.install(&edited, 2).await, store.install(&edited, 4).await] {
        assert!(misuse(refused).contains("raise `version`"));
    }
    store.install(&Tables { version: 2, ..PAIRS }, 1).await.unwrap();
    store.remove_version(PAIRS.name, 1, Commit::default()).await.unwrap();
    let names = "select name from sqlite_schema where name like 'lefts%' or name like 'rights%'";
    assert_eq!(texts(&store, names).await, ["lefts", "rights"]);
    assert_eq!(number(&store, "select count(*) from lefts").await, 0);
    let left = texts(&store, "select tbl || ' ' || key from es_rows order by 1").await;
    // What fences the workers of the old version stays, in case that it comes back.
    let kept = [
        "checkpoints pairs/1",
        "checkpoints pairs/10~1",
        "checkpoints pairs/1~2",
        "current pairs/1",
        "current pairs/10",
        "pairs/10~1 k",
        "pairs/2~1 k",
    ];
    assert_eq!(left, kept);
    assert_eq!(texts(&store, "select name || version || generation from es_projections").await, ["pairs21"]);
}

#[tokio::test]
async fn what_sqlite_cannot_rename_has_one_generation() {
    for (schema, name) in [
        ("create table t (x); create view v as select * from t", "v is a view"),
        (
            "create table t (x); create virtual table words using fts5 (text)",
            "words is a view or a virtual table",
        ),
    ] {
        let tables = Tables { name: "p", version: 1, schema };
        let store = with(&tables, [1]).await;
        write(&store, &tables, 1, "insert into t values (1)").await;
        let refused = misuse(store.install(&tables, 2).await);
        assert!(refused.contains(name) && refused.contains("remove_version"), "{refused}");
        assert_eq!(misuse(store.check(&tables, 2).await), refused);
        let refused = misuse(store.install(&Tables { version: 2, ..tables }, 1).await);
        assert!(refused.contains(name) && refused.contains("remove_version"), "{refused}");
        store.clear(&tables, 1, Commit::default()).await.unwrap();
        assert_eq!(number(&store, "select count(*) from t").await, 0);
    }
    let alone = [
        (
            "create table t (x); create trigger tr after insert on t begin insert into mine values (1); end",
            "by itself",
        ),
        ("create table t (x); create trigger tr after insert on mine begin select 1; end", "by itself"),
        ("create table t (x); create table if not exists mine (x)", "leave `if not exists`"),
    ];
    for (schema, why) in alone {
        let store = store().await;
        own(&store, "create table mine (x)").await;
        let tables = Tables { name: "p", version: 1, schema };
        store.install(&tables, 1).await.unwrap();
        let refused = misuse(store.install(&tables, 2).await);
        assert!(refused.contains(why), "{refused}");
    }
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_name_is_named() {
    let store = with(&PAIRS, [1, 2]).await;
    own(&store, "create table gone (x); create view broken as select * from gone; drop table gone").await;
    let refused = misuse(store.begin_at(&PAIRS, 2, IDLE).await);
    assert!(refused.contains("broken") && refused.contains("main.gone"), "{refused}");
    own(&store, "drop view broken; create table \"lefts~1.1\" (x)").await;
    let refused = misuse(store.switch(&PAIRS, 2, Commit::default()).await);
    assert!(refused.contains("lefts~1"), "{refused}");
    own(&store, "drop table \"lefts~1.1\"; create table \"rights~1.3\" (x)").await;
    assert!(misuse(store.install(&PAIRS, 3).await).contains("rights~1.3"));
    switch(&store, &PAIRS, 2).await;
    assert_eq!(number(&store, "select count(*) from \"lefts~1.1\"").await, 0);
}

fn counts(difference: &Difference) -> (&str, u64, u64, u64) {
    (&difference.table, difference.added, difference.removed, difference.changed)
}

#[tokio::test]
async fn a_comparison_finds_rows_by_their_key_and_tells_bytes_apart() {
    let tables = Tables {
        name: "c",
        version: 1,
        schema: "create table keyed (a text collate nocase, b integer, v text collate nocase, bytes blob, primary key (a, b));
                 create table loose (x, y);
                 create table only_key (k integer primary key)",
    };
    let store = with(&tables, [1, 2]).await;
    let old = "insert into keyed values ('a', 1, 'same', null), ('a', 2, 'Case', x'00ff'), (null, 3, 'null', null), ('b', 4, 'gone', 1.5);
               insert into loose values (1, 'x'), (1, 'x'), (null, null), (2, 'old');
               insert into only_key values (1), (2)";
    let new = "insert into keyed values ('a', 1, 'same', null), ('a', 2, 'case', x'00ff'), (null, 3, 'null', null), ('c', 5, 'new', 'it''s');
               insert into loose values (1, 'x'), (null, null), (2, 'new'), (null, null);
               insert into only_key values (2), (3), (4)";
    write(&store, &tables, 1, old).await;
    write(&store, &tables, 2, new).await;
    let differences = store.compare(&tables, 1, 2, 10).await.unwrap();
    let counted: Vec<_> = differences.iter().map(counts).collect();
    assert_eq!(counted, [("keyed", 1, 1, 1), ("loose", 2, 2, 0), ("only_key", 2, 1, 0)]);
    let text =
        |s: &Sample| format!("{} -> {}", s.old.as_deref().unwrap_or("-"), s.new.as_deref().unwrap_or("-"));
    let samples: Vec<_> = differences[0].samples.iter().map(text).collect();
    assert_eq!(
        samples,
        [
            r#"{"a":"a","b":2,"v":"Case","bytes":"00FF"} -> {"a":"a","b":2,"v":"case","bytes":"00FF"}"#,
            r#"{"a":"b","b":4,"v":"gone","bytes":1.5} -> -"#,
            r#"- -> {"a":"c","b":5,"v":"new","bytes":"it's"}"#,
        ]
    );
    assert_eq!(
        store.compare(&tables, 1, 2, 0).await.unwrap().iter().map(|d| d.samples.len()).sum::<usize>(),
        0
    );
    assert_eq!(store.compare(&tables, 1, 2, 1).await.unwrap()[1].samples.len(), 1);
    switch(&store, &tables, 2).await;
    assert_eq!(store.compare(&tables, 1, 2, 10).await.unwrap(), differences, "whichever is current");
    let same = store.compare(&tables, 2, 2, 10).await.unwrap();
    assert!(same.iter().all(|d| d.samples.is_empty() && (d.added, d.removed, d.changed) == (0, 0, 0)));
    // As a program without the right to write does.
    let none = Tables { name: "keyed", version: 1, schema: "" };
    assert_eq!(store.compare(&none, 1, 2, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_name_stands_for_the_table_that_current_says() {
    let store = store().await;
    for (table, key, data) in [
        ("v/1~1", "a", "old"),
        ("v/1~2", "a", "new"),
        ("v/1~2", "b", "new"),
        ("v/1", "a", "plain"),
        ("v/1", "z", "plain"),
    ] {
        store.commit(row(table, key, 0, data)).await.unwrap();
    }
    let read = |after: Option<&'static str>| {
        let store = store.clone();
        async move {
            let keys = ["z", "a", "b"].map(str::to_owned);
            let rows = store.rows("v/1", &keys).await.unwrap();
            let rows: Vec<_> = rows.into_iter().flatten().map(|row| row.key).collect();
            let scanned = store.scan("v/1", after, 10).await.unwrap();
            (rows.join(""), scanned.into_iter().map(|row| row.key).collect::<String>())
        }
    };
    assert_eq!(read(None).await, ("za".to_owned(), "az".to_owned()));
    store.commit(row(CURRENT, "v/1", 0, "v/1~2")).await.unwrap();
    assert_eq!(read(None).await, ("ab".to_owned(), "ab".to_owned()));
    assert_eq!(read(Some("a")).await, ("ab".to_owned(), "b".to_owned()));
    // Writes mean the table they name.
    store.commit(row("v/1", "b", 0, "plain")).await.unwrap();
    store.commit(row(CURRENT, "v/1", 1, "v/1~1")).await.unwrap();
    assert_eq!(read(None).await, ("a".to_owned(), "a".to_owned()));
    store.commit(row(CURRENT, "v/1", 2, "nowhere")).await.unwrap();
    assert_eq!(read(None).await, (String::new(), String::new()));
}

#[tokio::test]
async fn events_of_a_writer_with_another_inline_set_are_refused() {
    let store = store().await;
    let with = |inline, commit: Commit| Commit { inline, ..commit };
    store.commit(with(0, commit("a"))).await.unwrap();
    let refused = store.commit(with(3, commit("a"))).await.unwrap_err();
    assert!(matches!(refused, CommitError::Inline { stored: 0, named: 3 }), "{refused:?}");
    store.commit(row(INLINE.0, INLINE.1, 0, "set")).await.unwrap();
    let refused = store.commit(commit("a")).await.unwrap_err();
    assert!(matches!(refused, CommitError::Inline { stored: 1, named: 0 }), "{refused:?}");
    // In one transaction with rows of the user's own, too; and nothing without events asks for it.
    let mut tx = store.begin().await.unwrap();
    *tx.staged() = commit("b");
    assert!(matches!(tx.commit().await, Err(CommitError::Inline { stored: 1, named: 0 })));
    store.commit(row("v", "k", 0, "row")).await.unwrap();
    store.commit(with(1, commit("b"))).await.unwrap();
    assert_eq!(store.head().await.unwrap(), Position(2));
}

#[tokio::test]
async fn checkpoints_can_be_read_by_people() {
    let store = store().await;
    let range = r#"{"position":42,"epoch":1,"last":1023}"#;
    store.commit(row("checkpoints", "balances/1", 0, range)).await.unwrap();
    store.commit(row("checkpoints", "balances/1#0512", 0, r#"{"position":3,"epoch":1}"#)).await.unwrap();
    let shown = texts(&store, "select name || ' is at ' || position from es_checkpoints").await;
    assert_eq!(shown, ["balances/1 is at 42"]);
}

#[derive(Debug)]
struct Handler(BoxError);

impl std::fmt::Display for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a handler failed")
    }
}

impl std::error::Error for Handler {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

#[tokio::test]
async fn only_what_the_database_could_do_later_is_transient() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    let store = SqliteBackend::open(&file).await.unwrap();
    own(&store, "create table mine (x integer not null unique) strict; insert into mine values (1)").await;
    let of_sql = |sql: &'static str| {
        let store = store.clone();
        async move {
            let mut tx = store.begin().await.unwrap();
            let error = sqlx::query_as::<_, (i32,)>(sql).fetch_one(&mut *tx).await.unwrap_err();
            tx.rollback().await.unwrap();
            BoxError::from(error)
        }
    };
    let mut for_good = Vec::new();
    for sql in [
        "insert into mine values (1) returning x",
        "insert into mine values (null) returning x",
        "insert into mine values ('text') returning x",
        "selekt 1",
        "select x from nothing",
        "select y from mine",
        "select x from mine where x = 2",
        "select 'no number'",
    ] {
        for_good.push(of_sql(sql).await);
    }
    for_good.push(StoreError::misuse("wrong").into());
    for_good
        .push(CommitError::Fenced { table: "t".into(), key: "k".to_owned(), expected: 1, actual: 2 }.into());
    for_good.push("a text".into());
    for_good.push(io::Error::other("of another service").into());
    let busy = es_sqlite::SqliteOptions::new(&file).with_lock_timeout(Duration::from_millis(1));
    let busy = SqliteBackend::open_with(busy).await.unwrap();
    let held = store.begin().await.unwrap();
    let mut pool = busy.db().pool().acquire().await.unwrap();
    sqlx::query("pragma query_only = off").execute(&mut *pool).await.unwrap();
    let locked = sqlx::query("insert into mine values (2)").execute(&mut *pool).await.unwrap_err();
    let begun = busy.begin().await.unwrap_err();
    held.rollback().await.unwrap();
    let later: Vec<BoxError> = vec![
        locked.into(),
        begun.clone().into(),
        CommitError::from(begun).into(),
        sqlx::Error::PoolTimedOut.into(),
        sqlx::Error::Io(io::ErrorKind::ConnectionReset.into()).into(),
    ];
    for (all, expected) in [(for_good, false), (later, true)] {
        for error in all {
            assert_eq!(store.is_transient(&*error), expected, "{error}");
            let within = Handler(Handler(error).into());
            assert_eq!(store.is_transient(&within), expected, "{}", es_core::chain(&within));
        }
    }
}
