//! What is asked of the rebuild of a projection.

use std::fmt::Write as _;
use std::pin::pin;
use std::time::Duration;

use es_core::processor::{
    Desk, ProcessorError, ProcessorState, Progress, Rebuild, RebuildOptions, RebuildReport, RebuildStep,
};
use es_postgres::PgBackend;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::arguments::{Arguments, Command, Final, Reversible};
use crate::processor::{listed, parked};
use crate::run::{Answer, Failed};
use crate::say;

/// Between two words about how far it is.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn run(backend: PgBackend, arguments: &Arguments) -> Result<Answer, Failed> {
    let of = async |name: &str| Desk::of(backend.clone(), name).await;
    let tells = !arguments.json;
    Ok(match &arguments.command {
        Command::Rebuild { processor, dry_run: true, .. } => {
            dry(&of(processor).await?, RebuildStep::Begin, "would be built, or is being built").await?
        }
        Command::Rebuild { processor, lenient, repeat_skips, wait, .. } => {
            let rebuild = of(processor).await?.rebuild_online(options(*lenient, *repeat_skips)).await?;
            let answer = follow(&rebuild, *wait, tells).await?;
            // It has begun: that is what was asked for.
            if *wait == 0 { answer.good_if(true) } else { answer }
        }
        Command::Progress { processor, wait } => {
            follow(&under_way(&of(processor).await?).await?, *wait, tells).await?
        }
        Command::Report { processor, samples } => {
            report(&under_way(&of(processor).await?).await?.report(*samples).await?)
        }
        Command::Switch { of: Reversible { processor, dry_run } } => {
            let desk = of(processor).await?;
            if *dry_run {
                return dry(&desk, RebuildStep::Switch, "would be what queries read").await;
            }
            let rebuild = under_way(&desk).await?;
            rebuild.switch().await?;
            read(rebuild.generation())
        }
        Command::RollBack { of: Reversible { processor, dry_run } } => {
            let desk = of(processor).await?;
            if *dry_run {
                return dry(&desk, RebuildStep::RollBack, "would be what queries read").await;
            }
            desk.roll_back().await?;
            read(desk.builds().await?.current)
        }
        Command::Abort { of: Final { processor, dry_run, .. } } => {
            let desk = of(processor).await?;
            if *dry_run {
                return dry(&desk, RebuildStep::Abort, "would go").await;
            }
            let rebuild = under_way(&desk).await?;
            rebuild.abort().await?;
            about(rebuild.generation(), "is gone")
        }
        Command::DropPrevious { of: Final { processor, dry_run, .. } } => {
            let desk = of(processor).await?;
            if *dry_run {
                return dry(&desk, RebuildStep::DropPrevious, "would go").await;
            }
            let dropped = desk.would(RebuildStep::DropPrevious).await?;
            desk.drop_previous().await?;
            about(dropped, "is gone")
        }
        Command::RebuildKeys { processor, keys, dry_run, wait } => {
            keys_of(&of(processor).await?, keys, *dry_run, *wait).await?
        }
        _ => unreachable!("no verb of a rebuild"),
    })
}

fn options(lenient: bool, repeat_skips: bool) -> RebuildOptions {
    let options = RebuildOptions::default();
    let options = if lenient { options.lenient() } else { options };
    if repeat_skips { options.repeat_skips() } else { options }
}

async fn under_way(desk: &Desk<PgBackend>) -> Result<Rebuild, ProcessorError> {
    let none = || ProcessorError::NoRebuild { processor: desk.name().to_owned() };
    desk.rebuilding().await?.ok_or_else(none)
}

fn about(generation: u32, what: &str) -> Answer {
    Answer::data(String::new(), json!({ "generation": generation }))
        .with_words(format!("generation {generation} {what}"))
}

fn read(generation: u32) -> Answer {
    about(generation, "is what queries read")
}

/// What a step would be about. A refusal is an answer.
async fn dry(desk: &Desk<PgBackend>, step: RebuildStep, what: &str) -> Result<Answer, Failed> {
    match desk.would(step).await {
        Ok(generation) => Ok(about(generation, what)),
        Err(error @ ProcessorError::Store(_)) => Err(error.into()),
        Err(error) => {
            let why = es_core::chain(&error);
            Ok(Answer::data(String::new(), json!({ "in_the_way": why })).with_words(why).good_if(false))
        }
    }
}

/// How far it is once that time is over, or it is as far as the log, or halted.
async fn follow(rebuild: &Rebuild, seconds: u64, tells: bool) -> Result<Answer, Failed> {
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut looks, mut told) = (pin!(rebuild.progress()), Instant::now());
    let mut last = None;
    while let Some(progress) = looks.next().await {
        let progress = progress?;
        let is_halted = matches!(progress.state, ProcessorState::Halted { .. });
        let is_over = Instant::now() >= until || is_halted;
        if tells && !is_over && told.elapsed() >= PAUSE {
            told = Instant::now();
            say(&format!("{}\n", line(&progress)));
        }
        last = Some(progress);
        if is_over {
            break;
        }
    }
    let progress = last.expect("it is looked at once at least");
    let is_complete = progress.is_complete();
    Ok(Answer::data(format!("{}\n", line(&progress)), json!({ "progress": fields(&progress) }))
        .good_if(is_complete))
}

fn line(progress: &Progress) -> String {
    let Progress { generation, done, total, per_second, left, why_not, .. } = progress;
    let mut line = format!("generation {generation} at {} of {}", done.0, total.0);
    if let Some(left) = left.filter(|left| !left.is_zero()) {
        write!(line, ", {per_second:.0} events a second, {} s left", left.as_secs())
            .expect("writing to a string");
    }
    if let Some(why) = why_not {
        write!(line, " ({why})").expect("writing to a string");
    }
    line
}

fn fields(progress: &Progress) -> Value {
    json!({
        "generation": progress.generation,
        "done": progress.done.0,
        "total": progress.total.0,
        "per_second": progress.per_second,
        "seconds_left": progress.left.map(|left| left.as_secs_f64()),
        "complete": progress.is_complete(),
        "why_not": progress.why_not,
    })
}

fn report(found: &RebuildReport) -> Answer {
    let (mut lines, mut tables) = (String::new(), Vec::new());
    for one in &found.differences {
        writeln!(
            lines,
            "{}: {} added, {} removed, {} changed",
            one.table, one.added, one.removed, one.changed
        )
        .expect("writing to a string");
        let mut samples = Vec::new();
        for sample in &one.samples {
            for (mark, row) in [('-', &sample.old), ('+', &sample.new)] {
                row.iter().for_each(|row| writeln!(lines, "  {mark} {row}").expect("writing to a string"));
            }
            samples.push(json!({ "old": sample.old, "new": sample.new }));
        }
        tables.push(json!({
            "table": one.table, "added": one.added, "removed": one.removed, "changed": one.changed, "samples": samples,
        }));
    }
    let words = match found.old == found.new {
        true => format!("compared at {}", found.new.0),
        false => format!(
            "compared at {} and {}: a part of the differences is younger events",
            found.old.0, found.new.0
        ),
    };
    let fields = json!({ "old": found.old.0, "new": found.new.0, "differences": tables });
    Answer::data(lines, json!({ "report": fields })).with_words(words)
}

async fn keys_of(
    desk: &Desk<PgBackend>,
    keys: &[String],
    dry_run: bool,
    wait: u64,
) -> Result<Answer, Failed> {
    if dry_run {
        let parked = parked(desk, |sequence| keys.contains(&sequence.key)).await?;
        let words = format!("{} rows would be rebuilt, {} keys are parked", keys.len(), parked.len());
        return Ok(listed(&parked).with_words(words).good_if(parked.is_empty()));
    }
    desk.rebuild_keys(keys, Duration::from_secs(wait)).await?;
    Ok(Answer::words(format!("{} rows rebuilt", keys.len())))
}
