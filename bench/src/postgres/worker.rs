//! The sides that this binary brings, by name.

use anyhow::bail;
use bench_kit::{Job, Listed, Side, say};

use super::copy::Copy;
use super::ours::Ours;
use super::raw::Raw;

pub fn list() -> anyhow::Result<()> {
    let side = |name: &str, crates: &[&str], can| Listed {
        name: name.to_owned(),
        crates: crates.iter().map(ToString::to_string).collect(),
        can,
        server: false,
    };
    let sides = [
        side("raw", &["sqlx"], Raw::CAN.to_vec()),
        side("copy", &["sqlx"], Copy::CAN.to_vec()),
        side("es-postgres", &["es-postgres"], Ours::CAN.to_vec()),
    ];
    say(&serde_json::to_string(&sides)?)
}

pub fn work(side: &str, job: &Job) -> anyhow::Result<()> {
    match side {
        "raw" => bench_kit::work::<Raw>(job),
        "copy" => bench_kit::work::<Copy>(job),
        "es-postgres" => bench_kit::work::<Ours>(job),
        other => bail!("no side is called {other}"),
    }
}
