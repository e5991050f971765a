//! Building the projections anew: emptied and filled, or beside the tables that are read.

use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use es_core::prelude::*;
use es_core::processor::{Processor, ProcessorError, ProcessorState, Rebuild, RebuildOptions, RebuildReport};
use es_core::{ErrorKind, Projection};
use futures::StreamExt as _;
use futures::future::try_join_all;
use indicatif::{MultiProgress, ProgressBar};

use crate::import::{self, End, bar};
use crate::look;
use crate::money::thousands;
use crate::projections::{History, Revenue, Spending};
use crate::report;

/// How long the last events before a switch may take.
const LIMIT: Duration = Duration::from_secs(600);
/// How often it is tried to lead queries to other tables, which an import that goes on may leave behind.
const TRIES: usize = 3;

/// Empties the projections and fills them again from the whole log.
pub(crate) async fn in_place(app: &App) -> anyhow::Result<()> {
    empty::<Revenue>(app).await?;
    empty::<Spending>(app).await?;
    empty::<History>(app).await?;
    import::catch_up(app).await
}

async fn empty<P: Projection>(app: &App) -> anyhow::Result<()> {
    match app.rebuild::<P>().await {
        Err(ProcessorError::HeldBy { .. }) => anyhow::bail!(
            "another program works on the projections: wait until it has ended, or use `shop rebuild --online`"
        ),
        done => Ok(done?),
    }
}

/// Builds all of them beside what is read, says how they differ, and lets queries read the new ones. Stopped in the
/// middle, it goes on where it was; other programs that run on this database help with it.
pub(crate) async fn online(app: &App, keep: bool) -> anyhow::Result<End> {
    let built = tokio::select! {
        built = build(app) => built?,
        _ = tokio::signal::ctrl_c() => {
            report::line("stopped; queries read the old tables, and the next `shop rebuild --online` goes on");
            return Ok(End::Interrupted);
        }
    };
    // From here on it is not stopped by Ctrl-C: it is soon done.
    for (processor, rebuild) in built {
        if !is_under_way(processor, &rebuild).await? {
            report::line(&format!("{}: queries were led to it by another program", processor.name()));
            continue;
        }
        switch(&rebuild).await.with_context(|| format!("queries read the old {}", processor.name()))?;
        if !keep {
            processor.drop_previous().await?;
        }
    }
    if keep {
        report::line("the old tables are kept up to date: `shop rollback` lets queries read them again");
    }
    Ok(End::Complete)
}

/// Until each is as far as the log is now, and it was said how it differs.
async fn build(app: &App) -> anyhow::Result<Vec<(&Processor, Rebuild)>> {
    let mut builds = Vec::new();
    // One after another: SQLite makes tables in a transaction, and one task can hold only one.
    for processor in app.processors() {
        // What an earlier rebuild has kept gives way to this one.
        processor.drop_previous().await?;
        let rebuild = processor.rebuild_online(RebuildOptions::default().lenient()).await?;
        builds.push((processor, rebuild));
    }
    let bars = MultiProgress::new();
    let followed = builds.iter().map(|(processor, rebuild)| {
        let bar = bars.add(bar(0, processor.name().to_owned()));
        follow(rebuild, bar)
    });
    try_join_all(followed).await?;
    for (processor, rebuild) in &builds {
        let differences = differences(&rebuild.report(3).await?);
        report::line(&format!("{}: {differences}", processor.name()));
    }
    Ok(builds)
}

/// Until it is as far as the log is now; the rest is taken in before the switch.
async fn follow(rebuild: &Rebuild, bar: ProgressBar) -> anyhow::Result<()> {
    let mut progress = pin!(rebuild.progress());
    let mut target = None;
    while let Some(now) = progress.next().await.transpose()? {
        if let ProcessorState::Halted { error, .. } = now.state {
            anyhow::bail!("the new tables are halted at {}: {error}", now.done);
        }
        bar.set_length(now.total.0);
        bar.set_position(now.done.0);
        if now.done >= *target.get_or_insert(now.total) {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// Whether nobody else has let queries read it, or given it up.
async fn is_under_way(processor: &Processor, rebuild: &Rebuild) -> Result<bool, ProcessorError> {
    Ok(processor.rebuilding().await?.is_some_and(|now| now.generation() == rebuild.generation()))
}

async fn switch(rebuild: &Rebuild) -> Result<(), ProcessorError> {
    let mut tries = 1;
    loop {
        rebuild.caught_up(LIMIT).await?;
        match rebuild.switch().await {
            Err(_) if tries < TRIES => tries += 1,
            done => return done,
        }
    }
}

/// What a person wants to know before queries read something else.
fn differences(report: &RebuildReport) -> String {
    if report.is_empty() {
        return format!("no difference at {}", report.new);
    }
    let mut text = String::new();
    for d in &report.differences {
        let (added, removed, changed) = (thousands(d.added), thousands(d.removed), thousands(d.changed));
        text += &format!("{added} rows more, {removed} fewer, {changed} others");
        for sample in &d.samples {
            let side = |row: &Option<String>| {
                row.as_ref().map_or("nothing", |row| row).chars().take(100).collect::<String>()
            };
            text += &format!("\n    {} -> {}", side(&sample.old), side(&sample.new));
        }
    }
    if report.old != report.new {
        let (old, new) = (report.old, report.new);
        text += &format!("\n  (the old one is at {old}, the new one at {new}: part of it is younger events)");
    }
    text
}

/// Lets queries read the kept tables. One that was stopped half way is completed; a complete one is undone.
pub(crate) async fn roll_back(app: &App) -> anyhow::Result<()> {
    look::arrive(app).await?;
    let reads_newer = |processor: &&Processor| {
        let current = processor.status().generation;
        processor.builds().iter().any(|build| !build.ranges.is_empty() && build.generation < current)
    };
    let newer: Vec<&Processor> = app.processors().iter().filter(reads_newer).collect();
    let chosen = if newer.is_empty() { app.processors().iter().collect() } else { newer };
    let mut back = false;
    for processor in chosen {
        match lead_back(processor).await {
            Ok(()) => {
                back = true;
                report::line(&format!("{}: queries read the kept tables", processor.name()));
            }
            // It has none.
            Err(ProcessorError::NoOlder { .. }) => {}
            Err(error) => {
                let name = processor.name();
                let what = format!(
                    "{name} stays as it is: roll back again, at the latest when no import runs any more"
                );
                return Err(error).context(what);
            }
        }
    }
    anyhow::ensure!(
        back,
        "there is nothing to go back to: only `shop rebuild --online --keep` keeps old tables"
    );
    import::catch_up(app).await
}

async fn lead_back(processor: &Processor) -> Result<(), ProcessorError> {
    let mut tries = 1;
    loop {
        match processor.roll_back().await {
            // While an import goes on, the kept tables are not always as far.
            Err(error) if error.kind() == ErrorKind::Transient && tries < TRIES => tries += 1,
            done => return done,
        }
    }
}
