//! Building the projections anew: emptied and filled, or beside the tables that are read.

use std::time::Duration;

use anyhow::Context as _;
use es_core::Projection;
use es_core::prelude::*;
use es_core::processor::{Rebuild, RebuildOptions, Report};
use futures::StreamExt as _;
use indicatif::{MultiProgress, ProgressBar};

use crate::import::{self, End, bar};
use crate::money::thousands;
use crate::projections::{History, Revenue, Spending};
use crate::report;

/// Empties the projections and fills them again from the whole log.
pub(crate) async fn in_place(app: &App) -> anyhow::Result<End> {
    app.rebuild::<Revenue>().await?;
    app.rebuild::<Spending>().await?;
    app.rebuild::<History>().await?;
    import::catch_up(app).await?;
    Ok(End::Complete)
}

/// Builds all of them beside what is read, says how they differ, and lets queries read the new ones. Stopped in the
/// middle, it goes on where it was; other programs that run on this database help with it.
pub(crate) async fn online(app: &App, keep: bool) -> anyhow::Result<()> {
    let bars = MultiProgress::new();
    tokio::try_join!(
        one::<Revenue>(app, &bars, "revenue"),
        one::<Spending>(app, &bars, "spending"),
        one::<History>(app, &bars, "history"),
    )?;
    for processor in app.processors().iter().filter(|_| !keep) {
        processor.drop_previous().await?;
    }
    if keep {
        report::line("the old tables are kept up to date: `shop rollback` reads them again");
    }
    Ok(())
}

async fn one<P: Projection>(app: &App, bars: &MultiProgress, name: &'static str) -> anyhow::Result<()> {
    // What an earlier rebuild has kept gives way to this one.
    app.processor::<P>()?.drop_previous().await?;
    let rebuild = app.rebuild_online::<P>(RebuildOptions::default()).await?;
    let bar = bars.add(bar(0, name));
    follow(&rebuild, &bar).await?;
    rebuild.caught_up(Duration::from_secs(600)).await?;
    let report = rebuild.report(3).await?;
    bars.suspend(|| report::line(&format!("{name}: {}", differences(&report))));
    rebuild.switch().await.with_context(|| format!("queries go on reading the old {name}"))?;
    bar.finish_and_clear();
    Ok(())
}

async fn follow(rebuild: &Rebuild, bar: &ProgressBar) -> anyhow::Result<()> {
    let mut progress = std::pin::pin!(rebuild.progress());
    while let Some(now) = progress.next().await {
        let now = now?;
        bar.set_length(now.total.0);
        bar.set_position(now.done.0);
    }
    Ok(())
}

/// What a person wants to know before queries read something else.
fn differences(report: &Report) -> String {
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
        text += &format!(
            "\n  (the old one is at {}, the new one at {}: part of it is younger events)",
            report.old, report.new
        );
    }
    text
}

/// Lets queries read what they read before the last online rebuild.
pub(crate) async fn roll_back(app: &App) -> anyhow::Result<()> {
    for processor in app.processors() {
        processor.roll_back().await?;
        report::line(&format!("{}: queries read the tables of before", processor.name()));
    }
    Ok(())
}
