//! The operator's command.

use std::process::{Command, Output, Stdio};

use es_core::store::{Commit, EventStore as _, RowWrite, Version};
use es_postgres::testing::Database;

use crate::shop::{open, stream, write};

pub(crate) fn run(database: Option<&Database>, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_es-postgres"));
    command.env_remove("DATABASE_URL").stdin(Stdio::null()).args(arguments);
    if let Some(database) = database {
        command.env("DATABASE_URL", database.url());
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[tokio::test]
async fn an_empty_database_becomes_a_store() {
    let database = es_postgres::testing::database().await;
    let (code, steps, words) = run(Some(&database), &["migrate", "--dry-run"]);
    assert_eq!((code, words.ends_with("migrations to run\n")), (1, true), "{words}");
    assert!(steps.starts_with("0001 store\n"), "{steps}");
    let (code, problems, _) = run(Some(&database), &["check"]);
    assert_eq!(code, 1);
    assert!(problems.contains("problem  the schema is up to date"), "{problems}");

    assert_eq!(run(Some(&database), &["migrate"]).1, steps);
    let (code, steps, words) = run(Some(&database), &["migrate", "--dry-run"]);
    assert_eq!((code, &*steps, &*words), (0, "", "the schema is up to date\n"));
    let (code, findings, _) = run(Some(&database), &["check"]);
    assert_eq!(code, 0, "{findings}");
    assert!(findings.contains("ok       the schema is up to date"), "{findings}");
}

#[tokio::test]
async fn a_printed_script_makes_a_store() {
    let (code, script, words) = run(None, &["migrate", "--print", "--schema", "user"]);
    assert_eq!((code, &*words), (0, ""));
    let database = es_postgres::testing::database().await;
    let mut conn = <sqlx::PgConnection as sqlx::Connection>::connect(database.url()).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(&mut conn).await.unwrap();
    let (code, _, words) = run(Some(&database), &["--schema", "user", "verify"]);
    assert_eq!((code, &*words), (0, "the store keeps its promises\n"));
}

#[tokio::test]
async fn a_log_is_partitioned_archived_and_redacted() {
    let (database, backend) = open().await;
    write(&backend, "a", 25).await;
    assert_eq!(run(Some(&database), &["partition", "--size", "10"]).0, 0);
    write(&backend, "a", 50).await;
    let step = RowWrite {
        table: "checkpoints".into(),
        key: "totals/1~1".to_owned(),
        rev: 0,
        row: Some(r#"{"position":70,"last":1023}"#.into()),
    };
    backend.commit(Commit { rows: vec![step], ..Commit::default() }).await.unwrap();
    let (code, tables, _) = run(Some(&database), &["archive", "--upto", "60", "--unloadable"]);
    assert_eq!(
        (code, &*tables),
        (0, "es.events_archived_1_40\nes.events_archived_41_50\nes.events_archived_51_60\n")
    );
    let redact = ["redact", "--stream", "a", "--version", "61", "--data", "[]"];
    assert_eq!(run(Some(&database), &redact).0, 0);
    assert_eq!(backend.stream(&stream("a"), Version(60), 1).await.unwrap()[0].data, "[]");
    assert_eq!(run(Some(&database), &["verify"]).0, 0);

    let (code, stats, _) = run(Some(&database), &["stats"]);
    assert_eq!(code, 0);
    let (before, identity) = (backend.stats().await.unwrap(), backend.identity());
    let (code, generation, _) = run(Some(&database), &["adopt"]);
    let after = backend.stats().await.unwrap();
    assert_eq!((code, generation.trim(), after.store), (0, &*after.generation.to_string(), identity));
    assert_ne!(after.generation, before.generation);
    // Whoever lives through it goes on.
    write(&backend, "a", 1).await;
    let has = |line: &[&str]| stats.lines().any(|found| found.split_whitespace().collect::<Vec<_>>() == line);
    for line in [&["head", "75"][..], &["archived", "60"], &["events", "15"], &["totals/1~1", "70", "5"]] {
        assert!(has(line), "{line:?} in {stats}");
    }
}

#[tokio::test]
async fn every_answer_is_also_one_line_of_json() {
    let database = es_postgres::testing::database().await;
    let json = |database: Option<&Database>, arguments: &[&str]| {
        let (code, line, words) = run(database, &[arguments, &["--json"]].concat());
        assert_eq!((line.lines().count(), &*words), (1, ""), "{arguments:?}: {line}");
        (code, serde_json::from_str::<serde_json::Value>(&line).unwrap())
    };
    let (code, steps) = json(Some(&database), &["migrate", "--dry-run"]);
    assert_eq!((code, &steps["good"], &steps["migrations"][0]["name"]), (1, &false.into(), &"store".into()));
    let (code, found) = json(Some(&database), &["check"]);
    assert_eq!((code, &found["good"]), (1, &false.into()), "{found}");
    let (code, refused) = json(Some(&database), &["stats"]);
    assert_eq!((code, &refused["kind"]), (2, &"misuse".into()), "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("migrations"), "{refused}");
    assert_eq!(json(Some(&database), &["migrate"]).0, 0);
    let backend = es_postgres::PgBackend::connect(database.url()).await.unwrap();
    write(&backend, "a", 3).await;
    let (code, stats) = json(Some(&database), &["stats"]);
    assert_eq!((code, &stats["good"], &stats["stats"]["head"]), (0, &true.into(), &3.into()), "{stats}");
    let (code, verified) = json(Some(&database), &["verify"]);
    assert_eq!((code, &verified["violations"]), (0, &serde_json::json!([])), "{verified}");
    let (_, partitioned) = json(Some(&database), &["partition", "--size", "10"]);
    assert!(partitioned["words"].as_str().unwrap().contains("10 positions"), "{partitioned}");
    assert_eq!(json(Some(&database), &["archive", "--upto", "1"]).1["tables"], serde_json::json!([]));
    let roles = json(None, &["roles", "--print"]).1;
    assert!(roles["sql"].as_str().unwrap().contains("es_writer"), "{roles}");
    assert_eq!(json(None, &["stats"]).1["kind"], "misuse");
}

#[tokio::test]
async fn a_violation_is_shown() {
    let (database, backend) = open().await;
    write(&backend, "a", 5).await;
    let hole = "begin; set local es.maintenance = 'on'; delete from es.events where position = 3; commit";
    sqlx::raw_sql(hole).execute(&backend.db()).await.unwrap();
    let (code, lines, _) = run(Some(&database), &["verify"]);
    assert_eq!(code, 1);
    assert!(lines.contains("positions are contiguous"), "{lines}");
}

/// A processor with two parked sequences, the row of one of which is damaged.
const PARKED: &str = r#"insert into es.rows values
    ('checkpoints', 'good/1~1#0000', 1, '{"position":3,"last":1023,"epoch":1,"replay":0}'),
    ('good/1~1/parked', 'ada', 1, '{"first":1,"position":1,"event":"Sold","events":1,"error":"no","attempts":1,
        "first_at":"2026-01-01T00:00:00Z","last_at":"2026-01-01T00:00:00Z"}'),
    ('good/1~1/parked', 'bob', 1, 'not json')"#;

#[tokio::test]
async fn a_dry_run_refuses_what_the_verb_would_refuse() {
    let (database, backend) = open().await;
    write(&backend, "a", 3).await;
    sqlx::raw_sql(PARKED).execute(&backend.db()).await.unwrap();
    for (verb, said) in [
        (&["discard", "good/1", "nobody", "--reason", "x"][..], "\"nobody\" is not parked"),
        (&["discard", "good/1", "ada", "--reason", " "], "say why"),
        (&["retry", "good/1", "nobody"], "\"nobody\" is not parked"),
        (&["redact", "--stream", "nope", "--version", "1"], "stream nope has no event with version 1"),
    ] {
        let (code, data, words) = run(Some(&database), &[verb, &["--dry-run"]].concat());
        assert_eq!((code, &*data), (2, ""), "{verb:?}: {words}");
        assert!(words.contains(said), "{verb:?}: {words}");
    }
    let (code, data, _) = run(Some(&database), &["discard", "good/1", "ada", "--reason", "x", "--dry-run"]);
    assert_eq!((code, data.lines().count()), (0, 1), "{data}");
}

#[tokio::test]
async fn a_parked_sequence_that_cannot_be_read_is_listed() {
    let (database, backend) = open().await;
    write(&backend, "a", 3).await;
    sqlx::raw_sql(PARKED).execute(&backend.db()).await.unwrap();
    let (code, line, _) = run(Some(&database), &["parked", "good/1", "--json"]);
    let parked = serde_json::from_str::<serde_json::Value>(&line).unwrap();
    assert_eq!(
        (code, &parked["parked"][0]["key"], &parked["parked"][1]["key"]),
        (0, &"ada".into(), &"bob".into())
    );
    assert!(parked["parked"][1]["error"].as_str().unwrap().contains("cannot be read"), "{line}");
    // What is asked of all is not asked of it.
    let (_, all, _) = run(Some(&database), &["retry", "good/1", "--all", "--dry-run"]);
    assert!(all.contains("ada") && !all.contains("bob"), "{all}");
}

#[tokio::test]
async fn what_cannot_be_done_is_said_in_words() {
    let database = es_postgres::testing::database().await;
    for (database, arguments, words) in [
        (None, &["stats"][..], "which database?"),
        (None, &["stats", "--database", "mysql://x"], "begins with `postgres://`"),
        (Some(&database), &["verify"], "run the migrations"),
        (Some(&database), &["stats", "--schema", "a b"], "the schema name"),
        (Some(&database), &["nonsense"], "unrecognized subcommand"),
    ] {
        let (code, data, said) = run(database, arguments);
        assert_eq!((code, &*data), (2, ""), "{arguments:?}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

#[test]
fn the_help_says_what_there_is() {
    let (code, help, _) = run(None, &["--help"]);
    assert_eq!(code, 0);
    for word in [
        "migrate",
        "roles",
        "check",
        "verify",
        "partition",
        "archive",
        "attach",
        "redact",
        "forget",
        "adopt",
        "stats",
        "parked",
        "Exit codes",
    ] {
        assert!(help.contains(word), "{help}");
    }
    let (code, script, _) = run(None, &["roles", "--print", "--schema", "shop"]);
    assert_eq!(code, 0);
    assert!(script.contains("shop_writer") && !script.contains('{'), "{script}");
}
