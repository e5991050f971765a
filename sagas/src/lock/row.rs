//! One lock: who has it, who waits for it, and who is next. Pure, so that every state of it can be visited.

use std::fmt;

use es_core::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::transaction::Kin;

/// How many have a lock or wait for it, at most.
pub(super) const MOST: usize = 256;

/// How a resource is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "with others, or alone")]
pub enum LockMode {
    /// Together with others that have it like this.
    Shared,
    /// Alone.
    Exclusive,
}

impl LockMode {
    /// Whether two can have it, each in one of these modes.
    pub(super) const fn goes_with(self, other: Self) -> bool {
        matches!((self, other), (Self::Shared, Self::Shared))
    }
}

impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
        })
    }
}

/// What is locked, and how.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Resource {
    /// Its name, the same for all sagas of a store: `seat/42`. Up to 255 bytes.
    pub name: String,
    /// How.
    pub mode: LockMode,
}

impl Resource {
    /// For this run alone.
    #[must_use]
    pub fn exclusive(name: impl Into<String>) -> Self {
        Self { name: name.into(), mode: LockMode::Exclusive }
    }

    /// For this run and others that have it shared.
    #[must_use]
    pub fn shared(name: impl Into<String>) -> Self {
        Self { name: name.into(), mode: LockMode::Shared }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.mode)
    }
}

/// Why a run is not given a lock, and does not wait for it either. It is undone for that, as for any no of a step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockRefused {
    /// As many as can have it, or wait for it, do.
    #[error("{resource} is busy: {MOST} runs have it or wait for it")]
    Busy {
        /// What was to be locked.
        resource: String,
    },
    /// The run has it shared, or waits for that, and would have it alone.
    #[error(
        "{resource} is locked shared by this run, and a lock is not made exclusive later: take it exclusive at first"
    )]
    Upgrade {
        /// What was to be locked.
        resource: String,
    },
}

/// One that has a lock, or waits for it. Stored: change by adding fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) of: Kin,
    pub(crate) mode: LockMode,
    /// Since when it has it, or waits.
    pub(crate) since: Timestamp,
    /// The revision of its own row.
    pub(crate) rev: u64,
}

/// A lock that somebody has. Stored: change by adding fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lock {
    pub(crate) resource: String,
    pub(crate) holders: Vec<Entry>,
    /// Who waits, the first one first. If anybody does, somebody has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) queue: Vec<Entry>,
}

fn find(entries: &[Entry], run: Uuid) -> Option<&Entry> {
    entries.iter().find(|entry| entry.of.run == run)
}

impl Lock {
    /// One that nobody has.
    pub(crate) const fn free(resource: String) -> Self {
        Self { resource, holders: Vec::new(), queue: Vec::new() }
    }

    /// Whether nobody has it.
    pub(crate) const fn is_free(&self) -> bool {
        self.holders.is_empty() && self.queue.is_empty()
    }

    /// All that have it or wait.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.holders.iter().chain(&self.queue)
    }

    pub(crate) fn holder(&self, run: Uuid) -> Option<&Entry> {
        find(&self.holders, run)
    }

    pub(crate) fn waiter(&self, run: Uuid) -> Option<&Entry> {
        find(&self.queue, run)
    }

    /// A run takes it, or waits for it behind all others: whether it has it. Whoever has it, or waits, does so still.
    pub(crate) fn take(&mut self, of: &Kin, mode: LockMode, at: Timestamp) -> Result<bool, LockRefused> {
        let resource = || self.resource.clone();
        let has = self.holder(of.run);
        if let Some(own) = has.or_else(|| self.waiter(of.run)) {
            return if own.mode >= mode {
                Ok(has.is_some())
            } else {
                Err(LockRefused::Upgrade { resource: resource() })
            };
        }
        if self.holders.len() + self.queue.len() >= MOST {
            return Err(LockRefused::Busy { resource: resource() });
        }
        let entry = Entry { of: of.clone(), mode, since: at, rev: 0 };
        let is_next = self.queue.is_empty() && self.lets_in(mode);
        if is_next { &mut self.holders } else { &mut self.queue }.push(entry);
        Ok(is_next)
    }

    /// A run has it no more, and does not wait. Who has it then that waited before.
    pub(crate) fn leave(&mut self, run: Uuid, at: Timestamp) -> Vec<Kin> {
        let is_other = |entry: &Entry| entry.of.run != run;
        self.holders.retain(is_other);
        self.queue.retain(is_other);
        let mut given = Vec::new();
        while self.queue.first().is_some_and(|next| self.lets_in(next.mode)) {
            let next = self.queue.remove(0);
            given.push(next.of.clone());
            self.holders.push(Entry { since: at, rev: 0, ..next });
        }
        given
    }

    /// Whom a run waits for: those before it that cannot have the lock at the same time.
    pub(crate) fn before(&self, run: Uuid) -> impl Iterator<Item = &Entry> {
        let place = self.queue.iter().position(|entry| entry.of.run == run);
        let mode = place.map(|place| self.queue[place].mode);
        let ahead = self.holders.iter().chain(&self.queue[..place.unwrap_or_default()]);
        ahead.filter(move |entry| mode.is_some_and(|mode| !entry.mode.goes_with(mode)))
    }

    fn lets_in(&self, mode: LockMode) -> bool {
        self.holders.iter().all(|holder| holder.mode.goes_with(mode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_have_a_lock_or_wait_and_no_more() {
        let kin = |n: usize| Kin {
            saga: "sale".to_owned(),
            version: 1,
            key: n.to_string(),
            run: Uuid::from_u128(n as u128),
        };
        let (mut lock, at) = (Lock::free("seat".to_owned()), Timestamp::UNIX_EPOCH);
        for n in 0..MOST {
            assert_eq!(lock.take(&kin(n), LockMode::Exclusive, at), Ok(n == 0));
        }
        let busy = LockRefused::Busy { resource: "seat".to_owned() };
        let before = lock.clone();
        for mode in [LockMode::Shared, LockMode::Exclusive] {
            assert_eq!(lock.take(&kin(MOST), mode, at).as_ref(), Err(&busy));
        }
        assert_eq!(lock, before);
        assert_eq!(busy.to_string(), "seat is busy: 256 runs have it or wait for it");
        // Who waits does so still, and there is a place once one has gone.
        assert_eq!(lock.take(&kin(7), LockMode::Exclusive, at), Ok(false));
        assert!(lock.leave(kin(9).run, at).is_empty());
        assert_eq!(lock.take(&kin(MOST), LockMode::Shared, at), Ok(false));
        assert_eq!(lock.leave(kin(0).run, at), [kin(1)]);
    }
}
