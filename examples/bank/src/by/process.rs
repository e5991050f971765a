//! By a process: it hears what has happened, and says what is to happen next. Its commands call the banks.

use std::time::Duration;

use es_core::AppBuilder;
use es_core::guard::{Guard, GuardKey, Guarded, Undoing};
use es_core::prelude::*;
use es_core::store::Subscription;
use es_postgres::{PgBackend, PgGuarded};
use sagas::saga::StepError;
use sagas::{Instances, Life, Next, Processes as _, Refused, process};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use uuid::Uuid;

use super::{Method, Trouble};
use crate::banks::Banks;
use crate::ledger;
use crate::transfer::{
    Decline, Declined, GiveBack, Order, Outcome, Put, Refusal, Request, Requested, Settled, Take, Taken,
    Transfer, TransferError, TransferId,
};

const PAGE: usize = 500;

/// Stored: an instance for each transfer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Clearing {
    id: TransferId,
    order: Order,
}

#[process(name = "clearing", key = TransferId, sends(Take, Put, GiveBack, Decline))]
impl Clearing {
    #[starts]
    fn requested(&mut self, e: &Requested) -> Next<Self> {
        *self = Self { id: e.id.clone(), order: e.order };
        Next::send(&self.id, Take {})
    }

    #[refused]
    fn not_taken(&mut self, refused: Refused<Take>) -> Next<Self> {
        let (id, order) = (self.id.clone(), self.order);
        Next::send(&self.id, Decline { id, order, why: why(refused.error()), by: Method::Process })
    }

    #[on]
    fn taken(&mut self, _: &Taken) -> Next<Self> {
        Next::send(&self.id, Put {})
    }

    #[refused]
    fn not_put(&mut self, refused: Refused<Put>) -> Next<Self> {
        // Whatever the reason: the other bank has not got it.
        Next::send(&self.id, GiveBack { why: why(refused.error()).unwrap_or(Refusal::Closed) })
    }

    #[on]
    fn settled(&mut self, _: &Settled) -> Next<Self> {
        Next::end()
    }

    #[on]
    fn declined(&mut self, _: &Declined) -> Next<Self> {
        Next::end()
    }
}

fn why(error: Option<&TransferError>) -> Option<Refusal> {
    match error {
        Some(TransferError::Refused(why)) => Some(*why),
        _ => None,
    }
}

/// The first command: the money leaves its bank, once.
pub(crate) async fn take(banks: &Banks, asked: &Requested) -> Result<(), Failure<TransferError>> {
    call(banks, asked, Leg::Take).await
}

/// The second one: it arrives, once.
pub(crate) async fn put(banks: &Banks, asked: &Requested) -> Result<(), Failure<TransferError>> {
    call(banks, asked, Leg::Put).await
}

#[derive(Clone, Copy, Debug)]
enum Leg {
    Take,
    Put,
}

/// A call to a bank: what it does and a row that says so are one commit there. A refusal is one for good.
async fn call(banks: &Banks, asked: &Requested, leg: Leg) -> Result<(), Failure<TransferError>> {
    let Requested { id: TransferId(key), order, run } = asked;
    let (bank, name) = match leg {
        Leg::Take => (order.from.bank, "clearing/take"),
        Leg::Put => (order.to.bank, "clearing/put"),
    };
    let database = banks.guarded(bank).with_lock_timeout(super::LOCKS);
    let guard = guard(&database, *run, name)?;
    let mut tx = match guard.forward().await.map_err(Failure::service)? {
        Guarded::Run(tx) => tx,
        Guarded::Done(_) => return Ok(()),
        Guarded::Refused(why) => return Err(refused(&why)),
    };
    let done = match leg {
        Leg::Take => ledger::take(&mut tx, key, order).await,
        Leg::Put => ledger::put(&mut tx, key, order).await,
    };
    match done {
        Ok(()) => guard.done(tx, "null".to_owned()).await.map_err(Failure::service),
        Err(StepError::Refused(why)) => match guard.refused(tx, why.to_string()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(why)) => Err(refused(&why)),
            Err(error) => Err(Failure::service(error)),
        },
        Err(StepError::Retry(error)) => Err(Failure::Service(error)),
    }
}

/// What was taken comes back, once.
pub(crate) async fn give_back(banks: &Banks, asked: &Requested) -> Result<(), Failure<TransferError>> {
    let Requested { id: TransferId(key), order, run } = asked;
    let database = banks.guarded(order.from.bank).with_lock_timeout(super::LOCKS);
    let guard = guard(&database, *run, "clearing/take")?;
    match guard.undo(true).await.map_err(Failure::service)? {
        Undoing::Nothing => Ok(()),
        Undoing::Run(mut tx, _) => {
            ledger::give_back(&mut tx, key, order).await.map_err(super::failed).map_err(Failure::Service)?;
            guard.undone(tx).await.map_err(Failure::service)
        }
    }
}

fn guard<'d>(
    database: &'d PgGuarded,
    run: Uuid,
    name: &str,
) -> Result<Guard<'d, PgGuarded>, Failure<TransferError>> {
    let key = GuardKey::new(run, name).map_err(Failure::service)?;
    // A run is of one order: there is no other input to tell apart.
    Ok(Guard::new(database, key, 0))
}

fn refused(why: &str) -> Failure<TransferError> {
    match Refusal::of(why) {
        Some(why) => TransferError::Refused(why).into(),
        None => Failure::service(format!("the bank said {why:?}")),
    }
}

/// Transfers that end, as the log tells of them.
#[derive(Clone, Debug)]
struct Ends(broadcast::Sender<String>);

pub(super) async fn wire(app: AppBuilder<PgBackend>) -> anyhow::Result<AppBuilder<PgBackend>> {
    let (ends, store) = (broadcast::Sender::new(1_024), app.backend().clone());
    let head = store.head().await?;
    let filter = EventFilter::of::<Settled>().or(EventFilter::of::<Declined>());
    let mut log = Subscription::new(store, filter, head);
    let tell = ends.clone();
    tokio::spawn(async move {
        loop {
            match log.next().await {
                // Nobody may be waiting.
                Ok(event) => drop(tell.send(event.stream.as_str().to_owned())),
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    });
    Ok(app.process::<Clearing>().provide(Ends(ends)))
}

/// How long an end may be missed.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn transfer(app: &App, key: &str, order: Order) -> Result<Outcome, Trouble> {
    let id = TransferId(key.to_owned());
    let Ends(ends) = app.services().get::<Ends>().map_err(|e| Trouble::Never(e.into()))?;
    let (mut ends, stream) = (ends.subscribe(), format!("transfer-{key}"));
    let request = Request { id: id.clone(), order, run: app.new_id() };
    app.send(&id, request).await.map_err(Trouble::of_command)?;
    loop {
        let loaded = app.load::<Transfer>(&id).await.map_err(|e| Trouble::of(e.kind(), e))?;
        if let Some(outcome) = loaded.and_then(|transfer| transfer.outcome.clone()) {
            return Ok(outcome);
        }
        // Until it has ended, or may have.
        let ended = async { while matches!(ends.recv().await, Ok(other) if other != stream) {} };
        drop(tokio::time::timeout(LOOK, ended).await);
    }
}

/// How many have not ended.
pub(super) async fn open(journal: &PgBackend) -> anyhow::Result<usize> {
    let (instances, mut open, mut after) = (Instances::of::<Clearing>(journal.clone())?, 0, None);
    loop {
        let page = instances.page(after.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(open) };
        after = Some(last.key.clone());
        open += page.iter().filter(|instance| instance.life != Life::Ended).count();
    }
}

#[cfg(test)]
mod tests {
    use sagas::testing::{Given, process};

    use super::*;

    fn id() -> TransferId {
        TransferId("t-1".to_owned())
    }

    fn order() -> Order {
        Order { from: "a-17".parse().unwrap(), to: "b-4".parse().unwrap(), cents: 500 }
    }

    fn requested() -> Requested {
        Requested { id: id(), order: order(), run: Uuid::nil() }
    }

    fn taken() -> Given<Clearing> {
        let asked = process::<Clearing>().when_to::<Transfer>(&id(), requested()).then_sends(&id(), Take {});
        asked.and().when_to::<Transfer>(&id(), Taken {}).then_sends(&id(), Put {}).then_nothing().and()
    }

    #[test]
    fn money_is_taken_and_then_put() {
        let settled = Settled { id: id(), order: order() };
        taken().when_to::<Transfer>(&id(), settled).then_nothing().then_ended();
    }

    #[test]
    fn what_is_not_taken_is_declined() {
        let asked = process::<Clearing>().when_to::<Transfer>(&id(), requested()).and();
        let refused = asked.when_refused::<Take>(TransferError::Refused(Refusal::Overdrawn));
        let (why, by) = (Some(Refusal::Overdrawn), Method::Process);
        let decline = Decline { id: id(), order: order(), why, by };
        refused.then_sends(&id(), decline).then_nothing().then_goes_on();
    }

    #[test]
    fn what_the_other_bank_refuses_is_given_back() {
        let refused = taken().when_refused::<Put>(TransferError::Refused(Refusal::Closed));
        let back = refused.then_sends(&id(), GiveBack { why: Refusal::Closed }).then_nothing();
        let declined = Declined { id: id(), order: order(), why: Some(Refusal::Closed) };
        back.and().when_to::<Transfer>(&id(), declined).then_nothing().then_ended();
    }
}
