//! A saga as a protocol of the engine: what follows is [`Shape`]'s, what calls do is the steps'.

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::services::Services;
use es_core::store::{RowWrite, Transaction};
use es_core::{Backend, BoxError, Timestamp, chain};
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use uuid::Uuid;

use super::builder::Saga;
use super::erased::{self, DynStep};
use super::machine::{Doable, Shape, State};
use super::place::At;
use super::starter::Starter;
use super::step::{Awaits, Outputs, SagaInput};
use crate::chain::OF_CHAIN;
use crate::data::Data;
use crate::keeping::brief;
use crate::lock::{LockMode, Resource};
use crate::transaction::{
    Acts, Answer, Asked, Call, ChildIs, Errand, IfItFailed, Kin, Next, No, OF_HALF, OF_TCC, OF_THREE_PHASE,
    OwnFault, Parent, Protocol, Record, RunStatus, Site, Staging, StepShown, Traces, Verb, Word, Written,
};

/// A definition, ready to be driven.
pub(super) struct SagaProtocol<In, T> {
    name: &'static str,
    version: u32,
    deadline: Option<Duration>,
    remember: Duration,
    shape: Shape,
    steps: Vec<Arc<dyn DynStep<In, T>>>,
    announced: bool,
}

impl<In, T> std::fmt::Debug for SagaProtocol<In, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SagaProtocol").field(&self.name).finish()
    }
}

impl<In: SagaInput, T: Transaction> SagaProtocol<In, T> {
    pub(super) fn new(saga: &Saga<In, T>) -> Self {
        let (mut shapes, mut steps) = (Vec::new(), Vec::new());
        for (stage, together) in saga.stages.iter().enumerate() {
            for step in together {
                let mut shape = step.shape();
                shape.stage = stage;
                shapes.push(shape);
                steps.push(step.clone());
            }
        }
        let shape = Shape::new(shapes, saga.stages.len(), saga.pivot);
        let Saga { name, version, deadline, remember, announced, .. } = *saga;
        Self { name, version, deadline, remember, shape, steps, announced }
    }

    /// Whether runs begin with this definition: older ones are kept for those that did.
    fn is_newest(&self, services: &Services) -> bool {
        let newest = services.get::<Starter<In>>().map(|starter| starter.0.runs());
        newest.is_ok_and(|newest| newest.name() == self.name && newest.version() == self.version)
    }

    fn is_local_step(&self, call: Call) -> bool {
        self.shape.steps[call.step].place == Doable::Here
    }

    /// Whether this can be read as the output of a step.
    fn reads(&self, step: &str, output: &Data) -> Result<(), String> {
        let own = self.steps.iter().find(|own| own.name() == step);
        own.map_or(Ok(()), |own| own.reads(output))
    }

    /// Whether this can be read as what a step waits for. What was taken before under its id counts, and not this.
    fn reads_signal(&self, state: &State, name: &str, id: &str, value: &Data) -> Result<(), String> {
        let own = self.shape.steps.iter().find(|own| own.name == name).map(|own| own.place);
        let Some(Doable::Sent(awaits)) = own.filter(|_| self.shape.sent(state, name, id).is_none()) else {
            return Ok(());
        };
        let output = awaits.output(&[value]).map_err(|error| error.to_string())?;
        self.reads(name, &output)
    }

    /// What is wrong with the definition, a line each.
    pub(super) fn wrong(&self) -> Vec<String> {
        let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
        for (of, what) in [
            (OF_TCC, "TCCs"),
            (OF_HALF, "half messages"),
            (OF_THREE_PHASE, "three-phase commits"),
            (OF_CHAIN, "rows of chains"),
        ] {
            if self.name.starts_with(of) {
                let name = &self.name;
                wrong
                    .push(format!("a saga has the name {name:?}: `{of}` is what names of {what} begin with"));
            }
        }
        if self.steps.is_empty() {
            wrong.push(format!("saga {} has no steps", self.name));
        }
        wrong.extend(brief(&format!("saga {} remembers runs", self.name), self.remember));
        for step in &self.shape.steps {
            if !seen.insert(step.name) {
                wrong.push(format!("saga {} has two steps named {:?}", self.name, step.name));
            }
            if let Err(error) = es_core::limits::stored_name("step", step.name) {
                wrong.push(format!("saga {}: {error}", self.name));
            }
            if let Doable::Sent(awaits) = step.place
                && !(1..=Awaits::MOST).contains(&awaits.count())
            {
                wrong.push(format!(
                    "step {:?} of saga {} waits for {} signals: it has to be for 1 at least, and {} at most",
                    step.name,
                    self.name,
                    awaits.count(),
                    Awaits::MOST
                ));
            }
            if step.place == Doable::Here && step.destination.is_some() {
                wrong.push(format!(
                    "step {:?} of saga {} names a destination, and is in the database of the journal",
                    step.name, self.name
                ));
            }
            wrong.extend(step.needs.iter().filter(|needed| !seen.contains(*needed)).map(|needed| {
                format!("step {:?} of saga {} needs {needed:?}, which comes later", step.name, self.name)
            }));
        }
        wrong
    }
}

impl<In: SagaInput, T: Transaction> Protocol for SagaProtocol<In, T> {
    const PATTERN: &'static str = "saga";

    type State = State;

    fn begin(&self) -> State {
        self.shape.begin()
    }

    /// What this program cannot read is no failure of a step: the run waits for one that can.
    fn fold(&self, state: &mut State, written: &Written) -> Result<(), String> {
        match &written.record {
            Record::Begun { input, .. } => drop(input.read::<In>().map_err(|error| error.to_string())?),
            Record::Done { step, output } => self.reads(step, output)?,
            Record::Resolved { verb: Verb::Signal { name, id, value }, .. } => {
                self.reads_signal(state, name, id, value)?;
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
            Verb::Resolve { step, output } => self.reads(step, output),
            Verb::Signal { name, id, value } => self.reads_signal(state, name, id, value),
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

    fn announces(&self) -> bool {
        self.announced
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

    fn steps(&self) -> usize {
        self.shape.steps.len()
    }

    fn has_pivot(&self) -> bool {
        self.shape.pivot.is_some()
    }

    fn held_by_parent(&self, state: &State) -> Duration {
        state.as_child.held
    }

    fn claims(&self, state: &State) -> BTreeMap<String, LockMode> {
        self.shape.claims(state)
    }

    fn errand(&self, state: &State, call: Call) -> Option<Errand> {
        self.shape.errand(state, call)
    }

    fn seen(&self, state: &State, call: Call, is: ChildIs) -> Option<Record> {
        self.shape.seen(state, call, is)
    }

    fn words(&self, state: &State, record: &Record) -> Vec<Word> {
        self.shape.words(self.name, state, record)
    }
}

/// What a call is made with.
fn made_with<In: SagaInput>(state: &State, outputs: Outputs) -> Result<(In, Outputs), BoxError> {
    let input = state.input.as_ref().ok_or("it has no input")?;
    let input = input.read().map_err(|error| format!("the input of the saga cannot be read: {error}"))?;
    Ok((input, outputs))
}

async fn made<In: SagaInput, T: Transaction>(
    step: &dyn DynStep<In, T>,
    with: Result<(In, Outputs), BoxError>,
    undo: bool,
    site: &Site,
    at: At<'_, T>,
) -> Answer {
    let (input, outputs) = match with {
        Ok(with) => with,
        Err(error) => return Answer::Failed(OwnFault::boxed(error)),
    };
    match undo {
        true => step.undo(&input, &outputs, site, at).await,
        false => step.run(&input, &outputs, site, at).await,
    }
}

#[async_trait]
impl<In: SagaInput, B: Backend> Acts<B> for SagaProtocol<In, B::Tx> {
    fn is_local(&self, call: Call) -> bool {
        self.is_local_step(call)
    }

    fn is_staged(&self, call: Call) -> bool {
        self.is_local_step(call) && self.shape.steps[call.step].is_staged
    }

    fn destination(&self, call: Call) -> Option<(&str, &str)> {
        let step = &self.shape.steps[call.step];
        Some((step.name, step.destination.as_deref()?))
    }

    fn rests(&self, call: Call, tried: u32) -> Duration {
        self.shape.steps[call.step].retry.pause(tried)
    }

    fn limit(&self, call: Call) -> Duration {
        self.shape.steps[call.step].limit
    }

    async fn check(&self, services: &Services) -> Vec<String> {
        let mut wrong = Vec::new();
        // At the same time: whoever is away is waited for.
        let checked = join_all(self.steps.iter().map(|step| step.check(services))).await;
        for (step, checked) in self.steps.iter().zip(checked) {
            if let Err(error) = checked {
                wrong.push(format!("step {:?} of saga {}: {}", step.name(), self.name, chain(&*error)));
            }
        }
        for (i, step) in self.steps.iter().enumerate() {
            let Some(child) = step.child() else { continue };
            let own = self.is_newest(services).then_some(self.name);
            if let Err(why) = child.check(own, self.shape.is_before_pivot(i), services) {
                wrong.push(format!("step {:?} of saga {}: {why}", step.name(), self.name));
            }
        }
        wrong
    }

    fn guarded(&self, database: TypeId) -> Vec<String> {
        let steps = self.steps.iter().filter(|step| step.guards() == Some(database));
        steps.map(|step| step.name().to_owned()).collect()
    }

    fn traces(&self) -> Vec<Arc<dyn Traces>> {
        self.steps.iter().filter_map(|step| step.traces()).collect()
    }

    fn leads_to(&self, saga: &str, services: &Services, seen: &mut BTreeSet<String>) -> bool {
        self.steps.iter().filter_map(|step| step.child()).any(|child| child.leads_to(saga, services, seen))
    }

    async fn begin_child(
        &self,
        state: &State,
        call: Call,
        site: &Site,
        own: Kin,
    ) -> Result<(Record, Vec<RowWrite>), BoxError> {
        let step = &self.steps[call.step];
        let child = step.child().ok_or("it is no saga of its own: a mistake of the engine")?;
        let (input, outputs) = made_with::<In>(state, self.shape.outputs(state)).map_err(OwnFault::boxed)?;
        // One run for each time that it begins.
        let key = match state.steps[call.step].child.begun {
            0 => format!("{}/{}/{}", own.saga, own.run.simple(), step.name()),
            n => format!("{}/{}/{}/{}", own.saga, own.run.simple(), step.name(), n + 1),
        };
        let holds = self.shape.is_before_pivot(call.step);
        let parent = Parent { of: own, step: step.name().to_owned(), holds };
        let (run, rows) = child.begin(&input, &outputs, site, parent, &key).await?;
        let gives = self.shape.child_of(call.step).map(|(gives, _)| gives.to_owned());
        Ok((Record::Called { step: step.name().to_owned(), child: run, gives }, rows))
    }

    fn wants(&self, state: &State, call: Call, site: &Site) -> Result<Vec<Resource>, BoxError> {
        let locks = self.steps[call.step].locks().ok_or("it takes no locks: a mistake of the engine")?;
        let (input, outputs) = made_with::<In>(state, self.shape.outputs(state)).map_err(OwnFault::boxed)?;
        locks.wanted(&input, &outputs, site)
    }

    async fn local(&self, state: &State, call: Call, site: &Site, tx: &mut B::Tx) -> Answer {
        let with = made_with(state, self.shape.outputs(state));
        made(&*self.steps[call.step], with, call.undo, site, At::Tx(tx)).await
    }

    async fn staged(&self, state: &State, call: Call, site: &Site, staging: &mut Staging) -> Answer {
        let with = made_with(state, self.shape.outputs(state));
        made(&*self.steps[call.step], with, call.undo, site, At::Staged(staging)).await
    }

    fn remote(&self, state: State, call: Call, site: Site) -> BoxFuture<'static, Answer> {
        let (step, shape) = (self.steps[call.step].clone(), self.shape.steps[call.step].clone());
        let (saga, outputs) = (self.name, self.shape.outputs(&state));
        let made = async move {
            let Some(input) = &state.input else {
                return Answer::Failed(OwnFault::boxed("it has no input"));
            };
            let at = At::Outside(erased::outside(saga, &site, &shape, call.undo, input, &outputs));
            made(&*step, made_with::<In>(&state, outputs), call.undo, &site, at).await
        };
        made.boxed()
    }
}
