//! Half messages: a message that is sent if, and only if, a transaction in another database commits.
//!
//! Where the message's log is the database of the business, [publish](crate::message) within its transaction, and that is all. This
//! is for the other case. A message is *prepared* first, and nobody sees it. Then its *local transaction* runs, in a database of the
//! user's own. If that commits, the message is appended to the log, as [`app.publish`](crate::message::Publishing::publish) would,
//! and goes out from there; if it is rolled back, nothing is ever seen of it. What is not known is *checked*, until it is. The idea
//! and its words are those of RocketMQ's transactional messages.
//!
//! | whose code runs the local transaction | what there is |
//! | --- | --- |
//! | the engine, behind a guard row | [`LocalTransaction`], [`send_in_transaction`](Halves::send_in_transaction) |
//! | the caller, behind a guard row | [`ByCaller`], [`send_half`](Halves::send_half), [`Half`] |
//! | the engine, in a database without guard rows, with a check of the user's own | [`TransactionListener`], [`send_in_transaction`](Halves::send_in_transaction) |
//!
//! ```
//! use es_sqlite::SqliteGuarded;
//! use sagas::es_core::App;
//! use sagas::es_core::memory::MemoryBackend;
//! use sagas::half::{HalfApp as _, HalfMessage, HalfMessages, Halves as _, LocalTransaction};
//! use sagas::message::Envelope;
//! use sagas::relay::{Relays as _, TopicMessages};
//! use sagas::saga::{Cx, OrRetry as _, Outcome, SagaInput, StepError};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Pay {
//!     cents: i64,
//! }
//! impl SagaInput for Pay {}
//!
//! struct Book;
//! impl LocalTransaction<Pay> for Book {
//!     type Database = SqliteGuarded;
//!     type Refusal = String;
//!     async fn execute(&self, cx: Cx<'_, Pay>, tx: &mut es_sqlite::GuardedTx) -> Result<(), StepError<String>> {
//!         if cx.input.cents > 1_000 {
//!             return Err(StepError::Refused("that is too dear".to_owned()));
//!         }
//!         let book = sqlx::query("insert into payments (order_id, cents) values (?, ?)");
//!         book.bind(cx.key).bind(cx.input.cents).execute(&mut **tx).await.or_retry()?;
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), es_core::BoxError> {
//! # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
//! # let shop = SqliteGuarded::new(pool);
//! # shop.install().await?;
//! # sqlx::query("create table payments (order_id text primary key, cents integer not null)").execute(shop.pool()).await?;
//! let (sender, mut arrives) = tokio::sync::mpsc::channel::<Envelope>(16);
//! let app = App::on(MemoryBackend::new())
//!     .provide(shop)
//!     .half_messages(HalfMessages::of("pay", 1, Book))
//!     .relay(TopicMessages::of("paid"), sender)
//!     .start()
//!     .await?;
//! let paid = |order, cents: i64| HalfMessage::new("paid", order, &cents);
//! let outcome = app.run_in_transaction("o-1", paid("o-1", 2_000)?, Pay { cents: 2_000 }).await?;
//! assert_eq!(outcome.to_string(), "rolled back: that is too dear");
//! let outcome = app.run_in_transaction("o-2", paid("o-2", 500)?, Pay { cents: 500 }).await?;
//! assert_eq!(outcome, Outcome::Completed);
//! assert_eq!(arrives.recv().await.expect("it is sent").data, serde_json::json!(500));
//! # Ok(())
//! # }
//! ```
//!
//! # How it is checked
//!
//! The guard row is the local transaction's first statement, and a check *inserts* the same row. So its answer is final: if it
//! was faster, the local transaction is refused from then on; if not, it waits for it.
//!
//! | a check finds | that is | what follows |
//! | --- | --- | --- |
//! | that it has committed | `commit` | the message is appended, in the commit of the record of that |
//! | that it has not, and never will | `rollback` | the run ends, [`Why::RolledBack`](crate::saga::Why::RolledBack) |
//! | that it runs: its row is locked for longer than the database waits, which is to be less than the [limit](HalfMessages::limit) of a check | `in_progress` | a check later, which is not counted |
//! | nothing: the database does not answer, its rows were forgotten, a listener does not know | `unknown`, `not_mine` | a check later, with a pause that grows. After the most of them it is parked, and a person is asked |
//!
//! The first check comes after the [immunity](HalfMessages::immunity), by the clock of the store, or as soon as the caller
//! [hints](Half::commit): a hint is not believed, it is looked whether it is so, and a check that was begun before does not do. The nodes that have the definition are the producer
//! group. Whichever of them has the message checks; those of a node that is gone are taken over, and while none is there, nothing is
//! counted. No time decides anything.
//!
//! # Metrics
//!
//! Those of [`alerts`](crate::alerts), with the pattern `half`, and their rules: `SagaParked` says that a person is asked,
//! `SagaUnattended` that no node has the definition. Beside them `es_saga_stages_total`, by `stage`: how many messages came to be
//! `prepared`, `unknown`, `checking`, `commit` and `rollback`, on this node; and `es_saga_checks_total`, by `answer`.
//! [`show`](crate::saga::Runs::show) says the same of one message, as the state of its step `local`.

mod app;
mod caller;
mod definition;
mod erased;
#[cfg(test)]
mod explored;
mod local;
mod machine;
mod message;
mod protocol;
mod shown;

/// The label of its metrics.
const PATTERN: &str = "half";

pub use self::app::{HalfApp, HalfStarter, Halves};
pub use self::caller::{Begun, Half, LocalTx};
pub use self::definition::HalfMessages;
pub use self::local::{ByCaller, LocalState, LocalTransaction, TransactionListener};
pub use self::message::HalfMessage;
