//! What a matrix of crashes can be made of.

use es_core::store::Transaction;
use es_core::{App, AppBuilder, Backend, Timestamp};
use uuid::Uuid;

use super::probe::Probe;
use crate::saga::{Handle, Outline, RunError, RunStatus, Runs, SagaInput};
use crate::transaction::Written;

/// What [`crash_matrix`](super::crash_matrix) takes: a [`Saga`](crate::saga::Saga), a pair of one and of the saga that is a
/// [step](crate::saga::SubSaga) of it, or a [`TccTransaction`](crate::tcc::TccTransaction).
pub trait Tried: Sized + 'static {
    /// What it is started with.
    type Input: SagaInput;
    /// What its journal is written through.
    type Tx: Transaction;

    /// What has to be known of the definition.
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "only the matrix asks")]
    fn outline(&self) -> Outline;

    /// What the records of a run come to.
    ///
    /// # Errors
    ///
    /// They are of another definition.
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "only the matrix asks")]
    fn folded(&self, run: Uuid, records: &[Written], now: Timestamp) -> Result<RunStatus, String>;

    /// Adds it to an app, so that its calls go past a probe.
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "only the matrix asks")]
    fn wired<B: Backend<Tx = Self::Tx>>(self, app: AppBuilder<B>, probe: &Probe) -> AppBuilder<B>;

    /// Starts a run.
    #[doc(hidden)]
    fn start(
        app: &App,
        key: &str,
        input: &Self::Input,
    ) -> impl Future<Output = Result<Handle, RunError>> + Send;

    /// Its runs.
    ///
    /// # Errors
    ///
    /// [`RunError`]: it is not of this app.
    #[doc(hidden)]
    fn runs(app: &App) -> Result<Runs, RunError>;
}

/// The name of a branch's confirmation, among its calls.
pub(crate) fn confirming(branch: &str) -> String {
    format!("confirm {branch}")
}
