//! The contract of a backend, executable: a test for each rule.
//!
//! A backend crate says once how its stores are made, and runs everything:
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use es_core::BoxError;
//! use es_core::services::Services;
//! use es_core::memory::{MemoryBackend, Tx};
//! use es_core::testing::{TestClock, conformance::Subject};
//!
//! struct Memory; // a backend on files keeps the folder of its stores in here
//!
//! impl Subject for Memory {
//!     type Backend = MemoryBackend;
//!     async fn open(&self) -> MemoryBackend {
//!         MemoryBackend::new()
//!     }
//!     async fn open_at(&self, clock: TestClock) -> MemoryBackend {
//!         MemoryBackend::with_clock(clock)
//!     }
//!     async fn again(&self, backend: &MemoryBackend) -> MemoryBackend {
//!         backend.clone() // a SQL backend opens the same database once more
//!     }
//!     async fn put_row(&self, tx: &mut Tx, key: &str, row: &str) {
//!         tx.put("rows", key, row);
//!     }
//!     async fn row(&self, backend: &MemoryBackend, key: &str) -> Option<String> {
//!         backend.row("rows", key).map(|row| String::from_utf8_lossy(&row).into_owned())
//!     }
//!     const PAID: &'static str = ""; // a SQL backend: "create table paid (key text primary key, amount bigint)"
//!     async fn pay(tx: &mut Tx, key: &str, amount: i64) -> Result<(), BoxError> {
//!         let before = tx.get("paid", key).map_or(Ok(0), |row| String::from_utf8(row)?.parse::<i64>().map_err(BoxError::from))?;
//!         tx.put("paid", key, (before + amount).to_string());
//!         Ok(())
//!     }
//!     async fn fail(_: &mut Tx) -> BoxError {
//!         "a statement that fails".into()
//!     }
//!     async fn paid(backend: &MemoryBackend) -> Result<BTreeMap<String, i64>, BoxError> {
//!         let parse = |(key, row)| Ok((key, String::from_utf8(row)?.parse()?));
//!         backend.table("paid").into_iter().map(parse).collect()
//!     }
//!     async fn paid_through(services: &Services) -> Result<BTreeMap<String, i64>, BoxError> {
//!         Self::paid(services.get::<MemoryBackend>()?).await // a SQL backend: its `Db`
//!     }
//! }
//!
//! es_core::conformance!(Memory);
//! ```
//!
//! The rules hold for a store that fails now and then as well: each of them asks until it is answered,
//! resolves what is unknown, and sends again what was never applied, with the same event ids. So a store
//! may answer `Transient` and `Unknown` whenever it likes, but nothing else that is not so.
//!
//! A backend with the verbs of an operator implements [`Operated`] as well, and declares those rules by
//! [`operated_conformance!`](crate::operated_conformance). Stores that fail are not asked to keep them.
//!
//! The letter and number over a rule are those of the table in `docs/rules.md`; its name says it in words.

#![expect(clippy::missing_panics_doc, reason = "a rule that does not hold panics: that is how a test fails")]

pub mod adopting;
pub mod append;
pub mod attempts;
pub mod backfills;
pub mod blame;
pub mod cluster;
pub mod commands;
pub mod conditions;
pub mod damaged;
mod data;
pub mod deploys;
pub mod discards;
#[doc(hidden)]
pub mod domain;
#[doc(hidden)]
pub mod double;
pub mod effects;
pub mod fences;
pub mod generations;
#[doc(hidden)]
pub mod inline;
pub mod inline_code;
#[doc(hidden)]
pub mod jobs;
pub mod keys;
pub mod large;
pub mod late;
pub mod laws;
pub mod limits;
pub mod missed;
mod operated;
pub mod operating;
pub mod parking;
mod patient;
#[doc(hidden)]
pub mod payments;
pub mod plain_names;
pub mod poisoned;
pub mod portions;
pub mod processors;
pub mod queries;
pub mod queues;
pub mod reactors;
pub mod readiness;
pub mod reading;
#[doc(hidden)]
pub mod readside;
pub mod rebuilds;
pub mod redacting;
pub mod rekeyed;
mod relay;
pub mod renames;
pub mod replays;
pub mod rows;
mod rules;
pub mod sending;
pub mod slices;
pub mod slow;
pub mod snapshots;
pub mod staging;
pub mod starts;
pub mod together;
pub mod transactions;
pub mod undecoded;
pub mod unknown;
pub mod vanishing;
pub mod verifying;
pub mod versions;
pub mod waiting;

use std::time::Duration;

pub use self::operated::{Damage, Operated};
use self::patient::Patient;
pub use self::rules::{OPERATED, RULES};
use super::TestClock;
use crate::store::{Backend, RecordedEvent, RowStore, Subscription};
use crate::{App, AppBuilder, BoxError};

/// What the suites run on. A new value for each test: it can own a folder that its stores live in.
pub trait Subject: Send + Sync + 'static {
    /// The backend. Its clones are one store.
    type Backend: Backend + RowStore + Clone;

    /// A new, empty store.
    fn open(&self) -> impl Future<Output = Self::Backend> + Send;

    /// A new, empty store whose events are recorded at the time of this clock.
    fn open_at(&self, clock: TestClock) -> impl Future<Output = Self::Backend> + Send;

    /// The same store once more, as a second process has it: with nothing shared but what is stored,
    /// where the backend can do that.
    fn again(&self, backend: &Self::Backend) -> impl Future<Output = Self::Backend> + Send;

    /// Writes a row of the user's own through a transaction.
    fn put_row(
        &self,
        tx: &mut <Self::Backend as Backend>::Tx,
        key: &str,
        row: &str,
    ) -> impl Future<Output = ()> + Send;

    /// A committed row of the user's own.
    fn row(&self, backend: &Self::Backend, key: &str) -> impl Future<Output = Option<String>> + Send;

    /// The DDL of a table `paid` with a text `key` and a 64-bit `amount`, in a schema as a user would write it; empty
    /// where tables need none. Of the suites' own projection, which writes it through [`Self::pay`].
    const PAID: &'static str;

    /// Adds an amount to a row of `paid`, through plain SQL of a handler's: the table's name has no schema before it.
    fn pay(
        tx: &mut <Self::Backend as Backend>::Tx,
        key: &str,
        amount: i64,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Runs a statement that the database refuses, as a broken handler does; gives its error.
    fn fail(tx: &mut <Self::Backend as Backend>::Tx) -> impl Future<Output = BoxError> + Send;

    /// All rows of `paid`, read as a program reads them that is no app, or knows nothing of versions.
    fn paid(
        backend: &Self::Backend,
    ) -> impl Future<Output = Result<std::collections::BTreeMap<String, i64>, BoxError>> + Send;

    /// All rows of `paid`, read as a query of an app reads them: through what the backend [provided](Backend::provide).
    fn paid_through(
        services: &crate::services::Services,
    ) -> impl Future<Output = Result<std::collections::BTreeMap<String, i64>, BoxError>> + Send;
}

/// Longer than any store takes for anything in these suites; nothing waits this long unless it fails.
const LIMIT: Duration = Duration::from_secs(300);

async fn store<S: Subject>(subject: &S) -> Patient<S::Backend> {
    Patient(subject.open().await)
}

/// The next event of a subscription.
async fn next(subscription: &mut Subscription) -> RecordedEvent {
    for _ in 0..1_000 {
        match subscription.next().await {
            Ok(event) => return event,
            Err(error) => assert_eq!(error.kind(), crate::ErrorKind::Transient, "{error}"),
        }
    }
    panic!("the subscription gave nothing but errors")
}

/// Starts an app, also where the store does not answer at once.
async fn start<B: Backend>(mut wiring: impl FnMut() -> AppBuilder<B>) -> App {
    for _ in 0..100 {
        match wiring().start().await {
            Ok(app) => return app,
            Err(error) => assert!(error.to_string().contains("could not be done now"), "{error}"),
        }
    }
    panic!("the app did not start in 100 tries")
}

/// Until every processor has taken in what is in the log now.
async fn settle(app: &App) {
    let head = patient::ask(|| app.store().head()).await;
    for processor in app.processors() {
        processor.reach(head, LIMIT).await.unwrap_or_else(|late| panic!("{}", crate::chain(&late)));
    }
}

/// Sends a command until the answer is not that the store could not be reached.
///
/// A macro: an `async` closure cannot say that its future is `Send`.
macro_rules! sent {
    ($send:expr) => {{
        let mut tries = 0;
        loop {
            tries += 1;
            match $send.await {
                Err(error) if tries < 100 && matches!(error, $crate::CommandError::Store(_)) => {}
                outcome => break outcome,
            }
        }
    }};
}
use sent;
