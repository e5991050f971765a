//! The process that does a job: it says `ready`, waits for a line, works, and prints what it did.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::runtime::Runtime;

use crate::pace::Pace;
use crate::{Done, Job, Side, Work};

/// A line for whoever started this process.
pub fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Until all the others are ready too.
fn wait() -> anyhow::Result<()> {
    say("ready")?;
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// Does one job as a process of its own.
pub fn work<S: Side>(job: &Job) -> anyhow::Result<()> {
    let runtime = Runtime::new()?;
    if job.work == Work::Create {
        runtime.block_on(S::create(&job.url))?;
        wait()?;
        return say(&serde_json::to_string(&Done::default())?);
    }
    let side = runtime.block_on(S::open(&job.url))?;
    runtime.block_on(warm(&side, job))?;
    wait()?;
    let pace = Arc::new(Pace::start());
    runtime.block_on(callers(&side, job, &pace))?;
    say(&serde_json::to_string(&pace.done())?)
}

/// Runs a server until the standard input ends.
pub fn serve(url: &str) -> anyhow::Result<()> {
    // The server may talk too: this is the line that is looked for.
    say(&format!("url {url}"))?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// Connections are made and statements prepared before the clock runs.
async fn warm<S: Side>(side: &S, job: &Job) -> anyhow::Result<()> {
    if !job.warm || matches!(job.work, Work::Rebuild | Work::Fill | Work::Scatter) {
        return Ok(());
    }
    let warm = (0..job.callers).map(|caller| {
        let (side, work, aggregate) = (side.clone(), job.work, job.aggregate(caller, 0));
        tokio::spawn(async move { call(&side, work, aggregate, Duration::ZERO).await })
    });
    for warmed in try_join_all(warm).await? {
        warmed?;
    }
    Ok(())
}

async fn callers<S: Side>(side: &S, job: &Job, pace: &Arc<Pace>) -> anyhow::Result<()> {
    let callers = (0..job.callers).map(|caller| {
        let (side, job, pace) = (side.clone(), job.clone(), Arc::clone(pace));
        tokio::spawn(async move {
            match job.arrivals {
                Some(rate) => arrivals(&side, &job, &pace, caller, rate).await,
                None => one_by_one(&side, &job, &pace, caller).await,
            }
        })
    });
    for called in try_join_all(callers).await? {
        called?;
    }
    Ok(())
}

async fn one_by_one<S: Side>(side: &S, job: &Job, pace: &Pace, caller: u64) -> anyhow::Result<()> {
    let limit = Duration::from_secs_f64(job.until.seconds);
    for i in 0..job.until.calls.unwrap_or(u64::MAX) {
        let Some(left) = limit.checked_sub(pace.elapsed()) else { break };
        pace.count(call(side, job.work, job.aggregate(caller, i), left).await?);
    }
    Ok(())
}

/// Calls are due when they are due, however long the one before takes.
async fn arrivals<S: Side>(
    side: &S,
    job: &Job,
    pace: &Arc<Pace>,
    caller: u64,
    rate: f64,
) -> anyhow::Result<()> {
    let between = job.callers as f64 / rate;
    let mut calls = Vec::new();
    for i in 0.. {
        // Spread over the callers, so that they do not arrive in one crowd.
        let due = (i as f64 + caller as f64 / job.callers as f64) * between;
        if due > job.until.seconds {
            break;
        }
        let due = Duration::from_secs_f64(due);
        tokio::time::sleep(due.saturating_sub(pace.elapsed())).await;
        let (side, pace, work) = (side.clone(), Arc::clone(pace), job.work);
        let aggregate = job.aggregate(caller, i);
        calls.push(tokio::spawn(async move {
            pace.count(call(&side, work, aggregate, Duration::ZERO).await?);
            pace.waited(due);
            anyhow::Ok(())
        }));
    }
    for called in try_join_all(calls).await? {
        called?;
    }
    Ok(())
}

const BATCH: usize = 100;
const FILL: u64 = 1_000;

/// One call, and how many units it was.
async fn call<S: Side>(side: &S, work: Work, aggregate: u64, left: Duration) -> anyhow::Result<u64> {
    match work {
        Work::Create => Ok(0),
        Work::Command => side.command(aggregate, 1).await.map(|()| 1),
        Work::Batch => side.command(aggregate, BATCH).await.map(|()| BATCH as u64),
        Work::Condition => side.condition(aggregate).await.map(|()| 1),
        Work::Load => Ok(u64::try_from(side.load(aggregate).await?)?),
        Work::Rebuild => side.rebuild(left).await,
        Work::Fill => side.fill(aggregate * FILL, FILL / BATCH as u64, BATCH).await.map(|()| FILL),
        Work::Scatter => side.fill(aggregate * FILL, FILL, 1).await.map(|()| FILL),
    }
}
