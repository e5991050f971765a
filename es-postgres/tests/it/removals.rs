//! What has many rows goes in many transactions, each of which holds the locks of a few.

use es_core::App;
use es_core::Event;
use es_core::processor::{RebuildOptions, Reset};
use es_core::view;
use serde::{Deserialize, Serialize};

use crate::support::{LIMIT, count, fresh, run};

/// Rows that one transaction may delete.
const PORTION: i64 = 2_000;

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "heap")]
enum HeapEvent {
    Grown(Grown),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Grown {
    heap: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Heap {
    n: u64,
}

#[view(name = "heap", version = 1, key = String)]
impl Heap {
    #[on(by = heap)]
    fn grown(&mut self, _: &Grown) {
        self.n += 1;
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct NewHeap {
    n: u64,
}

#[view(name = "heap", version = 2, key = String)]
impl NewHeap {
    #[on(by = heap)]
    fn grown(&mut self, _: &Grown) {
        self.n += 1;
    }
}

/// Notes how many rows of a build each transaction deletes.
const WATCH: &str = "create table public.gone (tx bigint not null, tbl text not null, n bigint not null);
    create function public.note() returns trigger language plpgsql as $$
    begin
        insert into public.gone select txid_current(), o.tbl, count(*) from old o
        where o.tbl like 'heap/%' group by o.tbl;
        return null;
    end $$;
    create trigger note after delete on es.rows referencing old table as old
        for each statement execute function public.note()";

/// Gives a build this many rows more.
async fn fill(url: &str, build: &str, rows: i64) {
    let rows = format!(
        "insert into es.rows select '{build}', lpad(i::text, 20, '0'), 1, '{{\"n\":1}}' from generate_series(1, {rows}) i"
    );
    run(url, &rows).await;
}

async fn assert_in_portions(url: &str, build: &str, rows: i64) {
    let of_build = format!("from public.gone where tbl = '{build}'");
    assert_eq!(
        count(url, &format!("select count(*) from es.rows where tbl = '{build}'")).await,
        0,
        "{build}"
    );
    assert!(count(url, &format!("select coalesce(sum(n), 0)::bigint {of_build}")).await >= rows, "{build}");
    let most = format!("select max(n)::bigint from (select sum(n) n {of_build} group by tx) t");
    let most = count(url, &most).await;
    assert!(most <= PORTION, "one transaction deleted {most} rows of {build}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_transaction_deletes_more_than_a_portion_of_what_goes() {
    let (database, store) = fresh().await;
    let (url, rows) = (database.url(), 3 * PORTION + 500);
    run(url, WATCH).await;
    let app = App::on(store.clone()).view::<Heap>().start().await.unwrap();
    let processor = app.processor::<Heap>().unwrap();

    let rebuild = processor.rebuild_online(RebuildOptions::default()).await.unwrap();
    rebuild.caught_up(LIMIT).await.unwrap();
    rebuild.switch().await.unwrap();
    fill(url, "heap/1~1", rows).await;
    assert!(processor.drop_previous().await.unwrap());
    assert_in_portions(url, "heap/1~1", rows).await;

    fill(url, "heap/1~2", rows).await;
    processor.reset(Reset::Start).await.unwrap();
    assert_in_portions(url, "heap/1~2", rows).await;

    fill(url, "heap/1~2", rows).await;
    run(url, "truncate public.gone").await;
    assert!(app.shutdown(LIMIT).await);
    let app = App::on(store.clone()).view::<NewHeap>().start().await.unwrap();
    let processor = app.processor::<NewHeap>().unwrap();
    // It gets the plain names first.
    let removed = async {
        while !matches!(processor.drop_version(1).await, Ok(true)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, removed).await.unwrap();
    assert_in_portions(url, "heap/1~2", rows).await;
}
