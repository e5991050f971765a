//! Steps in a database of the user's own that has guard rows.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use es_core::guard::{
    self, Confirming, Guard, GuardError, GuardKey, GuardRows as _, GuardedDatabase, Undoing,
};
use es_core::services::{MissingService, Services};
use es_core::store::{StoreError, Transaction};
use es_core::{BoxError, ErrorKind, chain};

use super::place::{At, Does, Outside, Place, PlaceOn, Told, Visit, elsewhere};
use super::step::{StepError, Unknown};
use crate::data::Data;
use crate::transaction::OwnFault;

/// For how long a start waits for a database.
const LIMIT: Duration = Duration::from_secs(5);

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

    fn guards() -> Option<TypeId> {
        Some(TypeId::of::<D>())
    }

    type Visit<'a>
        = GuardedVisit<'a, D>
    where
        T: 'a;

    async fn enter<'a>(at: At<'a, T>, heard: bool) -> Result<GuardedVisit<'a, D>, Told>
    where
        T: 'a,
    {
        let At::Outside(outside) = at else { return Err(elsewhere()) };
        enter::<D>(outside, heard).await
    }

    async fn check(services: &Services) -> Result<(), BoxError> {
        is_there::<D>(services).await
    }
}

/// Makes a call, or finds what came of it.
pub(crate) async fn enter<D: GuardedDatabase>(
    outside: Outside<'_>,
    heard: bool,
) -> Result<GuardedVisit<'_, D>, Told> {
    let does = outside.does;
    let guard = guard_of::<D>(outside).map_err(own)?;
    match does {
        Does::Run => forward(guard).await,
        Does::Undo => backward(guard, heard).await,
        Does::Confirm => confirm(guard).await,
    }
}

/// Whether a call has run, or never will.
pub(crate) async fn outcome<D: GuardedDatabase>(
    outside: Outside<'_>,
) -> Result<Result<guard::Outcome, GuardError>, MissingService> {
    Ok(match guard_of::<D>(outside) {
        Ok(guard) => guard.outcome().await,
        Err(Unguarded::Missing(error)) => return Err(error),
        Err(Unguarded::Key(error)) => Err(error),
    })
}

/// Whether a database is there, when an app starts. It may be away for a while: its calls are tried again.
pub(crate) async fn is_there<D: GuardedDatabase>(services: &Services) -> Result<(), BoxError> {
    has_guards(database::<D>(services)?).await
}

/// The same, of one that is no service.
pub(crate) async fn has_guards<D: GuardedDatabase>(database: &D) -> Result<(), BoxError> {
    match tokio::time::timeout(LIMIT, guard::check(database)).await {
        Err(_) => {
            tracing::warn!("a database with guard rows does not answer within {LIMIT:?}");
            Ok(())
        }
        Ok(Err(error)) if error.kind() == ErrorKind::Transient => {
            tracing::warn!(error = chain(&error), "a database with guard rows cannot be asked now");
            Ok(())
        }
        Ok(checked) => Ok(checked?),
    }
}

/// Why there is no guard for a call.
#[derive(Debug, thiserror::Error)]
enum Unguarded {
    #[error(transparent)]
    Missing(#[from] MissingService),
    #[error(transparent)]
    Key(#[from] GuardError),
}

fn guard_of<D: GuardedDatabase>(outside: Outside<'_>) -> Result<Guard<'_, D>, Unguarded> {
    let Outside { run, name, fingerprint, services, .. } = outside;
    Ok(Guard::new(database::<D>(services)?, GuardKey::new(run, name)?, fingerprint))
}

fn database<D: GuardedDatabase>(services: &Services) -> Result<&D, MissingService> {
    services.get()
}

/// It is tried again. Only a database that fails is one that others need not call either: what a row says, and who has it, is of
/// this call.
fn again(error: GuardError) -> Told {
    match &error {
        GuardError::Store(store)
            if !error.is_taken() && !matches!(store.kind(), ErrorKind::Corrupt | ErrorKind::Blocked) =>
        {
            Err(StepError::Retry(error.into()))
        }
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
                    Does::Undo => match guard.undone(tx).await {
                        // Trying again does not help: an operator is asked at once.
                        Err(GuardError::Store(StoreError::Blocked { what })) => {
                            return Err(StepError::Refused(what));
                        }
                        ended => ended,
                    },
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use es_core::guard::{GuardRow, GuardRows, Standing};
    use es_core::memory::{MemoryBackend, Tx};
    use serde::{Deserialize, Serialize};
    use tokio::time::Instant;
    use uuid::Uuid;

    use super::super::protocol::SagaProtocol;
    use super::super::{Cx, Saga, SagaInput, Step};
    use super::*;
    use crate::transaction::Acts;

    /// A database that does not answer.
    struct Away;

    struct Nothing;

    impl GuardedDatabase for Away {
        type Tx = Nothing;
        async fn begin(&self) -> Result<Nothing, StoreError> {
            std::future::pending().await
        }
    }

    impl GuardRows for Nothing {
        async fn insert(&mut self, _: &GuardKey, _: &GuardRow) -> Result<bool, StoreError> {
            Ok(false)
        }
        async fn find(&mut self, _: &GuardKey) -> Result<Option<GuardRow>, StoreError> {
            Ok(None)
        }
        async fn change(&mut self, _: &GuardKey, _: &Standing) -> Result<(), StoreError> {
            Ok(())
        }
        async fn floor(&mut self) -> Result<Uuid, StoreError> {
            Ok(Uuid::nil())
        }
        async fn forget(&mut self, _: Uuid) -> Result<u64, StoreError> {
            Ok(0)
        }
        async fn commit(self) -> Result<(), StoreError> {
            Ok(())
        }
        async fn rollback(self) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[derive(Serialize, Deserialize)]
    struct Errand {}
    impl SagaInput for Errand {}

    struct Act<const N: usize>;
    impl<const N: usize> Step<Errand> for Act<N> {
        const NAME: &'static str = ["a", "b", "c"][N];
        type Needs = ();
        type Output = ();
        type Refusal = Infallible;
        type Place = Guarded<Away>;
        async fn run(&self, _: Cx<'_, Errand>, _: &mut Nothing) -> Result<(), StepError<Infallible>> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn databases_that_are_away_are_waited_for_at_the_same_time_and_not_for_long() {
        let saga: Saga<Errand, Tx> =
            Saga::new("errand", 1).pivot(Act::<0>).then(Act::<1>).then(Act::<2>).build();
        let (protocol, mut services, begun) = (SagaProtocol::new(&saga), Services::default(), Instant::now());
        services.provide(Away);
        let wrong = Acts::<MemoryBackend>::check(&protocol, &services).await;
        assert_eq!((wrong, begun.elapsed()), (Vec::new(), LIMIT));
    }
}
