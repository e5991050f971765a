//! Tickets of a concert: a process locks the seat, charges the card and confirms, or gives the seat back.

mod audit;
mod flow;
mod holder;
mod order;
mod orders;
mod payment;
mod play;
mod report;
mod sale;
mod seat;
mod show;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, Subcommand};
use es_core::prelude::*;
use es_core::store::StoreError;
use es_postgres::{PgBackend, PgOptions};
use es_sqlite::SqliteBackend;
use jiff::SignedDuration;
use sagas::Processes as _;
use tempfile::TempDir;

use crate::flow::{Flow, FlowQueries};
use crate::holder::CardHolder;
use crate::order::{Order, OrderId};
use crate::payment::Payment;
use crate::play::Run;
use crate::sale::Sale;
use crate::seat::Seat;

#[derive(Debug, Parser)]
#[command(version, about, after_help = "Without a command it plays 1,000 flows, and forgets them.")]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// A file, or `postgres://user:password@host/database`. `play` and `work` make the file; `play` without it uses one
    /// that is deleted at the end; `show` and `audit` need one that is there
    #[arg(long, global = true, value_parser = NonEmptyStringValueParser::new())]
    database: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Place orders, wait until each has ended, and show what came of them
    Play {
        /// How many buyers come
        #[arg(long, default_value_t = FLOWS, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        flows: u32,

        /// How long a seat is held for its buyer: 30m, at a real box office
        #[arg(long, default_value = DEADLINE, value_parser = deadline)]
        deadline: SignedDuration,
    },
    /// Take part in the run of another program on the same database, until Ctrl-C
    Work,
    /// Fold each process again from what came to it, and say whether that is what is stored
    Audit,
    /// Show the timeline of a flow: its events, commands and timers
    Show {
        /// The number of the order, from 1
        order: u32,
    },
}

const FLOWS: u32 = 1_000;
/// So short that a run ends soon. The deadline is stored with the order.
const DEADLINE: &str = "3s";

impl Command {
    fn without() -> Self {
        Self::Play { flows: FLOWS, deadline: deadline(DEADLINE).expect("it is one") }
    }
}

fn deadline(text: &str) -> Result<SignedDuration, String> {
    let deadline: SignedDuration = text.parse().map_err(|_| "a time has a unit: 3s, or 30m")?;
    let allowed = SignedDuration::from_millis(100)..=SignedDuration::from_hours(24);
    if allowed.contains(&deadline) { Ok(deadline) } else { Err("it is between 100ms and 24h".to_owned()) }
}

/// The database cannot be used at all.
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
    let command = command.unwrap_or_else(Command::without);
    let store = match open(database.as_deref(), &command).await {
        Ok(store) => store,
        Err(error) => {
            report::error(&error);
            return ExitCode::from(UNUSABLE);
        }
    };
    let done = match &store {
        Store::File { backend, .. } => run(backend.clone(), command).await,
        Store::Server(backend) => run(backend.clone(), command).await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}

enum Store {
    /// The folder is deleted with it.
    File {
        backend: SqliteBackend,
        _folder: Option<TempDir>,
    },
    Server(PgBackend),
}

/// The backend is chosen here, and nowhere else. Only what runs makes a store: `show` would show an empty one for a name
/// that was mistyped.
async fn open(database: Option<&str>, command: &Command) -> anyhow::Result<Store> {
    let runs = matches!(command, Command::Play { .. } | Command::Work);
    let Some(database) = database else {
        let plays = matches!(command, Command::Play { .. });
        anyhow::ensure!(plays, "name the database of a run with --database: a run without it keeps nothing");
        let folder = TempDir::new().context("there is no folder for temporary files")?;
        let backend = SqliteBackend::open(folder.path().join("tickets.db")).await?;
        return Ok(Store::File { backend, _folder: Some(folder) });
    };
    if database.starts_with("postgres://") || database.starts_with("postgresql://") {
        let options = PgOptions::new(database)?.with_migrate(runs);
        return match PgBackend::connect_with(options).await {
            Err(error @ StoreError::Misuse { .. }) if !runs => {
                Err(anyhow::Error::from(error).context("there are no flows in this database: play first"))
            }
            backend => Ok(Store::Server(backend?)),
        };
    }
    anyhow::ensure!(runs || Path::new(database).exists(), "there is no database {database}: play first");
    Ok(Store::File { backend: SqliteBackend::open(database).await?, _folder: None })
}

/// Whether it came to its end.
async fn run<B: Backend + Clone>(backend: B, command: Command) -> anyhow::Result<bool> {
    let run = match command {
        Command::Show { order } => return show::show(backend, OrderId(order)).await.map(|()| true),
        Command::Audit => return audit::audit(backend).await.map(|()| true),
        Command::Play { flows, deadline } => Some(Run { flows, hold: deadline }),
        Command::Work => None,
    };
    let app = App::on(backend)
        // One that was killed is replaced this soon.
        .lease(Duration::from_secs(2))
        .aggregate::<Order>()
        .aggregate::<Seat>()
        .aggregate::<Payment>()
        .process::<Sale>()
        .process::<CardHolder>()
        .view::<Flow>()
        .queries(FlowQueries)
        .start()
        .await?;
    let play = async {
        match run {
            Some(run) => run.play(&app).await,
            None => std::future::pending().await,
        }
    };
    let played = tokio::select! {
        played = play => played.map(|()| true),
        _ = tokio::signal::ctrl_c() => {
            report::line("stopped; with --database, the next run continues");
            Ok(false)
        }
    };
    app.shutdown(Duration::from_secs(10)).await;
    played
}
