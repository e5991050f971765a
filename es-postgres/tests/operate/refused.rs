//! What the command says where it may not do what it is asked for.

use std::time::Duration;

use es_core::prelude::*;
use es_core::store::Version;
use es_postgres::PgBackend;
use serde_json::Value;

use crate::account::{Balance, Deposit};
use crate::cli::run;
use crate::roles;
use crate::shop::{open, stream, write};

async fn sql(url: &str, text: &str) {
    let mut conn = <sqlx::PgConnection as sqlx::Connection>::connect(url).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(text.to_owned())).execute(&mut conn).await.unwrap();
}

/// What is said to these words, where it cannot be done.
fn refused(url: &str, arguments: &[&str]) -> Value {
    let (code, line, _) = run(None, &[arguments, &["--json", "--database", url]].concat());
    let answer: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((code, &answer["good"]), (2, &false.into()), "{arguments:?}: {answer}");
    answer
}

/// Words that change something.
const CHANGES: &[&[&str]] = &[
    &["rebuild", "balance/1"],
    &["rebuild-keys", "balance/1", "ada", "--wait", "1"],
    &["pause", "balance/1"],
    &["resume", "balance/1"],
    &["partition", "--size", "1000"],
    &["redact", "--stream", "account-ada", "--version", "1", "--data", "{}"],
    &["forget", "--days", "1"],
    &["adopt"],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_takes_no_writes_is_named_as_that() {
    let (database, backend) = open().await;
    let app = App::on(backend).view::<Balance>().start().await.unwrap();
    app.send(&"ada".to_owned(), Deposit { amount: 1 }).await.unwrap();
    app.settle(Duration::from_secs(30)).await.unwrap();
    app.shutdown(Duration::from_secs(10)).await;
    let read_only = format!("alter database {} set default_transaction_read_only = on", database.name());
    sql(database.url(), &read_only).await;
    for arguments in CHANGES {
        let answer = refused(database.url(), arguments);
        let words = answer["error"].as_str().unwrap();
        assert_eq!(answer["kind"], "transient", "{arguments:?}: {answer}");
        assert!(words.contains("the server takes no writes") && words.contains("read-only"), "{words}");
    }
    // What only looks does so.
    for arguments in [&["builds", "balance/1"][..], &["parked", "balance/1"], &["stats"], &["verify"]] {
        assert_eq!(run(Some(&database), arguments).0, 0, "{arguments:?}");
    }
}

#[tokio::test]
async fn an_account_without_rights_is_told_what_it_lacks() {
    let (database, schema) = roles::store().await;
    let account = |role: &str| format!("{}&options=-c%20role={schema}_{role}", database.url());
    for arguments in CHANGES {
        let arguments = [arguments, &["--schema", &schema][..]].concat();
        let answer = refused(&account("reader"), &arguments);
        let words = answer["error"].as_str().unwrap();
        assert_eq!(answer["kind"], "misuse", "{arguments:?}: {answer}");
        assert!(words.contains("the account lacks"), "{arguments:?}: {words}");
    }
    // A writer is no owner.
    for arguments in &CHANGES[4..] {
        let arguments = [arguments, &["--schema", &schema][..]].concat();
        let answer = refused(&account("writer"), &arguments);
        let words = answer["error"].as_str().unwrap();
        assert_eq!(answer["kind"], "misuse", "{arguments:?}: {answer}");
        assert!(words.contains("the account lacks a privilege"), "{arguments:?}: {words}");
    }
}

#[tokio::test]
async fn a_payload_that_no_append_would_take_takes_no_place() {
    let (database, backend) = open().await;
    write(&backend, "a", 1).await;
    let before = backend.stream(&stream("a"), Version(0), 1).await.unwrap();
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let large = format!("\"{}\"", "x".repeat(es_core::limits::MAX_PAYLOAD));
    for data in [deep.clone(), large] {
        let error = backend.redact(&stream("a"), Version(1), data.into()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misuse, "{}", es_core::chain(&error));
    }
    let asked = ["redact", "--stream", "a", "--version", "1", "--data", &deep];
    let answer = refused(database.url(), &asked);
    assert!(answer["error"].as_str().unwrap().contains("levels deep"), "{answer}");
    // As text in a text it is not deep.
    let quoted = format!("\"{deep}\"");
    assert_eq!(backend.stream(&stream("a"), Version(0), 1).await.unwrap(), before);
    let other = PgBackend::connect(database.url()).await.unwrap();
    other.redact(&stream("a"), Version(1), quoted.clone().into()).await.unwrap();
    assert_eq!(other.stream(&stream("a"), Version(0), 1).await.unwrap()[0].data, quoted);
}
