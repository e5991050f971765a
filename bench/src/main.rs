//! What the framework costs, beside what the machine can do at all. `README.md` says how to read it.

mod age;
mod domain;
mod flows;
mod import;
mod instances;
mod measure;
mod memory;
mod messages;
mod overload;
mod patterns;
mod postgres;
mod runs;
mod sqlite;
mod tccs;

use clap::{Parser, Subcommand};
use measure::{print, print_header};

const NAMES: [&str; 16] = [
    "memory",
    "sqlite",
    "load",
    "import",
    "postgres",
    "processors",
    "queue",
    "parked",
    "flows",
    "runs",
    "messages",
    "patterns",
    "instances",
    "age",
    "size",
    "overload",
];

/// The benchmarks: all of them, or those whose name contains the filter
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    /// A name, or part of one: memory, sqlite, load, import, postgres, processors, queue, parked, flows, runs, messages,
    /// patterns, instances, age, size, overload
    #[arg(default_value = "")]
    filter: String,
    /// On PostgreSQL: rounds of each row
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// On PostgreSQL: nobody but these
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// On PostgreSQL: rows of the first table whose name contains this, and nothing else
    #[arg(long, conflicts_with = "write")]
    row: Option<String>,
    /// On PostgreSQL, and size: also with ten million events; processors: with five million, and nothing else
    #[arg(long)]
    long: bool,
    /// Age and size: events of the log, instead of a million; overload: commits, instead of a hundred thousand
    #[arg(long)]
    events: Option<u64>,
    /// On PostgreSQL: write docs/benchmarks.md and docs/benchmarks.svg
    #[arg(long)]
    write: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What the benchmark starts itself as.
#[derive(Debug, Subcommand)]
#[command(hide = true)]
enum Part {
    /// Which sides this binary brings
    #[command(hide = true)]
    List,
    /// One side's round
    #[command(hide = true)]
    Worker { side: String, job: String },
    /// A process that shares a projection
    #[command(hide = true)]
    Share { url: String },
}

fn main() -> anyhow::Result<()> {
    let Args { filter, rounds, only, row, long, events, write, part } = Args::parse();
    match part {
        Some(Part::List) => return postgres::list(),
        Some(Part::Worker { side, job }) => return postgres::work(&side, &serde_json::from_str(&job)?),
        Some(Part::Share { url }) => return postgres::share(&runtime()?, &url),
        None => {}
    }
    let runtime = runtime()?;
    // A whole name means nobody whose name it is part of.
    let whole = NAMES.contains(&filter.as_str());
    let wanted = |name: &str| if whole { name == filter } else { name.contains(&filter) };
    if ["memory", "sqlite", "load", "import"].into_iter().any(wanted) {
        print_header();
    }
    for tasks in [1, 2] {
        if wanted("memory") {
            print(&memory::commands(&runtime, tasks)?);
        }
    }
    for tasks in [1, 32, 256] {
        if wanted("sqlite") {
            print(&sqlite::commands(&runtime, tasks)?);
        }
    }
    if wanted("load") {
        print(&sqlite::load(&runtime)?);
    }
    if wanted("import") {
        import::measure()?.iter().for_each(print);
    }
    if wanted("processors") {
        postgres::processors(&runtime, rounds, long)?;
    }
    if wanted("parked") {
        postgres::parked(&runtime, rounds)?;
    }
    if wanted("queue") {
        postgres::queue(&runtime, rounds)?;
    }
    if wanted("flows") {
        flows::run(&runtime, rounds)?;
    }
    if wanted("runs") {
        runs::run(&runtime, rounds)?;
    }
    if wanted("messages") {
        messages::run(&runtime, rounds)?;
    }
    if wanted("patterns") {
        patterns::run(&runtime, rounds)?;
    }
    if wanted("instances") {
        instances::run(&runtime)?;
    }
    if wanted("age") {
        age::phases(&runtime, events)?;
    }
    if wanted("age") || wanted("size") {
        age::size(&runtime, rounds, events, long)?;
    }
    if wanted("overload") {
        overload::run(&runtime, events)?;
    }
    if wanted("postgres") {
        postgres::run(&postgres::Options { rounds, only, row, long, write })?;
    }
    Ok(())
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
