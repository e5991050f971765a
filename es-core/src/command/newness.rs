//! Whether a command usually comes to aggregates that are new.
//!
//! A command that may create its aggregate is decided on the state of a new one, without a read, once all of the last that were
//! loaded for it were new. The commit expects an empty stream, so a supposition is proven like everything that is kept. One
//! that is wrong costs a commit, within the same attempt, and then it is loaded for a while. Nothing that is only supposed is
//! kept, told, or taken for a reason.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::Command;
use crate::command::{Handle, Target};

/// So many in a row have to be new.
const ENOUGH: u8 = 16;

/// How many aggregates in a row were new, by the type of the command.
#[derive(Debug, Default)]
pub(crate) struct Newness(RwLock<HashMap<TypeId, Arc<AtomicU8>>>);

impl Newness {
    /// Whether the aggregate that a command comes to is supposed to be new.
    pub(super) fn supposes<C: Command>(&self) -> bool {
        let may_be = !matches!(<C::Aggregate as Handle<C>>::TARGET, Target::Existing);
        may_be && self.of::<C>().is_some_and(|in_a_row| in_a_row.load(Ordering::Relaxed) >= ENOUGH)
    }

    /// One was, or was not.
    pub(super) fn learn<C: Command>(&self, new: bool) {
        let in_a_row = self.of::<C>().unwrap_or_else(|| {
            let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
            all.entry(TypeId::of::<C>()).or_default().clone()
        });
        let next = if new { in_a_row.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        // Of two at a time one may not be counted.
        in_a_row.store(next, Ordering::Relaxed);
    }

    fn of<C: Command>(&self) -> Option<Arc<AtomicU8>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&TypeId::of::<C>()).cloned()
    }
}
