//! Rebuilds, by the command.

use std::time::Duration;

use es_core::prelude::*;
use es_core::store::{Commit, RowStore as _, RowWrite};
use es_postgres::PgBackend;
use es_postgres::testing::Database;
use serde_json::Value;

use crate::account::{Balance, Deposit};
use crate::cli::run;
use crate::shop::open;

fn asked(database: &Database, arguments: &[&str]) -> (i32, Value) {
    let (code, line, words) = run(Some(database), &[arguments, &["--json"]].concat());
    assert_eq!(line.lines().count(), 1, "{arguments:?}: {line}{words}");
    (code, serde_json::from_str(&line).unwrap())
}

/// A view of two accounts, with ten in each, that a program keeps up.
async fn kept() -> (Database, PgBackend, App) {
    let (database, backend) = open().await;
    let app = App::on(backend.clone()).view::<Balance>().start().await.unwrap();
    for name in ["ada", "bob"] {
        for _ in 0..2 {
            app.send(&name.to_owned(), Deposit { amount: 5 }).await.unwrap();
        }
    }
    app.settle(Duration::from_secs(30)).await.unwrap();
    (database, backend, app)
}

async fn balance(app: &App, name: &str) -> Option<Balance> {
    app.view::<Balance>(&name.to_owned()).await.unwrap()
}

/// Somebody breaks the row of an account.
async fn break_row(backend: &PgBackend, name: &str) {
    let table = "balance/1";
    let rev = backend.rows(table, &[name.to_owned()]).await.unwrap().pop().flatten().unwrap().rev;
    let row = RowWrite { table: "balance/1~1".into(), key: name.to_owned(), rev, row: Some("999".into()) };
    backend.commit(Commit { rows: vec![row], ..Commit::default() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_view_is_rebuilt_switched_to_and_gone_back_from() {
    let (database, backend, app) = kept().await;
    let asked = |arguments: &[&str]| asked(&database, arguments);
    break_row(&backend, "ada").await;
    for verb in ["progress", "report", "switch"] {
        let (code, none) = asked(&[verb, "balance/1"]);
        assert_eq!((code, &none["kind"]), (2, &"conflict".into()), "{verb}: {none}");
        assert!(none["error"].as_str().unwrap().contains("no rebuild of balance/1"), "{verb}: {none}");
    }
    let (code, dry) = asked(&["rebuild", "balance/1", "--dry-run"]);
    assert_eq!((code, &dry["generation"]), (0, &2.into()), "{dry}");
    assert!(asked(&["builds", "balance/1"]).1["builds"]["building"].is_null(), "nothing has begun");

    let (code, done) = asked(&["rebuild", "balance/1", "--wait", "60"]);
    assert_eq!((code, &done["progress"]["complete"]), (0, &true.into()), "{done}");
    let (code, progress) = asked(&["progress", "balance/1"]);
    assert_eq!((code, &progress["progress"]["done"]), (0, &4.into()), "{progress}");
    let (code, report) = asked(&["report", "balance/1"]);
    assert_eq!((code, &report["report"]["differences"][0]["changed"]), (0, &1.into()), "{report}");
    assert_eq!(asked(&["switch", "balance/1", "--dry-run"]).1["generation"], 2);
    assert_eq!(balance(&app, "ada").await, Some(Balance(999)), "what is read has not changed");
    let (code, switched) = asked(&["switch", "balance/1"]);
    assert_eq!((code, &switched["generation"]), (0, &2.into()), "{switched}");
    assert_eq!(balance(&app, "ada").await, Some(Balance(10)));

    let builds = asked(&["builds", "balance/1"]).1;
    assert_eq!((&builds["builds"]["current"], &builds["builds"]["previous"]), (&2.into(), &1.into()));
    assert_eq!((&builds["builds"]["reached"]["2"], &builds["builds"]["head"]), (&4.into(), &4.into()));
    let (code, kept) = asked(&["rebuild", "balance/1", "--dry-run"]);
    assert!(code == 1 && kept["in_the_way"].as_str().unwrap().contains("kept to go back to"), "{kept}");
    let (code, kept) = asked(&["rebuild", "balance/1"]);
    assert_eq!((code, &kept["kind"]), (2, &"blocked".into()), "{kept}");
    assert_eq!(asked(&["roll-back", "balance/1", "--dry-run"]).1["generation"], 1);
    assert_eq!(
        asked(&["roll-back", "balance/1"]),
        (
            0,
            serde_json::json!({
                "good": true, "generation": 1, "words": "generation 1 is what queries read",
            })
        )
    );
    assert_eq!(balance(&app, "ada").await, Some(Balance(999)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_cannot_be_undone_asks_for_a_word_more() {
    let (database, _backend, app) = kept().await;
    let asked = |arguments: &[&str]| asked(&database, arguments);
    assert_eq!(asked(&["rebuild", "balance/1", "--wait", "60"]).0, 0);
    for verb in ["abort", "drop-previous"] {
        let (code, _, words) = run(Some(&database), &[verb, "balance/1"]);
        assert!(code == 2 && words.contains("--yes"), "{verb}: {words}");
        assert_eq!(run(Some(&database), &[verb, "balance/1", "--yes", "--dry-run"]).0, 2, "{verb}");
    }
    assert_eq!(asked(&["abort", "balance/1", "--dry-run"]).1["generation"], 2);
    assert_eq!(asked(&["builds", "balance/1"]).1["builds"]["building"]["generation"], 2, "it is still there");
    assert_eq!(asked(&["abort", "balance/1", "--yes"]).1["generation"], 2);
    let (code, none) = asked(&["abort", "balance/1", "--dry-run"]);
    assert!(code == 1 && none["in_the_way"].as_str().unwrap().contains("no rebuild"), "{none}");

    assert_eq!(asked(&["rebuild", "balance/1", "--wait", "60"]).0, 0);
    assert_eq!(asked(&["switch", "balance/1"]).1["generation"], 3);
    assert_eq!(asked(&["drop-previous", "balance/1", "--dry-run"]).1["generation"], 1);
    assert_eq!(asked(&["builds", "balance/1"]).1["builds"]["previous"], 1, "it is still there");
    assert_eq!(asked(&["drop-previous", "balance/1", "--yes"]).1["generation"], 1);
    assert!(asked(&["builds", "balance/1"]).1["builds"]["previous"].is_null());
    let (code, none) = asked(&["roll-back", "balance/1"]);
    assert!(code == 2 && none["error"].as_str().unwrap().contains("no older build"), "{none}");
    assert_eq!(balance(&app, "bob").await, Some(Balance(10)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rows_of_some_keys_are_rebuilt_and_what_nobody_does_is_said() {
    let (database, backend, app) = kept().await;
    let asked = |arguments: &[&str]| asked(&database, arguments);
    break_row(&backend, "ada").await;
    let (code, dry) = asked(&["rebuild-keys", "balance/1", "ada", "bob", "--dry-run"]);
    assert_eq!((code, &dry["parked"]), (0, &serde_json::json!([])), "{dry}");
    assert_eq!(balance(&app, "ada").await, Some(Balance(999)));
    assert_eq!(asked(&["rebuild-keys", "balance/1", "ada", "bob"]).0, 0);
    assert_eq!(balance(&app, "ada").await, Some(Balance(10)));
    let long = "x".repeat(100_000);
    let (code, refused) = asked(&["rebuild-keys", "balance/1", &long]);
    assert_eq!((code, &refused["kind"]), (2, &"misuse".into()), "{refused}");

    app.shutdown(Duration::from_secs(10)).await;
    let (code, late) = asked(&["rebuild-keys", "balance/1", "ada", "--wait", "1"]);
    assert!(code == 2 && late["error"].as_str().unwrap().contains("the request stands"), "{late}");
    let (code, begun) = asked(&["rebuild", "balance/1"]);
    assert_eq!((code, &begun["progress"]["complete"]), (0, &false.into()), "{begun}");
    let (code, stands) = asked(&["progress", "balance/1"]);
    assert!(code == 1 && stands["progress"]["why_not"].as_str().unwrap().contains("no node"), "{stands}");
    let (code, behind) = asked(&["switch", "balance/1", "--dry-run"]);
    assert_eq!(code, 0, "four events are near enough to be waited for: {behind}");
    let (_, lines, _) = run(Some(&database), &["builds", "balance/1"]);
    assert!(lines.contains("building  generation 2 at 0 of 4 since"), "{lines}");
    let (_, line, _) = run(Some(&database), &["progress", "balance/1"]);
    assert!(line.starts_with("generation 2 at 0 of 4 (no node works on it"), "{line}");
}
