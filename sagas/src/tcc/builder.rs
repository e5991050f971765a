//! The definition of a TCC: which branches take part.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use es_core::store::Transaction;

use super::branch::Tcc;
use super::erased::{DynBranch, Typed};
use crate::saga::{PlaceOn, SagaInput};
use crate::transaction::{OF_TCC, REMEMBER};

/// A TCC: its name, its version, its branches. `T` is the `Tx` of the backend that the app runs on.
pub struct TccTransaction<In, T> {
    /// The name of its kind: that of the pattern, and its own.
    pub(super) kind: String,
    pub(super) version: u32,
    pub(super) deadline: Option<Duration>,
    pub(super) remember: Duration,
    pub(super) branches: Vec<Arc<dyn DynBranch<In, T>>>,
}

impl<In, T> fmt::Debug for TccTransaction<In, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.branches.iter().map(|branch| branch.name()).collect();
        let of = f.debug_struct("Tcc").field("kind", &self.kind).field("version", &self.version).finish();
        of.and_then(|()| write!(f, " {names:?}"))
    }
}

impl<In: SagaInput, T: Transaction> TccTransaction<In, T> {
    /// Begins a definition. Runs keep the version of the definition that they began with: change the number when branches
    /// come or go, and keep the older definition for as long as there are runs of it. Among the kinds of the engine its name
    /// is `tcc.NAME`.
    #[expect(clippy::new_ret_no_self, reason = "reads as one chain")]
    pub fn new(name: &str, version: u32) -> TccBuilder<In, T> {
        let (kind, branches) = (format!("{OF_TCC}{name}"), Vec::new());
        TccBuilder(Self { kind, version, deadline: None, remember: REMEMBER, branches })
    }
}

/// A definition in the making.
#[must_use = "finish it with `.build()`"]
pub struct TccBuilder<In, T>(TccTransaction<In, T>);

impl<In, T> fmt::Debug for TccBuilder<In, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<In: SagaInput, T: Transaction> TccBuilder<In, T> {
    /// A run whose branches have not all reserved by then, counted from its start, is cancelled.
    pub const fn deadline(mut self, limit: Duration) -> Self {
        self.0.deadline = Some(limit);
        self
    }

    /// For how long a run is kept once it has ended: as [`remember`](crate::saga::SagaBuilder::remember) says of sagas.
    pub const fn remember(mut self, time: Duration) -> Self {
        self.0.remember = time;
        self
    }

    /// A branch. All of them reserve at the same time, and are confirmed or cancelled at the same time.
    pub fn branch<B: Tcc<In, Place: PlaceOn<T>>>(mut self, branch: B) -> Self {
        self.0.branches.push(Arc::new(Typed(branch)));
        self
    }

    /// The definition.
    #[must_use]
    pub fn build(self) -> TccTransaction<In, T> {
        self.0
    }
}
