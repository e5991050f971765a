//! A backend without its transaction's type: what the engine asks of it.

use crate::cluster::StateStore;
use crate::store::{Backend, Builds};

/// [`Backend`], object-safe.
pub(crate) trait AnyBackend: StateStore + Builds {
    /// As [`Backend::is_transient`].
    fn is_transient(&self, error: &(dyn std::error::Error + 'static)) -> bool;

    /// As [`Backend::has_one_writer`].
    fn has_one_writer(&self) -> bool;
}

impl<B: Backend> AnyBackend for B {
    fn is_transient(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        Backend::is_transient(self, error)
    }

    fn has_one_writer(&self) -> bool {
        Backend::has_one_writer(self)
    }
}
