//! Where a participant stands, and what follows from that: pure, so that both can be read, and tried, in one sitting.

use serde::{Deserialize, Serialize};

use crate::two_phase::Decision;

/// Where a participant stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::exhaustive_enums, reason = "five states, each of which every message has an answer for")]
pub enum Standing {
    /// It has not voted.
    Unvoted,
    /// It has voted yes, and holds what it needs to commit. It cannot decide by itself any more.
    Voted,
    /// The same, and it knows that all have voted yes.
    PreCommitted,
    /// It has committed.
    Committed,
    /// It has aborted, or has voted no.
    Aborted,
}

/// What a participant is told once it has voted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// All have voted yes.
    PreCommit,
    DoCommit,
    Abort,
}

/// What it does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It goes on to that.
    Goes(Standing),
    /// Nothing: it has done so before, or is further.
    Stays,
    /// It says that it has aborted, or has no vote: it holds nothing to commit.
    HasAborted,
    /// That cannot be: an operator has to look.
    Odd,
}

impl Standing {
    /// Whether it holds something, and does not know what becomes of it.
    #[must_use]
    pub const fn is_in_doubt(self) -> bool {
        matches!(self, Self::Voted | Self::PreCommitted)
    }

    pub(super) const fn then(self, told: Told) -> Then {
        match (told, self) {
            (Told::PreCommit, Self::Voted) => Then::Goes(Self::PreCommitted),
            (Told::PreCommit, Self::PreCommitted | Self::Committed)
            | (Told::DoCommit, Self::Committed)
            | (Told::Abort, Self::Aborted) => Then::Stays,
            // One that has lost its vote says so while an abort is still open.
            (Told::PreCommit, Self::Aborted | Self::Unvoted) => Then::HasAborted,
            // One that was away for the pre-commit commits all the same: that is decided.
            (Told::DoCommit, Self::Voted | Self::PreCommitted) => Then::Goes(Self::Committed),
            // One that has not voted leaves a mark: it never votes after that.
            (Told::Abort, Self::Unvoted | Self::Voted | Self::PreCommitted) => Then::Goes(Self::Aborted),
            (Told::DoCommit, Self::Unvoted | Self::Aborted) | (Told::Abort, Self::Committed) => Then::Odd,
        }
    }
}

/// What a participant asks for that has waited for too long, by where it stands and what it has heard of those that it
/// reached. Whom it did not reach says nothing.
///
/// One that is pre-committed, or committed, knows that all have voted yes: then the answer is to commit. Otherwise it is to
/// abort. This decides nothing: it is what [`Decisions::decide`](super::Decisions::decide) is asked for.
#[must_use]
pub fn asks_for(own: Standing, heard: impl IntoIterator<Item = Standing>) -> Decision {
    let knows = |standing: &Standing| matches!(standing, Standing::PreCommitted | Standing::Committed);
    match std::iter::once(own).chain(heard).any(|standing| knows(&standing)) {
        true => Decision::Commit,
        false => Decision::Abort,
    }
}

#[cfg(test)]
mod tests {
    use super::Standing::{Aborted, Committed, PreCommitted, Unvoted, Voted};
    use super::*;

    #[test]
    fn what_is_committed_or_aborted_stays_so_whatever_is_told() {
        for told in [Told::PreCommit, Told::DoCommit, Told::Abort] {
            for standing in [Committed, Aborted] {
                assert!(!matches!(standing.then(told), Then::Goes(_)), "{standing:?}: {told:?}");
            }
        }
    }

    #[test]
    fn one_that_knows_that_all_have_voted_asks_for_the_commit() {
        for (own, heard, decision) in [
            (Voted, vec![], Decision::Abort),
            (PreCommitted, vec![], Decision::Commit),
            (PreCommitted, vec![Voted], Decision::Commit),
            (Voted, vec![Voted, PreCommitted], Decision::Commit),
            (Voted, vec![Committed], Decision::Commit),
            (Voted, vec![Unvoted, Aborted], Decision::Abort),
        ] {
            assert_eq!(asks_for(own, heard.clone()), decision, "{own:?} {heard:?}");
        }
    }
}
