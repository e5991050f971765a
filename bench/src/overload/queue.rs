//! Commits that are sent while another session holds the gate: some wait, and the others are told that there is no room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use bench_kit::Peak;
use es_core::id::Ids;
use es_core::prelude::*;
use es_core::store::{Append, Commit, CommitError, ExpectedVersion, NewEvent, StreamId};
use es_postgres::PgBackend;

use crate::domain::{AccountEvent, Deposited, deposit};
use crate::measure::{held_mib, say};
use crate::postgres::Gate;

const STREAMS: u64 = 2_000;
/// Between the last commit that was sent and the end of the gate.
const HELD: Duration = Duration::from_secs(1);

fn commit(ids: &Ids, number: u64) -> anyhow::Result<Commit> {
    let deposit = deposit();
    let event = AccountEvent::Deposited(Deposited { amount: deposit.amount, note: deposit.note });
    let append = Append {
        stream: StreamId::new(format!("account-{}", number % STREAMS))?,
        expected: ExpectedVersion::Any,
        events: vec![NewEvent::new(ids.next(), event.encode()?, Arc::default())],
    };
    Ok(Commit { appends: vec![append], ..Commit::default() })
}

/// Whether it was stored, or was told that there is no room; and how long that took.
async fn send(backend: PgBackend, number: u64, begun: Arc<AtomicU64>) -> anyhow::Result<(bool, Duration)> {
    let commit = commit(&Ids::default(), number)?;
    begun.fetch_add(1, Ordering::Relaxed);
    let started = Instant::now();
    match backend.commit(commit).await {
        Ok(_) => Ok((true, started.elapsed())),
        Err(CommitError::Store(error)) if error.is_busy() => Ok((false, started.elapsed())),
        Err(error) => Err(error.into()),
    }
}

pub async fn measure(url: &str, commits: u64) -> anyhow::Result<()> {
    let backend = PgBackend::connect(url).await?;
    for number in 0..100 {
        backend.commit(commit(&Ids::default(), number)?).await?;
    }
    let stored_before = backend.head().await?.0;
    let (before, begun) = (held_mib(), Arc::<AtomicU64>::default());
    let gate = Gate::hold(url).await?;
    Peak::begin();
    let sent: Vec<_> =
        (0..commits).map(|number| tokio::spawn(send(backend.clone(), number, begun.clone()))).collect();
    while begun.load(Ordering::Relaxed) < commits {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(HELD).await;
    let waiting = held_mib();
    gate.release().await?;
    let released = Instant::now();
    let (mut stored, mut busy) = (0, Vec::new());
    for one in sent {
        match one.await?? {
            (true, _) => stored += 1,
            (false, took) => busy.push(took),
        }
    }
    let drained = released.elapsed();
    let written = backend.head().await?.0 - stored_before;
    ensure!(written == stored, "{stored} commits were answered as stored, and {written} are");
    ensure!(stored + busy.len() as u64 == commits, "each commit is answered");
    busy.sort_unstable();
    let told = |percent: usize| busy.get((busy.len() * percent / 100).min(busy.len().saturating_sub(1)));
    let millis = |took: Option<&Duration>| took.map_or(0.0, |took| took.as_secs_f64() * 1e3);
    say(&format!(
        "{commits} commits sent while the gate is held: {} told that there is no room, p99 after {:.3} ms, the last after {:.3} \
         ms; {stored} waited, and were stored {:.2} s after the gate was let go; memory {before} MiB before, {} at its peak, \
         {waiting} while they waited, {} afterwards",
        busy.len(),
        millis(told(99)),
        millis(busy.last()),
        drained.as_secs_f64(),
        Peak::now().mib(),
        held_mib(),
    ));
    Ok(())
}
