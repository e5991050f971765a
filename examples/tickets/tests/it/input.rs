//! What cannot be done is said in one line, and nothing is made.

use crate::program::BoxOffice;

#[test]
fn an_option_without_sense_is_refused_before_anything_is_opened() {
    let office = BoxOffice::new();
    for (args, word) in [
        (&["play", "--flows", "0"][..], "--flows"),
        (&["play", "--flows", "many"], "--flows"),
        (&["play", "--deadline", "3"], "a time has a unit"),
        (&["play", "--deadline=-3s"], "between 100ms and 24h"),
        (&["play", "--deadline", "1ms"], "between 100ms and 24h"),
        (&["--database", ""], "--database"),
        (&["show"], "ORDER"),
        (&["show", "seat"], "seat"),
        (&["sell"], "sell"),
    ] {
        let ran = office.run(args);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.starts_with("error: ") && ran.err.contains(word), "{ran:?}");
    }
    assert_eq!(office.entries(), 0);
}

#[test]
fn a_database_that_cannot_be_one_is_said_in_one_line() {
    let office = BoxOffice::new();
    std::fs::create_dir(office.path("folder")).expect("the folder is ours");
    std::fs::write(office.path("notes.txt"), "milk, bread, and other notes\n".repeat(100))
        .expect("it is ours");
    for (database, word) in [
        ("nowhere/concert.db", "nowhere"),
        ("folder", "folder"),
        ("notes.txt", "notes.txt"),
        ("postgres://localhost:1/concert", "connecting to the database"),
    ] {
        office.run(&["--database", database]).complains(2, &[word]);
        office.run(&["work", "--database", database]).complains(2, &[word]);
        office.run(&["show", "1", "--database", database]).complains(2, &[word]);
    }
    assert_eq!(office.entries(), 2);
}

#[test]
fn a_flow_is_shown_only_of_a_run_that_was_kept() {
    let office = BoxOffice::new();
    for command in [&["show", "1"][..], &["audit"]] {
        office.run(command).complains(2, &["--database"]);
        let named = [command, &["--database", "no.db"]].concat();
        office.run(&named).complains(2, &["there is no database no.db", "play first"]);
    }
    office.run(&["work"]).complains(2, &["--database"]);
    assert_eq!(office.entries(), 0);
}
