//! A backend without its transaction's type: what the engine asks of it.

use crate::store::{Backend, Builds, EventStore};

/// [`Backend`], object-safe.
pub(crate) trait AnyBackend: EventStore + Builds {
    /// As [`Backend::is_transient`].
    fn is_transient(&self, error: &(dyn std::error::Error + 'static)) -> bool;
}

impl<B: Backend> AnyBackend for B {
    fn is_transient(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        Backend::is_transient(self, error)
    }
}
