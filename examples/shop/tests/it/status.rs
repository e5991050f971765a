//! Where the projections are, and what waits for a person.

use es_core::event::Metadata;
use es_core::id::Ids;
use es_core::store::{
    Append, Commit, EventFilter, EventStore as _, ExpectedVersion, NewEvent, Position, RecordedEvent,
};
use es_sqlite::SqliteBackend;

use crate::program::{Shop, first};

#[test]
fn it_has_a_line_for_each_projection() {
    let shop = Shop::new();
    shop.write("purchases.txt", first(100));
    shop.run(&["import", "purchases.txt"]).well();
    let status = shop.run(&["status"]).well();
    for name in ["revenue/1", "spending/1", "history/1"] {
        assert_eq!(status.rows(name), 1, "{status:?}");
        assert_eq!(status.row(name), [name, "1", "100", "0", "0", "nobody works on it"]);
    }
    assert_eq!(status.last(), "100 events in the log");
    assert_eq!(shop.run(&["parked"]).well().out, "nothing is parked\n");
}

#[test]
fn watched_without_a_screen_it_prints_until_ctrl_c() {
    let shop = Shop::new();
    shop.write("purchases.txt", first(100));
    shop.run(&["import", "purchases.txt"]).well();
    for watch in [&["watch", "--plain"][..], &["watch"]] {
        let mut watching = shop.start(watch);
        for name in ["revenue/1", "spending/1", "history/1", "revenue/1"] {
            let line = watching.line();
            assert!(line.starts_with(name) && line.contains("position 100, behind 0"), "{line:?}");
        }
        assert_eq!(watching.interrupt().well().code, Some(0));
    }
}

/// An event of a customer that no projection can read.
async fn store_a_broken_event(shop: &Shop) {
    let store = SqliteBackend::open(shop.path("shop.db")).await.expect("it is open to others");
    let first = store.read(&EventFilter::all(), Position(0), 1).await.expect("readable").events.remove(0);
    let RecordedEvent { stream, name, schema, codec, .. } = first;
    let (id, metadata) = (Ids::default().next(), Metadata::default().into());
    let event = NewEvent { id, name, schema, codec, data: "{}".into(), tags: Vec::new(), metadata };
    let append = Append { stream, expected: ExpectedVersion::Any, events: vec![event] };
    store
        .commit(Commit { appends: vec![append], ..Commit::default() })
        .await
        .expect("any event may be stored");
}

#[tokio::test]
async fn what_cannot_be_taken_in_is_parked_and_said() {
    let shop = Shop::new();
    shop.write_lines("purchases.txt", &["1 19970101 1 1.00", "2 19970102 2 2.00"]);
    let whole = shop.run(&["import", "purchases.txt"]).well();
    store_a_broken_event(&shop).await;

    let report = shop.run(&["report"]);
    assert_eq!((report.code, report.out.as_str()), (Some(0), whole.figures()), "{report:?}");
    // Beside what the framework logs.
    let said: Vec<&str> = report.err.lines().filter(|line| line.starts_with("shop: ")).collect();
    assert_eq!(said.len(), 3, "{report:?}");
    assert!(said.iter().all(|line| line.contains("`shop parked` says why")), "{report:?}");
    let status = shop.run(&["status"]).well();
    assert_eq!(status.row("spending/1")[4], "1", "{status:?}");
    assert!(status.last().contains("`shop parked`") && status.last().contains("`shop retry`"), "{status:?}");

    let parked = shop.run(&["parked"]).well();
    let row = parked.row("spending/1");
    assert_eq!(row[2..4], ["1", "#3"], "{parked:?}");
    assert!(parked.last().contains("`shop retry PROJECTION KEY`"), "{parked:?}");
    let key = row[1];
    shop.run(&["retry", "spending", key])
        .complains(1, &["spending/1", "failed again at #3", "missing field"]);
    shop.run(&["retry", "spending/1", "99"]).complains(1, &["\"99\" is not parked"]);
    shop.run(&["retry", "profit", key]).complains(1, &["no projection \"profit\"", "revenue/1"]);

    // The new tables are as incomplete as the old ones.
    let rebuilt = shop.run(&["rebuild", "--online"]);
    assert_eq!((rebuilt.code, rebuilt.figures()), (Some(0), whole.figures()), "{rebuilt:?}");
    assert_eq!(shop.run(&["parked"]).well().out, parked.out);
}

#[test]
fn only_an_import_makes_a_database() {
    let shop = Shop::new();
    for command in [
        &["status"][..],
        &["watch"],
        &["watch", "--plain"],
        &["parked"],
        &["retry", "revenue", "1997-01"],
        &["rebuild", "--online"],
        &["rollback"],
    ] {
        shop.run(command).complains(2, &["there is no database shop.db", "import a file first"]);
    }
    assert_eq!(shop.files(), Vec::<String>::new());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let shop = Shop::new();
    for (args, word) in [
        (&["rebuild", "--keep"][..], "--online"),
        (&["rollback", "--online"], "--online"),
        (&["status", "--plain"], "--plain"),
        (&["retry", "revenue"], "KEY"),
        (&["retry"], "PROJECTION"),
        (&["watch", "revenue"], "revenue"),
    ] {
        let ran = shop.run(args);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.starts_with("error: ") && ran.err.contains(word), "{ran:?}");
    }
}
