//! A TCC as a protocol of the engine: what follows is [`Shape`]'s, what calls do is the branches'.

use std::any::TypeId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::services::Services;
use es_core::store::Transaction;
use es_core::{Backend, BoxError, Timestamp, chain};
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use uuid::Uuid;

use super::PATTERN;
use super::builder::TccTransaction;
use super::erased::{self, DynBranch};
use super::machine::{Shape, State};
use crate::data::Data;
use crate::keeping::brief;
use crate::saga::{At, Does, SagaInput};
use crate::transaction::{
    Acts, Answer, Asked, Call, IfItFailed, Next, No, OF_TCC, OwnFault, Protocol, Record, RunStatus, Site,
    Staging, StepShown, Verb, Written,
};

/// A definition, ready to be driven.
pub(super) struct TccProtocol<In, T> {
    kind: String,
    deadline: Option<Duration>,
    remember: Duration,
    shape: Shape,
    branches: Vec<Arc<dyn DynBranch<In, T>>>,
}

impl<In, T> std::fmt::Debug for TccProtocol<In, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TccProtocol").field(&self.kind).finish()
    }
}

impl<In: SagaInput, T: Transaction> TccProtocol<In, T> {
    pub(super) fn new(tcc: &TccTransaction<In, T>) -> Self {
        let shape = Shape { branches: tcc.branches.iter().map(|branch| branch.shape()).collect() };
        let TccTransaction { deadline, remember, .. } = *tcc;
        Self { kind: tcc.kind.clone(), deadline, remember, shape, branches: tcc.branches.clone() }
    }

    /// Whether this can be read as what a branch has reserved.
    fn reads(&self, branch: &str, held: &Data) -> Result<(), String> {
        let own = self.branches.iter().find(|own| own.name() == branch);
        own.map_or(Ok(()), |own| own.reads(held))
    }

    /// What is wrong with the definition, a line each.
    pub(super) fn wrong(&self) -> Vec<String> {
        let (kind, mut wrong, mut seen) = (&self.kind, Vec::new(), BTreeSet::new());
        if let Err(error) =
            es_core::limits::stored_name("name of a TCC", kind.strip_prefix(OF_TCC).unwrap_or(kind))
        {
            wrong.push(error.to_string());
        }
        if self.branches.is_empty() {
            wrong.push(format!("{kind} has no branches"));
        }
        wrong.extend(brief(&format!("{kind} remembers runs"), self.remember));
        for branch in &self.shape.branches {
            if !seen.insert(branch.name) {
                wrong.push(format!("{kind} has two branches named {:?}", branch.name));
            }
            if let Err(error) = es_core::limits::stored_name("branch", branch.name) {
                wrong.push(format!("{kind}: {error}"));
            }
            if branch.is_local && branch.destination.is_some() {
                wrong.push(format!(
                    "branch {:?} of {kind} names a destination, and is in the database of the journal",
                    branch.name
                ));
            }
        }
        wrong
    }
}

impl<In: SagaInput, T: Transaction> Protocol for TccProtocol<In, T> {
    const PATTERN: &'static str = PATTERN;

    type State = State;

    fn begin(&self) -> State {
        self.shape.begin()
    }

    /// What this program cannot read is no failure of a branch: the run waits for one that can.
    fn fold(&self, state: &mut State, written: &Written) -> Result<(), String> {
        match &written.record {
            Record::Begun { input, .. } => drop(self.normal(input)?),
            Record::Done { step, output } => self.reads(step, output)?,
            Record::Resolved { verb: Verb::Resolve { step, output }, .. } if state.is_open() => {
                self.reads(step, output)?;
            }
            _ => {}
        }
        self.shape.fold(state, written)
    }

    fn next(&self, run: Uuid, state: &State, busy: &BTreeSet<Call>, now: Timestamp) -> Next {
        self.shape.next(run, state, busy, now)
    }

    fn asked(&self, state: &State, busy: &BTreeSet<Call>, asked: &Asked) -> Result<Vec<Record>, No> {
        let records = self.shape.asked(state, busy, asked)?;
        let read = match &asked.verb {
            Verb::Resolve { step, output } if state.is_open() => self.reads(step, output),
            _ => Ok(()),
        };
        read.map(|()| records).map_err(|why| No { why, unread: true })
    }

    fn answered(&self, state: &State, call: Call, answer: Answer) -> Record {
        self.shape.answered(state, call, answer)
    }

    fn status(&self, run: Uuid, state: &State, now: Timestamp) -> (RunStatus, Option<String>) {
        self.shape.status(run, state, now)
    }

    fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    fn remember(&self) -> Duration {
        self.remember
    }

    fn calls_outside(&self, state: &State) -> bool {
        self.shape.calls_outside(state)
    }

    fn is_held(&self, state: &State) -> bool {
        state.is_held()
    }

    fn normal(&self, input: &Data) -> Result<Data, String> {
        input.read::<In>().and_then(|input| Data::of(&input)).map_err(|error| error.to_string())
    }

    fn show(&self, state: &State) -> Vec<StepShown> {
        self.shape.show(state)
    }

    fn steps(&self) -> usize {
        self.shape.branches.len()
    }

    fn under_way(&self, run: Uuid, state: &State, now: Timestamp) -> BTreeSet<Call> {
        self.shape.under_way(run, state, now)
    }

    fn if_it_failed(&self, run: Uuid, state: &State, now: Timestamp) -> Result<IfItFailed, String> {
        self.shape.if_it_failed(run, state, now)
    }

    fn waits_for(&self, run: Uuid, state: &State, now: Timestamp) -> String {
        self.shape.waits_for(run, state, now)
    }
}

/// What a call is made with.
struct With {
    does: Does,
    input: Option<Data>,
    held: Option<Data>,
}

impl With {
    async fn make<In: SagaInput, T: Transaction>(
        &self,
        branch: &dyn DynBranch<In, T>,
        site: &Site,
        at: At<'_, T>,
    ) -> Answer {
        match self.read() {
            Ok(input) => branch.call(self.does, &input, self.held.as_ref(), site, at).await,
            Err(error) => Answer::Failed(OwnFault::boxed(error)),
        }
    }

    fn read<In: SagaInput>(&self) -> Result<In, BoxError> {
        let input = self.input.as_ref().ok_or("it has no input")?;
        Ok(input.read().map_err(|error| format!("the input of the TCC cannot be read: {error}"))?)
    }
}

impl<In: SagaInput, T: Transaction> TccProtocol<In, T> {
    /// The branch of a call, and what it is made with.
    fn made(&self, state: &State, call: Call) -> (Arc<dyn DynBranch<In, T>>, With) {
        let (i, does) = (self.shape.branch_of(call), self.shape.does(call));
        let held = state.branches[i].held().cloned();
        (self.branches[i].clone(), With { does, input: state.input.clone(), held })
    }
}

#[async_trait]
impl<In: SagaInput, B: Backend> Acts<B> for TccProtocol<In, B::Tx> {
    fn guarded(&self, database: TypeId) -> Vec<String> {
        let branches = self.branches.iter().filter(|branch| branch.guards() == Some(database));
        branches.map(|branch| branch.name().to_owned()).collect()
    }

    fn is_local(&self, call: Call) -> bool {
        self.shape.branches[self.shape.branch_of(call)].is_local
    }

    fn is_staged(&self, call: Call) -> bool {
        self.shape.branches[self.shape.branch_of(call)].is_staged
    }

    fn destination(&self, call: Call) -> Option<(&str, &str)> {
        let branch = &self.shape.branches[self.shape.branch_of(call)];
        Some((branch.name, branch.destination.as_deref()?))
    }

    fn rests(&self, call: Call, tried: u32) -> Duration {
        self.shape.branches[self.shape.branch_of(call)].retry.pause(tried)
    }

    fn limit(&self, call: Call) -> Duration {
        self.shape.branches[self.shape.branch_of(call)].limit
    }

    async fn check(&self, services: &Services) -> Vec<String> {
        let mut wrong = Vec::new();
        // At the same time: whoever is away is waited for.
        let checked = join_all(self.branches.iter().map(|branch| branch.check(services))).await;
        for (branch, checked) in self.branches.iter().zip(checked) {
            if let Err(error) = checked {
                wrong.push(format!("branch {:?} of {}: {}", branch.name(), self.kind, chain(&*error)));
            }
        }
        wrong
    }

    async fn local(&self, state: &State, call: Call, site: &Site, tx: &mut B::Tx) -> Answer {
        let (branch, with) = self.made(state, call);
        with.make(&*branch, site, At::Tx(tx)).await
    }

    async fn staged(&self, state: &State, call: Call, site: &Site, staging: &mut Staging) -> Answer {
        let (branch, with) = self.made(state, call);
        with.make(&*branch, site, At::Staged(staging)).await
    }

    fn remote(&self, state: State, call: Call, site: Site) -> BoxFuture<'static, Answer> {
        let ((branch, with), kind) = (self.made(&state, call), self.kind.clone());
        let made = async move {
            let Some(input) = &with.input else {
                return Answer::Failed(OwnFault::boxed("it has no input"));
            };
            let at = At::Outside(erased::outside(&kind, branch.name(), with.does, input, &site));
            with.make(&*branch, &site, at).await
        };
        made.boxed()
    }
}

#[cfg(test)]
mod tests {
    use es_core::memory::Tx;
    use serde::{Deserialize, Serialize};

    use super::super::branch::Tcc;
    use super::*;
    use crate::By;
    use crate::saga::{Call as Key, Cx, Ran, Remote, StepError};

    #[derive(Serialize, Deserialize)]
    struct Stay {}
    impl SagaInput for Stay {}

    struct Room;
    impl Tcc<Stay> for Room {
        const NAME: &'static str = "room";
        type Held = u32;
        type Refusal = String;
        type Place = Remote;
        async fn reserve(&self, _: Cx<'_, Stay>, _: &mut Key) -> Result<u32, StepError<String>> {
            Ok(1)
        }
        async fn confirm(&self, _: Cx<'_, Stay>, _: u32, _: &mut Key) -> Result<(), BoxError> {
            Ok(())
        }
        async fn cancel(&self, _: Cx<'_, Stay>, _: Ran<u32>, _: &mut Key) -> Result<(), BoxError> {
            Ok(())
        }
    }

    fn protocol(name: &str, rooms: usize) -> TccProtocol<Stay, Tx> {
        let rooms = (0..rooms).map(|_| Room);
        TccProtocol::new(&rooms.fold(TccTransaction::new(name, 1), |tcc, room| tcc.branch(room)).build())
    }

    #[test]
    fn what_is_wrong_with_a_definition_is_said() {
        assert_eq!(protocol("stay", 1).wrong(), [""; 0]);
        assert_eq!(protocol("stay", 0).wrong(), ["tcc.stay has no branches"]);
        assert_eq!(protocol("stay", 2).wrong(), ["tcc.stay has two branches named \"room\""]);
        assert_eq!(protocol("", 1).wrong(), ["name of a TCC is empty"]);
    }

    #[test]
    fn what_a_person_has_resolved_and_cannot_be_read_is_left_to_others() {
        let (protocol, at) = (protocol("stay", 1), Timestamp::UNIX_EPOCH);
        let output = Data::of(&"a room").expect("text");
        let resolved = Written {
            at,
            record: Record::Resolved {
                verb: Verb::Resolve { step: "room".to_owned(), output },
                by: By::new("ada".to_owned(), "because".to_owned(), Uuid::nil()),
            },
        };
        let mut state = protocol.begin();
        let why = protocol.fold(&mut state, &resolved).expect_err("it holds a number");
        assert!(why.contains("what \"room\" has reserved cannot be read"), "{why}");
        // What it holds is known by then.
        let mut state = protocol.begin();
        protocol.fold(&mut state, &Written { at, record: Record::Agreed {} }).expect("it is open");
        protocol.fold(&mut state, &resolved).expect("it is confirmed by that");
    }
}
