//! The most memory a process of each side held, by work; each round is a process of its own.

use super::contender::Contender;
use super::plan::{REBUILD, ROWS};
use super::report::Table;

pub fn table(all: &[Contender]) -> Table {
    let mut table = Table::new("Peak memory of one process, MiB", &["work"]);
    let sides: Vec<&Contender> = all.iter().filter(|side| !side.peaks.borrow().is_empty()).collect();
    table.head.extend(sides.iter().map(|side| side.name.clone()));
    for row in ROWS.iter().chain([&REBUILD]) {
        let peaks = sides.iter().map(|side| {
            let peak = side.peaks.borrow().get(row.name).copied();
            peak.map(|kib| format!("{:.0}", kib as f64 / 1_024.0)).unwrap_or_default()
        });
        table.rows.push(Some(row.name.to_owned()).into_iter().chain(peaks).collect());
    }
    table
}
