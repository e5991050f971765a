//! What is asked of one processor.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use es_core::processor::{Desk, KnownBuilds, ParkedFilter, ParkedSequence, ProcessorError};
use es_core::store::Position;
use es_postgres::PgBackend;
use serde_json::{Value, json};

use crate::arguments::{Command, Which};
use crate::run::{Answer, Failed};

/// Sequences that are listed together.
const PAGE: usize = 500;

pub(crate) async fn run(backend: PgBackend, command: &Command) -> Result<Answer, Failed> {
    let of = async |name: &str| Desk::of(backend.clone(), name).await;
    Ok(match command {
        Command::Builds { processor } => builds(&of(processor).await?.builds().await?),
        Command::Parked { processor, after, limit } => {
            listed(&of(processor).await?.parked(after.as_deref(), *limit).await?)
        }
        Command::Retry { which } => retry(&of(&which.processor).await?, which).await?,
        Command::Discard { which, reason } => discard(&of(&which.processor).await?, which, reason).await?,
        Command::Pause { processor } => {
            of(processor).await?.pause().await?;
            Answer::words(format!("{processor} is paused until it is resumed"))
        }
        Command::Resume { processor } => {
            of(processor).await?.resume().await?;
            Answer::words(format!("{processor} continues"))
        }
        _ => unreachable!("no verb of a processor"),
    })
}

async fn retry(desk: &Desk<PgBackend>, which: &Which) -> Result<Answer, Failed> {
    if which.dry_run {
        return Ok(listed(&meant(desk, which).await?));
    }
    let limit = Duration::from_secs(which.wait);
    let (asked, failed) = match &which.key {
        Some(key) => (1, Vec::from_iter(desk.retry(key, limit).await?)),
        None => {
            let done = desk.retry_all(&filter(which), limit).await?;
            (done.asked, done.failed)
        }
    };
    let words = format!("{asked} handled again, {} of them failed again", failed.len());
    Ok(listed(&failed).with_words(words).good_if(failed.is_empty()))
}

async fn discard(desk: &Desk<PgBackend>, which: &Which, reason: &str) -> Result<Answer, Failed> {
    if which.dry_run {
        if reason.trim().is_empty() {
            return Err(ProcessorError::NoReason.into());
        }
        return Ok(listed(&meant(desk, which).await?));
    }
    let limit = Duration::from_secs(which.wait);
    let discarded = match &which.key {
        Some(key) => desk.discard(key, reason, limit).await.map(|()| 1)?,
        None => desk.discard_all(&filter(which), reason, limit).await?,
    };
    Ok(Answer::words(format!("{discarded} left out for good")))
}

fn filter(which: &Which) -> ParkedFilter {
    let filter = ParkedFilter::all();
    let filter = match &which.event {
        Some(event) => filter.event(event),
        None => filter,
    };
    match &which.error {
        Some(error) => filter.error(error),
        None => filter,
    }
}

/// The sequences that would be asked for.
async fn meant(desk: &Desk<PgBackend>, which: &Which) -> Result<Vec<ParkedSequence>, Failed> {
    if let Some(key) = &which.key {
        return Ok(vec![desk.parked_under(key).await?]);
    }
    let filter = filter(which);
    // What is asked of all is not asked of one that cannot be read: it has no event.
    parked(desk, |sequence| sequence.position > Position(0) && filter.matches(sequence)).await
}

/// The parked sequences that are meant.
pub(crate) async fn parked(
    desk: &Desk<PgBackend>,
    is_meant: impl Fn(&ParkedSequence) -> bool,
) -> Result<Vec<ParkedSequence>, Failed> {
    let (mut meant, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = desk.parked(after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(meant) };
        after = Some(last.key.clone());
        meant.extend(page.into_iter().filter(|sequence| is_meant(sequence)));
    }
}

pub(crate) fn listed(sequences: &[ParkedSequence]) -> Answer {
    let (mut lines, mut fields) = (String::new(), Vec::new());
    for one in sequences {
        writeln!(
            lines,
            "{}  {} events from {} ({}), {} attempts, parked at {}: {}",
            one.key, one.events, one.position, one.event, one.attempts, one.first_at, one.error
        )
        .expect("writing to a string");
        fields.push(shown(one));
    }
    Answer::data(lines, json!({ "parked": fields }))
}

fn shown(one: &ParkedSequence) -> Value {
    json!({
        "key": one.key,
        "position": one.position.0,
        "event": one.event,
        "events": one.events,
        "error": one.error,
        "attempts": one.attempts,
        "first_at": one.first_at.to_string(),
        "last_at": one.last_at.to_string(),
    })
}

fn builds(known: &KnownBuilds) -> Answer {
    let KnownBuilds { current, building, previous, leaving, reached, head, paused, .. } = known;
    let mut lines = String::new();
    let mut line = |what: &str, of: String| {
        writeln!(lines, "{what:<9} {of}").expect("writing to a string");
    };
    let at = |generation| match reached.get(generation) {
        Some(at) => format!("generation {generation} at {} of {}", at.0, head.0),
        None => format!("generation {generation}"),
    };
    line("current", at(current));
    if let Some((generation, since)) = building {
        line("building", format!("{} since {since}", at(generation)));
    }
    previous.iter().for_each(|generation| line("previous", at(generation)));
    leaving.iter().for_each(|generation| line("leaving", format!("generation {generation}")));
    if let Some(since) = paused {
        line("paused", format!("since {since}"));
    }
    let building =
        building.map(|(generation, since)| json!({ "generation": generation, "since": since.to_string() }));
    let fields = json!({
        "current": current,
        "building": building,
        "previous": previous,
        "leaving": leaving,
        "reached": reached.iter().map(|(build, at)| (build.to_string(), at.0)).collect::<BTreeMap<_, _>>(),
        "head": head.0,
        "paused": paused.map(|since| since.to_string()),
    });
    Answer::data(lines, json!({ "builds": fields }))
}
