//! The table: everybody, row by row.

use bench_kit::Work;

use super::contender::Contender;
use super::crew::rate;
use super::plan::{self, REBUILD, ROWS, Row};
use super::report::{Table, number, ratio};
use super::server::Server;
use crate::measure::{Side, medians_of};

/// The medians of all rows; a cell is empty where a side cannot do the work, or failed.
pub struct Versus {
    pub sides: Vec<String>,
    pub rows: Vec<(&'static Row, Vec<Option<f64>>)>,
    pub failures: Vec<String>,
}

/// Rounds of what takes long and does not vary much.
const FEW: usize = 3;

/// Rows whose name contains `wanted`.
pub fn measure(server: &Server, all: &[Contender], rounds: usize, wanted: &str) -> anyhow::Result<Versus> {
    let sides: Vec<&Contender> = all.iter().filter(|side| side.can(Work::Command)).collect();
    for side in &sides {
        plan::prepare(side)?;
        side.settle()?;
    }
    let mut versus = Versus {
        sides: sides.iter().map(|side| side.name.clone()).collect(),
        rows: Vec::new(),
        failures: Vec::new(),
    };
    server.run("checkpoint")?;
    if REBUILD.name.contains(wanted) {
        versus.row(&REBUILD, &sides, rounds.min(FEW));
    }
    for side in &sides {
        plan::prepare_long(side)?;
    }
    for row in ROWS.iter().filter(|row| row.name.contains(wanted)) {
        // Nobody pays in a row for what was written in the one before.
        server.run("checkpoint")?;
        versus.row(row, &sides, rounds);
    }
    if REBUILD.name.contains(wanted) {
        versus.rows.rotate_left(1);
    }
    Ok(versus)
}

impl Versus {
    fn row(&mut self, row: &'static Row, sides: &[&Contender], rounds: usize) {
        eprintln!("{} ..", row.name);
        let able: Vec<&Contender> = sides.iter().copied().filter(|side| side.can(row.work)).collect();
        let round = |side: &'_ Contender| -> anyhow::Result<f64> {
            let done = side.run(&row.job(side), row.processes)?;
            side.remember_peak(row.name, &done);
            Ok(rate(&done))
        };
        let round = &round;
        let measured = able.iter().map(|side| Box::new(move || round(side)) as Side<'_>).collect();
        let mut medians = medians_of(rounds, measured).into_iter();
        let cells = sides.iter().map(|side| {
            let median = side.can(row.work).then(|| medians.next()).flatten()?;
            median
                .inspect_err(|error| self.failures.push(format!("{}, {}: {error:#}", side.name, row.name)))
                .ok()
        });
        let cells = cells.collect();
        self.rows.push((row, cells));
    }

    pub fn table(&self) -> Table {
        let mut table = Table::new("Work", &["work", "unit"]);
        table.head.extend(self.sides.iter().cloned());
        table.notes.push(
            "In brackets: the ratio to the raw limit, the same work with the driver alone. \
             Bold: the best library of the row. Empty: the library has no such thing."
                .to_owned(),
        );
        table.notes.extend(self.failures.iter().map(|failure| format!("Failed: {failure}.")));
        for (row, cells) in &self.rows {
            let raw = self.raw(cells);
            let best = self.libraries(cells).map(|(_, rate)| rate).fold(0.0, f64::max);
            let cells = cells.iter().enumerate().map(|(side, cell)| match (cell, raw) {
                (None, _) => String::new(),
                (Some(rate), _) if self.sides[side] == "raw" => number(*rate),
                (Some(rate), raw) => {
                    let ratio = raw.map(|raw| format!(" ({})", ratio(rate / raw))).unwrap_or_default();
                    let bold = if *rate == best { "**" } else { "" };
                    format!("{bold}{}{bold}{ratio}", number(*rate))
                }
            });
            table.rows.push([row.name, row.unit].map(str::to_owned).into_iter().chain(cells).collect());
        }
        table
    }

    pub fn raw(&self, cells: &[Option<f64>]) -> Option<f64> {
        let at = self.sides.iter().position(|side| side == "raw")?;
        cells[at]
    }

    /// Everybody but the raw limit, by place.
    pub fn libraries<'a>(&'a self, cells: &'a [Option<f64>]) -> impl Iterator<Item = (usize, f64)> + 'a {
        let raw = self.sides.iter().position(|side| side == "raw");
        cells
            .iter()
            .enumerate()
            .filter(move |(side, _)| Some(*side) != raw)
            .filter_map(|(side, cell)| Some((side, (*cell)?)))
    }
}
