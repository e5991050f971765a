//! Steps in a database of the user's own that has guard rows.

use std::fmt;
use std::marker::PhantomData;

use es_core::guard::{
    self, Confirming, Guard, GuardError, GuardKey, GuardRows as _, GuardedDatabase, Undoing,
};
use es_core::services::{MissingService, Services};
use es_core::store::Transaction;
use es_core::{BoxError, ErrorKind, chain};

use super::place::{At, Does, Outside, Place, PlaceOn, Told, Visit, elsewhere};
use super::step::{StepError, Unknown};
use crate::data::Data;
use crate::transaction::OwnFault;

/// In another database than that of the journal, behind a guard row: what the step does and a row that says so are one
/// commit, so it acts once, whatever becomes of its answer. A refusal is final; an undo bars a call that is still on its way.
///
/// `D` is a service of the app, `.provide(..)`: `PgGuarded` of `es-postgres`, `SqliteGuarded` of `es-sqlite`, or a type of
/// your own around one. See [`es_core::guard`]. An undo is told what the row says: if nothing has run, it is not called.
pub struct Guarded<D>(PhantomData<fn() -> D>);

impl<D> fmt::Debug for Guarded<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guarded")
    }
}

impl<D: GuardedDatabase> Place for Guarded<D> {
    type At = D::Tx;

    const UNKNOWN: Unknown = Unknown::Fence;
    const REFUSES_FOR_GOOD: bool = true;
}

/// A guarded call that runs.
#[doc(hidden)]
pub struct GuardedVisit<'a, D: GuardedDatabase> {
    guard: Guard<'a, D>,
    tx: D::Tx,
    does: Does,
    ran: Option<Data>,
}

impl<D: GuardedDatabase> fmt::Debug for GuardedVisit<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedVisit").field("does", &self.does).finish_non_exhaustive()
    }
}

impl<D: GuardedDatabase, T: Transaction> PlaceOn<T> for Guarded<D> {
    const LOCAL: bool = false;

    type Visit<'a>
        = GuardedVisit<'a, D>
    where
        T: 'a;

    async fn enter<'a>(at: At<'a, T>, heard: bool) -> Result<GuardedVisit<'a, D>, Told>
    where
        T: 'a,
    {
        let At::Outside(outside) = at else { return Err(elsewhere()) };
        let Outside { run, name, fingerprint, does, services } = outside;
        let database = database::<D>(services).map_err(own)?;
        let guard = Guard::new(database, GuardKey::new(run, name).map_err(own)?, fingerprint);
        match does {
            Does::Run => forward(guard).await,
            Does::Undo => backward(guard, heard).await,
            Does::Confirm => confirm(guard).await,
        }
    }

    async fn check(services: &Services) -> Result<(), BoxError> {
        match guard::check(database::<D>(services)?).await {
            // It may be away for a while: its steps are tried again.
            Err(error) if error.kind() == ErrorKind::Transient => {
                tracing::warn!(error = chain(&error), "a database with guard rows cannot be asked now");
                Ok(())
            }
            checked => Ok(checked?),
        }
    }
}

fn database<D: GuardedDatabase>(services: &Services) -> Result<&D, MissingService> {
    services.get()
}

/// It is tried again. Only a database that fails is one that others need not call either: what a row says is of this call.
fn again(error: GuardError) -> Told {
    match &error {
        GuardError::Store(store) if store.kind() != ErrorKind::Corrupt => Err(StepError::Retry(error.into())),
        _ => own(error),
    }
}

fn own(error: impl Into<BoxError>) -> Told {
    Err(StepError::Retry(OwnFault::boxed(error)))
}

/// What is kept in a row.
fn kept(output: String) -> Told {
    Data::parse(output).or_else(own)
}

async fn forward<D: GuardedDatabase>(guard: Guard<'_, D>) -> Result<GuardedVisit<'_, D>, Told> {
    match guard.forward().await.map_err(again)? {
        guard::Guarded::Run(tx) => Ok(GuardedVisit { guard, tx, does: Does::Run, ran: None }),
        guard::Guarded::Done(output) => Err(kept(output)),
        guard::Guarded::Refused(why) => Err(Err(StepError::Refused(why))),
    }
}

async fn backward<D: GuardedDatabase>(guard: Guard<'_, D>, heard: bool) -> Result<GuardedVisit<'_, D>, Told> {
    match guard.undo(heard).await.map_err(again)? {
        Undoing::Run(tx, output) => {
            let ran = output.map(kept).transpose().map_err(Err)?;
            Ok(GuardedVisit { guard, tx, does: Does::Undo, ran })
        }
        Undoing::Nothing => Err(Data::of(&()).map_err(StepError::Retry)),
    }
}

async fn confirm<D: GuardedDatabase>(guard: Guard<'_, D>) -> Result<GuardedVisit<'_, D>, Told> {
    match guard.confirm().await.map_err(again)? {
        Confirming::Run(tx, output) => {
            let ran = Some(kept(output).map_err(Err)?);
            Ok(GuardedVisit { guard, tx, does: Does::Confirm, ran })
        }
        Confirming::Nothing => Err(Data::of(&()).map_err(StepError::Retry)),
    }
}

impl<D: GuardedDatabase> Visit<D::Tx> for GuardedVisit<'_, D> {
    fn at(&mut self) -> &mut D::Tx {
        &mut self.tx
    }

    fn ran(&self, _: Option<Data>) -> Option<Data> {
        self.ran.clone()
    }

    async fn leave(self, told: Told) -> Told {
        let Self { guard, tx, does, ran } = self;
        match told {
            Ok(output) => {
                let ended = match does {
                    Does::Run => guard.done(tx, output.text().to_owned()).await,
                    Does::Undo => guard.undone(tx).await,
                    Does::Confirm => {
                        let held = ran.as_ref().map_or_else(|| output.text(), Data::text);
                        guard.confirmed(tx, held.to_owned()).await
                    }
                };
                ended.map_or_else(again, |()| Ok(output))
            }
            Err(StepError::Refused(why)) if does == Does::Run => match guard.refused(tx, why).await {
                Ok(Err(why)) => Err(StepError::Refused(why)),
                Ok(Ok(output)) => kept(output),
                Err(error) => again(error),
            },
            failed => {
                // What it has failed with counts; a transaction that cannot be rolled back ends with its connection.
                drop(tx.rollback().await);
                failed
            }
        }
    }
}
