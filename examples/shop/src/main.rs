//! A record shop: real purchases imported through commands, answered from projections.

mod customer;
mod file;
mod import;
mod money;
mod projections;
mod rebuild;
mod report;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, Subcommand, ValueEnum};
use es_core::memory::MemoryBackend;
use es_core::prelude::*;
use es_postgres::{PgBackend, PgOptions};
use es_sqlite::SqliteBackend;

use crate::customer::{Customer, CustomerId};
use crate::file::FileError;
use crate::projections::{History, Revenue, ShopQueries, Spending};

#[derive(Debug, Parser)]
#[command(version, about, after_help = "Stop it at any time, even with kill -9: the next import goes on.")]
struct Args {
    #[command(subcommand)]
    command: Command,

    /// A file, made if it is not there; `:memory:`; or `postgres://user@host/database`
    #[arg(long, global = true, default_value = "shop.db", value_parser = NonEmptyStringValueParser::new())]
    database: String,
}

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

        /// Keep the old ones up to date, for `rollback`
        #[arg(long, requires = "online")]
        keep: bool,
    },
    /// Let queries read the projections of before the last online rebuild
    Rollback,
    /// Show where the projections are, and who works on them
    Status,
    /// Show it live, until `q` is pressed
    Watch {
        /// A line for each projection every second, instead of the whole screen
        #[arg(long)]
        plain: bool,
    },
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
    match run(Args::parse()).await {
        Ok(code) => code,
        Err(error) => {
            report::error(&error);
            let unusable = error.is::<FileError>() || error.is::<es_core::store::StoreError>();
            ExitCode::from(if unusable { UNUSABLE } else { 1 })
        }
    }
}

async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // A file that is none is said before a database is made.
    let import = match &args.command {
        Command::Import { file, .. } => Some(import::open(file).await?),
        _ => None,
    };
    // One that only looks takes no work from those that run.
    let looks = matches!(args.command, Command::Status | Command::Watch { .. });
    let app = open(&args.database, import.is_some(), looks).await?;
    let outcome = match args.command {
        Command::Import { on_error, parallel, .. } => {
            let import = import.context("opened above")?;
            import::run(&app, import, on_error == OnError::Skip, parallel.into()).await
        }
        Command::Rebuild { online: false, .. } => rebuild::in_place(&app).await,
        Command::Rebuild { online: true, keep } => {
            rebuild::online(&app, keep).await.map(|()| import::End::Complete)
        }
        Command::Rollback => rebuild::roll_back(&app).await.map(|()| import::End::Complete),
        Command::Status => return finish(&app, watch::status(&app).await).await,
        Command::Watch { plain } => return finish(&app, watch::live(&app, plain).await).await,
        Command::Report => import::catch_up(&app).await.map(|()| import::End::Complete),
        Command::History { ref customer } => {
            import::catch_up(&app).await?;
            let shown = report::history(&app, &CustomerId::from(customer.as_str())).await;
            return finish(&app, shown).await;
        }
    };
    let code = match outcome {
        Ok(import::End::Complete) => {
            report::figures(&app).await?;
            ExitCode::SUCCESS
        }
        Ok(import::End::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            app.shutdown(Duration::from_secs(10)).await;
            return Err(error);
        }
    };
    app.shutdown(Duration::from_secs(10)).await;
    Ok(code)
}

/// Ends the app, whatever came before.
async fn finish(app: &App, outcome: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    app.shutdown(Duration::from_secs(10)).await;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// The backend is chosen here, and nowhere else.
async fn open(database: &str, imports: bool, looks: bool) -> anyhow::Result<App> {
    if database.starts_with("postgres://") || database.starts_with("postgresql://") {
        // Only an import makes the schema: anything else would show an empty store for a URL that was mistyped.
        let options = PgOptions::new(database)?.with_migrate(imports);
        return wire(PgBackend::connect_with(options).await?, looks).await;
    }
    match database {
        ":memory:" => wire(MemoryBackend::new(), looks).await,
        // Only an import makes a database: anything else would show an empty one for a name that was mistyped.
        file if !imports && !std::path::Path::new(file).exists() => {
            let what =
                format!("there is no database {file}: import a file first, or name another with --database");
            Err(es_core::store::StoreError::misuse(what).into())
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
