//! A market of three services that react to each other's events: no one knows the whole of it.

mod flow;
mod logs;
mod messages;
mod order;
mod payment;
mod play;
mod report;
mod service;
mod stock;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::service::{Market, Name, Service};

#[derive(Debug, Parser)]
#[command(version, about, after_help = "Without a command it plays 30 orders.")]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the services, place orders, wait until each has ended, and show what came of them
    Play {
        /// How many orders are placed
        #[arg(long, default_value_t = ORDERS)]
        orders: u32,
        /// Folder of the databases, made if it is not there; without it a temporary one
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// Draw the flow of an order across the databases of the services
    Flow {
        /// The number of the order, from 1
        order: u32,
        /// Folder of a run that was kept
        #[arg(long)]
        folder: PathBuf,
    },
    /// One of the services, on a socket that `play` opened
    #[command(hide = true)]
    Serve {
        name: Name,
        #[command(flatten)]
        market: Market,
    },
}

const ORDERS: u32 = 30;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let command = Args::parse().command.unwrap_or(Command::Play { orders: ORDERS, folder: None });
    match run(command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Play { orders, folder: Some(folder) } => {
            std::fs::create_dir_all(&folder)?;
            play::play(&folder, orders).await
        }
        Command::Play { orders, folder: None } => play::play(tempfile::tempdir()?.path(), orders).await,
        Command::Flow { order, folder } => {
            anyhow::ensure!(
                Path::exists(&folder.join("order.db")),
                "there was no run in {}",
                folder.display()
            );
            flow::flow(&folder, order).await
        }
        Command::Serve { name, market } => {
            let service = Service::open(name, market).await?;
            match name {
                Name::Order => order::run(service).await,
                Name::Stock => stock::run(service).await,
                Name::Payment => payment::run(service).await,
            }
        }
    }
}
