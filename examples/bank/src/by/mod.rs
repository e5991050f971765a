//! The same transfer by each method. What they share is here; a file each has what makes the difference.

pub(crate) mod process;
mod saga;
mod tcc;
mod two_phase;
mod undo_log;
mod way;

use std::fmt;
use std::time::{Duration, Instant};

use es_core::prelude::*;
use es_postgres::Tx;
use sagas::saga::{self as runs, Cx, RunError, RunFilter, RunStatus, Runs, StepError};
use serde::{Deserialize, Serialize};

use self::way::{A, At, B, Side, Way};
use crate::banks::Databases;
use crate::transfer::{File, Order, Outcome, Transfer, TransferError, TransferId};

/// For how long a statement waits for a lock that another transfer has.
pub(crate) const LOCKS: Duration = Duration::from_secs(2);
/// For how long a node that was killed is believed to be alive.
const LEASE: Duration = Duration::from_secs(1);
/// For how long a transfer is tried again that met trouble, and between two tries.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);
const PAGE: usize = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Method {
    Saga,
    Process,
    Tcc,
    TwoPhase,
    UndoLog,
}

impl Method {
    /// The undo log comes last: what it notes of the tables it notes from then on.
    pub(crate) const ALL: [Self; 5] = [Self::Saga, Self::Process, Self::Tcc, Self::TwoPhase, Self::UndoLog];
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Saga => "saga",
            Self::Process => "process",
            Self::Tcc => "tcc",
            Self::TwoPhase => "two-phase",
            Self::UndoLog => "undo-log",
        })
    }
}

/// Whether a node takes part, or only looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    Work,
    Look,
}

/// An app that transfers by one method.
pub(crate) async fn start(method: Method, databases: &Databases, does: Does) -> anyhow::Result<App> {
    let Databases { journal, banks, .. } = databases;
    let app = App::on(journal.clone()).lease(LEASE).aggregate::<Transfer>().provide(banks.clone());
    let app = app.provide(At::<A>::of(banks)).provide(At::<B>::of(banks));
    let app = match method {
        Method::Saga => saga::wire(app),
        Method::Process => process::wire(app).await?,
        Method::Tcc => tcc::wire(app),
        Method::TwoPhase => two_phase::wire(app, banks)?,
        Method::UndoLog => {
            undo_log::ready(banks).await?;
            undo_log::wire(app, banks)
        }
    };
    let app = if does == Does::Look { app.looks_on() } else { app };
    Ok(app.start().await?)
}

/// Transfers under a key, which acts once. Trouble is met with another try.
pub(crate) async fn transfer(method: Method, app: &App, key: &str, order: Order) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    loop {
        let done = match method {
            Method::Saga => saga::transfer(app, key, order).await,
            Method::Process => process::transfer(app, key, order).await,
            Method::Tcc => tcc::transfer(app, key, order).await,
            Method::TwoPhase => two_phase::transfer(app, key, order).await,
            Method::UndoLog => undo_log::transfer(app, key, order).await,
        };
        match done {
            Ok(outcome) => return Ok(outcome),
            Err(Trouble::Again(_)) if begun.elapsed() < PATIENCE => tokio::time::sleep(PAUSE).await,
            Err(trouble) => return Err(trouble.into_error().context(format!("transfer {key}"))),
        }
    }
}

/// What came of a key that was used before, by whichever method: no other one pays for it again.
pub(crate) async fn before(app: &App, key: &str, order: &Order) -> anyhow::Result<Option<Outcome>> {
    known(app, key, order).await.map_err(|trouble| trouble.into_error().context(format!("transfer {key}")))
}

async fn known(app: &App, key: &str, order: &Order) -> Result<Option<Outcome>, Trouble> {
    let loaded = app.load::<Transfer>(&TransferId(key.to_owned())).await;
    let loaded = loaded.map_err(|e| Trouble::of(e.kind(), e))?;
    let known = loaded.as_ref().map(|known| known.outcome_of(order)).transpose();
    Ok(known.map_err(|e| Trouble::Never(e.into()))?.flatten().cloned())
}

/// How much of what was begun has not ended.
pub(crate) async fn open(method: Method, app: &App, databases: &Databases) -> anyhow::Result<usize> {
    match method {
        Method::Saga => saga::open(app).await,
        Method::Process => process::open(&databases.journal).await,
        Method::Tcc => tcc::open(app).await,
        Method::TwoPhase => two_phase::open(app, &databases.banks).await,
        Method::UndoLog => undo_log::open(app, &databases.banks).await,
    }
}

/// Why a transfer has no outcome.
#[derive(Debug)]
enum Trouble {
    /// It may have, if it is tried again.
    Again(anyhow::Error),
    Never(anyhow::Error),
}

impl Trouble {
    fn of(kind: ErrorKind, error: impl Into<anyhow::Error>) -> Self {
        match kind {
            ErrorKind::Conflict | ErrorKind::Transient | ErrorKind::Unknown => Self::Again(error.into()),
            _ => Self::Never(error.into()),
        }
    }

    /// A command that was refused since another program has ended it meanwhile, under the same key.
    fn of_command(error: CommandError<TransferError>) -> Self {
        match error {
            CommandError::Refused(over @ TransferError::Over) => Self::Again(over.into()),
            error => Self::of(error.kind(), error),
        }
    }

    fn into_error(self) -> anyhow::Error {
        match self {
            Self::Again(error) | Self::Never(error) => error,
        }
    }
}

/// The first step of a saga, and a branch of a TCC: in the journal, where one method has the transfer.
const FILE: &str = "file";

/// How a saga or a TCC has ended.
async fn ended(
    app: &App,
    key: &str,
    order: &Order,
    run: Result<runs::Outcome, RunError>,
) -> Result<Outcome, Trouble> {
    match run {
        Ok(runs::Outcome::Completed) => Ok(Outcome::Settled),
        // Another method has it, or had.
        Ok(runs::Outcome::Undone(runs::Why::Refused { step, .. })) if step == FILE => {
            known(app, key, order).await?.ok_or_else(|| Trouble::Never(TransferError::OtherMethod.into()))
        }
        Ok(runs::Outcome::Undone(runs::Why::Refused { why, .. })) => Ok(Outcome::Declined(why)),
        Ok(other) => Ok(Outcome::Declined(other.to_string())),
        Err(RunError::OtherInput { .. }) => Err(Trouble::Never(TransferError::OtherOrder.into())),
        Err(error) => Err(Trouble::of(error.kind(), error)),
    }
}

/// The transfer is this method's, unless another one has it.
async fn file<F: Side, T: Side>(
    cx: Cx<'_, Way<F, T>>,
    by: Method,
    tx: &mut Tx,
) -> Result<(), StepError<TransferError>> {
    let file = File { order: cx.input.order, by };
    match cx.sender.send(&TransferId(cx.key.to_owned()), file).within(tx).await {
        Ok(_) => Ok(()),
        Err(CommandError::Refused(why)) => Err(StepError::Refused(why)),
        Err(error) => Err(StepError::Retry(error.into())),
    }
}

/// How many runs of a saga or a TCC have not ended.
async fn open_runs(runs: &Runs) -> anyhow::Result<usize> {
    let filter = [RunStatus::Undoing, RunStatus::Parked, RunStatus::Damaged]
        .into_iter()
        .fold(RunFilter::all().with_status(RunStatus::Running), RunFilter::with_status);
    let (mut open, mut next) = (0, None);
    loop {
        let page = runs.list(&filter, next.as_ref(), PAGE).await?;
        open += page.runs.len();
        next = page.next;
        if next.is_none() {
            return Ok(open);
        }
    }
}

/// A call that cannot be refused any more has failed.
fn failed(error: StepError<crate::transfer::Refusal>) -> BoxError {
    match error {
        StepError::Retry(error) => error,
        StepError::Refused(why) => why.into(),
    }
}
