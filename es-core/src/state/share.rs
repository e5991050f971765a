//! Who has a range of slices.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How far the work on a share is, stored with it. Serialized as an object, without fields named `epoch`, `owner`
/// or `last`.
pub trait Progress:
    Clone + std::fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Whether two neighbours can be worked on as one, with the progress of the first.
    fn can_merge(&self, next: &Self) -> bool;
    /// The same of work that is to have no parts any more.
    fn can_join(&self, next: &Self) -> bool {
        self.can_merge(next)
    }
}

/// The row of a share. The first slice is in its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShareRecord<P> {
    #[serde(flatten)]
    pub(crate) progress: P,
    /// How often it changed hands or shape.
    pub(crate) epoch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Uuid>,
    /// The last slice. `None`: it was merged into the share before it, or what it was a share of has gone; the row stays,
    /// for its revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<u16>,
}
