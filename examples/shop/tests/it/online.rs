//! Projections that are built anew while they are read.

use es_core::store::{EventStore, RowStore};
use es_postgres::{PgBackend, testing};
use es_sqlite::SqliteBackend;

use crate::killed::Random;
use crate::program::{Ran, Running, Shop, first};

/// How many purchases queries see now.
async fn seen(store: &impl RowStore) -> u64 {
    let months = store.scan("revenue/1", None, 1_000).await.expect("readable");
    let purchases = |data: &[u8]| -> u64 {
        let month: serde_json::Value = serde_json::from_slice(data).expect("a view is JSON");
        month["purchases"].as_u64().expect("a number")
    };
    months.iter().map(|month| purchases(&month.data)).sum()
}

/// Reads until a program has ended; what is read never becomes less.
async fn never_less_until(store: &impl RowStore, running: &mut Running) {
    let mut before = seen(store).await;
    while running.ended().is_none() {
        let now = seen(store).await;
        assert!(before <= now, "{before} purchases, then {now}");
        before = now;
    }
}

/// Waits until queries see some purchases of an import that goes on.
async fn under_way(store: &(impl RowStore + EventStore), importing: &mut Running) {
    while seen(store).await == 0 || store.head().await.expect("readable").0 < 300 {
        assert_eq!(importing.ended(), None, "it ended too early");
        tokio::task::yield_now().await;
    }
}

/// What a shop of its own shows after an import of the same file.
fn expected(file: &str) -> Ran {
    let shop = Shop::new();
    shop.write("purchases.txt", file);
    shop.run(&["import", "purchases.txt", "--database", ":memory:"]).well()
}

#[track_caller]
fn reads_only(shop: &Shop, database: &[&str], build: &str) {
    let status = shop.run(&[&["status"], database].concat()).well();
    for name in ["revenue/1", "spending/1", "history/1"] {
        assert_eq!((status.rows(name), status.row(name)[1]), (1, build), "{status:?}");
    }
}

async fn rebuilt_while_an_import_runs(shop: &Shop, database: &str, store: &(impl RowStore + EventStore)) {
    let on = ["--database", database];
    let with = |args: &[&'static str]| [args, &["--database"]].concat();
    let run = |args: &[&'static str]| shop.run(&[&with(args)[..], &[database]].concat());
    let start = |args: &[&'static str]| shop.start(&[&with(args)[..], &[database]].concat());
    let file = first(3_000);
    shop.write("purchases.txt", &file);

    let mut importing = start(&["import", "purchases.txt", "--parallel", "4"]);
    under_way(store, &mut importing).await;
    let mut rebuilding = start(&["rebuild", "--online"]);
    never_less_until(store, &mut rebuilding).await;
    let rebuilt = rebuilding.wait().well();
    let whole = importing.wait().well();
    assert_eq!(whole.figures(), expected(&file).figures());
    assert_eq!(rebuilt.rows("revenue/1:"), 1, "{rebuilt:?}");
    assert_eq!(run(&["report"]).well().out, whole.figures());
    reads_only(shop, &on, "2");
}

#[tokio::test]
async fn while_an_import_runs_nobody_sees_less_than_before() {
    let shop = Shop::new();
    let store = SqliteBackend::open(shop.path("shop.db")).await.unwrap();
    rebuilt_while_an_import_runs(&shop, "shop.db", &store).await;
}

#[tokio::test]
async fn on_postgresql_too() {
    let (shop, database) = (Shop::new(), testing::database().await);
    let store = PgBackend::connect(database.url()).await.unwrap();
    rebuilt_while_an_import_runs(&shop, database.url(), &store).await;
}

/// Rebuilds that are killed after so many looks at what queries see.
async fn killed_at_any_moment(shop: &Shop, database: &str, store: &impl RowStore) {
    let with = |args: &[&'static str]| [args, &["--database"]].concat();
    let run = |args: &[&'static str]| shop.run(&[&with(args)[..], &[database]].concat());
    let file = first(3_000);
    shop.write("purchases.txt", &file);
    run(&["import", "purchases.txt", "--parallel", "512"]).well();
    let mut random = Random::new();
    for round in 0..6 {
        let rebuild =
            if round % 2 == 0 { &["rebuild", "--online"][..] } else { &["rebuild", "--online", "--keep"] };
        let mut rebuilding = shop.start(&[&with(rebuild)[..], &[database]].concat());
        for _ in 0..random.below(1_000) {
            assert_eq!(seen(store).await, 3_000);
            if rebuilding.ended().is_some() {
                break;
            }
        }
        rebuilding.kill();
    }
    let ended = run(&["rebuild", "--online"]).well();
    assert_eq!(ended.figures(), expected(&file).figures());
    let status = run(&["status"]).well();
    assert_eq!((status.rows("revenue/1"), status.rows("spending/1"), status.rows("history/1")), (1, 1, 1));
}

#[tokio::test]
async fn a_rebuild_that_is_killed_goes_on() {
    let shop = Shop::new();
    let store = SqliteBackend::open(shop.path("shop.db")).await.unwrap();
    killed_at_any_moment(&shop, "shop.db", &store).await;
    assert_eq!(shop.verified().await, 3_000);
}

#[tokio::test]
async fn on_postgresql_a_rebuild_that_is_killed_goes_on() {
    let (shop, database) = (Shop::new(), testing::database().await);
    let store =
        PgBackend::connect_with(es_postgres::PgOptions::new(database.url()).unwrap().with_migrate(true))
            .await
            .unwrap();
    killed_at_any_moment(&shop, database.url(), &store).await;
}

#[test]
fn what_is_kept_is_kept_up_to_date_and_read_again_after_a_rollback() {
    let shop = Shop::new();
    shop.write("purchases.txt", first(500));
    shop.run(&["import", "purchases.txt"]).well();
    shop.run(&["rollback"]).complains(1, &["nothing to go back to", "--keep"]);
    let rebuilt = shop.run(&["rebuild", "--online", "--keep"]).well();
    for name in ["revenue/1", "spending/1", "history/1"] {
        assert!(rebuilt.out.contains(&format!("{name}: no difference")), "{rebuilt:?}");
    }
    assert!(rebuilt.out.contains("`shop rollback`"), "{rebuilt:?}");
    let builds = || {
        let status = shop.run(&["status"]).well();
        let builds = status.out.lines().filter(|line| line.contains("history/1"));
        builds.map(|line| line.split(['│', '┆']).nth(2).unwrap().trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(builds(), ["1 (kept)", "2"]);

    shop.write("purchases.txt", first(800));
    let whole = shop.run(&["import", "purchases.txt"]).well();
    let back = shop.run(&["rollback"]).well();
    assert_eq!(back.figures(), whole.figures());
    assert_eq!(builds(), ["1", "2 (kept)"]);
    let forth = shop.run(&["rollback"]).well();
    assert_eq!((forth.out, builds()), (back.out, vec!["1 (kept)".to_owned(), "2".to_owned()]));

    assert_eq!(shop.run(&["rebuild", "--online"]).well().figures(), whole.figures());
    reads_only(&shop, &[], "3");
    shop.run(&["rollback"]).complains(1, &["nothing to go back to"]);
}

#[tokio::test]
async fn a_rebuild_in_place_is_refused_while_an_import_runs() {
    let shop = Shop::new();
    let store = SqliteBackend::open(shop.path("shop.db")).await.unwrap();
    shop.write("purchases.txt", first(20_000));
    let mut importing = shop.start(&["import", "purchases.txt", "--parallel", "1"]);
    under_way(&store, &mut importing).await;
    shop.run(&["rebuild"]).complains(1, &["another program works on the projections", "rebuild --online"]);
    assert_eq!(importing.ended(), None, "it goes on");
    let stopped = importing.interrupt();
    assert_eq!(stopped.code, Some(130), "{stopped:?}");
}

#[test]
fn two_rebuilds_at_once_are_one() {
    let shop = Shop::new();
    shop.write("purchases.txt", first(2_000));
    let whole = shop.run(&["import", "purchases.txt"]).well();
    let rebuild = ["rebuild", "--online"];
    let (one, other) = (shop.start(&rebuild), shop.start(&rebuild));
    assert_eq!(one.wait().well().figures(), whole.figures());
    assert_eq!(other.wait().well().figures(), whole.figures());
    assert_eq!(shop.run(&["report"]).well().out, whole.figures());
}
