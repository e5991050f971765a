//! Transfers between two banks on two databases: the same by saga, process, TCC, two-phase commit and undo log.

mod banks;
mod by;
mod compare;
mod crew;
mod ledger;
mod orders;
mod reconcile;
mod report;
mod statement;
mod transfer;
mod watch;
mod work;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, Subcommand};
use es_core::App;

use crate::banks::{Databases, Own, Urls};
use crate::by::{Does, Method};
use crate::crew::Plan;
use crate::report::dollars;
use crate::transfer::{AccountId, Bank, Order, Outcome};

/// What a program that shares the work finds the databases by: arguments are seen by everybody on the machine.
const DATABASES: &str = "BANK_DATABASES";

#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,

    /// Where the three databases are: of the journal, of bank a, of bank b. Without it the program starts a server of its own,
    /// which is gone at the end
    #[arg(
        long,
        global = true,
        env = DATABASES,
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "JOURNAL,A,B",
        value_parser = NonEmptyStringValueParser::new()
    )]
    databases: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Transfer once, and say what came of it
    Transfer {
        #[arg(long)]
        by: Method,

        /// As in a-17
        #[arg(long, value_parser = account)]
        from: AccountId,

        /// At the other bank
        #[arg(long, value_parser = account)]
        to: AccountId,

        #[arg(long, value_parser = clap::value_parser!(i64).range(1..=1_000_000_000_000))]
        cents: i64,

        /// Transferred again under the same key, once it is over or by the same method, it happens once; without one, it is
        /// another transfer each time
        #[arg(long, value_parser = key)]
        key: Option<String>,
    },
    /// Transfer the same by several methods, and compare them
    Compare(Compare),
    /// Compare both banks' books with each other, and with what came of each transfer
    Reconcile,
    /// Say what became of an account's transfers, from its bank's own copy of the journal
    Statement {
        #[arg(value_parser = account)]
        account: AccountId,
    },
    /// Have a bank take no transfers from the other one
    Close { bank: Bank },
    /// Have it take them again
    Open { bank: Bank },
    /// Transfer what is said on the input: a key, two accounts and an amount in cents a line
    #[command(hide = true)]
    Work {
        #[arg(long)]
        by: Method,
    },
}

#[derive(Debug, clap::Args)]
struct Compare {
    /// How many transfers there are, by each method
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,

    /// Only by this method; more than once for several
    #[arg(long)]
    by: Vec<Method>,

    /// How many transfers are under way at the same time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    at_once: u32,

    /// How many programs share the work: one, and three with --kill
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=8))]
    workers: Option<u8>,

    /// Kill one of the programs every hundred transfers, at random, and replace it
    #[arg(long)]
    kill: bool,

    /// Have commits wait for the disk, if the server is the program's own
    #[arg(long)]
    durable: bool,

    /// What is transferred, and who is killed
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Compare {
    fn methods(&self) -> Vec<Method> {
        match self.by.is_empty() {
            true => Method::ALL.to_vec(),
            false => self.by.iter().copied().collect::<BTreeSet<_>>().into_iter().collect(),
        }
    }

    fn plan(&self) -> Plan {
        let Self { count, at_once, kill, seed, .. } = *self;
        let workers = self.workers.unwrap_or(if kill { 3 } else { 1 }).into();
        Plan { count, at_once, workers, kill, seed, run: name() }
    }
}

fn account(text: &str) -> Result<AccountId, String> {
    text.parse().map_err(|why: &str| why.to_owned())
}

fn key(text: &str) -> Result<String, String> {
    let is_one = (1..=100).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if is_one { Ok(text.to_owned()) } else { Err("a key has up to 100 letters, digits, and -_.".to_owned()) }
}

/// A name that nothing else has.
fn name() -> String {
    format!("{:012x}", rand::random::<u64>() >> 16)
}

/// A database cannot be used, or what is asked for cannot be.
const UNUSABLE: u8 = 2;
/// Stopped by Ctrl-C, as a shell counts it.
const INTERRUPTED: u8 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let Args { command, databases } = Args::parse();
    let (databases, _own) = match open(databases, &command).await {
        Ok(opened) => opened,
        Err(error) => {
            report::error(&error);
            return ExitCode::from(UNUSABLE);
        }
    };
    let closes = matches!(command, Command::Compare(_));
    let done = tokio::select! {
        done = run(&databases, command) => done,
        _ = tokio::signal::ctrl_c() => {
            // It may be closed for its part of a comparison.
            if closes && let Err(error) = databases.banks.set_open(Bank::B, true).await {
                report::error(&error.into());
            }
            return ExitCode::from(INTERRUPTED);
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Only what transfers makes tables, and a server of its own where no databases are named.
async fn open(databases: Vec<String>, command: &Command) -> anyhow::Result<(Databases, Option<Own>)> {
    let durable = match command {
        Command::Transfer { from, to, .. } => {
            anyhow::ensure!(from.bank != to.bank, "a transfer goes from one bank to the other");
            Some(false)
        }
        Command::Compare(compare) => Some(compare.durable),
        Command::Reconcile
        | Command::Statement { .. }
        | Command::Close { .. }
        | Command::Open { .. }
        | Command::Work { .. } => None,
    };
    match (durable, databases.is_empty()) {
        (Some(durable), true) => {
            let own = Own::start(durable).await?;
            Ok((Databases::make(own.urls.clone()).await?, Some(own)))
        }
        (Some(_), false) => Ok((Databases::make(Urls::new(databases)?).await?, None)),
        (None, true) => {
            anyhow::bail!("name the databases of a run with --databases: a run without them keeps nothing")
        }
        (None, false) => Ok((Databases::open(Urls::new(databases)?).await?, None)),
    }
}

async fn run(databases: &Databases, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Transfer { by, from, to, cents, key } => {
            return transfer(databases, by, Order { from, to, cents }, key).await;
        }
        Command::Compare(compare) => compare::compare(databases, &compare.methods(), &compare.plan()).await?,
        Command::Reconcile => reconcile::reconcile(databases).await?,
        Command::Statement { account } => statement::statement(databases, account).await?,
        Command::Close { bank } => databases.banks.set_open(bank, false).await?,
        Command::Open { bank } => databases.banks.set_open(bank, true).await?,
        Command::Work { by } => {
            let app = by::start(by, databases, Does::Work).await?;
            let worked = work::work(by, &app).await;
            app.shutdown(GRACE).await;
            worked?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How long what is under way may take when a program ends.
const GRACE: Duration = Duration::from_secs(10);

/// Under a key that a person has given it may have come to its end before, by another method.
async fn once(by: Method, app: &App, key: Option<String>, order: Order) -> anyhow::Result<Outcome> {
    let Some(key) = key else { return by::transfer(by, app, &name(), order).await };
    match by::before(app, &key, &order).await? {
        Some(outcome) => Ok(outcome),
        None => by::transfer(by, app, &key, order).await,
    }
}

/// One that is declined is a failure, for a shell.
async fn transfer(
    databases: &Databases,
    by: Method,
    order: Order,
    key: Option<String>,
) -> anyhow::Result<ExitCode> {
    let app = by::start(by, databases, Does::Work).await?;
    let done = once(by, &app, key, order).await;
    app.shutdown(GRACE).await;
    let (outcome, Order { from, to, cents }) = (done?, order);
    report::line(&format!("{} dollars from {from} to {to}, by {by}: {outcome}", dollars(cents)));
    for account in [from, to] {
        if let Some(balance) = databases.banks.balance(account).await? {
            report::line(&format!("{account} has {} dollars", dollars(balance)));
        }
    }
    Ok(if outcome == Outcome::Settled { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
