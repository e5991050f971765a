//! Where it is stored.

use crate::program::{Shop, first};

/// The folder holds what the test put there, and nothing else.
#[track_caller]
fn holds_only(shop: &Shop, names: &[&str]) {
    assert_eq!(shop.files(), names);
}

#[test]
fn a_database_that_cannot_be_one_is_said_in_one_line() {
    let shop = Shop::new();
    shop.write_lines("purchases.txt", &["1 19970101 1 1.00"]);
    shop.write("notes.txt", "milk, bread, and other notes that are no database\n".repeat(100));
    std::fs::create_dir(shop.path("folder")).unwrap();
    for (database, word) in [
        ("nowhere/shop.db", "nowhere"),
        ("notes.txt", "notes.txt"),
        ("folder", "folder"),
        ("postgres://localhost:1/shop", "connecting to the database"),
        ("postgresql://localhost/shop?user=ada&colour=red", "colour"),
    ] {
        for command in [&["import", "purchases.txt"][..], &["report"], &["rebuild"], &["history", "1"]] {
            let args = [command, &["--database", database]].concat();
            shop.run(&args).complains(2, &[word]);
        }
    }
    holds_only(&shop, &["folder", "notes.txt", "purchases.txt"]);
    let notes = std::fs::read_to_string(shop.path("notes.txt")).unwrap();
    assert_eq!(notes.lines().count(), 100, "somebody else's file is left as it is");
}

#[test]
fn an_option_without_sense_is_refused_before_anything_is_opened() {
    let shop = Shop::new();
    shop.write_lines("purchases.txt", &["1 19970101 1 1.00"]);
    for (args, word) in [
        (&["import", "purchases.txt", "--parallel", "0"][..], "--parallel"),
        (&["import", "purchases.txt", "--parallel", "4097"], "--parallel"),
        (&["import", "purchases.txt", "--on-error", "panic"], "--on-error"),
        (&["report", "--database", ""], "--database"),
        (&["history", ""], "CUSTOMER"),
        (&["import"], "FILE"),
        (&["sell"], "sell"),
    ] {
        let ran = shop.run(args);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.starts_with("error: ") && ran.err.contains(word), "{ran:?}");
    }
    holds_only(&shop, &["purchases.txt"]);
}

#[test]
fn in_memory_it_shows_what_a_file_shows_and_stores_nothing() {
    let shop = Shop::new();
    shop.write("purchases.txt", first(1_000));
    let memory = shop.run(&["import", "purchases.txt", "--database", ":memory:"]).well();
    holds_only(&shop, &["purchases.txt"]);
    let file = shop.run(&["import", "purchases.txt"]).well();
    assert_eq!(memory.out, file.out);
    assert_eq!(memory.counts(), [1_000, 0, 0]);
}

#[test]
fn only_an_import_makes_a_database() {
    let shop = Shop::new();
    for command in [&["report"][..], &["rebuild"], &["history", "00042"]] {
        shop.run(command).complains(2, &["there is no database shop.db", "import a file first"]);
    }
    holds_only(&shop, &[]);
    shop.write_lines("purchases.txt", &["00042 19970101 1 1.00"]);
    shop.run(&["import", "purchases.txt"]).well();
    shop.run(&["history", "42"]).complains(1, &["there is no customer 42", "zeros"]);
    assert_eq!(shop.run(&["history", "00042"]).well().last(), "1 purchases");
}

#[tokio::test]
async fn two_imports_at_once_store_each_purchase_once() {
    let shop = Shop::new();
    shop.write("purchases.txt", first(2_000));
    let import = ["import", "purchases.txt"];
    let (one, other) = (shop.start(&import), shop.start(&import));
    let (one, other) = (one.wait().well(), other.wait().well());
    let [[new_one, before_one, 0], [new_other, before_other, 0]] = [one.counts(), other.counts()] else {
        panic!("nothing is skipped: {one:?} {other:?}");
    };
    assert_eq!((new_one + new_other, before_one + before_other), (2_000, 2_000));
    assert_eq!(one.figures(), other.figures());
    assert_eq!(shop.verified().await, 2_000);
    let alone = shop.run(&["import", "purchases.txt", "--database", ":memory:"]).well();
    assert_eq!(one.figures(), alone.figures());
    assert_eq!(shop.run(&["rebuild"]).well().out, alone.figures());
}
