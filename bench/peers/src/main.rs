//! The peers, by name. `../README.md` says what each of them does for a command.

mod balances;
mod cqrs_es;
mod disintegrate;
mod esrs;
mod eventastic;
mod mire;
mod mire_sagas;
mod pool;
mod retry;
#[cfg(feature = "umadb")]
mod umadb;

use anyhow::bail;
use bench_kit::{Job, Listed, Side, Work, say};
use clap::Parser;

/// A program of the benchmark; `cargo xtask bench postgres` runs it
#[derive(Debug, Parser)]
enum Part {
    /// Which sides this binary brings
    List,
    /// One side's round
    Worker { side: String, job: String },
    /// The server that a side brings
    Serve { side: String },
    /// Flows of mire-sagas on an empty database
    Flows { url: String, flows: u64 },
}

fn main() -> anyhow::Result<()> {
    match Part::parse() {
        Part::List => say(&serde_json::to_string(&sides())?),
        Part::Worker { side, job } => work(&side, &serde_json::from_str(&job)?),
        Part::Serve { side } => serve(&side),
        Part::Flows { url, flows } => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            say(&serde_json::to_string(&runtime.block_on(mire_sagas::flows(&url, flows))?)?)
        }
    }
}

fn sides() -> Vec<Listed> {
    let side = |name: &str, crates: &[&str], can: &[Work]| Listed {
        name: name.to_owned(),
        crates: crates.iter().map(ToString::to_string).collect(),
        can: can.to_vec(),
        server: name == "umadb",
    };
    vec![
        side("cqrs-es", &["cqrs-es", "postgres-es"], cqrs_es::Peer::CAN),
        side("disintegrate", &["disintegrate", "disintegrate-postgres"], disintegrate::Peer::CAN),
        side("esrs", &["esrs"], esrs::Peer::CAN),
        side("eventastic", &["eventastic", "eventastic_postgres"], eventastic::Peer::CAN),
        side("mire", &["mire"], mire::Peer::CAN),
        #[cfg(feature = "umadb")]
        side("umadb", &["umadb-server", "umadb-client"], umadb::Peer::CAN),
    ]
}

fn work(side: &str, job: &Job) -> anyhow::Result<()> {
    match side {
        "cqrs-es" => bench_kit::work::<cqrs_es::Peer>(job),
        "disintegrate" => bench_kit::work::<disintegrate::Peer>(job),
        "esrs" => bench_kit::work::<esrs::Peer>(job),
        "eventastic" => bench_kit::work::<eventastic::Peer>(job),
        "mire" => bench_kit::work::<mire::Peer>(job),
        #[cfg(feature = "umadb")]
        "umadb" => bench_kit::work::<umadb::Peer>(job),
        other => bail!("no peer is called {other}"),
    }
}

fn serve(side: &str) -> anyhow::Result<()> {
    match side {
        #[cfg(feature = "umadb")]
        "umadb" => umadb::serve(),
        other => bail!("{other} brings no server"),
    }
}
