//! Why an aggregate was not read.

use crate::ErrorKind;
use crate::codec::DecodeError;
use crate::limits::LimitError;
use crate::store::StoreError;

/// A read of one aggregate failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The id cannot be stored.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The store could not be read.
    // Not transparent: who looks for the store's error among the sources finds it.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// An event could not be read.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// `apply` panicked: mend it, the events are as they are.
    #[error("`apply` of {aggregate} panicked: {panic}")]
    Panicked {
        /// The aggregate.
        aggregate: &'static str,
        /// The text of the panic.
        panic: String,
    },
}

impl LoadError {
    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Limit(_) | Self::Panicked { .. } => ErrorKind::Misuse,
            Self::Store(e) => e.kind(),
            Self::Decode(_) => ErrorKind::Corrupt,
        }
    }
}
