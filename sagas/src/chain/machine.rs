//! What follows what in one try of a chain: pure, so that every state of it can be visited.
//!
//! | what is so | what is done |
//! | --- | --- |
//! | a link was not looked at | it is opened: its row is its first statement, and its work is done. One that has committed before is left alone |
//! | all of them are open, or have committed | the first one that is open is committed, then the next |
//! | one says no, and nothing is committed | the others are rolled back, and the first one keeps the no |
//! | it cannot go on | what is open is rolled back |
//!
//! The first database decides who goes on: its row is held from the first statement of a try to its commit, so two tries of
//! one run follow each other, and one that finds nothing there knows that nothing is committed anywhere.

/// What is done next, in the database of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// A transaction is opened, and its work is done.
    Open(usize),
    /// What is open is committed.
    Commit(usize),
    /// What is open is rolled back.
    RollBack(usize),
    /// The same, and a no is left that is one of every try.
    Refuse(usize),
}

/// What is found when a link is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Its work is done, and not committed.
    Open,
    /// It has committed before.
    Committed,
    /// It says no. It is open, and has written nothing that stays.
    Refuses,
    /// It said no before, for good.
    HasRefused,
    /// Its work has failed, and is rolled back.
    Failed,
    /// Nothing: it could not be asked.
    Unknown,
}

/// What came of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Opened(usize, Found),
    /// Whether it has said so. If not, it may have committed all the same.
    Committed(usize, bool),
    RolledBack(usize),
    /// Whether the no stands there.
    Refused(usize, bool),
}

/// What a try comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All links have committed.
    Committed,
    /// None has, nor ever will.
    Refused,
    /// It is tried again. `nothing`: nothing is committed, for certain.
    Failed { nothing: bool },
    /// Some have committed and others have not, for certain: that is left as it is, and another try would find the same.
    Partial,
    /// One has committed, and not what comes before it: a database has lost what it had.
    Lost,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Do(Act),
    End(End),
}

/// What is known of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Unseen,
    Open,
    Committed,
    /// It may have committed: nobody has heard.
    Perhaps,
    /// It is not open any more, and has not committed.
    Left,
}

/// A try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Try {
    links: Vec<Own>,
    /// Whether what is left is done again where others have committed.
    finishes: bool,
    /// Whether one says no while nothing is committed.
    refuses: bool,
    end: Option<End>,
}

impl Try {
    pub(super) fn new(links: usize, finishes: bool) -> Self {
        Self { links: vec![Own::Unseen; links], finishes, refuses: false, end: None }
    }

    /// Those that have committed.
    pub(super) fn committed(&self) -> impl Iterator<Item = usize> {
        self.are(Own::Committed)
    }

    /// Those that may have committed.
    pub(super) fn perhaps(&self) -> impl Iterator<Item = usize> {
        let from = self.are(Own::Perhaps).next().unwrap_or(self.links.len());
        let all = self.links.iter().enumerate().skip(from);
        // Behind one that may have, so may each that was not looked at.
        all.filter_map(|(i, own)| matches!(own, Own::Perhaps | Own::Unseen).then_some(i))
    }

    fn are(&self, what: Own) -> impl Iterator<Item = usize> {
        let all = self.links.iter().enumerate();
        all.filter_map(move |(i, own)| (*own == what).then_some(i))
    }

    fn is_any(&self, what: Own) -> bool {
        self.links.contains(&what)
    }

    pub(super) fn next(&self) -> Next {
        let open = self.are(Own::Open).next();
        if let Some(end) = self.end {
            return open.map_or(Next::End(end), |i| Next::Do(Act::RollBack(i)));
        }
        if self.refuses {
            // The first one last: until then no other try goes on.
            let others = self.are(Own::Open).nth(1);
            return Next::Do(others.map_or_else(|| Act::Refuse(open.unwrap_or(0)), Act::RollBack));
        }
        match (self.are(Own::Unseen).next(), open) {
            (Some(i), _) => Next::Do(Act::Open(i)),
            (None, Some(i)) => Next::Do(Act::Commit(i)),
            (None, None) => Next::End(End::Committed),
        }
    }

    pub(super) fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Opened(i, found) => self.opened(i, found),
            Heard::Committed(i, true) => self.links[i] = Own::Committed,
            Heard::Committed(i, false) => {
                self.links[i] = Own::Perhaps;
                self.ends(End::Failed { nothing: false });
            }
            Heard::RolledBack(i) => self.links[i] = Own::Left,
            Heard::Refused(i, true) => {
                self.links[i] = Own::Left;
                self.ends(End::Refused);
            }
            Heard::Refused(_, false) => {
                // It holds nothing any more: another try may have gone on.
                self.links.fill(Own::Perhaps);
                self.ends(End::Failed { nothing: false });
            }
        }
    }

    fn opened(&mut self, i: usize, found: Found) {
        let (open, committed) = (self.is_any(Own::Open), self.is_any(Own::Committed));
        self.links[i] = match found {
            Found::Open | Found::Refuses => Own::Open,
            Found::Committed => Own::Committed,
            Found::HasRefused | Found::Failed => Own::Left,
            // One that is open has not committed, and nothing has that comes after it.
            Found::Unknown if open => Own::Left,
            Found::Unknown => Own::Perhaps,
        };
        match found {
            Found::Open if committed && !self.finishes => self.ends(End::Partial),
            Found::Committed if open => self.ends(End::Lost),
            Found::Open | Found::Committed => {}
            Found::Refuses if committed => self.ends(self.partial()),
            Found::Refuses => self.refuses = true,
            Found::HasRefused if open || committed => self.ends(self.partial()),
            Found::HasRefused => self.ends(End::Refused),
            // The row of the first database, which is open, says that nothing is committed.
            Found::Failed | Found::Unknown => self.ends(End::Failed { nothing: open && !committed }),
        }
    }

    const fn partial(&self) -> End {
        if self.finishes { End::Failed { nothing: false } } else { End::Partial }
    }

    const fn ends(&mut self, end: End) {
        self.end = Some(end);
    }
}

#[cfg(test)]
impl Try {
    pub(super) const fn end(&self) -> Option<End> {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is done, and what it comes to, where each link is found like this and all else succeeds.
    fn plays(finishes: bool, all: &[Found]) -> (Vec<Act>, End) {
        let (mut tried, mut acts) = (Try::new(all.len(), finishes), Vec::new());
        loop {
            let act = match tried.next() {
                Next::Do(act) => act,
                Next::End(end) => return (acts, end),
            };
            acts.push(act);
            tried.heard(match act {
                Act::Open(i) => Heard::Opened(i, all[i]),
                Act::Commit(i) => Heard::Committed(i, true),
                Act::RollBack(i) => Heard::RolledBack(i),
                Act::Refuse(i) => Heard::Refused(i, true),
            });
        }
    }

    #[test]
    fn all_are_open_before_the_first_is_committed_and_a_no_is_kept_by_the_first() {
        use Act::{Commit, Open, Refuse, RollBack};
        use Found::{Committed, HasRefused, Refuses};
        assert_eq!(
            plays(true, &[Found::Open; 2]),
            (vec![Open(0), Open(1), Commit(0), Commit(1)], End::Committed)
        );
        assert_eq!(
            plays(true, &[Found::Open, Found::Open, Refuses]),
            (vec![Open(0), Open(1), Open(2), RollBack(1), RollBack(2), Refuse(0)], End::Refused)
        );
        assert_eq!(plays(true, &[HasRefused, Found::Open]), (vec![Open(0)], End::Refused));
        assert_eq!(
            plays(true, &[Committed, Found::Open]),
            (vec![Open(0), Open(1), Commit(1)], End::Committed)
        );
        assert_eq!(
            plays(false, &[Committed, Found::Open]),
            (vec![Open(0), Open(1), RollBack(1)], End::Partial)
        );
        assert_eq!(
            plays(true, &[Committed, Refuses]),
            (vec![Open(0), Open(1), RollBack(1)], End::Failed { nothing: false })
        );
        assert_eq!(plays(true, &[Found::Open, Committed]), (vec![Open(0), Open(1), RollBack(0)], End::Lost));
        let failed = End::Failed { nothing: true };
        for found in [Found::Failed, Found::Unknown] {
            assert_eq!(plays(true, &[Found::Open, found]), (vec![Open(0), Open(1), RollBack(0)], failed));
        }
    }

    #[test]
    fn what_may_have_committed_is_told_from_what_has_not() {
        let opens = |all: &[Found]| {
            let mut tried = Try::new(3, true);
            all.iter().enumerate().for_each(|(i, found)| tried.heard(Heard::Opened(i, *found)));
            tried
        };
        let perhaps = |tried: &Try| tried.perhaps().collect::<Vec<_>>();
        use Found::{Committed, Failed, Open, Refuses, Unknown};
        assert_eq!(perhaps(&opens(&[Unknown])), [0, 1, 2]);
        assert_eq!(perhaps(&opens(&[Committed, Unknown])), [1, 2]);
        for known in [&[Failed][..], &[Open, Unknown], &[Committed, Failed], &[Committed, Open, Unknown]] {
            assert_eq!(perhaps(&opens(known)), [0; 0], "{known:?}");
        }
        let mut tried = opens(&[Open; 3]);
        tried.heard(Heard::Committed(0, true));
        tried.heard(Heard::Committed(1, false));
        tried.heard(Heard::RolledBack(2));
        assert_eq!((perhaps(&tried), tried.committed().collect::<Vec<_>>()), (vec![1], vec![0]));
        let mut tried = opens(&[Open, Open, Refuses]);
        [1, 2].into_iter().for_each(|i| tried.heard(Heard::RolledBack(i)));
        tried.heard(Heard::Refused(0, false));
        assert_eq!(perhaps(&tried), [0, 1, 2]);
    }
}
