//! A link of a chain: what is done in one database.

use std::future::Future;

use async_trait::async_trait;
use es_core::guard::{self, Guard, GuardError, GuardKey, GuardRows as _, GuardedDatabase, Standing, Undoing};
use es_core::{BoxError, chain};
use uuid::Uuid;

use super::OF_CHAIN;
use crate::saga::{SagaInput, StepError, has_guards};

/// What a link is called with.
#[derive(Debug)]
#[non_exhaustive]
pub struct LinkCx<'a, In> {
    /// What the chain was started with.
    pub input: &'a In,
    /// The key that it was started under.
    pub key: &'a str,
    /// The run.
    pub run: Uuid,
}

impl<In> Clone for LinkCx<'_, In> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<In> Copy for LinkCx<'_, In> {}

impl<'a, In> LinkCx<'a, In> {
    pub(super) const fn new(input: &'a In, key: &'a str, run: Uuid) -> Self {
        Self { input, key, run }
    }
}

/// What a chain with this input does in one database.
///
/// ```
/// use sagas::chain::{Link, LinkCx};
/// use sagas::es_core::guard::GuardedDatabase;
/// use sagas::saga::{SagaInput, StepError};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Move {
///     item: String,
/// }
/// impl SagaInput for Move {}
///
/// /// In a database with guard rows: `PgGuarded` of `es-postgres`, say.
/// struct Out<D>(D);
///
/// impl<D: GuardedDatabase> Link<Move> for Out<D> {
///     const NAME: &'static str = "out";
///     type Database = D;
///     fn database(&self) -> &D {
///         &self.0
///     }
///     async fn run(&self, cx: LinkCx<'_, Move>, tx: &mut D::Tx) -> Result<(), StepError<String>> {
///         // Statements go through `tx`, which is not committed here.
///         drop((tx, &cx.input.item));
///         Ok(())
///     }
/// }
/// ```
pub trait Link<In: SagaInput>: Send + Sync + 'static {
    /// Its stored name.
    const NAME: &'static str;
    /// The database, with the tables for guard rows.
    type Database: GuardedDatabase;

    /// Where it is done.
    fn database(&self) -> &Self::Database;

    /// Does it, in a transaction that is committed once all links have done theirs. Check here what can be checked: of
    /// PostgreSQL also what is deferred, by `set constraints all immediate`. [`StepError::Refused`] is a no of the business.
    fn run(
        &self,
        cx: LinkCx<'_, In>,
        tx: &mut <Self::Database as GuardedDatabase>::Tx,
    ) -> impl Future<Output = Result<(), StepError<String>>> + Send;
}

/// A link that can be undone once it has committed: for a chain that is [compensated](super::Chain::compensated).
///
/// ```
/// use es_sqlite::{GuardedTx, SqliteGuarded};
/// use sagas::chain::{Chain, Link, LinkCx, UndoLink};
/// use sagas::es_core::{BoxError, memory::Tx};
/// use sagas::saga::{OrRetry as _, Saga, SagaInput, StepError};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Move {
///     item: String,
/// }
/// impl SagaInput for Move {}
///
/// /// Of the shelf that it comes to.
/// struct Into(SqliteGuarded);
///
/// impl Link<Move> for Into {
///     const NAME: &'static str = "into";
///     type Database = SqliteGuarded;
///     fn database(&self) -> &SqliteGuarded {
///         &self.0
///     }
///     async fn run(&self, cx: LinkCx<'_, Move>, tx: &mut GuardedTx) -> Result<(), StepError<String>> {
///         sqlx::query("insert into shelf values (?)").bind(&cx.input.item).execute(&mut **tx).await.or_retry()?;
///         Ok(())
///     }
/// }
///
/// impl UndoLink<Move> for Into {
///     async fn undo(&self, cx: LinkCx<'_, Move>, tx: &mut GuardedTx) -> Result<(), BoxError> {
///         sqlx::query("delete from shelf where item = ?").bind(&cx.input.item).execute(&mut **tx).await?;
///         Ok(())
///     }
/// }
///
/// fn chain(here: SqliteGuarded) -> Saga<Move, Tx> {
///     Chain::compensated("move", 1).link(Into(here)).build() // and the other shelf
/// }
/// ```
pub trait UndoLink<In: SagaInput>: Link<In> {
    /// Undoes what was committed. Called again until it succeeds.
    fn undo(
        &self,
        cx: LinkCx<'_, In>,
        tx: &mut <Self::Database as GuardedDatabase>::Tx,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// A transaction of a link that is open, with all of its work done.
#[async_trait]
pub(super) trait OpenLink: Send {
    async fn commit(self: Box<Self>) -> Result<(), BoxError>;

    async fn roll_back(self: Box<Self>);

    /// Rolls back, and leaves a no that is one of every call. `Err`: that is not certain.
    async fn refuse(self: Box<Self>, why: &str) -> Result<(), BoxError>;
}

/// What a link finds when its transaction is opened.
pub(super) enum Opened<'l> {
    /// Its work is done, and not committed.
    Open(Box<dyn OpenLink + 'l>),
    /// It has committed before.
    Committed,
    /// It says no, and has written nothing that stays.
    Refuses(Box<dyn OpenLink + 'l>, String),
    /// It said no before, for good.
    HasRefused(String),
    /// Its work has failed, and is rolled back.
    Failed(BoxError),
}

/// A link whose database is known to itself only.
#[async_trait]
pub(super) trait DynLink<In>: Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether its database has the tables for guard rows. One that is away is not asked.
    async fn check(&self) -> Result<(), BoxError>;

    /// Opens a transaction, and does its work in it. `of`: the name of the chain, and a fingerprint of its input.
    async fn open<'l>(&'l self, cx: LinkCx<'_, In>, of: (&str, u128)) -> Result<Opened<'l>, BoxError>;

    /// What its rows say of runs; those that may be forgotten there are left out. `chain`: its name.
    async fn rows(&self, runs: &[Uuid], chain: &str) -> Result<Vec<(Uuid, Option<Standing>)>, BoxError>;

    /// Undoes it if it has committed; else it never commits after that. `known`: whether it is known to have.
    async fn undo(&self, cx: LinkCx<'_, In>, of: (&str, u128), known: bool) -> Result<(), BoxError>;
}

fn key(cx: Uuid, chain: &str, link: &str) -> Result<GuardKey, GuardError> {
    GuardKey::new(cx, format!("{OF_CHAIN}{chain}/{link}"))
}

/// A link, as it is written.
pub(super) struct Typed<L>(pub(super) L);

/// One that can be undone.
pub(super) struct Undoable<L>(pub(super) L);

/// An open transaction, and its row.
struct Open<'l, D: GuardedDatabase> {
    guard: Guard<'l, D>,
    tx: D::Tx,
}

#[async_trait]
impl<D: GuardedDatabase> OpenLink for Open<'_, D> {
    async fn commit(self: Box<Self>) -> Result<(), BoxError> {
        Ok(self.tx.commit().await?)
    }

    async fn roll_back(self: Box<Self>) {
        // One that cannot be rolled back ends with its connection.
        drop(self.tx.rollback().await);
    }

    async fn refuse(self: Box<Self>, why: &str) -> Result<(), BoxError> {
        let Self { guard, tx } = *self;
        match guard.refused(tx, why.to_owned()).await? {
            Err(_) => Ok(()),
            Ok(_) => Err("another call of it has committed meanwhile".into()),
        }
    }
}

async fn open<'l, In: SagaInput, L: Link<In>>(
    link: &'l L,
    cx: LinkCx<'_, In>,
    (chain_name, fingerprint): (&str, u128),
) -> Result<Opened<'l>, BoxError> {
    let key = key(cx.run, chain_name, L::NAME)?;
    let guard = Guard::new(link.database(), key.clone(), fingerprint);
    let mut tx = match guard.forward().await? {
        guard::Guarded::Run(tx) => tx,
        guard::Guarded::Done(_) => return Ok(Opened::Committed),
        guard::Guarded::Refused(why) => return Ok(Opened::HasRefused(why)),
    };
    let ran = link.run(cx, &mut tx).await;
    let marked = match ran {
        // Before anything is committed: a transaction in which a statement has failed shows here.
        Ok(()) => tx.change(&key, &Standing::Done("null".to_owned())).await.map_err(BoxError::from),
        Err(StepError::Refused(why)) => return Ok(Opened::Refuses(Box::new(Open { guard, tx }), why)),
        Err(StepError::Retry(error)) => Err(error),
    };
    match marked {
        Ok(()) => Ok(Opened::Open(Box::new(Open { guard, tx }))),
        Err(error) => {
            drop(tx.rollback().await);
            Ok(Opened::Failed(error))
        }
    }
}

async fn rows<D: GuardedDatabase>(
    database: &D,
    runs: &[Uuid],
    name: impl Fn(Uuid) -> Result<GuardKey, GuardError>,
) -> Result<Vec<(Uuid, Option<Standing>)>, BoxError> {
    let (mut tx, mut rows) = (database.begin().await?, Vec::with_capacity(runs.len()));
    for run in runs {
        let row = tx.find(&name(*run)?).await?;
        rows.push((*run, row.map(|row| row.standing)));
    }
    // In a statement behind them: what was forgotten before they were looked for is below it.
    let floor = tx.floor().await?;
    tx.rollback().await?;
    rows.retain(|(run, _)| *run >= floor);
    Ok(rows)
}

#[async_trait]
impl<In: SagaInput, L: Link<In>> DynLink<In> for Typed<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    async fn check(&self) -> Result<(), BoxError> {
        has_guards(self.0.database()).await
    }

    async fn rows(&self, runs: &[Uuid], chain: &str) -> Result<Vec<(Uuid, Option<Standing>)>, BoxError> {
        rows(self.0.database(), runs, |run| key(run, chain, L::NAME)).await
    }

    async fn open<'l>(&'l self, cx: LinkCx<'_, In>, of: (&str, u128)) -> Result<Opened<'l>, BoxError> {
        open(&self.0, cx, of).await
    }

    async fn undo(&self, _: LinkCx<'_, In>, _: (&str, u128), _: bool) -> Result<(), BoxError> {
        Err("it has no undo: a mistake of the engine".into())
    }
}

#[async_trait]
impl<In: SagaInput, L: UndoLink<In>> DynLink<In> for Undoable<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    async fn check(&self) -> Result<(), BoxError> {
        has_guards(self.0.database()).await
    }

    async fn rows(&self, runs: &[Uuid], chain: &str) -> Result<Vec<(Uuid, Option<Standing>)>, BoxError> {
        rows(self.0.database(), runs, |run| key(run, chain, L::NAME)).await
    }

    async fn open<'l>(&'l self, cx: LinkCx<'_, In>, of: (&str, u128)) -> Result<Opened<'l>, BoxError> {
        open(&self.0, cx, of).await
    }

    async fn undo(&self, cx: LinkCx<'_, In>, of: (&str, u128), known: bool) -> Result<(), BoxError> {
        let Self(link) = self;
        let guard = Guard::new(link.database(), key(cx.run, of.0, L::NAME)?, of.1);
        let Undoing::Run(mut tx, _) = guard.undo(known).await? else { return Ok(()) };
        match link.undo(cx, &mut tx).await {
            Ok(()) => Ok(guard.undone(tx).await?),
            Err(error) => {
                drop(tx.rollback().await);
                Err(error)
            }
        }
    }
}

/// An error of a link, with its name.
pub(super) fn named(link: &str, error: &BoxError) -> String {
    format!("{link}: {}", chain(&**error))
}
