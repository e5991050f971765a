//! Flows, some at a time, each from its beginning to its end.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How many are under way at once.
pub const AT_ONCE: u64 = 32;

/// What came of them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Flows {
    /// Flows a second.
    pub rate: f64,
    /// How long half of them took at most.
    pub p50: Duration,
    /// How long all but one in a hundred took at most.
    pub p99: Duration,
}

/// Runs flows 1 to this one.
///
/// # Errors
///
/// The first of a flow.
///
/// # Panics
///
/// Without flows.
pub async fn flows<F>(last: u64, flow: impl Fn(u64) -> F) -> anyhow::Result<Flows>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let started = Instant::now();
    let flow = &flow;
    let one_after_another = |first: u64| async move {
        let mut took = Vec::new();
        for number in (first..=last).step_by(AT_ONCE as usize) {
            let begun = Instant::now();
            flow(number).await?;
            took.push(begun.elapsed());
        }
        anyhow::Ok(took)
    };
    let took = futures::future::try_join_all((1..=AT_ONCE).map(one_after_another)).await?;
    let mut took: Vec<Duration> = took.into_iter().flatten().collect();
    let rate = last as f64 / started.elapsed().as_secs_f64();
    took.sort_unstable();
    Ok(Flows { rate, p50: took[took.len() / 2], p99: took[took.len() * 99 / 100] })
}
