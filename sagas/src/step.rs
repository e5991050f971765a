//! What one event means to one instance.

use std::fmt;
use std::sync::Arc;

use es_core::{BoxError, Payload, Recorded, RecordedEvent};

use crate::next::{Association, Next};
use crate::process::{Early, On, Process};

/// Which instances an event is for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "by key, or by association")]
pub enum To<K> {
    /// The one with this key.
    Key(K),
    /// All that have this association.
    Found(Association),
}

/// What a handler does with the state of an instance.
type Call<'e, P> = Arc<dyn Fn(&mut P) -> Result<Next<P>, BoxError> + Send + Sync + 'e>;

/// What one event means to the instances that it is for. Each takes it in once, however often it is named and found.
pub struct Step<'e, P: Process> {
    pub(crate) to: Vec<To<P::Key>>,
    pub(crate) starts: bool,
    pub(crate) early: Early,
    pub(crate) call: Call<'e, P>,
}

impl<P: Process> fmt::Debug for Step<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("to", &self.to).field("starts", &self.starts).finish_non_exhaustive()
    }
}

impl<'e, P: Process> Step<'e, P> {
    /// For these instances; whether it starts one where there is none, and what is done with the state.
    pub fn new(
        to: To<P::Key>,
        starts: bool,
        call: impl Fn(&mut P) -> Result<Next<P>, BoxError> + Send + Sync + 'e,
    ) -> Self {
        Self { to: vec![to], starts, early: Early::Ignore, call: Arc::new(call) }
    }

    /// What handler `On<E>` does with this payload.
    ///
    /// # Errors
    ///
    /// The event does not say whom it is for.
    pub fn of<E: Payload>(payload: E, event: &'e RecordedEvent, steps: &mut Vec<Self>) -> Result<(), BoxError>
    where
        P: On<E>,
    {
        let to = P::to(Recorded::new(&payload, event))?;
        if !to.is_empty() {
            let call = move |process: &mut P| process.on(Recorded::new(&payload, event));
            steps.push(Self { to, starts: P::STARTS, early: P::EARLY, call: Arc::new(call) });
        }
        Ok(())
    }
}

/// What `#[on(by = ..)]` may name: a key, or an `Option` or a `Vec` of keys.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a key of this process",
    label = "the process's instances are named by `{K}`",
    note = "`by` names a field or a method that gives the key, an `Option` or a `Vec` of keys; to find instances by \
            another value, say under which name they are associated with it: `via = \"..\"`"
)]
pub trait Names<K> {
    /// The instances with these keys.
    fn keys(&self) -> Vec<To<K>>;
}

impl<K: Clone> Names<K> for K {
    fn keys(&self) -> Vec<To<K>> {
        vec![To::Key(self.clone())]
    }
}

impl<K: Clone> Names<K> for Option<K> {
    fn keys(&self) -> Vec<To<K>> {
        self.iter().cloned().map(To::Key).collect()
    }
}

impl<K: Clone> Names<K> for Vec<K> {
    fn keys(&self) -> Vec<To<K>> {
        self.iter().cloned().map(To::Key).collect()
    }
}
