//! Sagas within sagas: a step of a run, its parent, is a run of its own, its child.
//!
//! | what | where it is written |
//! | --- | --- |
//! | a child begins | in the commit of its parent that says so |
//! | its parent is undone, or ends | in the commit of its parent that says so: a request in the child's queue |
//! | a child waits for its parent, ends, or refuses to be undone | in that commit of the child: a wake-up in its parent's queue |
//!
//! A wake-up says nothing: the parent looks at the child's head. So one that is lost delays it until the next look, no more.

use std::fmt;
use std::time::Duration;

use es_core::guarded::caught;
use es_core::id::Ids;
use es_core::store::{RowStore, RowWrite, StoreError};
use es_core::{Backend, BoxError, ErrorKind, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::clock::TRUSTS;
use super::drive::{Drive, Left};
use super::outcome::Outcome;
use super::protocol::{Acts, Answer, Call, OwnFault};
use super::rows::{
    Asked, FORMAT, Head, Record, Status, Tables, Verb, Wake, Written, head_key, journal_of, slice,
};
use crate::data::Data;
use crate::lock::Resource;
use crate::verb::By;

/// When a parent looks at its children though nothing has woken it: later than a test of crashes waits, which is to find a
/// wake-up that was not written.
pub(super) const SLOWLY: Duration = Duration::from_secs(2 * 60 * 60);

/// A run that another one knows: its parent, or its child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Kin {
    /// Which saga.
    pub saga: String,
    /// The version of its definition.
    pub version: u32,
    /// The key that it was started under.
    pub key: String,
    /// The run.
    pub run: Uuid,
}

impl fmt::Display for Kin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.saga, self.key)
    }
}

/// Whose child a run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parent {
    pub(crate) of: Kin,
    /// Which step of it.
    pub(crate) step: String,
    /// Whether the child ends only when its parent does: until then it can be undone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) holds: bool,
}

/// What a child has said to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Says {
    /// All of its steps have run: it waits for what becomes of its parent.
    Ready,
    /// Its pivot has run, or may have: it is not undone.
    Refuses,
}

/// What a run tells a child of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) to: Kin,
    /// How the parent ends.
    pub(crate) ends: Outcome,
    pub(crate) actor: String,
    pub(crate) reason: String,
}

/// What a call has to do with a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// It begins.
    Begin,
    /// It is looked what has become of it. Its output is that of one of its steps.
    Look { child: Kin, gives: String },
    /// It is no child, but locks that are taken.
    Claim,
    /// The same, when it is looked whether the run has them.
    Granted(Vec<Resource>),
}

impl Errand {
    /// Whether something is looked at, that wakes the run once there is something new.
    pub(super) const fn is_look(&self) -> bool {
        matches!(self, Self::Look { .. } | Self::Granted(_))
    }
}

/// What has become of a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChildIs {
    /// It goes on.
    Going,
    /// It waits for its parent, with this output.
    Ready(Data),
    /// It is not undone, and goes on.
    Refuses,
    /// It has ended, with this output if it is completed.
    Ended(Outcome, Option<Data>),
    /// It has all its steps behind it, and no output that can be read: why.
    Unread(String),
}

/// Whether a parent is woken by what its child writes.
fn wakes_parent(record: &Record) -> bool {
    matches!(
        record,
        Record::Ready {} | Record::Ended { .. } | Record::Declined { verb: Verb::Parent { .. }, .. }
    )
}

/// Whether it says that the parent has ended: nothing is written for it any more.
const fn has_ended(record: &Record) -> bool {
    match record {
        Record::Resolved { verb: Verb::Parent { ends }, .. } => !matches!(ends, Outcome::Undone(_)),
        _ => false,
    }
}

impl Head {
    /// Whether it waits for its parent: how old it is says nothing then.
    pub(crate) fn waits_for_parent(&self) -> bool {
        self.says == Some(Says::Ready) && self.status == Status::Running
    }

    /// What it has said to its parent.
    pub(super) fn note_said(&mut self, record: &Record) {
        match record {
            Record::Ready {} => self.says = Some(Says::Ready),
            Record::Declined { verb: Verb::Parent { .. }, .. } => self.says = Some(Says::Refuses),
            _ => {}
        }
    }

    /// The row that wakes its parent, if one of these records is for it.
    pub(super) fn wakes_parent(
        &self,
        written: &[Written],
        ids: &Ids,
        at: Timestamp,
    ) -> Result<Option<RowWrite>, StoreError> {
        let has_ended = written.iter().any(|written| has_ended(&written.record));
        let is_told = !has_ended && written.iter().any(|written| wakes_parent(&written.record));
        let Some(Parent { of, .. }) = self.parent.as_ref().filter(|_| is_told) else { return Ok(None) };
        wake(of, None, ids.next(), at).map(Some)
    }
}

impl Word {
    /// The request that says it.
    pub(super) fn row(self, ids: &Ids, at: Timestamp) -> Result<RowWrite, StoreError> {
        let id = ids.next();
        let by = By::new(self.actor, self.reason, id);
        wake(&self.to, Some(Asked { verb: Verb::Parent { ends: self.ends }, by }), id, at)
    }
}

/// A row in the queue of a relative, due for everybody.
fn wake(of: &Kin, asked: Option<Asked>, id: Uuid, at: Timestamp) -> Result<RowWrite, StoreError> {
    let (tables, due) = (Tables::of(&of.saga, of.version)?, at - TRUSTS);
    tables.wakes.push(slice(of.run), due, due, id, Wake { asked, ..Wake::of(of.run) })
}

/// A row that wakes a run: somebody has written what it waits for.
pub(crate) fn wake_up(of: &Kin, ids: &Ids, at: Timestamp) -> Result<RowWrite, StoreError> {
    wake(of, None, ids.next(), at)
}

/// A request of the program itself that a run is undone.
pub(crate) fn cancels(
    of: &Kin,
    actor: &str,
    reason: String,
    ids: &Ids,
    at: Timestamp,
) -> Result<RowWrite, StoreError> {
    let id = ids.next();
    wake(of, Some(Asked { verb: Verb::Cancel, by: By::new(actor.to_owned(), reason, id) }), id, at)
}

/// What has become of a child. `undo`: that it has to be undone, so that its output says nothing.
async fn look(rows: &dyn RowStore, child: &Kin, gives: &str, undo: bool) -> Result<ChildIs, StoreError> {
    let tables = Tables::of(&child.saga, child.version)?;
    let head = match tables.heads.get(rows, &head_key(child.run)?).await {
        Ok(Some(head)) => head.value,
        Ok(None) => return Ok(ChildIs::Unread(format!("{child} is not there any more"))),
        // It is among those that cannot go on.
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(ChildIs::Going),
        Err(error) => return Err(error),
    };
    let output = || output(rows, &tables, child, gives);
    Ok(match (head.outcome, head.says) {
        // It may say what this program does not know.
        _ if head.format > FORMAT => ChildIs::Going,
        (Some(Outcome::Completed), _) if undo => ChildIs::Ended(Outcome::Completed, None),
        (None, Some(Says::Ready)) if undo => ChildIs::Going,
        (Some(Outcome::Completed), _) => match output().await? {
            Some(output) => ChildIs::Ended(Outcome::Completed, Some(output)),
            None => ChildIs::Unread(format!("{child} is completed, and {gives} has left no output")),
        },
        (Some(outcome), _) => ChildIs::Ended(outcome, None),
        (None, Some(Says::Ready)) => match output().await? {
            Some(output) => ChildIs::Ready(output),
            None => ChildIs::Unread(format!("{child} has run, and {gives} has left no output")),
        },
        (None, Some(Says::Refuses)) => ChildIs::Refuses,
        (None, None) => ChildIs::Going,
    })
}

/// The output of a step of a child, by its journal.
async fn output(
    rows: &dyn RowStore,
    tables: &Tables,
    child: &Kin,
    gives: &str,
) -> Result<Option<Data>, StoreError> {
    let stored = tables.journal.stored_below(rows, &journal_of(child.run), None, usize::MAX).await?;
    let of = |record: Record| match record {
        Record::Done { step, output } | Record::Resolved { verb: Verb::Resolve { step, output }, .. } => {
            (step == gives).then_some(output)
        }
        _ => None,
    };
    let records = stored.into_iter().rev().filter_map(|row| tables.journal.decode(row).ok());
    Ok(records.map(|row| row.value.record).find_map(of))
}

impl<B: Backend, P: Acts<B>> Drive<B, P> {
    /// Begins children and takes locks, and looks at those that may have something to say. Whether something came of it.
    pub(super) async fn see_to(&mut self, errands: Vec<(Call, Errand)>) -> Result<bool, Left> {
        if let Some((call, _)) = errands.iter().find(|(_, errand)| *errand == Errand::Begin) {
            self.begin_child(*call).await?;
            return Ok(true);
        }
        if let Some((call, _)) = errands.iter().find(|(_, errand)| *errand == Errand::Claim) {
            self.claim(*call).await?;
            return Ok(true);
        }
        if !std::mem::take(&mut self.looks) {
            return Ok(false);
        }
        for (call, errand) in errands {
            if let Errand::Granted(wanted) = &errand
                && self.look_at_locks(call, wanted).await?
            {
                return Ok(true);
            }
            let Errand::Look { child, gives } = errand else { continue };
            let is = match look(&*self.desk.backend, &child, &gives, call.undo).await {
                Ok(is) => is,
                Err(error) => {
                    self.looks = true;
                    self.pause(&error).await?;
                    return Ok(true);
                }
            };
            if let Some(record) = self.desk.protocol.seen(&self.instance.state, call, is) {
                // The others are looked at after it.
                self.looks = true;
                self.commit(vec![record], Vec::new()).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A child begins in the commit that says so.
    async fn begin_child(&mut self, call: Call) -> Result<(), Left> {
        let desk = self.desk.clone();
        let (key, run) = (self.site.key.clone(), self.site.run);
        let own = Kin { saga: desk.kind.to_string(), version: desk.tables.version, key, run };
        let limit = desk.protocol.limit(call);
        let begins = caught(desk.protocol.begin_child(&self.instance.state, call, &self.site, own));
        let error = match tokio::time::timeout(limit, begins).await {
            Ok(Ok(Ok((record, rows)))) => return self.write(vec![record], Vec::new(), None, rows).await,
            Ok(Ok(Err(error))) => error,
            Ok(Err(panic)) => OwnFault::boxed(panic.boxed()),
            Err(_) => BoxError::from(format!("it did not begin within its limit of {limit:?}")),
        };
        self.not_done(call, Answer::Failed(error)).await
    }
}
