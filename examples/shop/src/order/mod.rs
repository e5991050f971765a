//! Orders, each placed by a saga across three databases and a service.

mod ask;
mod audit;
mod bank;
mod book;
#[cfg(test)]
mod crash;
mod ledger;
mod play;
mod saga;
mod show;
mod stock;
mod van;
mod wanted;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use es_core::AppBuilder;
use es_core::prelude::*;
use es_sqlite::{SqliteBackend, SqliteGuarded};
use sagas::saga::SagaApp as _;
use tempfile::TempDir;

use crate::import::End;
use crate::order::ask::Ask;
use crate::order::bank::{Bank, Mood};
use crate::order::book::Order;
use crate::order::ledger::Ledger;
use crate::order::van::Van;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,

    /// How many orders there are
    #[arg(long, default_value = "500", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,

    /// Of the databases, made if it is not there; without it one that is deleted at the end
    #[arg(long, global = true)]
    folder: Option<PathBuf>,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Show the timeline of an order: its steps, its journal, and what it waits for
    Show {
        /// From 1
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        order: u32,
    },
    /// Have something done to an order, as an operator, and show what has come of it
    Ask(Ask),
}

impl What {
    /// Whether it only looks.
    const fn looks(&self) -> bool {
        match self {
            Self::Show { .. } => true,
            Self::Ask(ask) => !ask.works(),
        }
    }
}

/// What is open, and what is to be done with it.
pub(crate) struct Orders {
    app: App,
    databases: Databases,
    args: Args,
    /// Deleted with it.
    _folder: Option<TempDir>,
}

/// The databases, each a file.
pub(crate) struct Databases {
    pub(crate) journal: SqliteBackend,
    pub(crate) stock: SqliteGuarded,
    pub(crate) ledger: Ledger,
}

impl Databases {
    const JOURNAL: &str = "orders.db";

    async fn open(folder: &Path) -> anyhow::Result<Self> {
        let journal = SqliteBackend::open(folder.join(Self::JOURNAL)).await?;
        let stock = stock::open(&folder.join("stock.db")).await?;
        let ledger = Ledger::open(stock::pool(&folder.join("payments.db")).await?).await?;
        Ok(Self { journal, stock, ledger })
    }
}

impl Orders {
    /// Only what places orders makes a folder: the others would find nothing in one whose name was mistyped.
    pub(crate) async fn open(args: Args) -> anyhow::Result<Self> {
        let (needs_one, looks) = (args.what.is_some(), args.what.as_ref().is_some_and(What::looks));
        let (folder, temporary) = match &args.folder {
            Some(folder) => (folder.clone(), None),
            None => {
                anyhow::ensure!(
                    !needs_one,
                    "name the folder of a run with --folder: a run without it keeps nothing"
                );
                let folder = TempDir::new().context("there is no folder for temporary files")?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        let named = folder.display();
        match needs_one {
            true => {
                let is_there = folder.join(Databases::JOURNAL).exists();
                anyhow::ensure!(is_there, "there are no orders in folder {named}: place some first");
            }
            false => {
                let made = std::fs::create_dir_all(&folder);
                made.with_context(|| format!("{named} cannot be the folder of the databases"))?;
            }
        }
        let databases = Databases::open(&folder).await?;
        let app = if looks { look(&databases).await? } else { work(&databases, args.count).await? };
        Ok(Self { app, databases, args, _folder: temporary })
    }

    /// Does it, and ends the work on orders.
    pub(crate) async fn run(self) -> anyhow::Result<End> {
        let done = match &self.args.what {
            Some(What::Show { order }) => show::show(&self.app, *order).await.map(|()| End::Complete),
            Some(What::Ask(asked)) => ask::ask(&self.app, asked).await.map(|()| End::Complete),
            None => {
                tokio::select! {
                    played = play::play(&self.app, &self.databases, self.args.count) => played.map(|()| End::Complete),
                    _ = tokio::signal::ctrl_c() => {
                        crate::report::line("stopped; with --folder, the next run continues");
                        Ok(End::Interrupted)
                    }
                }
            }
        };
        self.app.shutdown(Duration::from_secs(10)).await;
        done
    }
}

async fn work(databases: &Databases, count: u32) -> anyhow::Result<App> {
    stock::fill(&databases.stock, count).await?;
    let bank = Bank::start(databases.ledger.clone(), Mood::Usual).await?;
    Ok(wire(databases, &bank).start().await?)
}

/// Takes no order from those who work on them.
async fn look(databases: &Databases) -> anyhow::Result<App> {
    Ok(wire(databases, &Bank::nowhere()?).looks_on().start().await?)
}

fn wire(databases: &Databases, bank: &Bank) -> AppBuilder<SqliteBackend> {
    App::on(databases.journal.clone())
        // One that was killed is replaced this soon.
        .lease(Duration::from_secs(2))
        .aggregate::<Order>()
        .aggregate::<Van>()
        .provide(databases.stock.clone())
        .saga(saga::place_order(bank))
}
