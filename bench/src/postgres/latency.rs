//! How long a command takes when there is still some room: arrivals at 70 % of the top rate.

use bench_kit::Work;

use super::contender::Contender;
use super::crew::rate;
use super::report::{Table, number};

const CALLERS: u64 = 32;
const AGGREGATES: u64 = 1_024;

pub fn measure(all: &[Contender]) -> anyhow::Result<Table> {
    let head = ["side", "top rate, commands/s", "arrivals/s", "p50, ms", "p99, ms"];
    let mut table = Table::new("Latency at 70 % of the top rate", &head);
    table.notes.push(
        "Arrivals are planned and do not wait for answers; latency counts from the planned moment. \
         Each side has its own top rate."
            .to_owned(),
    );
    for side in all.iter().filter(|side| side.can(Work::Command)) {
        table.side(side, figures(side));
    }
    Ok(table)
}

fn figures(side: &Contender) -> anyhow::Result<Vec<String>> {
    let mut job = side.job(Work::Command, CALLERS);
    job.span = AGGREGATES;
    job.first = side.fresh(AGGREGATES);
    job.until.seconds = 2.0;
    let top = rate(&side.run(&job, 1)?);
    job.first = side.fresh(AGGREGATES);
    job.until.seconds = 3.0;
    job.arrivals = Some(top * 0.7);
    let done = side.run_one(&job)?;
    Ok([top, top * 0.7, done.p50, done.p99].map(number).to_vec())
}
