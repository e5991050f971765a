//! What is stored of transactions, and under which keys. Everything is JSON; fields are added with a default.
//!
//! | table | key | what |
//! | --- | --- | --- |
//! | `txn.starts.KIND` | slice, key | which run a key stands for: a [`Start`] |
//! | `txn.heads.KIND` | slice, run | a [`Head`]: where a run is. Every commit of the engine writes it over the revision that was read |
//! | `txn.journal.KIND` | slice, run, number | what happened, in order: a [`Written`] |
//! | `hot.txn.wakes.KIND.vVERSION` | slice, time, id | when somebody is to look at a run, and what for: a [`Wake`] |
//! | `txn.attention.KIND` | slice, run | runs that wait for a person: an [`Attention`] |
//! | `txn.ended.KIND` | day, slice, run | runs that have ended, by the day of that: an [`Ended`] |
//!
//! The slice is that of the run, but for starts, where it is that of the key. The last two are written with the head, when
//! it changes: lists of runs need no walk over all of them.

use es_core::Timestamp;
use es_core::limits::LimitError;
use es_core::processor::slice_of;
use es_core::store::keys::Key;
use es_core::store::queue::Queue;
use es_core::store::{StoreError, Table};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::family::{Kin, Parent, Says};
use super::outcome::{Outcome, Why};
use crate::data::Data;
use crate::lock::Resource;
use crate::rows::instance_key;
use crate::verb::By;

/// The latest format of heads and records that this program knows. A run with a later one is left to newer programs. With 2
/// came runs that are laid down, and what is sent to them; with 3 parents and children; with 4 locks.
pub(crate) const FORMAT: u32 = 4;
/// The format of a run with nothing in it that came later.
pub(crate) const FIRST_FORMAT: u32 = 1;

/// The tables of one kind of transactions, for one version of its definition.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    pub(crate) version: u32,
    pub(crate) starts: Table<Start>,
    pub(crate) heads: Table<Head>,
    pub(crate) journal: Table<Written>,
    pub(crate) wakes: Queue<Wake>,
    pub(crate) attention: Table<Attention>,
    pub(crate) ended: Table<Ended>,
}

impl Tables {
    pub(crate) fn of(kind: &str, version: u32) -> Result<Self, LimitError> {
        let table = |of: &str| format!("txn.{of}.{kind}");
        Ok(Self {
            version,
            starts: Table::new(table("starts"))?,
            heads: Table::new(table("heads"))?,
            journal: Table::new(table("journal"))?,
            wakes: Queue::new(&format!("{}.v{version}", table("wakes")))?,
            attention: Table::new(table("attention"))?,
            ended: Table::new(table("ended"))?,
        })
    }
}

impl Tables {
    /// Whether a row of this table is one of a run: its writer has it.
    pub(crate) fn has(&self, table: &str) -> bool {
        let own = [self.heads.name(), self.journal.name(), self.wakes.table().name(), self.attention.name()];
        own.into_iter().chain([self.ended.name()]).any(|own| **own == *table)
    }
}

/// Which run a key stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) run: Uuid,
    pub(crate) version: u32,
    /// A stable hash of the input, in hexadecimal digits.
    pub(crate) fingerprint: String,
}

/// Where a run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) format: u32,
    pub(crate) version: u32,
    pub(crate) key: String,
    /// How many records there are.
    pub(crate) records: u64,
    pub(crate) status: Status,
    pub(crate) begun: Timestamp,
    /// The node that works on it, or did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) holder: Option<Uuid>,
    /// When it is looked at next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wake: Option<Timestamp>,
    /// The key of the row that wakes it, if nothing is asked of it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wake_row: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<Outcome>,
    /// What it has failed with last and has not got over, by its [fingerprint](super::fingerprint).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Whose child it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<Parent>,
    /// What it has said to its parent last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) says: Option<Says>,
}

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// It goes forward.
    Running,
    /// It was decided that what it did is undone.
    Undoing,
    /// It waits for a person.
    Parked,
    /// It has ended.
    Ended,
    /// It cannot go on as it is stored: somebody has to repair it. That is found out and not stored.
    #[serde(skip)]
    Damaged,
}

/// A record, and when it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) at: Timestamp,
    pub(crate) record: Record,
}

/// What happened to a run. Steps are named: definitions may move them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// It has begun with this input, and is undone if it is not decided by then.
    Begun {
        input: Data,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<Timestamp>,
        /// It is a step of that one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<Parent>,
    },
    /// Somebody has taken it up and may make calls: what another one may have called before may have run.
    Taken {},
    /// Nobody calls anything for it until it is taken up again: no call is under way, and those of these steps wait for
    /// their destinations.
    Held { steps: Vec<String> },
    /// A step has run.
    Done { step: String, output: Data },
    /// A step said no. Whether an earlier try of it may have run is not known, if `maybe`.
    Refused {
        step: String,
        why: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        maybe: bool,
    },
    /// A try came to nothing certain.
    Failed {
        step: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        undo: bool,
        error: String,
    },
    /// What it did is to be undone. From now on time changes nothing. These steps were being called then.
    Decided {
        why: Why,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        open: Vec<String>,
    },
    /// What a step did is undone.
    Undone { step: String },
    /// Every branch has reserved: each of them is confirmed; of a three-phase commit, it is decided. From now on time changes nothing.
    Agreed {},
    /// What a branch had reserved is confirmed; a participant of a three-phase commit has committed.
    Confirmed { step: String },
    /// A participant of a three-phase commit knows that all have voted yes.
    PreCommitted { step: String },
    /// A step waits for a person.
    Parked {
        step: String,
        why: String,
        /// It is a saga of its own that is not undone: the person is to say whether all goes forward with it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        refuses: bool,
    },
    /// A person has said what to do.
    Resolved { verb: Verb, by: By },
    /// A person has asked for something that cannot be done any more.
    Declined {
        verb: Verb,
        by: By,
        why: String,
        /// This program could not read it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unread: bool,
    },
    /// A step that is a saga of its own has begun, as this run.
    Called {
        step: String,
        child: Kin,
        /// Which step of that run gives the output. Programs may have another name for it later.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gives: Option<String>,
    },
    /// The run that is a step was told that it is to be undone. What becomes of it says whether it is.
    Recalled { step: String, why: Why },
    /// A step asks for these locks: from now on the run has them or waits for them, as their rows say, until it ends; what it
    /// still waits for when it is decided that it is undone, until then.
    Claimed { step: String, locks: Vec<Resource> },
    /// All of its steps have run: it waits for what becomes of its parent.
    Ready {},
    /// What is known of the local transaction of a half message.
    Heard {
        says: Heard,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        why: String,
        /// By a check; else the call that ran it has said so.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        checked: bool,
    },
    /// It has ended.
    Ended { outcome: Outcome },
}

/// What is heard of a local transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Heard {
    /// It has committed.
    Commit,
    /// It was rolled back, and never commits.
    Rollback,
    /// Neither is certain.
    Unknown,
    /// Whoever was asked does not know it.
    NotMine,
    /// It is running.
    InProgress,
}

impl Heard {
    pub(crate) const ALL: [Self; 5] =
        [Self::Commit, Self::Rollback, Self::Unknown, Self::NotMine, Self::InProgress];

    /// Its label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Rollback => "rollback",
            Self::Unknown => "unknown",
            Self::NotMine => "not_mine",
            Self::InProgress => "in_progress",
        }
    }
}

impl Record {
    /// The format of a run that has it in its journal. Records of a TCC, of a three-phase commit, and of a half message, need no
    /// later one: programs that do not know them have none of their kinds.
    pub(crate) const fn format(&self) -> u32 {
        match self {
            Self::Claimed { .. } => 4,
            Self::Begun { parent: Some(_), .. }
            | Self::Called { .. }
            | Self::Recalled { .. }
            | Self::Ready {}
            | Self::Resolved { verb: Verb::Parent { .. }, .. }
            | Self::Declined { verb: Verb::Parent { .. }, .. } => 3,
            Self::Held { .. }
            | Self::Resolved { verb: Verb::Signal { .. }, .. }
            | Self::Declined { verb: Verb::Signal { .. }, .. } => 2,
            _ => FIRST_FORMAT,
        }
    }
}

/// What an operator, or the program, wants of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Verb {
    /// Undo what was done, if it is not too late for that. Where the pivot is a [saga of its own](crate::saga::SubSaga) that
    /// has begun, that one is told, and what becomes of it says what becomes of the run.
    Cancel,
    /// Go forward, if that is still open: from now on neither its deadline nor a step that fails or says no undoes it. Such
    /// a step is tried as one that has to succeed, and then waits for a person. A later [`Cancel`](Self::Cancel) undoes it.
    GoForward,
    /// Try again what is parked, or what waits for its next try: one step, or all of them.
    Retry {
        /// Which step; `None`: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
    },
    /// Take a step for run, with this output.
    Resolve {
        /// Which step.
        step: String,
        /// Its output.
        output: Data,
    },
    /// Take a step for undone, or for one that needs no undo; take a pivot that waits for a person for not run.
    Skip {
        /// Which step.
        step: String,
    },
    /// End it where it is: nothing is called for it any more.
    Abandon,
    /// Take this for what a step waits for: a [`Signal`](crate::saga::Signal). What was taken under an id is not taken again. A
    /// run of an older definition takes it once a program works on it that knows signals.
    Signal {
        /// The name of the signal.
        name: String,
        /// Of the sender's: the same whenever it is sent again.
        id: String,
        /// What is sent.
        value: Data,
    },
    /// The run that it is a step of ends like this. Only that run says so: whoever else asks for it is refused.
    Parent {
        /// How.
        ends: Outcome,
    },
}

impl Verb {
    /// The same without what is sent, which may be large: for a record that brings nothing new.
    pub(crate) fn without_value(&self) -> Self {
        match self {
            Self::Signal { name, id, .. } => {
                Self::Signal { name: name.clone(), id: id.clone(), value: Data::null() }
            }
            verb => verb.clone(),
        }
    }
}

/// When somebody is to look at a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wake {
    pub(crate) run: Uuid,
    /// What is asked of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) asked: Option<Asked>,
    /// Whether it waits for its parent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) waits: bool,
}

impl Wake {
    /// One that asks nothing.
    pub(crate) const fn of(run: Uuid) -> Self {
        Self { run, asked: None, waits: false }
    }
}

/// What is asked of a run, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) verb: Verb,
    pub(crate) by: By,
}

/// A run that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attention {
    pub(crate) key: String,
    pub(crate) version: u32,
    pub(crate) since: Timestamp,
    pub(crate) why: String,
    /// Whether it cannot go on as it is stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) damaged: bool,
}

/// A run that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) key: String,
    pub(crate) version: u32,
    pub(crate) begun: Timestamp,
    pub(crate) at: Timestamp,
    pub(crate) outcome: Outcome,
}

/// The slice of a run.
pub(crate) fn slice(run: Uuid) -> u16 {
    slice_of(&run.simple().to_string())
}

fn of_run(run: Uuid) -> Key {
    Key::in_slice(slice(run)).id(run)
}

/// The key of a run's head, and of its row among those that wait for a person.
pub(crate) fn head_key(run: Uuid) -> Result<String, StoreError> {
    Ok(of_run(run).build()?)
}

/// What the keys of a run's records begin with.
pub(crate) fn journal_of(run: Uuid) -> String {
    of_run(run).prefix()
}

pub(crate) fn record_key(run: Uuid, number: u64) -> Result<String, StoreError> {
    Ok(of_run(run).number(number).build()?)
}

/// The key of the row of a run that has ended.
pub(crate) fn ended_key(run: Uuid, at: Timestamp) -> Result<String, StoreError> {
    Ok(of_day(at).number(u64::from(slice(run))).id(run).build()?)
}

/// What keys of runs are behind that have ended on the day of this time, or later.
pub(crate) fn ended_since(at: Timestamp) -> String {
    of_day(at).prefix()
}

/// The same for a day.
pub(crate) fn ended_on(day: u64) -> String {
    Key::default().number(day).prefix()
}

/// What keys of runs of a slice begin with that have ended on a day.
pub(crate) fn ended_in(day: u64, slice: u16) -> String {
    Key::default().number(day).number(u64::from(slice)).prefix()
}

/// The day and the slice of a run that has ended, by the key of that row.
pub(crate) fn ended_place(key: &str) -> Option<(u64, u16)> {
    let mut parts = key.split(':');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The day of a time, counted from 1970.
pub(crate) fn day(at: Timestamp) -> u64 {
    u64::try_from(at.as_second() / (24 * 60 * 60)).unwrap_or_default()
}

fn of_day(at: Timestamp) -> Key {
    Key::default().number(day(at))
}

/// The run that a key ends with.
pub(crate) fn run_of(key: &str) -> Option<Uuid> {
    Uuid::try_parse(key.rsplit(':').next()?).ok()
}

pub(crate) fn start_key(key: &str) -> Result<String, LimitError> {
    instance_key(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::golden;

    golden! {
        starts: Start = ["txn-start"];
        heads: Head = ["txn-head", "txn-head-ended", "txn-head-failed", "txn-head-child"];
        records: Vec<Written> = ["txn-journal", "txn-journal-forward"];
        records_of_tcc: Vec<Written> = ["txn-journal-tcc"];
        records_of_three_phase: Vec<Written> = ["txn-journal-three-phase"];
        records_of_half_messages: Vec<Written> = ["txn-journal-half"];
        records_of_format_2: Vec<Written> = ["txn-journal-held", "txn-journal-signal", "txn-journal-declined"];
        records_of_format_3: Vec<Written> = ["txn-journal-family", "txn-journal-family-asked"];
        records_of_format_4: Vec<Written> = ["txn-journal-locks"];
        wakes: Wake = ["txn-wake", "txn-wake-asked", "txn-wake-waits"];
        those_who_wait: Attention = ["txn-attention", "txn-attention-damaged"];
        those_that_have_ended: Ended = ["txn-ended"];
    }

    #[test]
    fn what_older_programs_cannot_read_has_a_later_format() {
        let formats = |golden: &str| -> Vec<u32> {
            let records: Vec<Written> = serde_json::from_str(golden).unwrap();
            records.iter().map(|written| written.record.format()).collect()
        };
        assert!(formats(include_str!("../../tests/golden/txn-journal.json")).iter().all(|of| *of == 1));
        for golden in [
            include_str!("../../tests/golden/txn-journal-held.json"),
            include_str!("../../tests/golden/txn-journal-signal.json"),
            include_str!("../../tests/golden/txn-journal-declined.json"),
        ] {
            assert!(formats(golden).iter().all(|of| *of == 2));
        }
        let golden = include_str!("../../tests/golden/txn-journal-family.json");
        assert!(formats(golden).iter().all(|of| *of == 3));
        let golden = include_str!("../../tests/golden/txn-journal-locks.json");
        assert!(formats(golden).iter().all(|of| *of == FORMAT));
    }

    #[test]
    fn keys_are_pinned() {
        let run = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_00ab);
        assert_eq!(head_key(run).unwrap(), "0285:019000000000700080000000000000ab");
        let of = "0285:019000000000700080000000000000ab:00000000000000000007";
        assert_eq!(record_key(run, 7).unwrap(), of);
        assert!(of.starts_with(&journal_of(run)));
        assert_eq!(start_key("o:1").unwrap(), "0441:o%3A1");
        let at = "2026-01-01T23:59:59Z".parse().unwrap();
        let of = ended_key(run, at).unwrap();
        assert_eq!(of, "00000000000000020454:00000000000000000285:019000000000700080000000000000ab");
        assert!(of.starts_with(&ended_since(at)));
        assert!(of.starts_with(&ended_on(day(at))) && of.starts_with(&ended_in(day(at), slice(run))));
        assert_eq!(ended_place(&of), Some((20454, slice(run))));
        assert_eq!(run_of(&of), Some(run));
    }
}
