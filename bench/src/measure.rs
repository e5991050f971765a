//! Rounds that alternate between what is measured and the raw limit beside it; medians and their ratio.

use std::time::Duration;

const ROUNDS: usize = 7;

/// One line of the table.
#[derive(Debug)]
pub struct Line {
    name: &'static str,
    unit: &'static str,
    ours: f64,
    raw: Option<(f64, &'static str)>,
}

/// What one round did: how many, in how long.
pub type Round = (u64, Duration);

/// Measures both sides in turn: the machine is shared, and its mood changes.
pub fn compare(
    name: &'static str,
    unit: &'static str,
    raw_name: &'static str,
    mut ours: impl FnMut() -> anyhow::Result<Round>,
    mut raw: impl FnMut() -> anyhow::Result<Round>,
) -> anyhow::Result<Line> {
    let (mut ours_rates, mut raw_rates) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours_rates.push(rate(ours()?));
        raw_rates.push(rate(raw()?));
    }
    Ok(Line { name, unit, ours: median(ours_rates), raw: Some((median(raw_rates), raw_name)) })
}

/// A figure without anything beside it.
pub fn alone(name: &'static str, unit: &'static str, figure: f64) -> Line {
    Line { name, unit, ours: figure, raw: None }
}

fn rate((n, took): Round) -> f64 {
    n as f64 / took.as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

pub fn print_header() {
    println!("| measure | unit | es-core | raw limit | ratio | the raw limit is |");
    println!("| --- | --- | ---: | ---: | ---: | --- |");
}

pub fn print(line: &Line) {
    let Line { name, unit, ours, raw } = line;
    match raw {
        Some((raw, what)) => {
            println!("| {name} | {unit} | {ours:.0} | {raw:.0} | {:.2} | {what} |", ours / raw)
        }
        None => println!("| {name} | {unit} | {ours:.1} | | | |"),
    }
}
