//! Versions of a projection in one file: what an app of each of them reads, and what readers do that are no apps.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use es_core::projection::{Project, Projection};
use es_core::services::Services;
use es_core::store::{
    Backend as _, Builds as _, Commit, EventFilter, EventStore as _, Generation, RecordedEvent, Tables,
    Transaction as _,
};
use es_core::{App, BoxError};
use es_sqlite::{Db, SqliteBackend, Tx};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, SqliteConnection};

use crate::files::commit;
use crate::generations::{misuse, own, texts, write};

const OLD: Tables = Tables {
    name: "accounts",
    version: 1,
    schema: "create table owners (id integer primary key, name text not null unique) strict;
             create table balances (owner integer primary key references owners (id), amount integer not null) strict;
             create index balances_by_amount on balances (amount);
             create table changes (owner integer references balances (owner), amount integer) strict;
             create trigger balances_changed after insert on balances
             begin insert into changes values (new.owner, new.amount); end",
};

/// Has one table less and one more, and another column.
const NEW: Tables = Tables {
    name: "accounts",
    version: 2,
    schema: "create table owners (id integer primary key, name text not null) strict;
             create table balances (owner integer primary key references owners (id), amount integer not null,
                 currency text not null default 'EUR') strict;
             create index balances_by_amount on balances (amount);
             create table totals (currency text primary key, amount integer not null) strict;
             create trigger balances_changed after insert on balances begin
                 insert into totals values (new.currency, new.amount)
                 on conflict do update set amount = amount + excluded.amount; end",
};

fn pay(owner: i64, amount: i64) -> String {
    format!(
        "insert into owners (id, name) values ({owner}, 'owner {owner}');
         insert into balances (owner, amount) values ({owner}, {amount})"
    )
}

/// Both versions, the older one with the plain names. Amounts are 1 in the old one and 10 in the new one; twice as much in
/// their second generations.
async fn both() -> SqliteBackend {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    for (tables, amount) in [(OLD, 1), (NEW, 10)] {
        for generation in [1, 2] {
            store.install(&tables, generation).await.unwrap();
            write(&store, &tables, generation, pay(1, amount * i64::from(generation))).await;
        }
    }
    store
}

/// What queries of an app with this version read through.
fn db(store: &SqliteBackend, tables: &Tables) -> Db {
    let mut services = Services::default();
    store.provide(&mut services, std::slice::from_ref(tables));
    services.get::<Db>().unwrap().clone()
}

async fn number(db: &Db, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(db).await.unwrap()
}

async fn amount(db: &Db) -> i64 {
    number(db, "select amount from balances where owner = 1").await
}

async fn publish(store: &SqliteBackend, tables: &Tables) {
    store.publish(tables, Commit::default()).await.unwrap();
}

async fn switch(store: &SqliteBackend, tables: &Tables, to: Generation) {
    store.switch(tables, to, Commit::default()).await.unwrap();
}

#[tokio::test]
async fn an_app_of_each_version_reads_its_own_tables() {
    let store = both().await;
    let (old, new) = (db(&store, &OLD), db(&store, &NEW));
    for published in [OLD, NEW, OLD] {
        publish(&store, &published).await;
        for (to, times) in [(2, 2), (1, 1)] {
            switch(&store, &OLD, to).await;
            switch(&store, &NEW, to).await;
            assert_eq!((amount(&old).await, amount(&new).await), (times, 10 * times));
            assert_eq!(amount(&store.db()).await, if published == OLD { times } else { 10 * times });
            // A row at a time, all of them, and on a connection of the pool.
            let all: Vec<(String, i64)> =
                sqlx::query_as("select name, amount from owners join balances on id = owner")
                    .fetch_all(&new)
                    .await
                    .unwrap();
            assert_eq!(all, [("owner 1".to_owned(), 10 * times)]);
            let mut tx = new.pool().begin().await.unwrap();
            let sql = "select amount from balances";
            let seen: i64 = sqlx::query_scalar(sql).fetch_one(&mut *tx).await.unwrap();
            assert_eq!(seen, 10 * times);
        }
        // Triggers and foreign keys mean the tables of their own version.
        assert_eq!(number(&old, "select count(*) from changes").await, 1);
        assert_eq!(number(&new, "select amount from totals").await, 10);
        assert!(
            sqlx::query("select * from totals").fetch_all(&old).await.is_err(),
            "only the other one has it"
        );
        assert!(
            sqlx::query("select * from changes").fetch_all(&new).await.is_err(),
            "only the other one has it"
        );
        assert_eq!(number(&store.db(), "select count(*) from pragma_foreign_key_check").await, 0);
        for db in [&old, &new] {
            let plan = "explain query plan select owner from balances where amount = 5";
            let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(plan).fetch_all(db).await.unwrap();
            assert!(plan[0].3.contains("balances_by_amount"), "{plan:?}");
        }
    }
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn what_an_app_reads_through_writes_nothing_and_may_be_dropped() {
    let store = both().await;
    let new = db(&store, &NEW);
    for sql in [
        "insert into es_types values (9, 'x', 1, 'json')",
        "create temp view v as select 1",
        "delete from balances",
    ] {
        let refused = sqlx::query(sql).execute(&new).await.unwrap_err().to_string();
        assert!(refused.contains("readonly") || refused.contains("because it is a view"), "{sql}: {refused}");
        let mut conn = new.pool().acquire().await.unwrap();
        assert!(sqlx::query(sql).execute(&mut *conn).await.is_err());
    }
    let long = "with recursive n (x) as (select 1 union all select x + 1 from n) select x from n";
    for _ in 0..20 {
        let first: Option<i64> = sqlx::query_scalar(long).fetch_optional(&new).await.unwrap();
        assert_eq!(first, Some(1));
        let mut rows = sqlx::query(long).fetch(&new);
        drop(futures::StreamExt::next(&mut rows).await.unwrap().unwrap());
    }
    // No read is left open: the log can be emptied.
    drop(new.pool().acquire().await.unwrap());
    store.commit_and_empty().await;
}

/// A version that is there, and no generation of it that queries could read.
#[tokio::test]
async fn an_app_does_not_read_the_tables_of_another_version_in_place_of_its_own() {
    let store = both().await;
    let next = Tables { version: 3, ..NEW };
    let db = db(&store, &next);
    let missing = sqlx::query("select * from balances").fetch_all(&db).await.unwrap_err().to_string();
    assert!(missing.contains("no such table"), "{missing}");
    store.install(&next, 1).await.unwrap();
    assert_eq!(number(&db, "select count(*) from balances").await, 0);
    write(&store, &next, 1, pay(1, 100)).await;
    assert_eq!(amount(&db).await, 100);
    store.remove_version(next.name, 3, Commit::default()).await.unwrap();
    assert!(sqlx::query("select * from balances").fetch_all(&db).await.is_err());
    for tables in [OLD, NEW] {
        store.remove_version(next.name, tables.version, Commit::default()).await.unwrap();
    }
    assert!(sqlx::query("select * from balances").fetch_all(&db).await.is_err());
    let left = "select name from sqlite_schema where name not like 'es_%' and name not like 'sqlite_%'";
    assert_eq!(texts(&store, left).await, [""; 0]);
}

/// A connection of another program.
async fn foreign(file: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(file).read_only(true).connect().await.unwrap()
}

#[tokio::test]
async fn another_program_reads_the_plain_names_across_every_change() {
    let store = both().await;
    let mut reader = foreign(store.path()).await;
    let mut assert_reads = async |expected: Option<i64>| {
        // The same prepared statement each time.
        let read =
            sqlx::query_scalar("select amount from balances where owner = 1").fetch_one(&mut reader).await;
        assert_eq!(read.ok(), expected);
    };
    assert_reads(Some(1)).await;
    switch(&store, &OLD, 2).await;
    assert_reads(Some(2)).await;
    switch(&store, &NEW, 2).await;
    assert_reads(Some(2)).await;
    publish(&store, &NEW).await;
    assert_reads(Some(20)).await;
    switch(&store, &NEW, 1).await;
    assert_reads(Some(10)).await;
    publish(&store, &OLD).await;
    assert_reads(Some(2)).await;
    store.remove_version(OLD.name, 1, Commit::default()).await.unwrap();
    assert_reads(Some(10)).await;
    store.remove_version(NEW.name, 2, Commit::default()).await.unwrap();
    assert_reads(None).await;
}

#[tokio::test]
async fn views_of_the_users_own_follow_the_plain_names() {
    let store = both().await;
    own(
        &store,
        "create view rich as select owner, amount from balances where amount > 0;
         create table notes (owner integer references balances (owner))",
    )
    .await;
    let rich = async || number(&store.db(), "select amount from rich").await;
    assert_eq!(rich().await, 1);
    publish(&store, &NEW).await;
    assert_eq!(rich().await, 10);
    write(&store, &OLD, 1, "update balances set amount = 3").await;
    publish(&store, &OLD).await;
    assert_eq!(rich().await, 3);
    store.remove_version(OLD.name, 1, Commit::default()).await.unwrap();
    assert_eq!(rich().await, 10);
    let parent = "select \"table\" from pragma_foreign_key_list('notes')";
    assert_eq!(texts(&store, parent).await, ["balances"]);
}

#[tokio::test]
async fn a_table_of_somebody_else_is_not_taken_over_by_a_later_version() {
    let store = SqliteBackend::open(":memory:").await.unwrap();
    store.install(&OLD, 1).await.unwrap();
    own(&store, "create table totals (mine)").await;
    let refused = misuse(store.install(&NEW, 1).await);
    assert!(
        refused.contains("makes totals, which is there already and belongs to somebody else"),
        "{refused}"
    );
    own(&store, "drop table totals").await;
    store.install(&NEW, 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_their_own_version_whole_next_to_switches_and_publications() {
    let store = both().await;
    let other = SqliteBackend::open(store.path()).await.unwrap();
    // Both tables of a generation say the same.
    for (tables, amount) in [(OLD, 1), (NEW, 10)] {
        for generation in [1, 2] {
            let sql = format!("update owners set name = {}", amount * generation);
            write(&store, &tables, generation, sql).await;
        }
    }
    let done = AtomicBool::new(false);
    let changing = async {
        for round in 0..25 {
            let to = 2 - round % 2;
            for tables in [OLD, NEW] {
                switch(&store, &tables, to).await;
                publish(&store, &tables).await;
            }
        }
        done.store(true, Ordering::Relaxed);
    };
    let reading = async |store: &SqliteBackend, tables: &Tables, of: &[i64]| {
        let (db, mut reads) = (db(store, tables), 0);
        while !done.load(Ordering::Relaxed) {
            let sql = "select amount, name from balances join owners on id = owner";
            let seen: (i64, String) = sqlx::query_as(sql).fetch_one(&db).await.unwrap();
            assert!(of.contains(&seen.0) && seen.0.to_string() == seen.1, "{seen:?}");
            reads += 1;
        }
        assert!(reads > 0);
    };
    futures::join!(
        changing,
        reading(&store, &OLD, &[1, 2]),
        reading(&other, &OLD, &[1, 2]),
        reading(&store, &NEW, &[10, 20]),
        reading(&other, &NEW, &[10, 20]),
    );
}

/// The names that files had before versions were next to each other.
#[tokio::test]
async fn generations_of_an_older_file_keep_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    crate::upgrade::second_schema(&file).await;
    let store = SqliteBackend::open(&file).await.unwrap();
    let pairs = crate::upgrade::PAIRS;
    let seen = async |generation: i64| {
        assert_eq!(number(&store.db(), "select generation from lefts").await, generation);
        assert_eq!(store.verify().await.unwrap(), [""; 0]);
    };
    seen(2).await;
    store.install(&pairs, 1).await.unwrap();
    store.install(&pairs, 2).await.unwrap();
    switch(&store, &pairs, 1).await;
    seen(1).await;
    let next = Tables { version: 2, ..pairs };
    for tables in [&pairs, &next] {
        store.install(tables, 3).await.unwrap();
    }
    store.install(&next, 1).await.unwrap();
    let names = "select name from sqlite_schema where type = 'table' and name like 'lefts%' order by name";
    assert_eq!(texts(&store, names).await, ["lefts", "lefts~1.3", "lefts~2", "lefts~2.1", "lefts~2.3"]);
    store.clear(&pairs, 2, Commit::default()).await.unwrap();
    store.commit_one().await;
    switch(&store, &pairs, 2).await;
    store.remove_version(pairs.name, 1, Commit::default()).await.unwrap();
    assert_eq!(texts(&store, names).await, ["lefts", "lefts~2.3"]);
}

/// By a program of before that had the file open while it was brought up to date: it names tables as it always did, and notes
/// no suffix.
#[tokio::test]
async fn a_generation_that_an_older_program_made_is_found_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    crate::upgrade::second_schema(&file).await;
    let store = SqliteBackend::open(&file).await.unwrap();
    let made =
        "create table \"lefts~3\" (generation integer); create table \"rights~3\" (generation integer);
        create index \"lefts_by_generation~3\" on \"lefts~3\" (generation);
        insert into es_projections (name, version, generation, current, schema, objects)
        select name, version, 3, 0, schema, objects from es_projections where generation = 2";
    own(&store, made).await;
    let (pairs, generation) = (crate::upgrade::PAIRS, "select generation from lefts");
    write(&store, &pairs, 3, "insert into lefts values (3)").await;
    let of_version = db(&store, &pairs);
    assert_eq!(number(&of_version, generation).await, 2, "it is not read yet");
    switch(&store, &pairs, 3).await;
    assert_eq!(number(&of_version, generation).await, 3);
    // Another version has the names: apps of this one read its tables by names of their own.
    let next = Tables { version: 2, ..pairs };
    store.install(&next, 1).await.unwrap();
    write(&store, &next, 1, "insert into lefts values (10)").await;
    publish(&store, &next).await;
    let seen = (number(&of_version, generation).await, number(&store.db(), generation).await);
    assert_eq!(seen, (3, 10));
    write(&store, &pairs, 3, "update lefts set generation = 4").await;
    assert_eq!(number(&of_version, generation).await, 4);
    let names = "select name from sqlite_schema where type = 'table' and name like 'lefts%' order by name";
    assert_eq!(texts(&store, names).await, ["lefts", "lefts~1", "lefts~2", "lefts~3"]);
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
    publish(&store, &pairs).await;
    assert_eq!(number(&store.db(), generation).await, 4);
    store.remove_version(pairs.name, 1, Commit::default()).await.unwrap();
    assert_eq!(texts(&store, names).await, ["lefts"]);
}

trait Commits {
    async fn commit_one(&self);
    async fn commit_and_empty(&self);
}

impl Commits for SqliteBackend {
    async fn commit_one(&self) {
        es_core::store::EventStore::commit(self, commit("s")).await.unwrap();
    }

    async fn commit_and_empty(&self) {
        self.commit_one().await;
        let mut conn = SqliteConnectOptions::new().filename(self.path()).connect().await.unwrap();
        loop {
            let sql = "pragma wal_checkpoint(truncate)";
            let busy: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut conn).await.unwrap();
            if busy == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
        let tx = self.begin().await.unwrap();
        tx.rollback().await.unwrap();
    }
}

/// Streams, by a table; the first version has a view of it, too.
struct Seen<const VERSION: u32>;

impl<const VERSION: u32> Projection for Seen<VERSION> {
    const NAME: &'static str = "seen";
    const VERSION: u32 = VERSION;
    const SCHEMA: &'static str = match VERSION {
        1 => {
            "create table seen (stream text, version integer); create view last as select max(stream) from seen"
        }
        _ => "create table seen (stream text, version integer, more text)",
    };
    fn filter() -> EventFilter {
        EventFilter::all()
    }
}

impl<const VERSION: u32> Project<Tx> for Seen<VERSION> {
    async fn project(&self, event: &RecordedEvent, tx: &mut Tx) -> Result<(), BoxError> {
        let row = sqlx::query("insert into seen (stream, version) values (?, ?)");
        row.bind(event.stream.as_str()).bind(VERSION).execute(&mut **tx).await?;
        Ok(())
    }
}

/// As the guide tells it: the next version is deployed, and the one with the view is stopped.
#[tokio::test]
async fn a_version_with_a_view_goes_and_gives_its_names_away() {
    let limit = std::time::Duration::from_secs(30);
    let store = SqliteBackend::open(":memory:").await.unwrap();
    store.commit(commit("a")).await.unwrap();
    let old = App::on(store.clone()).projection(Seen::<1>).start().await.unwrap();
    while !old.processor::<Seen<1>>().unwrap().versions().await.unwrap()[0].published {
        tokio::task::yield_now().await;
    }
    assert!(old.shutdown(limit).await);
    let new = App::on(store.clone()).projection(Seen::<2>).start().await.unwrap();
    new.until_ready(limit).await.unwrap();
    let seen = async || number(&store.db(), "select max(version) from seen").await;
    assert_eq!(seen().await, 1, "the names cannot be taken from a view");
    let processor = new.processor::<Seen<2>>().unwrap();
    assert!(processor.drop_version(1).await.unwrap());
    assert_eq!(seen().await, 2);
    assert_eq!(processor.versions().await.unwrap().len(), 1);
    assert_eq!(
        texts(&store, "select name from sqlite_schema where type = 'view' and name = 'last'").await,
        [""; 0]
    );
    store.commit(commit("b")).await.unwrap();
    let head = store.head().await.unwrap();
    processor.reach(head, limit).await.unwrap();
    assert_eq!(number(&store.db(), "select count(*) from seen").await, 2);
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}
