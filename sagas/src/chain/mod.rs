//! Best-effort chain: ordered commits of several databases, each of one phase.
//!
//! All of the work is done first, in a transaction for each database, all of which stay open. Then they are committed one
//! after the other, in the order of the definition. What refuses, violates a constraint or cannot be reached shows before
//! anything is committed, so a partial outcome takes a failure *between two commits*: a node that dies there, a connection
//! that is lost, a constraint that is checked at the commit. The idea is the "best efforts 1PC" of David Syer
//! ("Distributed transactions in Spring, with and without XA", 2009).
//!
//! It is rare, and it happens. So each transaction also writes a guard row, as its marker. Whoever goes on with the run, on any
//! node, finds out for certain what has committed, and then it is as the definition says:
//!
//! | chain | partial outcome |
//! | --- | --- |
//! | [`Chain::fixed_forward`] | what is left is done again, in new transactions, until it commits. If it says no then, an operator is asked |
//! | [`Chain::compensated`] | it is tried as often as a step of a saga; then what has committed is undone, the last one first, and what has not never commits after that |
//! | [`Chain::parked`] | it is left as it is, and an operator is asked, at once |
//!
//! **Others see the middle.** Between the first commit and the last one, which is a round trip for each database, some show it
//! and others do not. After a crash there it is longer: until another node goes on, or an operator has looked. While all
//! transactions are open, each holds its locks for as long as the slowest one works, as in two-phase commit.
//!
//! Take it where the databases cannot prepare, or must not (two files of SQLite, a server without
//! `max_prepared_transactions`), and where the middle does no harm. Where it does, take [two-phase commit](crate::two_phase)
//! or a [TCC](crate::tcc). Where steps are calls of services, take a [saga](crate::saga): its steps commit one after the
//! other too, and each runs after the commit of the one before it.
//!
//! ```
//! use es_sqlite::{GuardedTx, SqliteGuarded};
//! use sagas::chain::{Chain, Link, LinkCx};
//! use sagas::es_core::memory::MemoryBackend;
//! use sagas::es_core::{App, BoxError};
//! use sagas::saga::{OrRetry as _, Outcome, SagaApp, SagaInput, Sagas, StepError};
//! use serde::{Deserialize, Serialize};
//! use sqlx::sqlite::SqlitePoolOptions;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Move {
//!     item: String,
//! }
//! impl SagaInput for Move {}
//!
//! /// Of the shelf that it leaves.
//! struct Out(SqliteGuarded);
//!
//! impl Link<Move> for Out {
//!     const NAME: &'static str = "out";
//!     type Database = SqliteGuarded;
//!     fn database(&self) -> &SqliteGuarded {
//!         &self.0
//!     }
//!     async fn run(&self, cx: LinkCx<'_, Move>, tx: &mut GuardedTx) -> Result<(), StepError<String>> {
//!         let gone = sqlx::query("delete from shelf where item = ?").bind(&cx.input.item).execute(&mut **tx).await;
//!         match gone.or_retry()?.rows_affected() {
//!             0 => Err(StepError::Refused(format!("there is no {}", cx.input.item))),
//!             _ => Ok(()),
//!         }
//!     }
//! }
//!
//! /// Of the shelf that it comes to.
//! struct In(SqliteGuarded);
//!
//! impl Link<Move> for In {
//!     const NAME: &'static str = "in";
//!     type Database = SqliteGuarded;
//!     fn database(&self) -> &SqliteGuarded {
//!         &self.0
//!     }
//!     async fn run(&self, cx: LinkCx<'_, Move>, tx: &mut GuardedTx) -> Result<(), StepError<String>> {
//!         sqlx::query("insert into shelf values (?)").bind(&cx.input.item).execute(&mut **tx).await.or_retry()?;
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! # let mut shelves = Vec::new();
//! # for _ in 0..2 {
//! #     let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
//! #     sqlx::raw_sql("create table shelf (item text primary key)").execute(&pool).await?;
//! #     shelves.push(pool);
//! # }
//! # let (there, here) = (shelves.remove(0), shelves.remove(0));
//! # sqlx::raw_sql("insert into shelf values ('lamp')").execute(&there).await?;
//! let (there, here) = (SqliteGuarded::new(there), SqliteGuarded::new(here)); // two databases
//! there.install().await?; // a table for guard rows, once
//! here.install().await?;
//!
//! let chain = Chain::fixed_forward("move", 1).link(Out(there)).link(In(here)).build();
//! let app = App::on(MemoryBackend::new()).saga(chain).start().await?;
//! let lamp = || Move { item: "lamp".to_owned() };
//! assert_eq!(app.run_saga("m-1", lamp()).await?, Outcome::Completed);
//! assert_eq!(app.run_saga("m-2", lamp()).await?.to_string(), "undone: chain was refused: out: there is no lamp");
//! # Ok(())
//! # }
//! ```
//!
//! A chain is a saga of one step, which is named `chain`: whatever there is for sagas is there for it. What an operator reads
//! of a partial outcome names what has committed, and what has not, or may have where a database does not answer. Of a chain that is fixed forward, or parked, that step is the
//! pivot. So neither a deadline nor `Cancel` ends a run that is being tried, or was tried in vain: it may have committed. One of
//! which nothing is committed is tried as what has to succeed, for as long as an outage may last, and then an operator is asked;
//! what they read says that. If it is never to commit they end it with `Abandon`.
//!
//! # What it promises
//!
//! - Before anything is committed, a link that says no ends it: nothing has happened, and that is kept in the first database.
//!   It is *undone* then.
//! - Of each link at most one transaction commits, whatever becomes of its answer, and of its node. When a run has completed,
//!   each has.
//! - Tries of a run follow each other, also those of two nodes: each begins with the row of the first database.
//! - A run whose outcome is partial never ends by itself: it is fixed, undone, or waits for an operator.
//! - Nothing is said of the journal: to write there as well, or before and after, make [steps](crate::saga) of that.
//! - Guard rows are forgotten by [`forget`](es_core::guard::forget) only, as of [guarded steps](crate::saga::Guarded).
//! - Databases have to differ: two links in one would wait for each other, where only one may write. Nothing checks that.
//! - Chains over the same databases name them in the same order. Of `A, B` and `B, A` each would hold what the other one waits
//!   for, which no database sees; the lock time-out of one of them ends that, a try each time.
//! - When an app starts it finds out that a chain has links, that their names differ, and that their databases have the tables
//!   for guard rows, unless they are away.
//! - A link that a database has lost is found by [reconciliation](crate::reconcile::chains).

mod attempt;
mod builder;
#[cfg(test)]
mod explored;
mod link;
mod machine;
mod traces;

/// What the names of the guard rows of chains begin with, and those of no saga: nothing compares them with the steps of one.
pub(crate) const OF_CHAIN: &str = "chain.";

pub use self::builder::{Chain, Compensate, Forward, Park, Takes};
pub use self::link::{Link, LinkCx, UndoLink};
