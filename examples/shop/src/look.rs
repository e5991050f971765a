//! Where the projections are, as far as one that only looks can know.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use es_core::prelude::*;
use es_core::processor::ProcessorError;
use es_core::processor::{Processor, ProcessorState, ProcessorStatus};

use crate::money::thousands;

/// How many parked keys are counted.
const COUNTED: usize = 1_000;

/// What is shown of a build, in this order.
pub(crate) const HEADER: [&str; 6] = ["projection", "build", "position", "behind", "parked", "state"];

/// One build of a projection.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) cells: [String; 6],
    /// How much of the log is taken in, from 0 to 1.
    pub(crate) done: f64,
    pub(crate) per_second: u64,
    /// Keys that wait for a person; only known of the build that queries read.
    pub(crate) parked: usize,
}

/// Waits until this program has seen who works on what: before, it knows nothing.
pub(crate) async fn arrive(app: &App) -> anyhow::Result<()> {
    let seen = || -> Vec<_> {
        let known = |p: &Processor| p.builds().iter().filter(|build| !build.ranges.is_empty()).count();
        app.processors().iter().map(|p| (p.status().generation, p.status().ranges.len(), known(p))).collect()
    };
    let arrived = async {
        let mut before = Vec::new();
        // Builds become known one after another: twice the same is all of them.
        while before.is_empty() || before != seen() || before.iter().any(|(_, ranges, _)| *ranges == 0) {
            before = seen();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, arrived).await.context("the database does not say where the projections are")
}

/// How far the log is, and every build of every projection.
pub(crate) async fn look(app: &App) -> Result<(Position, Vec<Shown>), ProcessorError> {
    let head = app.store().head().await?;
    let mut shown = Vec::new();
    for processor in app.processors() {
        let current = processor.status().generation;
        let building = processor.rebuilding().await?.map(|rebuild| rebuild.generation());
        for build in processor.builds().iter().filter(|build| !build.ranges.is_empty()) {
            let of = format!("{}", build.generation);
            shown.push(if build.generation == current {
                let parked = processor.parked(None, COUNTED).await?.len();
                show(build, of, head, Some(parked))
            } else if Some(build.generation) == building {
                show(build, format!("{of} (being built)"), head, None)
            } else {
                show(build, format!("{of} (kept)"), head, None)
            });
        }
    }
    Ok((head, shown))
}

fn show(build: &ProcessorStatus, of: String, head: Position, parked: Option<usize>) -> Shown {
    let owners: BTreeSet<_> = build.ranges.iter().filter_map(|range| range.owner).collect();
    let state = match &build.state {
        ProcessorState::Failing { error, .. } => format!("fails: {error}"),
        ProcessorState::Unsettled { error } => format!("cannot be worked on: {error}"),
        ProcessorState::Paused { .. } => "paused".to_owned(),
        ProcessorState::Halted { error, .. } => format!("halted: {error}"),
        _ if owners.is_empty() => "nobody works on it".to_owned(),
        // Only the program that works on it knows more than how far it is.
        _ if owners.len() == 1 => "elsewhere".to_owned(),
        _ => format!("elsewhere, {} programs", owners.len()),
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for people, never negative"
    )]
    let per_second = build.per_second.round() as u64;
    #[expect(clippy::cast_precision_loss, reason = "a part of the whole, for people")]
    let done = if head.0 == 0 { 1.0 } else { (build.position.0 as f64 / head.0 as f64).min(1.0) };
    let counted = |n| format!("{}{}", thousands(n as u64), if n == COUNTED { "+" } else { "" });
    let cells = [
        build.name.to_string(),
        of,
        thousands(build.position.0),
        thousands(head.0.saturating_sub(build.position.0)),
        parked.map_or_else(|| "-".to_owned(), counted),
        state,
    ];
    Shown { cells, done, per_second, parked: parked.unwrap_or_default() }
}
