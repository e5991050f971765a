//! PostgreSQL: the framework and its peers beside the raw limit, on one server, in one run.

mod balances;
mod chart;
mod condition;
mod contender;
mod copy;
mod crew;
mod effects;
mod flat;
mod fold;
mod gate;
mod idle;
mod latency;
mod limits;
mod memory;
mod ours;
mod parked;
mod peers;
mod plan;
mod processors;
mod queue;
mod raw;
mod report;
mod server;
mod statements;
mod versus;
mod worker;

use std::path::Path;

pub use gate::Gate;
pub use parked::run as parked;
pub use peers::program as peers;
pub use processors::{run as processors, share};
pub use queue::run as queue;
pub use raw::connect;
pub use server::Server;
pub use worker::{list, work};

use self::contender::Contender;

/// As many connections as everybody has.
const CONNECTIONS: usize = 32;

pub struct Options {
    pub rounds: usize,
    /// Nobody but these.
    pub only: Vec<String>,
    /// Of the first table alone, the rows whose name contains this.
    pub row: Option<String>,
    pub long: bool,
    /// Into `docs/`.
    pub write: bool,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let server = Server::start()?;
    let (all, left_out) = Contender::all(&server, &options.only)?;
    let mut report = report::Report::new(&server, &all, &left_out)?;
    let wanted = options.row.as_deref().unwrap_or_default();
    let versus = versus::measure(&server, &all, options.rounds, wanted)?;
    report.add(versus.table());
    if options.row.is_some() {
        return Ok(());
    }
    report.add(limits::measure(&all, options.rounds)?);
    report.add(flat::commands(&all)?);
    report.add(flat::growth(&server, &all, options.long)?);
    report.add(latency::measure(&all)?);
    report.add(statements::measure(&server, &all)?);
    report.add(memory::table(&all));
    if options.write {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        std::fs::write(docs.join("benchmarks.md"), report.page())?;
        std::fs::write(docs.join("benchmarks.svg"), chart::svg(&versus)?)?;
    }
    Ok(())
}
