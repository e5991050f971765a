//! Which transactions are wanted.

use es_core::Timestamp;

use super::listed::{Listed, Pattern, Status};
use crate::transaction::fingerprint;

/// Which transactions: those for which all of this is so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Filter {
    patterns: Vec<Pattern>,
    kinds: Vec<String>,
    statuses: Vec<Status>,
    begun_before: Option<Timestamp>,
    error: Option<String>,
}

impl Filter {
    /// Those that have not ended, unless it is said what they do.
    pub fn open() -> Self {
        Self::default()
    }

    /// Those that go no further without a person: the list of all failures.
    pub fn needs_person() -> Self {
        Self { statuses: vec![Status::Parked, Status::Torn, Status::Damaged], ..Self::default() }
    }

    /// Those of this pattern. Said more than once: of one of these.
    pub fn of(mut self, pattern: Pattern) -> Self {
        self.patterns.push(pattern);
        self
    }

    /// Those of this kind, by the name of the saga or process. Said more than once: of one of these.
    pub fn of_kind(mut self, kind: impl Into<String>) -> Self {
        self.kinds.push(kind.into());
        self
    }

    /// Those that are doing this. Said more than once: one of these.
    pub fn with_status(mut self, status: Status) -> Self {
        self.statuses.push(status);
        self
    }

    /// Those that began before this: the old ones. One whose beginning is not known is none of them.
    pub const fn begun_before(mut self, time: Timestamp) -> Self {
        self.begun_before = Some(time);
        self
    }

    /// Those that fail like this: in the words of an error, or of [`Listed::error`]. Numbers, ids and quoted parts make no
    /// difference.
    pub fn failing_with(mut self, error: &str) -> Self {
        self.error = Some(fingerprint::of(error));
        self
    }

    /// Whether one of this source may be wanted.
    pub(super) fn wants_of(&self, pattern: Pattern, kind: &str) -> bool {
        let is_pattern = self.patterns.is_empty() || self.patterns.contains(&pattern);
        is_pattern && (self.kinds.is_empty() || self.kinds.iter().any(|of| of == kind))
    }

    /// Whether one that does this may be wanted.
    pub(crate) fn wants_status(&self, status: Status) -> bool {
        match self.statuses.is_empty() {
            true => !status.has_ended(),
            false => self.statuses.contains(&status),
        }
    }

    /// Whether one that does one of these may be wanted.
    pub(crate) fn wants_any(&self, statuses: &[Status]) -> bool {
        statuses.iter().any(|status| self.wants_status(*status))
    }

    pub(crate) fn wants(&self, listed: &Listed) -> bool {
        let is_old = |before| listed.begun.is_some_and(|begun| begun < before);
        self.wants_status(listed.status)
            && self.begun_before.is_none_or(is_old)
            && self.error.as_ref().is_none_or(|error| listed.error.as_ref() == Some(error))
    }

    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    pub(super) const fn before(&self) -> Option<Timestamp> {
        self.begun_before
    }
}

#[cfg(test)]
mod tests {
    use super::super::listed::Which;
    use super::*;

    #[test]
    fn a_filter_wants_that_of_which_all_is_so() {
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let error = Some(fingerprint::of("pay: 503 after 7 ms"));
        let which = Which::new(Pattern::SAGA, "order", "o-1");
        let parked = Listed { begun: at(10), error, ..Listed::new(which, 1, Status::Parked) };
        let done = Listed { status: Status::Done, ..parked.clone() };
        let late = Timestamp::from_second(11).unwrap();
        assert!(Filter::open().wants(&parked) && !Filter::open().wants(&done));
        assert!(Filter::needs_person().wants(&parked) && !Filter::needs_person().wants(&done));
        assert!(Filter::open().with_status(Status::Done).wants(&done));
        assert!(Filter::open().begun_before(late).wants(&parked));
        assert!(!Filter::open().begun_before(parked.begun.unwrap()).wants(&parked));
        assert!(!Filter::open().begun_before(late).wants(&Listed { begun: None, ..parked.clone() }));
        assert!(Filter::open().failing_with("pay: 404 after 12 ms").wants(&parked));
        assert!(!Filter::open().failing_with("pay: it said no").wants(&parked));
        let of = Filter::open().of(Pattern::TCC).of(Pattern::SAGA).of_kind("order");
        assert!(of.wants_of(Pattern::SAGA, "order") && !of.wants_of(Pattern::SAGA, "trip"));
        assert!(!of.wants_of(Pattern::PROCESS, "order"));
    }
}
