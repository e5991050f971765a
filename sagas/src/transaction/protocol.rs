//! What a protocol of transactions is: a pure state machine on the records of a run.
//!
//! It reads no clock and makes no call, so it can be explored exhaustively, simulated, and read in one sitting.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::command::Sender;
use es_core::services::Services;
use es_core::store::RowWrite;
use es_core::{Backend, BoxError, Timestamp};
use futures::future::BoxFuture;
use uuid::Uuid;

use super::family::{ChildIs, Errand, Kin, Word};
use super::foresee::IfItFailed;
use super::rows::{Asked, Record, Status, Written};
use super::show::StepShown;
use super::staging::Staging;
use super::traces::Traces;
use crate::data::Data;
use crate::lock::{LockMode, Resource};

/// Says what follows what.
pub(crate) trait Protocol: Send + Sync + 'static {
    /// The pattern that it is of, for metrics.
    const PATTERN: &'static str;

    /// Where a run can stand, in words of the pattern, for metrics.
    const STAGES: &'static [&'static str] = &[];

    /// What the records of a run come to.
    type State: Clone + std::fmt::Debug + Send + Sync + 'static;

    /// The state of a run without records.
    fn begin(&self) -> Self::State;

    /// Takes in a record. One of a definition that this program does not have is an error.
    fn fold(&self, state: &mut Self::State, written: &Written) -> Result<(), String>;

    /// What is to be done now, while some calls are under way.
    fn next(&self, run: Uuid, state: &Self::State, busy: &BTreeSet<Call>, now: Timestamp) -> Next;

    /// What comes of something that is asked of a run.
    fn asked(&self, state: &Self::State, busy: &BTreeSet<Call>, asked: &Asked) -> Result<Vec<Record>, No>;

    /// What comes of an answer to a call.
    fn answered(&self, state: &Self::State, call: Call, answer: Answer) -> Record;

    /// What a run is doing, and why it waits for a person.
    fn status(&self, run: Uuid, state: &Self::State, now: Timestamp) -> (Status, Option<String>);

    /// By when a run is to be decided, from its start.
    fn deadline(&self) -> Option<Duration>;

    /// For how long runs are kept that have ended.
    fn remember(&self) -> Duration;

    /// Whether there may be a call to somewhere else now, which another owner may have made as well.
    fn calls_outside(&self, state: &Self::State) -> bool;

    /// Whether calls to somewhere else are made once: that it is taken up is written right before the first one, and not when
    /// it begins.
    fn calls_once(&self) -> bool {
        false
    }

    /// Whether nobody calls anything for it until it is taken up again.
    fn is_held(&self, _state: &Self::State) -> bool {
        false
    }

    /// An input as this program would write it.
    fn normal(&self, input: &Data) -> Result<Data, String>;

    /// What an operator sees of the steps.
    fn show(&self, state: &Self::State) -> Vec<StepShown>;

    /// Whether what happens to a run is told in the log.
    fn announces(&self) -> bool {
        false
    }

    /// Where a run stands: one of [`STAGES`](Self::STAGES), if there are some.
    fn stage(&self, _state: &Self::State) -> Option<&'static str> {
        None
    }

    /// For how long nothing is done with a run that begins, unless somebody asks for something.
    fn rests_at_first(&self) -> Duration {
        Duration::ZERO
    }

    /// The calls that whoever has it makes now, whatever its deadline says: they were begun before that.
    fn under_way(&self, run: Uuid, state: &Self::State, now: Timestamp) -> BTreeSet<Call>;

    /// What would be undone if it failed now; an error if it cannot fail any more.
    fn if_it_failed(&self, run: Uuid, state: &Self::State, now: Timestamp) -> Result<IfItFailed, String>;

    /// What it waits for, in words.
    fn waits_for(&self, run: Uuid, state: &Self::State, now: Timestamp) -> String;

    /// How many steps it has.
    fn steps(&self) -> usize;

    /// Whether one of its steps decides.
    fn has_pivot(&self) -> bool {
        false
    }

    /// For how long it has waited for its parent, with all of its steps behind it.
    fn held_by_parent(&self, _state: &Self::State) -> Duration {
        Duration::ZERO
    }

    /// The locks that a run has or waits for, as far as its records say.
    fn claims(&self, _state: &Self::State) -> BTreeMap<String, LockMode> {
        BTreeMap::new()
    }

    /// What a call has to do with a child, or with locks, if it is none of a step.
    fn errand(&self, _state: &Self::State, _call: Call) -> Option<Errand> {
        None
    }

    /// What comes of what has become of a child; `None`: nothing new.
    fn seen(&self, _state: &Self::State, _call: Call, _is: ChildIs) -> Option<Record> {
        None
    }

    /// What children are told in the commit of a record. The state: once that is written.
    fn words(&self, _state: &Self::State, _record: &Record) -> Vec<Word> {
        Vec::new()
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next {
    /// These records are written.
    Append(Vec<Record>),
    /// These calls are made, and it is looked again at that time, if not before. Neither a call nor a time: a person has to
    /// say what is to be done, or somebody has to send something, unless calls are under way.
    Act { calls: Vec<Call>, until: Option<Timestamp> },
    /// Nothing: it has ended.
    Ended,
}

impl Next {
    /// The calls that are made now, by whoever has the run.
    pub(crate) fn calls(self) -> BTreeSet<Call> {
        match self {
            Self::Act { calls, .. } => calls.into_iter().collect(),
            _ => BTreeSet::new(),
        }
    }
}

/// Why something that is asked of a run is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct No {
    pub(crate) why: String,
    /// This program cannot read it: another one may.
    pub(crate) unread: bool,
}

impl From<String> for No {
    fn from(why: String) -> Self {
        Self { why, unread: false }
    }
}

/// A call of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    /// Which step, by its place in the definition.
    pub(crate) step: usize,
    /// Whether it undoes it.
    pub(crate) undo: bool,
}

/// What a call came to.
#[derive(Debug)]
pub(crate) enum Answer {
    Done(Data),
    /// The typed refusal.
    Refused(String),
    /// Anything else: it may have run.
    Failed(BoxError),
}

/// A failure that says nothing of whoever is called: what the call is made with cannot be read, say.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct OwnFault(BoxError);

impl OwnFault {
    pub(crate) fn boxed(error: impl Into<BoxError>) -> BoxError {
        Box::new(Self(error.into()))
    }
}

/// Where a call is made from.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) run: Uuid,
    pub(crate) key: String,
    pub(crate) sender: Sender,
    pub(crate) services: Arc<Services>,
}

/// What the calls of a protocol do.
#[async_trait]
pub(crate) trait Acts<B: Backend>: Protocol {
    /// Whether a call is made in a transaction of the store that has the journal.
    fn is_local(&self, call: Call) -> bool;

    /// Whether such a call only stages what it does.
    fn is_staged(&self, _call: Call) -> bool {
        false
    }

    /// Whether a call that only stages is made at once when an answer from elsewhere leads to it, and shares the commit of
    /// the record of that answer. Until then that is not written: only what is quick is to join it.
    fn joins_answers(&self, _call: Call) -> bool {
        false
    }

    /// The step of a call, and who is called, if that has a name.
    fn destination(&self, _call: Call) -> Option<(&str, &str)> {
        None
    }

    /// For how long a destination is left alone that was tried so often since it failed.
    fn rests(&self, _call: Call, _tried: u32) -> Duration {
        Duration::ZERO
    }

    /// How long a call may take.
    fn limit(&self, call: Call) -> Duration;

    /// What is in the way of a start, a line each.
    async fn check(&self, services: &Services) -> Vec<String>;

    /// Whether a step is that kind, or leads to it. `seen`: those that were looked at.
    fn leads_to(&self, _kind: &str, _services: &Services, _seen: &mut BTreeSet<String>) -> bool {
        false
    }

    /// The steps that live behind guard rows in a database, by the type of that.
    fn guarded(&self, _database: TypeId) -> Vec<String> {
        Vec::new()
    }

    /// What steps leave in databases that only they know.
    fn traces(&self) -> Vec<Arc<dyn Traces>> {
        Vec::new()
    }

    /// A call within a transaction.
    async fn local(&self, state: &Self::State, call: Call, site: &Site, tx: &mut B::Tx) -> Answer;

    /// A call that only stages.
    async fn staged(
        &self,
        _state: &Self::State,
        _call: Call,
        _site: &Site,
        _staging: &mut Staging,
    ) -> Answer {
        Answer::Failed("it has no calls that stage: a mistake of the engine".into())
    }

    /// A child that begins: the record of that, and its rows. `own`: its parent.
    async fn begin_child(
        &self,
        _state: &Self::State,
        _call: Call,
        _site: &Site,
        _own: Kin,
    ) -> Result<(Record, Vec<RowWrite>), BoxError> {
        Err("it has no children: a mistake of the engine".into())
    }

    /// The locks that a step takes.
    fn wants(&self, _state: &Self::State, _call: Call, _site: &Site) -> Result<Vec<Resource>, BoxError> {
        Err("it takes no locks: a mistake of the engine".into())
    }

    /// A call to somewhere else.
    fn remote(&self, state: Self::State, call: Call, site: Site) -> BoxFuture<'static, Answer>;
}
