//! A three-phase commit as a protocol of the engine: what follows is [`Shape`]'s, what calls do is the participants'.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::services::Services;
use es_core::store::Transaction as _;
use es_core::{Backend, BoxError, Timestamp};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use uuid::Uuid;

use super::PATTERN;
use super::builder::ThreePhaseTransaction;
use super::decisions::Rows;
use super::erased::DynParty;
use super::machine::{DECISION, Does, Shape, State};
use super::participant::Txn;
use crate::data::Data;
use crate::keeping::brief;
use crate::saga::SagaInput;
use crate::transaction::{
    Acts, Answer, Asked, Call, IfItFailed, Next, No, OF_THREE_PHASE, OwnFault, Protocol, Record, RunStatus,
    Site, StepShown, Written,
};
use crate::two_phase::Decision;

/// How long it may take to ask for a decision.
const LIMIT: Duration = Duration::from_secs(30);

/// A definition, ready to be driven.
pub(super) struct ThreePhaseProtocol<In, B> {
    kind: String,
    deadline: Option<Duration>,
    remember: Duration,
    shape: Shape,
    names: Arc<[String]>,
    parties: Vec<Arc<dyn DynParty<In>>>,
    backend: Arc<B>,
    decisions: Rows,
}

impl<In, B> fmt::Debug for ThreePhaseProtocol<In, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ThreePhaseProtocol").field(&self.kind).finish()
    }
}

impl<In: SagaInput, B: Backend> ThreePhaseProtocol<In, B> {
    pub(super) fn new(transaction: &ThreePhaseTransaction<In>, backend: Arc<B>, decisions: Rows) -> Self {
        let shape = Shape { parties: transaction.parties.iter().map(|party| party.shape()).collect() };
        let names = shape.parties.iter().map(|party| party.name.clone()).collect();
        let ThreePhaseTransaction { deadline, remember, .. } = *transaction;
        let (kind, parties) = (transaction.kind.clone(), transaction.parties.clone());
        Self { kind, deadline, remember, shape, names, parties, backend, decisions }
    }

    /// What is wrong with the definition, a line each.
    pub(super) fn wrong(&self) -> Vec<String> {
        let (kind, mut wrong, mut seen) = (&self.kind, Vec::new(), BTreeSet::new());
        let name = kind.strip_prefix(OF_THREE_PHASE).unwrap_or(kind);
        if let Err(error) = es_core::limits::stored_name("name of a three-phase commit", name) {
            wrong.push(error.to_string());
        }
        if self.parties.is_empty() {
            wrong.push(format!("{kind} has no participants"));
        }
        wrong.extend(brief(&format!("{kind} remembers runs"), self.remember));
        for party in &self.shape.parties {
            if !seen.insert(&party.name) {
                wrong.push(format!("{kind} has two participants named {:?}", party.name));
            }
            if let Err(error) = es_core::limits::stored_name("participant", &party.name) {
                wrong.push(format!("{kind}: {error}"));
            }
            if party.name == DECISION {
                wrong.push(format!("{kind} has a participant named {DECISION:?}: choose another name"));
            }
        }
        wrong
    }

    /// The decision that stands, once this one is inserted if there is none.
    async fn decide(&self, txn: Uuid, asked: Decision, tx: &mut B::Tx) -> Result<Data, BoxError> {
        let stands = match self.decisions.decided(&*self.backend, txn).await? {
            Some(stands) => stands,
            None => {
                // If another one is faster, the commit is refused, and this is called again.
                tx.staged().rows.push(self.decisions.insert(txn, asked)?);
                asked
            }
        };
        Data::of(&stands)
    }
}

impl<In: SagaInput, B: Backend> Protocol for ThreePhaseProtocol<In, B> {
    const PATTERN: &'static str = PATTERN;

    type State = State;

    fn begin(&self) -> State {
        self.shape.begin()
    }

    /// What this program cannot read is no failure of a participant: the run waits for one that can.
    fn fold(&self, state: &mut State, written: &Written) -> Result<(), String> {
        if let Record::Begun { input, .. } = &written.record {
            drop(self.normal(input)?);
        }
        self.shape.fold(state, written)
    }

    fn next(&self, run: Uuid, state: &State, busy: &BTreeSet<Call>, now: Timestamp) -> Next {
        self.shape.next(run, state, busy, now)
    }

    fn asked(&self, state: &State, busy: &BTreeSet<Call>, asked: &Asked) -> Result<Vec<Record>, No> {
        Ok(self.shape.asked(state, busy, asked)?)
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

    /// Who had it before may have called anything: that makes no difference, since all of it is called again, and whoever
    /// takes it up goes by the decision that stands.
    fn calls_outside(&self, _: &State) -> bool {
        false
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
        self.shape.parties.len()
    }

    fn announces(&self) -> bool {
        false
    }

    fn under_way(&self, run: Uuid, state: &State, now: Timestamp) -> BTreeSet<Call> {
        self.shape.under_way(run, state, now)
    }

    fn if_it_failed(&self, _: Uuid, state: &State, _: Timestamp) -> Result<IfItFailed, String> {
        self.shape.if_it_failed(state)
    }

    fn waits_for(&self, run: Uuid, state: &State, now: Timestamp) -> String {
        self.shape.waits_for(run, state, now)
    }
}

#[async_trait]
impl<In: SagaInput, B: Backend> Acts<B> for ThreePhaseProtocol<In, B> {
    fn is_local(&self, call: Call) -> bool {
        self.shape.party_of(call).is_none()
    }

    fn destination(&self, call: Call) -> Option<(&str, &str)> {
        let party = &self.shape.parties[self.shape.party_of(call)?];
        Some((&party.name, party.destination.as_deref()?))
    }

    fn rests(&self, call: Call, tried: u32) -> Duration {
        let of = self.shape.party_of(call).map(|i| self.shape.parties[i].retry);
        of.unwrap_or_default().pause(tried)
    }

    fn limit(&self, call: Call) -> Duration {
        self.shape.party_of(call).map_or(LIMIT, |i| self.shape.parties[i].limit)
    }

    async fn check(&self, _: &Services) -> Vec<String> {
        Vec::new()
    }

    async fn local(&self, _: &State, call: Call, site: &Site, tx: &mut B::Tx) -> Answer {
        let Does::Decide(asked) = self.shape.does(call) else {
            let mistake = "a participant was called within the journal: a mistake of the engine";
            return Answer::Failed(OwnFault::boxed(mistake));
        };
        match self.decide(site.run, asked, tx).await {
            Ok(stands) => Answer::Done(stands),
            Err(error) => Answer::Failed(error),
        }
    }

    fn remote(&self, state: State, call: Call, site: Site) -> BoxFuture<'static, Answer> {
        let (does, names) = (self.shape.does(call), self.names.clone());
        let party = self.shape.party_of(call).map(|i| self.parties[i].clone());
        let made = async move {
            let (Some(party), Some(input)) = (party, &state.input) else {
                return Answer::Failed(OwnFault::boxed("it has no input: a mistake of the engine"));
            };
            match input.read::<In>() {
                Ok(input) => party.call(does, Txn::new(site.run, &site.key, &input, &names)).await,
                Err(error) => Answer::Failed(OwnFault::boxed(format!("its input cannot be read: {error}"))),
            }
        };
        made.boxed()
    }
}
