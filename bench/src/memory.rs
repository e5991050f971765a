//! Commands on the in-memory backend: the whole path, and nothing that waits.

use std::collections::HashMap;
use std::time::Instant;

use es_core::App;
use es_core::memory::MemoryBackend;
use tokio::runtime::Runtime;

use crate::domain::{Deposited, small_deposit};
use crate::measure::{Line, Round, compare};

const COMMANDS: u64 = 400_000;
const AGGREGATES: u64 = 1_000;

pub fn commands(runtime: &Runtime, tasks: u64) -> anyhow::Result<Line> {
    let name = if tasks == 1 { "memory, 1 task" } else { "memory, 2 tasks" };
    let raw = "encode with serde_json, check a version in a map, push";
    compare(name, "commands/s", raw, || runtime.block_on(ours(tasks)), || Ok(bare()))
}

async fn ours(tasks: u64) -> anyhow::Result<Round> {
    let app = App::on(MemoryBackend::new()).start().await?;
    let started = Instant::now();
    let task = |task: u64| {
        let app = app.clone();
        tokio::spawn(async move {
            for i in 0..COMMANDS / tasks {
                app.send(&(task * AGGREGATES + i % AGGREGATES), small_deposit()).await?;
            }
            anyhow::Ok(())
        })
    };
    for sent in (0..tasks).map(task).collect::<Vec<_>>() {
        sent.await??;
    }
    Ok((COMMANDS, started.elapsed()))
}

fn bare() -> Round {
    let mut log: Vec<(u64, u64, Vec<u8>)> = Vec::new();
    let mut versions: HashMap<String, u64> = HashMap::new();
    let started = Instant::now();
    for i in 0..COMMANDS {
        let cmd = small_deposit();
        let event = Deposited { amount: cmd.amount, note: cmd.note };
        let version = versions.entry(format!("account-{}", i % AGGREGATES)).or_default();
        *version += 1;
        log.push((i, *version, serde_json::to_vec(&event).expect("encodes")));
    }
    std::hint::black_box(log.len());
    (COMMANDS, started.elapsed())
}
