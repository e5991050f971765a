//! The same transfers by each method: how long they take, what they cost, and what others see in between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Table};
use sqlx::PgPool;
use tokio::sync::watch;

use crate::banks::{Banks, Databases};
use crate::by::{self, Does, Method};
use crate::crew::{Crew, Plan, Played};
use crate::reconcile;
use crate::report::{line, thousands};
use crate::transfer::Bank;
use crate::watch::{Seen, at_rest};

/// How long what was begun may take to end once nothing else is asked for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(100);

const HEADER: [&str; 8] = [
    "by",
    "settled",
    "declined",
    "p50 ms",
    "p99 ms",
    "per second",
    "commits each",
    "what others see in between",
];

/// What was measured of a method.
struct Measured {
    played: Played,
    commits: i64,
    seen: Seen,
    in_doubt: usize,
}

/// Transfers, prints a table, and says in the last line whether all is well.
pub(crate) async fn compare(databases: &Databases, methods: &[Method], plan: &Plan) -> anyhow::Result<()> {
    let before = at_rest(&databases.banks).await.context("the databases are not at rest")?;
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(HEADER);
    let (mut in_doubt, mut kills, mut wrong) = (0, 0, None);
    for method in methods {
        let measured = measure(*method, databases, plan).await.with_context(|| format!("by {method}"))?;
        in_doubt += measured.in_doubt;
        kills += measured.played.kills;
        wrong = wrong.or_else(|| measured.seen.broken().map(ToOwned::to_owned));
        if measured.in_doubt == 0 {
            wrong = match at_rest(&databases.banks).await {
                Ok(after) if after == before => wrong,
                Ok(after) => Some(format!("{method}: there were {before} cents, and there are {after}")),
                Err(error) => Some(format!("{method}: {error}")),
            };
        }
        table.add_row(row(*method, &measured));
    }
    line(&table.to_string());
    if plan.kill {
        line(&format!("{} programs were killed, and replaced", thousands(kills.into())));
    }
    tell(databases, plan.count, methods.len(), in_doubt, wrong).await
}

/// The last line.
async fn tell(
    databases: &Databases,
    count: u32,
    methods: usize,
    in_doubt: usize,
    wrong: Option<String>,
) -> anyhow::Result<()> {
    let differences = reconcile::differences(databases).await?;
    let money = money(wrong.is_some(), in_doubt);
    let clean = match differences.len() {
        0 => "reconciliation clean".to_owned(),
        n => format!("{n} differences"),
    };
    let plural = if methods == 1 { "" } else { "s" };
    line(&format!(
        "{} transfers by {methods} method{plural}: {money}, {in_doubt} in doubt, {clean}",
        thousands(count.into())
    ));
    anyhow::ensure!(wrong.is_none(), "{}", wrong.unwrap_or_default());
    anyhow::ensure!(
        in_doubt == 0,
        "what is in doubt is left as it is: a program that runs on the databases goes on with it"
    );
    if let Some(first) = differences.first() {
        anyhow::bail!("the first difference: {first}");
    }
    Ok(())
}

/// What is said of the money: what is in doubt is not looked at.
const fn money(is_wrong: bool, in_doubt: usize) -> &'static str {
    match (is_wrong, in_doubt) {
        (true, _) => "money NOT conserved",
        (false, 0) => "money conserved",
        (false, _) => "money not known",
    }
}

async fn measure(method: Method, databases: &Databases, plan: &Plan) -> anyhow::Result<Measured> {
    let (app, banks) = (by::start(method, databases, Does::Look).await?, &databases.banks);
    let mut crew = Crew::start(method, databases.urls.clone(), plan.workers).await?;
    let (stop, stopped) = watch::channel(false);
    let watching = tokio::spawn(crate::watch::watch(method, banks.clone(), stopped));
    let journal = databases.journal_pool()?;
    let before = commits(banks, &journal).await?;
    let played = crew.play(plan, banks).await;
    // Whatever has come of it.
    banks.set_open(Bank::B, true).await?;
    let played = played?;
    let in_doubt = quiet(method, &app, databases).await?;
    let commits = commits(banks, &journal).await? - before;
    stop.send_replace(true);
    let seen = watching.await??;
    crew.end().await?;
    app.shutdown(LOOK).await;
    Ok(Measured { played, commits, seen, in_doubt })
}

/// How much has not ended, after it was waited for.
async fn quiet(method: Method, app: &es_core::App, databases: &Databases) -> anyhow::Result<usize> {
    let begun = Instant::now();
    loop {
        let open = by::open(method, app, databases).await?;
        if open == 0 || begun.elapsed() > PATIENCE {
            return Ok(open);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How many transactions have written so far, those of leases and other housekeeping as well. One that was prepared counts
/// twice: it is made durable when it is prepared, and when it is committed.
async fn commits(banks: &Banks, journal: &PgPool) -> anyhow::Result<i64> {
    let (mut servers, mut prepared) = (BTreeMap::<String, i64>::new(), 0);
    for pool in [banks.pool(Bank::A), banks.pool(Bank::B), journal] {
        // Transactions of a server, in whichever database, are numbered when they first write.
        let next =
            "select pg_postmaster_start_time()::text, pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
        let (server, next) = sqlx::query_as::<_, (String, i64)>(next).fetch_one(pool).await?;
        servers.insert(server, next);
    }
    for bank in Bank::ALL {
        let marked = "select count(*) from es_guard.guards where call = '2pc'";
        prepared += sqlx::query_scalar::<_, i64>(marked).fetch_one(banks.pool(bank)).await?;
    }
    Ok(servers.into_values().sum::<i64>() + prepared)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn row(method: Method, measured: &Measured) -> [Cell; 8] {
    let Measured { played: Played { latencies, took, settled, declined, .. }, commits, seen, .. } = measured;
    let mut sorted = latencies.clone();
    sorted.sort_unstable();
    let ms = |part: usize| {
        let at = (sorted.len() * part / 100).min(sorted.len().saturating_sub(1));
        format!("{:.1}", sorted.get(at).map_or(0.0, |time| time.as_secs_f64() * 1_000.0))
    };
    let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let count = latencies.len() as f64;
    [
        Cell::new(method),
        number(thousands(*settled)),
        number(thousands(*declined)),
        number(ms(50)),
        number(ms(99)),
        number(format!("{:.0}", count / took.as_secs_f64())),
        number(format!("{:.1}", *commits as f64 / count)),
        Cell::new(seen.tell()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_that_nobody_has_counted_is_not_said_to_be_there() {
        assert_eq!(money(false, 0), "money conserved");
        assert_eq!(money(false, 3), "money not known");
        assert_eq!(money(true, 3), "money NOT conserved");
    }
}
