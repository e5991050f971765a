//! Rows of a store, read without the program's own types.

use std::collections::{BTreeMap, BTreeSet};

use es_core::cluster::StateStore;
use es_core::store::{StoredRow, is_full};
use serde_json::Value;

const PAGE: usize = 1_000;
const PROCESSES: [&str; 2] = ["sale", "holder"];

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
    for what in ["process.instances", "process.inputs"].into_iter().chain(QUEUES) {
        for process in PROCESSES {
            let name = format!("{what}.{process}");
            let rows = of(store, &name).await;
            tables.insert(name, rows);
        }
    }
    tables
}

/// Commands that were not answered, timers that were set, instances with inputs to take in.
const QUEUES: [&str; 3] = ["hot.process.sends", "hot.process.timers", "hot.process.lagging"];

/// The queues that are not empty.
pub(crate) async fn queued(store: &dyn StateStore) -> BTreeSet<String> {
    let mut queued = BTreeSet::new();
    for (queue, process) in QUEUES.iter().flat_map(|queue| PROCESSES.map(|process| (queue, process))) {
        if !of(store, &format!("{queue}.{process}")).await.is_empty() {
            queued.insert((*queue).to_owned());
        }
    }
    queued
}

/// What is not over: queues that are not empty, and processes with instances that have not ended.
pub(crate) async fn waiting(store: &dyn StateStore) -> BTreeSet<String> {
    let mut waiting = queued(store).await;
    for process in PROCESSES {
        let instances = of(store, &format!("process.instances.{process}")).await;
        if instances.iter().any(|row| json(row)["ended"] != true) {
            waiting.insert(process.to_owned());
        }
    }
    waiting
}
