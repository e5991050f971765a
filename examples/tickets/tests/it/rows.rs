//! Rows of a store, read without the program's own types.

use std::collections::BTreeMap;

use es_core::cluster::StateStore;
use es_core::store::{StoredRow, is_full};
use serde_json::Value;

const PAGE: usize = 1_000;
pub(crate) const PROCESSES: [&str; 2] = ["sale", "holder"];

/// All of a table, and of a view those that queries read.
pub(crate) async fn of(store: &dyn StateStore, table: &str) -> Vec<StoredRow> {
    let mut rows = Vec::<StoredRow>::new();
    loop {
        let after = rows.last().map(|row| row.key.as_str());
        let page = store.scan(table, after, PAGE).await.expect("readable");
        let more = is_full(&page, PAGE);
        rows.extend(page);
        if !more {
            return rows;
        }
    }
}

pub(crate) fn json(row: &StoredRow) -> Value {
    serde_json::from_slice(&row.data).expect("the program writes JSON")
}

/// What is stored of the processes: rows by table.
pub(crate) async fn of_processes(store: &dyn StateStore) -> BTreeMap<String, Vec<StoredRow>> {
    let mut tables = BTreeMap::new();
    let of_each = ["process.instances", "process.inputs"].into_iter().chain(QUEUES);
    for name in of_each.flat_map(|of| PROCESSES.map(|process| format!("{of}.{process}"))) {
        let rows = of(store, &name).await;
        tables.insert(name, rows);
    }
    tables
}

/// Commands that were not answered, timers that were set, instances with inputs to take in.
const QUEUES: [&str; 3] = ["hot.process.sends", "hot.process.timers", "hot.process.lagging"];

/// What is not over: how many rows of each queue, and how many instances that have not ended. Nothing, if all is quiet.
pub(crate) async fn waiting(store: &dyn StateStore) -> BTreeMap<String, usize> {
    let mut waiting = BTreeMap::new();
    for process in PROCESSES {
        for queue in QUEUES {
            waiting.insert(queue.to_owned(), of(store, &format!("{queue}.{process}")).await.len());
        }
        let instances = of(store, &format!("process.instances.{process}")).await;
        waiting.insert(process.to_owned(), instances.iter().filter(|row| json(row)["ended"] != true).count());
    }
    waiting.retain(|_, rows| *rows > 0);
    waiting
}
