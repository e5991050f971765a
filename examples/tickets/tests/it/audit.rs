//! An instance is what its inputs make of it, or that is said.

use es_core::store::{Commit, EventStore as _, RowWrite};
use es_sqlite::SqliteBackend;

use crate::program::BoxOffice;
use crate::rows;

const DATABASE: [&str; 2] = ["--database", "concert.db"];

#[tokio::test]
async fn an_instance_that_its_inputs_do_not_explain_is_named() {
    let office = BoxOffice::new();
    office.run(&[&["play", "--flows", "5"], &DATABASE[..]].concat()).well();
    let audit = [&["audit"], &DATABASE[..]].concat();
    let explained = "sale: 5 instances, 0 open, 0 that their inputs do not explain";
    assert_eq!(office.run(&audit).well().out.lines().next(), Some(explained));

    let store = SqliteBackend::open(office.path("concert.db")).await.expect("nobody holds it");
    let table = "process.instances.sale";
    let rows = rows::of(&store, table).await;
    let sold = rows.iter().find(|row| rows::json(row)["key"] == "1").expect("it was played");
    let text = String::from_utf8(sold.data.to_vec()).expect("the program writes JSON");
    let other = text.replace(r#""price":70"#, r#""price":7"#);
    assert_ne!(other, text);
    let row = Some(other.into_bytes().into());
    let write = RowWrite { table: table.into(), key: sold.key.clone(), rev: sold.rev, row };
    store.commit(Commit { rows: vec![write], ..Commit::default() }).await.expect("nobody else writes it");
    let ran = office.run(&audit);
    ran.complains(1, &["sale 1 is ", r#""price":7,"#, "its inputs make ", r#""price":70,"#]);
    assert!(ran.out.contains("sale: 5 instances, 0 open, 1 that their inputs do not explain"), "{ran:?}");
}
