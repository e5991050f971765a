//! Rounds that alternate between all who are compared; medians and their ratio.

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

/// Whoever is measured: each call is one round, and gives a rate.
pub type Side<'a> = Box<dyn FnMut() -> anyhow::Result<f64> + 'a>;

/// Measures both sides in turn: the machine is shared, and its mood changes.
pub fn compare(
    name: &'static str,
    unit: &'static str,
    raw_name: &'static str,
    mut ours: impl FnMut() -> anyhow::Result<Round>,
    mut raw: impl FnMut() -> anyhow::Result<Round>,
) -> anyhow::Result<Line> {
    let sides: [Side<'_>; 2] = [Box::new(|| Ok(rate(ours()?))), Box::new(|| Ok(rate(raw()?)))];
    let [ours, raw] = medians(ROUNDS, sides);
    Ok(Line { name, unit, ours: ours?, raw: Some((raw?, raw_name)) })
}

/// Runs everybody's rounds in turn. Whoever fails is not asked again, and does not stop the others.
pub fn medians<'a, const N: usize>(rounds: usize, sides: [Side<'a>; N]) -> [anyhow::Result<f64>; N] {
    let all = medians_of(rounds, sides.into());
    all.try_into().unwrap_or_else(|_| unreachable!("one median for each side"))
}

/// The same for as many sides as there are.
pub fn medians_of(rounds: usize, mut sides: Vec<Side<'_>>) -> Vec<anyhow::Result<f64>> {
    let mut rates: Vec<anyhow::Result<Vec<f64>>> = sides.iter().map(|_| Ok(Vec::new())).collect();
    for _ in 0..rounds {
        for (side, rates) in sides.iter_mut().zip(&mut rates) {
            if let Ok(so_far) = rates {
                match side() {
                    Ok(rate) => so_far.push(rate),
                    Err(error) => *rates = Err(error),
                }
            }
        }
    }
    rates.into_iter().map(|rates| rates.map(median)).collect()
}

/// A figure without anything beside it.
pub fn alone(name: &'static str, unit: &'static str, figure: f64) -> Line {
    Line { name, unit, ours: figure, raw: None }
}

fn rate((n, took): Round) -> f64 {
    n as f64 / took.as_secs_f64()
}

/// The one in the middle.
pub fn median(mut rates: Vec<f64>) -> f64 {
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

/// What this process holds in memory now, in MiB; 0 where the system does not tell.
pub fn held_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or_default() / 1_024
}

#[expect(clippy::print_stdout, reason = "this is the program's answer")]
pub fn say(line: &str) {
    println!("{line}");
}
