//! More than a store can take: commits that find the gate held, and queries beside projections that are slow.

mod queries;
mod queue;

use tokio::runtime::Runtime;

use crate::postgres::Server;

/// Commits that are sent at once, unless another number is asked for.
const COMMITS: u64 = 100_000;

pub fn run(runtime: &Runtime, commits: Option<u64>) -> anyhow::Result<()> {
    let server = Server::start()?;
    for database in ["queue", "queries"] {
        server.make(database)?;
    }
    runtime.block_on(queue::measure(&server.url("queue")?, commits.unwrap_or(COMMITS)))?;
    runtime.block_on(queries::measure(&server.url("queries")?))
}
