//! Whether a rate stays what it was: as one aggregate grows, as the store grows, beside a long snapshot.

use bench_kit::{Done, Job, Work};
use sqlx::Connection as _;

use super::contender::Contender;
use super::raw::connect;
use super::report::{Table, number};
use super::server::Server;

/// Whoever has not sent all by then is cut, and shown as far as it came.
const LIMIT: f64 = 10.0;

/// Ten thousand commands to one aggregate: the first thousand beside the last.
pub fn commands(all: &[Contender]) -> anyhow::Result<Table> {
    let title = "10,000 commands in turn to one aggregate";
    let mut table =
        Table::new(title, &["side", "commands", "first 1,000, commands/s", "last 1,000", "last to first"]);
    for side in all.iter().filter(|side| side.can(Work::Command)) {
        let mut job = side.job(Work::Command, 1);
        job.first = side.fresh(1);
        job.until.seconds = LIMIT;
        job.until.calls = Some(10_000);
        let figures = side.run_one(&job).map(|done| [vec![number(done.calls as f64)], drift(&done)].concat());
        table.side(side, figures);
    }
    Ok(table)
}

/// The rate of the first and of the last thousand calls, and their ratio.
fn drift(done: &Done) -> Vec<String> {
    let mut from = 0.0;
    let spans: Vec<f64> = done.thousands.iter().map(|at| at - std::mem::replace(&mut from, *at)).collect();
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else {
        return vec![number(done.calls as f64 / done.seconds), String::new(), String::new()];
    };
    vec![number(1_000.0 / first), number(1_000.0 / last), format!("{:.2}", first / last)]
}

/// Commands of 32 callers on a store that has more and more in it.
pub fn growth(server: &Server, all: &[Contender], long: bool) -> anyhow::Result<Table> {
    let mut table = Table::new(
        "20,000 commands of 32 callers as the store grows",
        &["side", "stored", "first 1,000, commands/s", "last 1,000", "last to first", "all"],
    );
    for side in all.iter().filter(|side| side.can(Work::Scatter) && side.name != "raw") {
        let side = side.again(server, "growth")?;
        let mut row = |what: &str, done: &Done| {
            let all = number(done.calls as f64 / done.seconds);
            table.rows.push([vec![side.name.clone(), what.to_owned()], drift(done), vec![all]].concat());
        };
        row("nothing", &side.run_one(&twenty_thousand(&side))?);
        fill(&side, Work::Fill, 1_000)?;
        row("1 M events", &side.run_one(&twenty_thousand(&side))?);
        fill(&side, Work::Scatter, 1_000)?;
        row("and 1 M other streams", &side.run_one(&twenty_thousand(&side))?);
        row("and a snapshot held by another session", &beside_a_snapshot(&side)?);
        if long {
            fill(&side, Work::Fill, 8_000)?;
            row("10 M events", &side.run_one(&twenty_thousand(&side))?);
        }
    }
    Ok(table)
}

fn twenty_thousand(side: &Contender) -> Job {
    let mut job = side.job(Work::Command, 32);
    job.first = side.fresh(32);
    job.until.seconds = 60.0;
    job.until.calls = Some(20_000 / 32);
    job
}

fn fill(side: &Contender, work: Work, thousands: u64) -> anyhow::Result<()> {
    let mut job = side.job(work, 4);
    job.span = thousands;
    job.first = side.fresh(thousands);
    job.until.seconds = 1_800.0;
    job.until.calls = Some(thousands / job.callers);
    side.run_one(&job).map(drop)
}

/// Nothing that died since can be cleaned up while the snapshot is held.
fn beside_a_snapshot(side: &Contender) -> anyhow::Result<Done> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let mut session = connect(&side.url).await?;
        let mut held = session.begin_with("begin isolation level repeatable read").await?;
        sqlx::query("select 1").execute(&mut *held).await?;
        let done = side.run_one(&twenty_thousand(side))?;
        held.rollback().await?;
        Ok(done)
    })
}
