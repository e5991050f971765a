//! By two-phase commit: both banks and the journal commit, or none does. No bank ever shows a part of it.

use std::time::Duration;

use es_core::AppBuilder;
use es_core::prelude::*;
use es_postgres::{PgBackend, PgParticipant};
use sagas::saga::StepError;
use sagas::two_phase::{TwoPhase, TwoPhaseApp as _, TwoPhaseError};

use super::{Method, Trouble};
use crate::banks::Banks;
use crate::ledger;
use crate::transfer::{Bank, Decline, Order, Outcome, Refusal, Settle, TransferId};

/// What is left prepared by a program that was killed is decided after that. A real one gives it longer: nothing depends on it
/// but who waits for its locks.
const GRACE: Duration = Duration::from_secs(1);

/// Both banks, always in this order: two transfers in opposite directions do not wait for each other.
struct Both([PgParticipant; 2]);

pub(super) fn wire(app: AppBuilder<PgBackend>, banks: &Banks) -> anyhow::Result<AppBuilder<PgBackend>> {
    let [a, b] = [banks.participant(Bank::A)?, banks.participant(Bank::B)?];
    let journal = (**app.backend()).clone();
    let two_phase =
        TwoPhase::on(journal)?.participant(a.clone()).participant(b.clone()).grace(GRACE).build()?;
    Ok(app.two_phase(&two_phase).provide(Both([a, b])))
}

pub(super) async fn transfer(app: &App, key: &str, order: Order) -> Result<Outcome, Trouble> {
    let id = TransferId(key.to_owned());
    // A key that was used before, perhaps by a program that was killed before it could say what came of it.
    if let Some(outcome) = super::known(app, key, &order).await? {
        return Ok(outcome);
    }
    match attempt(app, &id, order).await? {
        Ok(()) => Ok(Outcome::Settled),
        Err(why) => {
            let decline = Decline { id: id.clone(), order, why: Some(why), by: Method::TwoPhase };
            app.send(&id, decline).await.map_err(Trouble::of_command)?;
            Ok(Outcome::Declined(why.to_string()))
        }
    }
}

/// One transaction across three databases. A second one under the key waits for the rows of the first, and fails.
async fn attempt(app: &App, id: &TransferId, order: Order) -> Result<Result<(), Refusal>, Trouble> {
    let two_phase = manager(app)?;
    let Both(both) = app.services().get().map_err(|e| Trouble::Never(e.into()))?;
    let mut tx = two_phase.begin();
    for (bank, participant) in Bank::ALL.into_iter().zip(both) {
        let branch = tx.branch(participant).await.map_err(|e| Trouble::of(e.kind(), e))?;
        let done = match bank == order.from.bank {
            true => ledger::take(branch, &id.0, &order).await,
            false => ledger::put(branch, &id.0, &order).await,
        };
        if let Err(error) = done {
            tx.rollback().await;
            return match error {
                StepError::Refused(why) => Ok(Err(why)),
                StepError::Retry(error) => Err(Trouble::Again(anyhow::anyhow!(error))),
            };
        }
    }
    let journal = tx.journal().await.map_err(|e| Trouble::of(e.kind(), e))?;
    let settle = Settle { id: id.clone(), order, by: Method::TwoPhase };
    app.send(id, settle).within(journal).await.map_err(Trouble::of_command)?;
    match tx.commit().await {
        Ok(_) => Ok(Ok(())),
        Err(TwoPhaseError::Unknown(doubt)) => {
            two_phase.resolve(&doubt).await.map_err(|e| Trouble::of(e.kind(), e))?;
            Err(Trouble::Again(anyhow::anyhow!("it was not heard what was decided")))
        }
        Err(error) => Err(Trouble::of(error.kind(), error)),
    }
}

fn manager(app: &App) -> Result<&TwoPhase<PgBackend>, Trouble> {
    app.services().get().map_err(|e| Trouble::Never(e.into()))
}

/// How many branches are prepared, or wait for what was decided.
pub(super) async fn open(app: &App, banks: &Banks) -> anyhow::Result<usize> {
    let mut open = manager(app).map_err(Trouble::into_error)?.pending().await?.len();
    for bank in Bank::ALL {
        let prepared = "select count(*) from pg_prepared_xacts where database = current_database()";
        let prepared: i64 = sqlx::query_scalar(prepared).fetch_one(banks.pool(bank)).await?;
        open += usize::try_from(prepared)?;
    }
    Ok(open)
}
