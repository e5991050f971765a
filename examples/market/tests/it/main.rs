//! The program as a person runs it.

#![cfg(unix)] // signals

use std::path::Path;
use std::process::{Command, Output, Stdio};

use es_core::EventStore as _;
use es_sqlite::SqliteBackend;

fn market(args: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_market"));
    command.args(args).arg("--folder").arg(folder).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// It ended well: what it said.
#[track_caller]
fn said(output: Output) -> String {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("it writes text")
}

/// The numbers of the line of a run: orders, confirmed, without stock, refused, open.
#[track_caller]
fn totals(line: &str) -> [u32; 5] {
    assert!(line.ends_with("; stock and payments agree\n"), "{line}");
    let numbers: Vec<u32> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("no five numbers in {line:?}"))
}

#[test]
fn every_order_ends_and_its_flow_is_a_tree() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let line = said(market(&["play"], folder.path()).output().expect("it starts"));
    let [orders, confirmed, sold_out, refused, open] = totals(&line);
    assert_eq!((orders, confirmed + sold_out + refused, open), (30, 30, 0), "{line}");
    assert!(sold_out >= 3 && refused >= 3, "10 want one of 6 lamps, 4 cards are refused: {line}");

    let flow = said(market(&["flow", "7"], folder.path()).output().expect("it starts"));
    let tree: Vec<&str> = flow.lines().map(|line| line.split_once("  ").expect("a time first").1).collect();
    let expected = [
        "order    order.placed of order-7",
        "stock      stock.reserved of shelf-pen",
        "payment      payment.refused of payment-7",
        "stock          stock.returned of shelf-pen",
        "order            order.rejected of order-7",
    ];
    assert_eq!(tree, expected);
}

#[tokio::test]
async fn a_service_that_is_killed_is_replaced_and_every_order_ends() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let mut command = market(&["play"], folder.path());
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    for (service, events) in [("stock", 5), ("payment", 5), ("order", 20)] {
        let log = SqliteBackend::open(folder.path().join(format!("{service}.db"))).await.expect("a new one");
        while log.head().await.expect("readable beside a writer").0 < events {
            assert_eq!(
                run.try_wait().expect("it is our child"),
                None,
                "it ended before {events} events of {service}"
            );
            tokio::task::yield_now().await;
        }
        let pid = std::fs::read_to_string(folder.path().join(format!("{service}.pid"))).expect("it runs");
        let killed = Command::new("kill").args(["-9", &pid]).status().expect("there is a `kill`");
        assert!(killed.success(), "{service} had ended");
    }
    let line = said(run.wait_with_output().expect("it is our child"));
    let [orders, confirmed, sold_out, refused, open] = totals(&line);
    assert_eq!((orders, confirmed + sold_out + refused, open), (30, 30, 0), "{line}");
}
