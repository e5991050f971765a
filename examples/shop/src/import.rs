//! Purchases into commands, 32 at a time; and the waits for the projections.

use std::borrow::Cow;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use es_core::prelude::*;
use es_core::processor::ProcessorState;
use futures::StreamExt as _;
use futures::stream;
use indicatif::{ProgressBar, ProgressStyle};

use crate::customer::CustomerError;
use crate::file::{BrokenLine, FileError, Line, Purchases};
use crate::money::thousands;
use crate::report;

/// A file that was looked at, and is one of purchases.
#[derive(Debug)]
pub(crate) struct Import {
    purchases: Purchases,
    name: String,
    lines: u64,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Complete,
    Interrupted,
}

pub(crate) async fn open(file: &Path) -> Result<Import, FileError> {
    let lines = Purchases::count(file).await?;
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Import { purchases: Purchases::open(file).await?, name, lines })
}

/// What a line came to.
enum Imported {
    New,
    /// By an earlier run.
    Before,
}

/// Sends each purchase under a key made from its line, so a line acts once however often it is sent.
pub(crate) async fn run(app: &App, import: Import, skip: bool, parallel: usize) -> anyhow::Result<End> {
    let Import { purchases, name, lines } = import;
    let bar = bar(lines.saturating_sub(1), "purchases");
    let lines = stream::unfold(purchases, async |mut purchases| {
        purchases.next().await.transpose().map(|line| (line, purchases))
    });
    let sent = lines.map(|line| send(app, &name, line)).buffered(parallel);
    let mut sent = pin!(sent);
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let (mut new, mut before, mut skipped) = (0_u64, 0_u64, 0_u64);
    loop {
        let next = tokio::select! {
            biased;
            // What is on its way may still be stored; sent again, it will not act twice.
            _ = &mut interrupted => {
                bar.abandon();
                report::line(&format!("stopped after {} purchases; the next import goes on", thousands(new + before)));
                return Ok(End::Interrupted);
            }
            next = sent.next() => next,
        };
        match next {
            None => break,
            Some(Ok(Imported::New)) => new += 1,
            Some(Ok(Imported::Before)) => before += 1,
            Some(Err(error)) if skip && (error.is::<BrokenLine>() || error.is::<Refused>()) => {
                skipped += 1;
                bar.suspend(|| report::error(&error));
            }
            Some(Err(error)) => {
                bar.abandon();
                let done = thousands(new + before);
                report::line(&format!(
                    "stopped after {done} purchases; `--on-error skip` goes on past broken lines"
                ));
                return Err(error);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let (new, before, skipped) = (thousands(new), thousands(before), thousands(skipped));
    report::line(&format!(
        "{new} purchases imported, {before} were imported before, {skipped} lines skipped"
    ));
    tokio::select! {
        caught_up = catch_up(app) => caught_up.map(|()| End::Complete),
        _ = &mut interrupted => {
            report::line("stopped; the purchases are imported, and the next run goes on with the figures");
            Ok(End::Interrupted)
        }
    }
}

/// The shop refused what stands in a line.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {why}")]
struct Refused {
    line: u64,
    why: CustomerError,
}

/// A key is the file's name and the line's number: it cannot stand for two purchases.
#[derive(Debug, thiserror::Error)]
#[error(
    "line {line} was another purchase when a file named {file:?} was imported before: \
     undo the change, or give a new file a name of its own"
)]
struct Changed {
    line: u64,
    file: String,
}

async fn send(
    app: &App,
    file: &str,
    line: Result<Result<Line, BrokenLine>, FileError>,
) -> anyhow::Result<Imported> {
    let Line { number, customer, purchase } = line??;
    // Before it takes its key: corrected, the line is another purchase and needs the key then.
    purchase.check().map_err(|why| Refused { line: number, why })?;
    let sent = app.send(&customer, purchase).idempotency_key(format_args!("{file}/{number}")).await;
    match sent {
        Ok(done) if done.repeated => Ok(Imported::Before),
        Ok(_) => Ok(Imported::New),
        Err(CommandError::Refused(why)) => Err(Refused { line: number, why }.into()),
        Err(CommandError::KeyReused { .. }) => Err(Changed { line: number, file: file.to_owned() }.into()),
        Err(error) => Err(anyhow::Error::new(error).context(format!("line {number}"))),
    }
}

/// Waits until the projections have taken in everything that is in the log now.
pub(crate) async fn catch_up(app: &App) -> anyhow::Result<()> {
    let head = app.store().head().await?;
    let bar = bar(head.0, "projections");
    let halted = || {
        app.processors().iter().find_map(|p| match p.status().state {
            ProcessorState::Halted { error, .. } => Some(anyhow::anyhow!("{} is halted: {error}", p.name())),
            _ => None,
        })
    };
    let behind = || app.processors().iter().map(|p| p.status().position).min().unwrap_or(head);
    let shown = async {
        loop {
            bar.set_position(behind().0.min(head.0));
            if let Some(error) = halted() {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        settled = app.settle(Duration::from_secs(600)) => settled.context("the projections are not up to date")?,
        halted = shown => return Err(halted),
    }
    bar.finish_and_clear();
    Ok(())
}

pub(crate) fn bar(length: u64, what: impl Into<Cow<'static, str>>) -> ProgressBar {
    let template = "{prefix:>12} {bar:40} {human_pos}/{human_len} {per_sec} {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    ProgressBar::new(length).with_style(style).with_prefix(what)
}
