//! The reconciliations of an app, for whoever looks at what they have found.

use std::fmt::{self, Debug, Display};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use es_core::store::{Row, StoreError, write_rows};
use es_core::{App, Timestamp};

use super::report::{Difference, Report};
use super::rows::Ran;
use super::run::{Accepted, ReconcileError, Reconciliation};

/// On a running app.
///
/// ```
/// use std::time::Duration;
///
/// use es_core::App;
/// use es_core::memory::MemoryBackend;
/// use sagas::reconcile::{self, Reconciles as _, Reconciliations as _};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (store, nightly) = (MemoryBackend::new(), Duration::from_secs(24 * 60 * 60));
/// let journals = store.clone();
/// let app = App::on(store).reconcile(nightly, |all| reconcile::journals(&all, journals)).start().await?;
/// for reconciliation in app.reconciliations() {
///     let report = reconciliation.run().await?;
///     for difference in &report.first {
///         println!("{difference}"); // mend it, or `reconciliation.accept(difference, "ada", "it is right")`
///     }
/// }
/// # app.shutdown(Duration::ZERO).await;
/// # Ok(())
/// # }
/// ```
pub trait Reconciliations {
    /// Those that [run by themselves](super::Reconciles), in the order in which they were added.
    fn reconciliations(&self) -> Vec<Scheduled>;
}

impl Reconciliations for App {
    fn reconciliations(&self) -> Vec<Scheduled> {
        let jobs = self.services().get::<Jobs>();
        jobs.map_or_else(|_| Vec::new(), |jobs| jobs.lock().iter().cloned().map(Scheduled).collect())
    }
}

/// A reconciliation of an app, whatever it compares. Clones are the same.
#[derive(Clone)]
pub struct Scheduled(Arc<dyn Job>);

impl Debug for Scheduled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduled").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl Scheduled {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// As [`Reconciliation::last`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn last(&self) -> Result<Option<Report>, StoreError> {
        Ok(self.0.known().await?.0.value.report)
    }

    /// Runs it now, here, as [`Reconciliation::run`]; its schedule stays as it is.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Cancellation
    ///
    /// As there.
    pub async fn run(&self) -> Result<Report, ReconcileError> {
        self.0.run().await
    }

    /// As [`Reconciliation::accept`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn accept(
        &self,
        difference: &Difference,
        actor: &str,
        reason: &str,
    ) -> Result<(), ReconcileError> {
        self.0.accept(difference, actor, reason).await
    }

    /// As [`Reconciliation::accepted`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn accepted(&self) -> Result<Vec<Accepted>, StoreError> {
        self.0.accepted().await
    }

    /// As [`Reconciliation::withdraw`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn withdraw(&self, key: &str) -> Result<bool, StoreError> {
        self.0.withdraw(key).await
    }
}

/// Those of an app that is built.
#[derive(Default)]
pub(super) struct Jobs(Mutex<Vec<Arc<dyn Job>>>);

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<dyn Job>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no other has its name: they would share what they have found.
    pub(super) fn add(&self, job: Arc<dyn Job>) -> bool {
        let mut jobs = self.lock();
        let is_new = jobs.iter().all(|other| other.name() != job.name());
        if is_new {
            jobs.push(job);
        }
        is_new
    }
}

/// A reconciliation, whatever is compared.
#[async_trait]
pub(super) trait Job: Send + Sync + 'static {
    fn name(&self) -> &str;
    async fn run(&self) -> Result<Report, ReconcileError>;
    /// What is known of its runs, and when that is.
    async fn known(&self) -> Result<(Row<Ran>, Timestamp), StoreError>;
    /// Whether nobody else has changed the row.
    async fn claim(&self, row: Row<Ran>) -> Result<bool, StoreError>;
    /// A run that was begun at this time came to no end: it is as if it had not begun.
    async fn gives_back(&self, began: Timestamp, before: Option<Timestamp>) -> Result<(), StoreError>;
    async fn accept(&self, difference: &Difference, actor: &str, reason: &str) -> Result<(), ReconcileError>;
    async fn accepted(&self) -> Result<Vec<Accepted>, StoreError>;
    async fn withdraw(&self, key: &str) -> Result<bool, StoreError>;
}

#[async_trait]
impl<K, V> Job for Reconciliation<K, V>
where
    K: Ord + Clone + Display + Send + Sync + 'static,
    V: PartialEq + Debug + Send + Sync + 'static,
{
    fn name(&self) -> &str {
        Self::name(self)
    }

    async fn run(&self) -> Result<Report, ReconcileError> {
        Self::run(self).await
    }

    async fn known(&self) -> Result<(Row<Ran>, Timestamp), StoreError> {
        Ok((self.ran().await?, self.store.now().await?))
    }

    async fn claim(&self, row: Row<Ran>) -> Result<bool, StoreError> {
        Ok(write_rows(&*self.store, vec![self.tables.runs.put(&row)?]).await?.is_yes())
    }

    async fn gives_back(&self, began: Timestamp, before: Option<Timestamp>) -> Result<(), StoreError> {
        self.note(|ran| {
            if ran.began == Some(began) {
                ran.began = before;
            }
        })
        .await
    }

    async fn accept(&self, difference: &Difference, actor: &str, reason: &str) -> Result<(), ReconcileError> {
        Self::accept(self, difference, actor, reason).await
    }

    async fn accepted(&self) -> Result<Vec<Accepted>, StoreError> {
        Self::accepted(self).await
    }

    async fn withdraw(&self, key: &str) -> Result<bool, StoreError> {
        Self::withdraw(self, key).await
    }
}
