//! The definition of half messages: whose local transaction it is, and how it is checked.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::erased::{DynLocal, Listened, OfCaller, OfEngine};
use super::local::{ByCaller, LocalTransaction, TransactionListener};
use super::machine::{RunBy, Shape};
use crate::saga::{Retry, SagaInput};
use crate::transaction::{OF_HALF, REMEMBER};

/// For so long a half message is not checked by itself.
const IMMUNITY: Duration = Duration::from_secs(10);
/// The pause after the first check that came to nothing, the longest one, and how many there are.
const CHECKS: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(600), 15);

/// Half messages with one kind of local transaction. The nodes that have the same definition are a producer group: whichever of
/// them has a message runs and checks its local transaction.
#[must_use = "give it to `.half_messages(..)`"]
pub struct HalfMessages<In> {
    /// The name of its kind: that of the pattern, and its own.
    pub(super) kind: String,
    pub(super) version: u32,
    pub(super) local: Arc<dyn DynLocal<In>>,
    pub(super) immunity: Duration,
    pub(super) checks: Retry,
    pub(super) remember: Duration,
    /// How long a check may take, where that is said here.
    limit: Option<Duration>,
}

impl<In> fmt::Debug for HalfMessages<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HalfMessages").field(&self.kind).field(&self.version).finish()
    }
}

impl<In: SagaInput> HalfMessages<In> {
    /// The engine runs the local transaction, behind a guard row. Runs keep the version that they began with. Among the kinds of
    /// the engine its name is `half.NAME`.
    pub fn of(name: &str, version: u32, local: impl LocalTransaction<In>) -> Self {
        Self::with(name, version, Arc::new(OfEngine(local)))
    }

    /// The caller runs it, behind a guard row: [`Half`](super::Half).
    pub fn by_caller(name: &str, version: u32) -> Self
    where
        In: ByCaller,
    {
        Self::with(name, version, Arc::new(OfCaller(PhantomData)))
    }

    /// The engine runs it, once, and the listener says how it is checked.
    pub fn listened(name: &str, version: u32, listener: impl TransactionListener<In>) -> Self {
        Self::with(name, version, Arc::new(Listened(listener)))
    }

    fn with(name: &str, version: u32, local: Arc<dyn DynLocal<In>>) -> Self {
        let (kind, (first, longest, most)) = (format!("{OF_HALF}{name}"), CHECKS);
        let checks = Retry::default().pauses(first, longest).late(most, Duration::MAX);
        Self { kind, version, local, immunity: IMMUNITY, checks, remember: REMEMBER, limit: None }
    }

    /// For so long from its beginning a half message is not checked, unless a hint, or a person, asks for that: as long as its
    /// local transaction usually takes. 10 seconds, unless this says otherwise. One that the engine runs is checked once its tries
    /// are over.
    pub const fn immunity(mut self, immunity: Duration) -> Self {
        self.immunity = immunity;
        self
    }

    /// The pause after the first check that came to nothing, which is twice as long after each; the longest one; and after how
    /// many of them a person is asked. 10 seconds, 10 minutes and 15, unless this says otherwise. A part of each pause is waited,
    /// by chance. A check that meets the local transaction while it runs does not count, and while no node of the group is there,
    /// nothing does.
    pub fn checks(self, first: Duration, longest: Duration, most: u32) -> Self {
        let checks = self.checks.pauses(first, longest).late(most, Duration::MAX);
        Self { checks, ..self }
    }

    /// How long one check may take, where the caller runs the local transaction: 30 seconds, unless this says otherwise. Let it be
    /// longer than the database waits for a lock, and its pool for a connection: a check that is given up before that has not
    /// heard that the local transaction runs, and counts.
    pub const fn limit(mut self, limit: Duration) -> Self
    where
        In: ByCaller,
    {
        self.limit = Some(limit);
        self
    }

    /// For how long a run is kept once it has ended: as [`remember`](crate::saga::SagaBuilder::remember) says of sagas.
    pub const fn remember(mut self, time: Duration) -> Self {
        self.remember = time;
        self
    }

    pub(super) fn shape(&self) -> Shape {
        let (run_by, retry) = (self.local.run_by(), self.local.retry());
        let limit = self.limit.unwrap_or_else(|| self.local.limit());
        Shape { run_by, retry, checks: self.checks, immunity: self.immunity, limit }
    }

    /// By whom its local transaction is run, in words.
    pub(super) fn run_by(&self) -> &'static str {
        in_words(self.local.run_by())
    }
}

pub(super) const BY_ENGINE: &str = "the engine";
pub(super) const BY_CALLER: &str = "the caller";

const fn in_words(run_by: RunBy) -> &'static str {
    match run_by {
        RunBy::Engine | RunBy::Listener => BY_ENGINE,
        RunBy::Caller => BY_CALLER,
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Pay {}
    impl SagaInput for Pay {}
    impl ByCaller for Pay {
        type Database = es_sqlite::SqliteGuarded;
    }

    #[test]
    fn a_check_may_take_as_long_as_its_definition_says() {
        let of = || HalfMessages::<Pay>::by_caller("pay", 1);
        assert_eq!(of().shape().limit, Duration::from_secs(30));
        assert_eq!(of().limit(Duration::from_secs(90)).shape().limit, Duration::from_secs(90));
    }
}
