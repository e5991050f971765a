//! The definition of a three-phase commit: who takes part.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::erased::{DynParty, Typed};
use super::participant::ThreePhase;
use crate::saga::SagaInput;
use crate::transaction::{OF_THREE_PHASE, REMEMBER};

/// A three-phase commit: its name, its version, its participants.
pub struct ThreePhaseTransaction<In> {
    /// The name of its kind: that of the pattern, and its own.
    pub(super) kind: String,
    pub(super) version: u32,
    pub(super) deadline: Option<Duration>,
    pub(super) remember: Duration,
    pub(super) parties: Vec<Arc<dyn DynParty<In>>>,
}

impl<In> fmt::Debug for ThreePhaseTransaction<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.parties.iter().map(|party| party.shape().name).collect();
        let Self { kind, version, .. } = self;
        f.debug_struct("ThreePhase")
            .field("kind", kind)
            .field("version", version)
            .field("participants", &names)
            .finish()
    }
}

impl<In: SagaInput> ThreePhaseTransaction<In> {
    /// Begins a definition. Runs keep the version of the definition that they began with: change the number when
    /// participants come or go, and keep the older definition for as long as there are runs of it. Among the kinds of the
    /// engine its name is `three-phase.NAME`.
    #[expect(clippy::new_ret_no_self, reason = "reads as one chain")]
    pub fn new(name: &str, version: u32) -> ThreePhaseBuilder<In> {
        let (kind, parties) = (format!("{OF_THREE_PHASE}{name}"), Vec::new());
        ThreePhaseBuilder(Self { kind, version, deadline: None, remember: REMEMBER, parties })
    }
}

/// A definition in the making.
#[must_use = "finish it with `.build()`"]
pub struct ThreePhaseBuilder<In>(ThreePhaseTransaction<In>);

impl<In> fmt::Debug for ThreePhaseBuilder<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<In: SagaInput> ThreePhaseBuilder<In> {
    /// By when it is to be decided, counted from its start. Then the coordinator asks for the decision to commit if a
    /// participant is pre-committed, and else to abort.
    pub const fn deadline(mut self, limit: Duration) -> Self {
        self.0.deadline = Some(limit);
        self
    }

    /// For how long a run is kept once it has ended: as [`remember`](crate::saga::SagaBuilder::remember) says of sagas. Its
    /// decision is kept for good.
    pub const fn remember(mut self, time: Duration) -> Self {
        self.0.remember = time;
        self
    }

    /// A participant. All of them are called at the same time.
    pub fn participant<P: ThreePhase<In>>(mut self, participant: P) -> Self {
        self.0.parties.push(Arc::new(Typed(participant)));
        self
    }

    /// The definition.
    #[must_use]
    pub fn build(self) -> ThreePhaseTransaction<In> {
        self.0
    }
}
