//! Where a run can fail, and how.

use std::fmt;

use crate::transaction::Record;

/// Something that a run does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A call of a step.
    Run(String),
    /// A call of an undo.
    Undo(String),
    /// A commit of the engine, named by its first record.
    Commit(String),
}

impl Place {
    pub(super) fn of_commit(first: Option<&Record>) -> Self {
        let undo = |undo: bool| if undo { "undo " } else { "" };
        Self::Commit(match first {
            None => "sleep".to_owned(),
            Some(Record::Begun { .. }) => "begin".to_owned(),
            Some(Record::Taken {}) => "take up".to_owned(),
            Some(Record::Held { .. }) => "hold".to_owned(),
            Some(Record::Done { step, .. }) => format!("{step} done"),
            Some(Record::Refused { step, .. }) => format!("{step} refused"),
            Some(Record::Failed { step, undo: of, .. }) => format!("{}{step} failed", undo(*of)),
            Some(Record::Decided { .. }) => "decide".to_owned(),
            Some(Record::Undone { step }) => format!("{step} undone"),
            Some(Record::Agreed {}) => "agree".to_owned(),
            Some(Record::Confirmed { step }) => format!("{step} confirmed"),
            Some(Record::PreCommitted { step }) => format!("{step} pre-committed"),
            Some(Record::Parked { step, .. }) => format!("{step} parked"),
            Some(Record::Resolved { .. } | Record::Declined { .. }) => "answer".to_owned(),
            Some(Record::Called { step, .. }) => format!("{step} called"),
            Some(Record::Recalled { step, .. }) => format!("{step} recalled"),
            Some(Record::Claimed { step, .. }) => format!("{step} claimed"),
            Some(Record::Ready {}) => "ready".to_owned(),
            Some(Record::Heard { .. }) => "hear".to_owned(),
            Some(Record::Ended { .. }) => "end".to_owned(),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(step) => write!(f, "call {step}"),
            Self::Undo(step) => write!(f, "call undo {step}"),
            Self::Commit(what) => write!(f, "commit {what}"),
        }
    }
}

/// Where a run can fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(super) place: Place,
    /// The how many-th time, from 1.
    pub(super) nth: u32,
    /// What is done there.
    pub(super) kind: PointKind,
}

/// What is done at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PointKind {
    /// A call to somewhere else; this is how often it is tried before the saga is undone.
    Remote { tries: u32 },
    /// A call in a transaction of the journal's database.
    Local { tries: u32 },
    /// The commit that begins the run.
    Begin,
    /// Another commit.
    Commit {
        /// Whether a transaction is open meanwhile, in which a step has acted.
        within: bool,
    },
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.place, self.nth)
    }
}

/// What goes wrong at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not done, and an error comes back.
    Error,
    /// The same, as often as it is tried before the saga is undone.
    Errors,
    /// It is done, and the answer is lost.
    AnswerLost,
    /// The same, as often as it is tried before the saga is undone.
    AnswersLost,
    /// It is done, and the node is gone before it hears of it.
    Kill,
    /// The node is gone while it is done: at the first place where it waits for something.
    KillMidway,
    /// The node stands still before it is done, until another one has taken over; then it goes on.
    Stall,
    /// It arrives twice.
    Duplicate,
}

impl Fault {
    pub(super) const ALL: [Self; 8] = [
        Self::Error,
        Self::Errors,
        Self::AnswerLost,
        Self::AnswersLost,
        Self::Kill,
        Self::KillMidway,
        Self::Stall,
        Self::Duplicate,
    ];

    /// For how many times at most.
    const fn lasts(self, kind: PointKind) -> u32 {
        match (self, kind) {
            (Self::Errors | Self::AnswersLost, PointKind::Remote { tries } | PointKind::Local { tries }) => {
                tries
            }
            _ => 1,
        }
    }

    /// Whether it can happen there. `one_writer`: a transaction that is open keeps all others waiting.
    pub(super) fn can_be_at(self, point: &Point, one_writer: bool) -> bool {
        let is_call = matches!(point.kind, PointKind::Remote { .. } | PointKind::Local { .. });
        match self {
            Self::Error | Self::AnswerLost | Self::Kill => true,
            Self::Errors | Self::AnswersLost => {
                is_call && matches!(point.place, Place::Run(_)) && point.nth == 1
            }
            Self::KillMidway => is_call,
            Self::Stall => match point.kind {
                PointKind::Remote { .. } | PointKind::Begin => true,
                PointKind::Commit { within } => !(within && one_writer),
                // Its commit stalls.
                PointKind::Local { .. } => false,
            },
            Self::Duplicate => matches!(point.kind, PointKind::Remote { .. } | PointKind::Begin),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Errors => "errors",
            Self::AnswerLost => "answer lost",
            Self::AnswersLost => "answers lost",
            Self::Kill => "kill",
            Self::KillMidway => "kill midway",
            Self::Stall => "stall",
            Self::Duplicate => "duplicate",
        })
    }
}

/// A fault at a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(super) point: Point,
    pub(super) fault: Fault,
}

impl Case {
    /// Whether it strikes now. `decided`: that the saga is undone.
    pub(super) fn strikes(&self, place: &Place, nth: u32, decided: bool) -> bool {
        let lasts = self.fault.lasts(self.point.kind);
        let is_within = nth >= self.point.nth && nth - self.point.nth < lasts;
        self.point.place == *place && is_within && !(lasts > 1 && decided)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.point, self.fault)
    }
}
