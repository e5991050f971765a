//! A store that was restored or cloned.

/// Where a store comes from that somebody takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "it goes on as the store that it was, or it does not")]
pub enum Adopt {
    /// From an older state of its own: it goes on as the store that it was, without what came later.
    Restored,
    /// From another store, which goes on: it becomes a store of its own. A bookmark of the other one is refused, and so is a
    /// program that was started on it.
    Cloned,
}
