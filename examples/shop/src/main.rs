//! A record shop: real purchases imported through commands, answered from projections; and orders, placed by a saga.

mod customer;
mod file;
mod import;
mod look;
mod money;
mod order;
mod projections;
mod rebuild;
mod report;
mod status;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, Subcommand, ValueEnum};
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_core::store::StoreError;
use es_postgres::{PgBackend, PgOptions};
use es_sqlite::SqliteBackend;

use crate::customer::{Customer, CustomerId};
use crate::import::{End, Import};
use crate::order::Orders;
use crate::projections::{History, Revenue, ShopQueries, Spending};

#[derive(Debug, Parser)]
#[command(version, about, after_help = "Stop it at any time, even with kill -9: the next import goes on.")]
struct Args {
    #[command(subcommand)]
    command: Command,

    /// A file, made if it is not there; `:memory:`; or `postgres://user@host/database` [default: shop.db]
    #[arg(long, global = true, value_parser = NonEmptyStringValueParser::new())]
    database: Option<String>,
}

const DATABASE: &str = "shop.db";

#[derive(Debug, Subcommand)]
enum Command {
    /// Import a file of purchases, then show the figures
    Import {
        /// Customer, date, number of CDs, dollars: one purchase a line, after a header
        file: PathBuf,

        /// What to do at a line that is no purchase
        #[arg(long, value_enum, default_value = "stop")]
        on_error: OnError,

        /// How many purchases are on their way at once
        #[arg(long, default_value = "32", value_parser = clap::value_parser!(u16).range(1..=4096))]
        parallel: u16,
    },
    /// Empty the projections, fill them from the log, then show the figures
    Rebuild {
        /// Build them beside those that are read, also while an import runs; then let queries read the new ones
        #[arg(long)]
        online: bool,

        /// Keep the old ones, and keep them up to date, for `rollback`
        #[arg(long, requires = "online")]
        keep: bool,
    },
    /// Let queries read the projections that `rebuild --online --keep` has kept; once more to undo it
    Rollback,
    /// Show where the projections are, and whether something waits for a person
    Status,
    /// Show the keys whose events a projection could not take in, and why
    Parked,
    /// Take in the events of a parked key once more
    Retry {
        /// As `parked` shows it: revenue
        projection: String,
        /// As `parked` shows it: 1997-01
        key: String,
    },
    /// Show where the projections are, live, until `q` is pressed
    Watch {
        /// Print a line for each projection every second, until Ctrl-C, instead of a screen
        #[arg(long)]
        plain: bool,
    },
    /// Place orders, each by a saga, wait until all have ended, and say whether money and stock are conserved
    Order(order::Args),
    /// Show the figures
    Report,
    /// Show what one customer bought
    History {
        /// As in the file: 14048
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        customer: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnError {
    /// End with the line's number; what came before it is imported, and perhaps some of what follows
    Stop,
    /// Name the line and go on
    Skip,
}

/// The database or the file cannot be used at all.
const UNUSABLE: u8 = 2;
/// Stopped by Ctrl-C, as a shell counts it.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let Args { command, database } = Args::parse();
    let done = match command {
        Command::Order(order) => match open_orders(order, database.as_deref()).await {
            Ok(orders) => orders.run().await,
            Err(error) => return unusable(&error),
        },
        command => match begin(&command, database.as_deref().unwrap_or(DATABASE)).await {
            Ok((app, import)) => {
                let done = run(&app, command, import).await;
                app.shutdown(Duration::from_secs(10)).await;
                done
            }
            Err(error) => return unusable(&error),
        },
    };
    match done {
        Ok(End::Complete) => ExitCode::SUCCESS,
        Ok(End::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn unusable(error: &anyhow::Error) -> ExitCode {
    report::error(error);
    ExitCode::from(UNUSABLE)
}

async fn open_orders(order: order::Args, database: Option<&str>) -> anyhow::Result<Orders> {
    anyhow::ensure!(database.is_none(), "orders have three databases: name their folder with --folder");
    Orders::open(order).await
}

/// Opens what is needed.
async fn begin(command: &Command, database: &str) -> anyhow::Result<(App, Option<Import>)> {
    // A file that is none is said before a database is made.
    let import = match command {
        Command::Import { file, .. } => Some(import::open(file).await?),
        _ => None,
    };
    // One that only looks takes no work from those that run.
    let looks = matches!(command, Command::Status | Command::Watch { .. } | Command::Parked);
    let app = open(database, import.is_some(), looks).await?;
    Ok((app, import))
}

async fn run(app: &App, command: Command, import: Option<Import>) -> anyhow::Result<End> {
    let end = match command {
        Command::Import { on_error, parallel, .. } => {
            let import = import.context("opened above")?;
            import::run(app, import, on_error == OnError::Skip, parallel.into()).await?
        }
        Command::Rebuild { online: false, .. } => unless_stopped(rebuild::in_place(app)).await?,
        Command::Rebuild { online: true, keep } => rebuild::online(app, keep).await?,
        Command::Rollback => rebuild::roll_back(app).await.map(|()| End::Complete)?,
        Command::Report => unless_stopped(import::catch_up(app)).await?,
        Command::Retry { projection, key } => {
            return unless_stopped(status::retry(app, &projection, &key)).await;
        }
        Command::Order(_) => anyhow::bail!("orders have an app of their own"),
        Command::Status => return status::status(app).await.map(|()| End::Complete),
        Command::Parked => return status::parked(app).await.map(|()| End::Complete),
        Command::Watch { plain } => return watch::live(app, plain).await.map(|()| End::Complete),
        Command::History { customer } => {
            let end = unless_stopped(import::catch_up(app)).await?;
            if end == End::Complete {
                report::history(app, &CustomerId::from(customer)).await?;
            }
            return Ok(end);
        }
    };
    if end == End::Complete {
        report::figures(app).await?;
    }
    Ok(end)
}

/// For what may be left half done: the next run goes on with it.
async fn unless_stopped(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<End> {
    tokio::select! {
        done = work => done.map(|()| End::Complete),
        _ = tokio::signal::ctrl_c() => {
            report::line("stopped; the next run goes on");
            Ok(End::Interrupted)
        }
    }
}

/// The backend is chosen here, and nowhere else.
async fn open(database: &str, imports: bool, looks: bool) -> anyhow::Result<App> {
    if database.starts_with("postgres://") || database.starts_with("postgresql://") {
        // Only an import makes the schema: anything else would show an empty store for a URL that was mistyped.
        let options = PgOptions::new(database)?.with_migrate(imports);
        return match PgBackend::connect_with(options).await {
            Err(error @ StoreError::Misuse { .. }) if !imports => {
                Err(anyhow::Error::from(error)
                    .context("there is no shop in this database: import a file first"))
            }
            backend => wire(backend?, looks).await,
        };
    }
    match database {
        ":memory:" => wire(MemoryBackend::new(), looks).await,
        // Only an import makes a database: anything else would show an empty one for a name that was mistyped.
        file if !imports && !std::path::Path::new(file).exists() => {
            let what =
                format!("there is no database {file}: import a file first, or name another with --database");
            Err(StoreError::misuse(what).into())
        }
        file => wire(SqliteBackend::open(file).await?, looks).await,
    }
}

async fn wire<B: Backend>(backend: B, looks: bool) -> anyhow::Result<App> {
    let app = App::on(backend)
        // One that was killed is replaced this soon.
        .lease(Duration::from_secs(2))
        .aggregate::<Customer>()
        .view::<Revenue>()
        .view::<Spending>()
        .view::<History>()
        .queries(ShopQueries);
    Ok(if looks { app.looks_on().start().await? } else { app.start().await? })
}
