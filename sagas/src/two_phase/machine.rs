//! What follows what in a transaction across databases: pure, so that every state of it can be visited.
//!
//! | direction | what is done | what ends it |
//! | --- | --- | --- |
//! | open | each branch is asked whether it has written; those that have not are ended, the others prepared | all are prepared: the decision is inserted · one fails: back |
//! | asking | nobody has heard whether the decision was inserted: another one is, to abort, and the winner's is read | that answer |
//! | forth | each prepared branch is committed | each has been tried once; what is left is recovery's |
//! | back | the journal's part is rolled back, then each branch is taken back | the same; if one was committed by hand, or not heard of, or several votes were not, the decision to abort is inserted |
//!
//! There is no record of the beginning, and none of an abort that the coordinator decides by itself, if nothing is left of it:
//! what has no decision is aborted. If something is left, an operator may come to decide about it: then it is decided before
//! whoever commits is told. The decision to commit is a row that can be inserted once. Where the journal's database takes part, its own rows
//! and the decision are one commit, and it is never prepared. One writer alone needs no decision: its commit is that.
//!
//! Recovery knows only what it finds. Before it decides it looks whether another branch is committed: then the decision has
//! been lost, or somebody has committed that one by hand, and a person has to say which way it goes. That is written down: it
//! is so also when nobody can be asked any more. Who decides to abort and who writes that down write the same row, so one is
//! first.
//!
//! What an operator has decided to commit may not be all of it: the journal's part is not, and a branch may have failed. Its
//! coordinator, if it still runs, says so.

use es_core::store::Fate;
use serde::{Deserialize, Serialize};

/// What was decided about a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(clippy::exhaustive_enums, reason = "one or the other, for good")]
pub enum Decision {
    /// All of it is committed.
    Commit,
    /// None of it is.
    Abort,
}

/// Why what became of a branch is not what was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::exhaustive_enums, reason = "what a fate and a decision can come to")]
pub enum Odd {
    /// It was to be committed, and is gone without a trace: somebody has rolled it back by hand.
    RolledBack,
    /// It was to be aborted, and is committed: somebody has done that by hand.
    Committed,
    /// It was to be committed, and its database does not go back so far.
    Forgotten,
}

/// Where a branch is, as its coordinator knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Standing {
    /// It is not known whether it has written.
    Open,
    Reader,
    Writer,
    /// It has written nothing, and is over.
    Left,
    Prepared,
    /// It has not voted yes. It may be prepared all the same, if nobody has heard.
    Failed,
    Committed,
    Aborted,
    /// What was decided was tried, and has not been done: recovery does it.
    Waits,
    /// It was to be taken back, and is committed.
    Odd,
}

/// Which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Direction {
    Open,
    /// For the decision; or, if one branch is alone, for what became of it.
    Asking,
    Forth,
    Back,
    Unknown,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Act {
    /// Asks a branch whether it has written.
    Look(usize),
    /// Ends a branch that has written nothing.
    Leave(usize),
    Prepare(usize),
    /// Commits the only branch that has written.
    Alone(usize),
    /// Asks its participant what became of that.
    AskAlone(usize),
    /// Inserts the decision to commit, with what the journal's database has of the transaction.
    Decide,
    /// Inserts the decision to abort, and reads the winner's.
    Ask,
    Commit(usize),
    Abort(usize),
    /// Rolls back a branch that nobody has tried to prepare.
    RollBack(usize),
    /// Rolls back what the journal's database has of the transaction.
    LeaveJournal,
    /// Inserts the decision to abort, for what is left of a transaction that was taken back, and reads the winner's.
    GiveUp,
    /// Takes away the list of branches that wait.
    Forget,
}

/// What became of an act. `None`: nobody has heard, or it has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Looked(usize, Option<bool>),
    Left(usize, bool),
    Prepared(usize, bool),
    Alone(usize, bool),
    AskedAlone(usize, Option<Fate>),
    Decided(Decided),
    Asked(Option<Decision>),
    /// An operator has decided to commit it.
    Adopted,
    GaveUp(Option<Decision>),
    Fate(usize, Option<Fate>),
    RolledBack(usize),
    JournalLeft,
    Forgotten,
}

/// What became of the insert of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decided {
    Yes,
    /// The journal's database has refused what it had of the transaction: it is not decided, and never will be.
    Refused,
    /// Another one was there, or nobody has heard.
    Unheard,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// These, at the same time; all of them are heard of before it goes on.
    Do(Vec<Act>),
    End(Answer),
}

/// What whoever commits is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Answer {
    Committed,
    Aborted,
    /// Nobody knows yet.
    Unknown,
    /// An operator has committed it, and a branch had been taken back.
    Parked,
    /// An operator has committed it, and the journal's part had been rolled back.
    WithoutJournal,
}

/// The coordinator of one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "what is so of a transaction, each by itself")]
pub(super) struct Coordinator {
    branches: Vec<Standing>,
    /// Whether the journal's database takes part.
    journal: bool,
    /// Whether its transaction is open.
    holds: bool,
    direction: Direction,
    /// Whether the list of branches that wait is stored, as it was with its own decision.
    listed: bool,
    /// Whether an operator has decided to commit it.
    adopted: bool,
    /// How many votes were not heard: what was taken back may still come to be prepared.
    unheard: usize,
    /// What became of what is left of it.
    gave_up: Option<Answer>,
}

impl Coordinator {
    pub(super) fn new(branches: usize, journal: bool) -> Self {
        let branches = vec![Standing::Open; branches];
        let direction = Direction::Open;
        let (holds, listed, adopted, unheard, gave_up) = (journal, false, false, 0, None);
        Self { branches, journal, holds, direction, listed, adopted, unheard, gave_up }
    }

    fn all(&self, standing: Standing) -> impl Iterator<Item = usize> {
        self.branches.iter().enumerate().filter(move |(_, own)| **own == standing).map(|(i, _)| i)
    }

    /// The branches that a decision is about.
    pub(super) fn prepared(&self) -> impl Iterator<Item = usize> {
        self.all(Standing::Prepared)
    }

    /// The branches that are not what was decided, or not yet.
    pub(super) fn pending(&self) -> impl Iterator<Item = usize> {
        self.all(Standing::Waits)
    }

    /// The branches that were taken back, or are to be.
    pub(super) fn taken_back(&self) -> impl Iterator<Item = usize> {
        let is_back = |own: &Standing| matches!(own, Standing::Aborted | Standing::Waits);
        let goes_back = self.direction == Direction::Back;
        let all = self.branches.iter().enumerate();
        all.filter(move |(_, own)| goes_back && is_back(own)).map(|(i, _)| i)
    }

    pub(super) fn next(&self) -> Next {
        match self.direction {
            Direction::Open => self.vote(),
            Direction::Asking => Next::Do(vec![self.alone().map_or(Act::Ask, Act::AskAlone)]),
            Direction::Forth => self.forth(),
            Direction::Back => self.back(),
            Direction::Unknown => Next::End(Answer::Unknown),
        }
    }

    fn vote(&self) -> Next {
        let open: Vec<_> = self.all(Standing::Open).map(Act::Look).collect();
        if !open.is_empty() {
            return Next::Do(open);
        }
        let mut acts: Vec<_> = self.all(Standing::Reader).map(Act::Leave).collect();
        let alone = self.alone();
        if alone.is_none() {
            acts.extend(self.all(Standing::Writer).map(Act::Prepare));
        }
        if !acts.is_empty() {
            return Next::Do(acts);
        }
        match alone {
            // Once the others have ended well: after this there is no way back.
            Some(writer) => Next::Do(vec![Act::Alone(writer)]),
            None if self.journal || self.prepared().next().is_some() => Next::Do(vec![Act::Decide]),
            None => Next::End(Answer::Committed),
        }
    }

    /// The only branch that has written, if it is the only one.
    fn alone(&self) -> Option<usize> {
        let is_over = |own: &Standing| matches!(own, Standing::Reader | Standing::Left);
        let mut writers = self.branches.iter().enumerate().filter(|(_, own)| !is_over(own));
        match (writers.next(), writers.next()) {
            (Some((i, Standing::Writer)), None) if !self.journal => Some(i),
            _ => None,
        }
    }

    fn forth(&self) -> Next {
        let mut acts: Vec<_> = self.prepared().map(Act::Commit).collect();
        if acts.is_empty() && self.listed && self.pending().next().is_none() {
            acts.push(Act::Forget);
        }
        let answer = if self.adopted && self.journal { Answer::WithoutJournal } else { Answer::Committed };
        if acts.is_empty() { Next::End(answer) } else { Next::Do(acts) }
    }

    fn back(&self) -> Next {
        // Others may wait for it, as whoever notes something odd in that database.
        if self.holds {
            return Next::Do(vec![Act::LeaveJournal]);
        }
        let act = |(i, own): (usize, &Standing)| match own {
            Standing::Open | Standing::Reader | Standing::Writer => Some(Act::RollBack(i)),
            Standing::Prepared | Standing::Failed => Some(Act::Abort(i)),
            Standing::Left | Standing::Committed | Standing::Aborted | Standing::Waits | Standing::Odd => {
                None
            }
        };
        let acts: Vec<_> = self.branches.iter().enumerate().filter_map(act).collect();
        let is_left = |own: &Standing| matches!(own, Standing::Waits | Standing::Odd);
        match self.gave_up {
            _ if !acts.is_empty() => Next::Do(acts),
            Some(answer) => Next::End(answer),
            // What is left may be committed by hand, and an operator be asked what the rest is to be.
            None if self.unheard > 1 || self.branches.iter().any(is_left) => Next::Do(vec![Act::GiveUp]),
            // What has no decision is aborted. Who asks decides that.
            None => Next::End(Answer::Aborted),
        }
    }

    pub(super) fn heard(&mut self, heard: Heard) {
        self.holds &= !matches!(heard, Heard::Decided(_) | Heard::JournalLeft);
        match heard {
            Heard::Looked(i, Some(true)) => self.branches[i] = Standing::Writer,
            Heard::Looked(i, Some(false)) => self.branches[i] = Standing::Reader,
            Heard::Left(i, true) => self.branches[i] = Standing::Left,
            Heard::Prepared(i, true) => self.branches[i] = Standing::Prepared,
            Heard::Looked(i, None) | Heard::Left(i, false) | Heard::AskedAlone(i, Some(Fate::Aborted)) => {
                self.goes_back(i, Standing::Aborted);
            }
            Heard::Prepared(i, false) => {
                self.unheard += 1;
                self.goes_back(i, Standing::Failed);
            }
            Heard::Alone(i, true) | Heard::AskedAlone(i, Some(Fate::Committed)) => {
                (self.branches[i], self.direction) = (Standing::Committed, Direction::Forth);
            }
            Heard::Alone(_, false) | Heard::Decided(Decided::Unheard) => self.direction = Direction::Asking,
            Heard::AskedAlone(_, Some(Fate::Forgotten) | None) | Heard::Asked(None) => {
                self.direction = Direction::Unknown;
            }
            Heard::Decided(Decided::Yes) | Heard::Asked(Some(Decision::Commit)) => {
                let prepared = self.prepared().next();
                self.listed = prepared.is_some();
                self.direction = Direction::Forth;
            }
            Heard::Decided(Decided::Refused) | Heard::Asked(Some(Decision::Abort)) => {
                self.direction = Direction::Back;
            }
            Heard::Adopted => (self.adopted, self.direction) = (true, Direction::Forth),
            Heard::GaveUp(decision) => {
                self.gave_up = Some(match decision {
                    None => Answer::Unknown,
                    Some(Decision::Abort) => Answer::Aborted,
                    Some(Decision::Commit) if self.journal => Answer::WithoutJournal,
                    Some(Decision::Commit) if self.taken_back().next().is_none() => Answer::Committed,
                    Some(Decision::Commit) => Answer::Parked,
                });
            }
            Heard::Fate(i, fate) => self.branches[i] = self.stands(fate),
            Heard::RolledBack(i) => self.branches[i] = Standing::Aborted,
            Heard::JournalLeft => {}
            Heard::Forgotten => self.listed = false,
        }
    }

    fn goes_back(&mut self, branch: usize, standing: Standing) {
        (self.branches[branch], self.direction) = (standing, Direction::Back);
    }

    /// Where a branch is after what was decided was tried.
    fn stands(&self, fate: Option<Fate>) -> Standing {
        let decision = if self.direction == Direction::Forth { Decision::Commit } else { Decision::Abort };
        match (fate.map(|fate| judge(decision, fate)), decision) {
            (Some(None), Decision::Commit) => Standing::Committed,
            (Some(None), Decision::Abort) => Standing::Aborted,
            (Some(Some(_)), Decision::Abort) => Standing::Odd,
            // It stays on the list, and recovery finds the same.
            (Some(Some(_)), Decision::Commit) | (None, _) => Standing::Waits,
        }
    }
}

/// What recovery knows of a branch that is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Knows {
    /// Nothing was decided when it has looked.
    Nothing,
    /// Another branch is committed, or nobody can know: its database does not go back so far.
    Marked,
    /// None of the others is; or those that are away have been so for long.
    Unmarked,
    /// None of those that could be asked is.
    Unasked,
    Decided(Decision),
    /// Another branch is committed, and nothing was decided after that.
    Torn,
    /// That is written down.
    Noted,
}

/// What recovery does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Looks whether it is noted that it is torn, and then whether another branch is committed.
    Trace,
    /// Reads what was decided.
    Read,
    /// Inserts the decision to abort, and reads the winner's.
    Ask,
    End(Decision),
    /// Writes down that it is torn, unless it was decided to abort by now.
    Note,
    /// Leaves it to a person.
    Leave,
    /// Leaves it to a later look.
    Wait,
}

/// What recovery does with a branch that is prepared.
pub(super) const fn recover(knows: Knows) -> Step {
    match knows {
        Knows::Nothing => Step::Trace,
        // It was decided before the other one was committed, if it was: and so before this is read.
        Knows::Marked => Step::Read,
        Knows::Unmarked => Step::Ask,
        Knows::Unasked => Step::Wait,
        Knows::Decided(decision) => Step::End(decision),
        Knows::Torn => Step::Note,
        Knows::Noted => Step::Leave,
    }
}

/// Whether a branch is what was decided; what it is instead, if not.
pub(super) const fn judge(decision: Decision, fate: Fate) -> Option<Odd> {
    match (decision, fate) {
        (Decision::Commit, Fate::Aborted) => Some(Odd::RolledBack),
        (Decision::Commit, Fate::Forgotten) => Some(Odd::Forgotten),
        (Decision::Abort, Fate::Committed) => Some(Odd::Committed),
        // What is forgotten is not prepared any more.
        (Decision::Commit, Fate::Committed) | (Decision::Abort, Fate::Aborted | Fate::Forgotten) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is done with branches that have written, or not, if all goes well.
    fn course(journal: bool, wrote: &[bool]) -> Vec<Act> {
        let (mut own, mut course) = (Coordinator::new(wrote.len(), journal), Vec::new());
        loop {
            match own.next() {
                Next::End(answer) => {
                    assert_eq!(answer, Answer::Committed);
                    return course;
                }
                Next::Do(acts) => {
                    for act in acts {
                        own.heard(well(act, wrote));
                        course.push(act);
                    }
                }
            }
        }
    }

    fn well(act: Act, wrote: &[bool]) -> Heard {
        match act {
            Act::Look(i) => Heard::Looked(i, Some(wrote[i])),
            Act::Leave(i) => Heard::Left(i, true),
            Act::Prepare(i) => Heard::Prepared(i, true),
            Act::Alone(i) => Heard::Alone(i, true),
            Act::Decide => Heard::Decided(Decided::Yes),
            Act::Commit(i) => Heard::Fate(i, Some(Fate::Committed)),
            Act::Forget => Heard::Forgotten,
            other => panic!("{other:?}, though all goes well"),
        }
    }

    #[test]
    fn no_more_is_done_than_has_to_be() {
        use Act::{Alone, Commit, Decide, Forget, Leave, Look, Prepare};
        let expected = [
            (false, vec![], vec![]),
            (true, vec![], vec![Decide]),
            (false, vec![false], vec![Look(0), Leave(0)]),
            (false, vec![true], vec![Look(0), Alone(0)]),
            (false, vec![false, true], vec![Look(0), Look(1), Leave(0), Alone(1)]),
            (true, vec![false], vec![Look(0), Leave(0), Decide]),
            (true, vec![true], vec![Look(0), Prepare(0), Decide, Commit(0), Forget]),
            (
                false,
                vec![true, true],
                vec![Look(0), Look(1), Prepare(0), Prepare(1), Decide, Commit(0), Commit(1), Forget],
            ),
        ];
        for (journal, wrote, acts) in expected {
            assert_eq!(course(journal, &wrote), acts, "{journal} {wrote:?}");
        }
    }

    #[test]
    fn a_branch_is_judged_by_what_was_decided() {
        let fates = [Fate::Committed, Fate::Aborted, Fate::Forgotten];
        let of = |decision| fates.map(|fate| judge(decision, fate));
        assert_eq!(of(Decision::Commit), [None, Some(Odd::RolledBack), Some(Odd::Forgotten)]);
        assert_eq!(of(Decision::Abort), [Some(Odd::Committed), None, None]);
    }
}
