//! Where the projections are, and what waits for a person.

use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use es_core::prelude::*;

use crate::look::{self, HEADER};
use crate::money::thousands;
use crate::report;

/// How long a retry may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How many parked keys of a projection are listed.
const LISTED: usize = 100;

/// Once, as a table; and what to do about it.
pub(crate) async fn status(app: &App) -> anyhow::Result<()> {
    look::arrive(app).await?;
    let (head, shown) = look::look(app).await?;
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(HEADER);
    for build in &shown {
        table.add_row(&build.cells);
    }
    report::line(&table.to_string());
    report::line(&format!("{} events in the log", thousands(head.0)));
    if shown.iter().any(|build| build.parked > 0) {
        report::line("parked keys miss events that failed: `shop parked` says why, `shop retry` tries again");
    }
    Ok(())
}

/// Each key that waits for a person, and why.
pub(crate) async fn parked(app: &App) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["projection", "key", "events", "first", "why"]);
    let mut more = false;
    for processor in app.processors() {
        let sequences = processor.parked(None, LISTED + 1).await?;
        more |= sequences.len() > LISTED;
        for parked in sequences.into_iter().take(LISTED) {
            let (events, first) = (thousands(parked.events), parked.position.to_string());
            table.add_row([processor.name().to_owned(), parked.key, events, first, parked.error]);
        }
    }
    if table.is_empty() {
        report::line("nothing is parked");
        return Ok(());
    }
    report::line(&table.to_string());
    if more {
        report::line(&format!("only the first {LISTED} keys of a projection are listed"));
    }
    report::line("with the cause mended, `shop retry PROJECTION KEY` takes the events in");
    Ok(())
}

/// Takes in the events of a parked key once more.
pub(crate) async fn retry(app: &App, projection: &str, key: &str) -> anyhow::Result<()> {
    let named = |name: &str| name == projection || name.split('/').next() == Some(projection);
    let Some(processor) = app.processors().iter().find(|processor| named(processor.name())) else {
        let names: Vec<_> = app.processors().iter().map(|processor| processor.name()).collect();
        anyhow::bail!("there is no projection {projection:?}, only {}", names.join(", "));
    };
    match processor.retry(key, LIMIT).await? {
        None => report::line(&format!("{}: {key} is complete again", processor.name())),
        Some(parked) => anyhow::bail!(
            "{}: {key} failed again at {}, {} events wait: {}",
            processor.name(),
            parked.position,
            thousands(parked.events),
            parked.error
        ),
    }
    Ok(())
}
