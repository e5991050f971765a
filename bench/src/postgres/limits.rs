//! Bulks: a thousand rows at a time, the ways PostgreSQL has for it, and the framework's.

use bench_kit::Work;

use super::contender::Contender;
use super::crew::rate;
use super::report::{Table, number};
use crate::measure::{Side, medians_of};

pub fn measure(all: &[Contender], rounds: usize) -> anyhow::Result<Table> {
    let mut table = Table::new("Bulks of 1,000 events, 1 caller", &["side", "events/s"]);
    table.notes.push("`raw` sends arrays through `unnest`, `copy` a text through `COPY`.".to_owned());
    // The peers have no way that differs from the batches above.
    let able: Vec<&Contender> = all.iter().filter(|side| side.can(Work::Fill)).collect();
    let round = |side: &Contender| -> anyhow::Result<f64> {
        let mut job = side.job(Work::Fill, 1);
        job.span = 100_000;
        job.first = side.fresh(job.span);
        Ok(rate(&side.run(&job, 1)?))
    };
    let round = &round;
    let sides = able.iter().map(|side| Box::new(move || round(side)) as Side<'_>).collect();
    for (side, median) in able.iter().zip(medians_of(rounds, sides)) {
        table.rows.push(vec![side.name.clone(), number(median?)]);
    }
    Ok(table)
}
