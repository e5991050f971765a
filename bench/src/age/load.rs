//! Commands that come at a steady rate, whoever is still waiting. How long each waits counts from when it was due.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use es_core::App;
use tokio::task::JoinHandle;

use crate::domain::deposit;

/// Commands a second: two hours of them have five million keys, and more.
pub const RATE: u64 = 700;
/// Accounts that they go to, which are new.
const ACCOUNTS: Range<u64> = 1_000_000..1_010_000;
/// How long a phase takes at least.
const LEAST: Duration = Duration::from_secs(5);
/// How long an answer is waited for.
const LIMIT: Duration = Duration::from_secs(120);

/// What became of a command.
struct Answer {
    number: u64,
    waited: Duration,
    failed: bool,
}

#[derive(Default)]
struct Seen {
    sent: u64,
    /// Since somebody took them.
    answers: Vec<Answer>,
    stored: u64,
    first_error: Option<String>,
}

pub struct Load {
    seen: Arc<Mutex<Seen>>,
    ended: Arc<AtomicBool>,
    task: JoinHandle<anyhow::Result<()>>,
}

/// How commands fared during a phase.
pub struct Phase {
    /// What was done beside them, alone.
    pub took: Duration,
    pub rate: f64,
    pub p50: Duration,
    pub p99: Duration,
    pub worst: Duration,
    pub failed: usize,
}

impl Load {
    pub fn begin(app: App) -> Self {
        let (seen, ended) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let task = tokio::spawn(arrive(app, seen.clone(), ended.clone()));
        Self { seen, ended, task }
    }

    /// Does something meanwhile. What was due before its end counts, also if it is answered later.
    pub async fn during<T>(
        &self,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<(T, Phase)> {
        let (first, begun) = (lock(&self.seen).sent, Instant::now());
        let done = work.await?;
        let took = begun.elapsed();
        tokio::time::sleep(LEAST.saturating_sub(took)).await;
        let last = lock(&self.seen).sent;
        let answers = self.answers(first..last).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let failed = answers.iter().filter(|answer| answer.failed).count();
        let mut waits: Vec<Duration> = answers.iter().map(|answer| answer.waited).collect();
        waits.sort_unstable();
        let share = |percent: usize| waits.get(waits.len() * percent / 100).copied().unwrap_or_default();
        let worst = waits.last().copied().unwrap_or_default();
        let rate = (answers.len() - failed) as f64 / seconds;
        Ok((done, Phase { took, rate, p50: share(50), p99: share(99), worst, failed }))
    }

    /// Those of commands with these numbers, when all are there. What was answered before is forgotten.
    async fn answers(&self, numbers: Range<u64>) -> anyhow::Result<Vec<Answer>> {
        let until = Instant::now() + LIMIT;
        loop {
            {
                let mut seen = lock(&self.seen);
                seen.answers.retain(|answer| answer.number >= numbers.start);
                let of = |answer: &Answer| numbers.contains(&answer.number);
                if seen.answers.iter().filter(|answer| of(answer)).count() as u64
                    == numbers.end - numbers.start
                {
                    let (these, later) = std::mem::take(&mut seen.answers).into_iter().partition(of);
                    seen.answers = later;
                    return Ok(these);
                }
            }
            anyhow::ensure!(Instant::now() < until, "commands are not answered within {LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it. Gives how many commands were stored, and the first error there was.
    pub async fn end(self) -> anyhow::Result<(u64, Option<String>)> {
        self.ended.store(true, Ordering::Relaxed);
        self.task.await.context("the load panicked")??;
        let mut seen = lock(&self.seen);
        Ok((seen.stored, seen.first_error.take()))
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().expect("nobody panics with it")
}

async fn arrive(app: App, seen: Arc<Mutex<Seen>>, ended: Arc<AtomicBool>) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE as u32);
    let mut sent = tokio::task::JoinSet::new();
    while !ended.load(Ordering::Relaxed) {
        // What was missed comes at once: it was due then.
        let due = tick.tick().await;
        let number = lock(&seen).sent;
        lock(&seen).sent += 1;
        let (app, seen) = (app.clone(), seen.clone());
        sent.spawn(async move {
            let account = ACCOUNTS.start + number % (ACCOUNTS.end - ACCOUNTS.start);
            let key = format!("pay/{}", app.new_id());
            let outcome = app.send(&account, deposit()).idempotency_key(key).await;
            let waited = due.elapsed();
            let mut seen = lock(&seen);
            seen.answers.push(Answer { number, waited, failed: outcome.is_err() });
            match outcome {
                Ok(_) => seen.stored += 1,
                Err(error) if seen.first_error.is_none() => {
                    seen.first_error = Some(es_core::chain(&error).to_string());
                }
                Err(_) => {}
            }
        });
        while let Some(done) = sent.try_join_next() {
            done?;
        }
    }
    while let Some(done) = sent.join_next().await {
        done?;
    }
    Ok(())
}
