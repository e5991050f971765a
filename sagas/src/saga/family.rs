//! What follows what between a saga and those within it: pure, as all of the machine.

use std::collections::BTreeSet;

use es_core::Timestamp;

use super::child::IfItRefuses;
use super::machine::{Doable, Forward, Look, Shape, Standing, State, cancelled, cut};
use crate::By;
use crate::transaction::{Call, ChildIs, Errand, Kin, Outcome, Record, Why, Word};

/// What a run knows of itself as a child.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AsChild {
    /// Whose it is.
    pub(super) of: Option<Kin>,
    /// Whether it ends only when its parent does.
    pub(super) holds: bool,
    /// Whether it has said that all of it has run.
    pub(super) is_ready: bool,
    /// How its parent ends, if it is not undone with it.
    pub(super) told: Option<Outcome>,
}

/// What a run knows of the run that a step of it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AsParent {
    pub(super) run: Option<Kin>,
    /// How many have begun.
    pub(super) begun: u32,
    /// Whether nothing more comes of it.
    pub(super) is_over: bool,
    /// It was told that it is to be undone: why.
    pub(super) recalled: Option<Why>,
    /// A person was told that it refuses.
    pub(super) has_refused: bool,
}

impl AsParent {
    /// A run of which something may yet come.
    pub(super) fn open(&self) -> Option<&Kin> {
        self.run.as_ref().filter(|_| !self.is_over)
    }

    pub(super) fn began(&mut self, run: Kin) {
        *self = Self { run: Some(run), begun: self.begun + 1, ..Self::default() };
    }
}

impl AsChild {
    /// Whether it stands until its parent ends.
    pub(super) fn waits(&self) -> bool {
        self.holds && self.is_ready && self.told.is_none()
    }

    /// Whether nobody but a person says what becomes of it.
    pub(super) fn is_orphan(&self) -> bool {
        self.holds && self.is_ready && !matches!(self.told, None | Some(Outcome::Completed))
    }

    /// Why a person has to say what becomes of it.
    pub(super) fn why_orphan(&self) -> Option<String> {
        let of = self.of.as_ref().filter(|_| self.is_orphan())?;
        let ends = self.told.as_ref()?;
        Some(format!(
            "all of it has run, and its parent, {of}, leaves it: {ends}; cancel it, or have it go forward"
        ))
    }
}

impl Shape {
    pub(super) fn child_of(&self, step: usize) -> Option<(&'static str, IfItRefuses)> {
        match self.steps[step].place {
            Doable::Child { gives, if_it_refuses } => Some((gives, if_it_refuses)),
            _ => None,
        }
    }

    /// Whether a step has to succeed: it is behind the pivot, or a person has decided that it all goes forward.
    pub(super) fn has_to_succeed(&self, state: &State, step: usize) -> bool {
        state.goes_forward() || !self.is_before_pivot(step) && !self.is_pivot(step)
    }

    /// All steps have run. One that its parent can still undo waits for that.
    pub(super) fn all_done(&self, state: &State, look: &mut Look) {
        let as_child = &state.as_child;
        let is_let_go = match &as_child.told {
            None => false,
            Some(Outcome::Completed) => true,
            // A person has said so.
            Some(_) => state.goes_forward(),
        };
        match as_child.holds && !is_let_go {
            true if !as_child.is_ready => look.records.push(Record::Ready {}),
            true => {}
            false => look.records.push(Record::Ended { outcome: Outcome::Completed }),
        }
    }

    /// The pivot, if that is a saga of its own that can be told to be undone.
    pub(super) fn recallable(&self, state: &State) -> Option<usize> {
        let of = |i: &usize| {
            let Standing { forward, child, .. } = &state.steps[*i];
            *forward == Forward::Maybe && child.open().is_some() && child.recalled.is_none()
        };
        self.of_stage(self.pivot.filter(|_| !state.is_decided())?).find(of)
    }

    /// Its deadline is passed on to a pivot that is a saga of its own.
    pub(super) fn look_at_deadline(&self, state: &State, now: Timestamp, look: &mut Look) {
        let step = self.recallable(state).filter(|_| !state.goes_forward());
        match (step, state.deadline) {
            (Some(i), Some(deadline)) if deadline <= now => {
                look.records.push(self.recalled(i, Why::Deadline));
            }
            (Some(_), Some(deadline)) => look.waits(deadline),
            _ => {}
        }
    }

    /// Why one of these steps was told to be undone, and has not run.
    pub(super) fn was_recalled(&self, state: &State, stage: usize) -> Option<Why> {
        let of = |i: usize| state.steps[i].child.recalled.clone().filter(|_| state.steps[i].child.is_over);
        self.of_stage(stage).find_map(of)
    }

    /// Whether a person is asked if a child is not undone.
    pub(super) fn asks_if_it_refuses(&self, step: usize) -> bool {
        self.child_of(step).is_some_and(|(_, if_it_refuses)| if_it_refuses == IfItRefuses::Park)
    }

    pub(super) fn recalled(&self, step: usize, why: Why) -> Record {
        Record::Recalled { step: self.steps[step].name.to_owned(), why }
    }

    /// How what a step that is a saga of its own has done is undone: it is told to, and looked at.
    pub(super) fn undo_child(&self, step: usize, standing: &Standing, why: &Why, look: &mut Look) {
        let name = self.steps[step].name;
        match (&standing.child.run, &standing.child.recalled) {
            (None, _) => look.records.push(Record::Parked {
                step: name.to_owned(),
                why: "it was taken for run, and is no saga that can be told: undo it by hand, and skip it"
                    .to_owned(),
            }),
            (Some(_), None) => look.records.push(self.recalled(step, why.clone())),
            (Some(_), Some(_)) => look.calls.push(Call { step, undo: true }),
        }
    }

    pub(super) fn errand(&self, state: &State, call: Call) -> Option<Errand> {
        let (gives, _) = self.child_of(call.step)?;
        let child = &state.steps[call.step].child;
        let run = if call.undo { child.run.as_ref() } else { child.open() };
        Some(run.map_or(Errand::Begin, |child| Errand::Look { child: child.clone(), gives }))
    }

    /// What comes of what has become of a child.
    pub(super) fn seen(&self, state: &State, call: Call, is: ChildIs) -> Option<Record> {
        let (_, if_it_refuses) = self.child_of(call.step)?;
        let (child, name) = (&state.steps[call.step].child, self.steps[call.step].name);
        let (of, step) = (child.run.as_ref()?, name.to_owned());
        let parked = |why: String| Some(Record::Parked { step: name.to_owned(), why: cut(&why) });
        match (is, call.undo) {
            (ChildIs::Ready(output) | ChildIs::Ended(Outcome::Completed, Some(output)), false) => {
                Some(Record::Done { step, output })
            }
            (ChildIs::Ended(Outcome::Undone(why), _), false) => {
                let error = cut(&why.to_string());
                Some(match self.has_to_succeed(state, call.step) {
                    true => Record::Failed { step, undo: false, error },
                    false => Record::Refused { step, why: error, maybe: false },
                })
            }
            (ChildIs::Ended(Outcome::Undone(_), _), true) => Some(Record::Undone { step }),
            (ChildIs::Ended(Outcome::Abandoned { actor, .. }, _), undo) => {
                let what =
                    if undo { "undo by hand what it did, and skip this" } else { "resolve this, or cancel" };
                parked(format!("{of} was abandoned by {actor}: {what}"))
            }
            (ChildIs::Ended(..), _) => {
                parked(format!("{of} has completed, and is not undone: undo it by hand, and skip this"))
            }
            (ChildIs::Refuses, true) => {
                parked(format!("the pivot of {of} has run, or may have: it is not undone"))
            }
            (ChildIs::Refuses, false) => {
                let is_new =
                    child.recalled.is_some() && !child.has_refused && if_it_refuses == IfItRefuses::Park;
                let why = child.recalled.as_ref().filter(|_| is_new)?;
                parked(format!(
                    "{why}, and the pivot of {of} has run, or may have: retry to go forward with it"
                ))
            }
            (ChildIs::Unread(why), _) => parked(why),
            (ChildIs::Ready(_), true) | (ChildIs::Going, _) => None,
        }
    }

    /// What children are told with a record.
    pub(super) fn words(&self, saga: &str, state: &State, record: &Record) -> Vec<Word> {
        let actor = format!("saga {saga}");
        match record {
            Record::Recalled { step, why } => {
                let step = self.place_of(step).ok().and_then(|i| state.steps[i].child.run.as_ref());
                let (reason, ends) = (cut(&why.to_string()), Outcome::Undone(why.clone()));
                step.map(|to| Word { to: to.clone(), ends, actor, reason }).into_iter().collect()
            }
            Record::Ended { outcome } => {
                let reason = cut(&outcome.to_string());
                let ends = match outcome {
                    // It was skipped: somebody says what becomes of it.
                    Outcome::Undone(_) => Outcome::Abandoned { actor: actor.clone(), reason: reason.clone() },
                    outcome => outcome.clone(),
                };
                let open = state.steps.iter().filter_map(|standing| standing.child.open());
                let word = |to: &Kin| Word {
                    to: to.clone(),
                    ends: ends.clone(),
                    actor: actor.clone(),
                    reason: reason.clone(),
                };
                open.map(word).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What comes of what its parent says.
    pub(super) fn hears(
        &self,
        state: &State,
        busy: &BTreeSet<Call>,
        ends: &Outcome,
        by: &By,
    ) -> Result<Option<Record>, String> {
        match ends {
            _ if state.as_child.of.is_none() => Err("it has no parent".to_owned()),
            Outcome::Undone(_) if state.is_decided() || state.is_abandoned() => Ok(None),
            Outcome::Undone(_) if let Some(step) = self.recallable(state) => {
                Ok(Some(self.recalled(step, cancelled(by))))
            }
            Outcome::Undone(_) if self.can_be_undone(state, busy) => {
                Ok(Some(self.decided(cancelled(by), busy)))
            }
            Outcome::Undone(_) => {
                Err("the pivot has run, or may have: it only goes forward from there".to_owned())
            }
            _ => Ok(None),
        }
    }

    /// What its parent decides, a person does not.
    pub(super) fn is_its_own(&self, state: &State) -> Result<(), String> {
        match &state.as_child.of {
            Some(of) if state.as_child.waits() => {
                Err(format!("all of it has run, and its parent says what becomes of it: ask that one, {of}"))
            }
            _ => Ok(()),
        }
    }

    /// What one waits for that has children, or a parent.
    pub(super) fn waits_for_family(&self, state: &State, calls: &[Call]) -> Option<String> {
        if let Some(of) = state.as_child.of.as_ref().filter(|_| state.as_child.waits() && !state.is_decided())
        {
            return Some(format!("its parent, {of}, with which it ends, or is undone"));
        }
        let of = |call: &Call| match self.errand(state, *call)? {
            Errand::Begin => None,
            Errand::Look { child, .. } => {
                let what = if call.undo { "undo of " } else { "" };
                Some(format!("the {what}{}, which is {child}", self.steps[call.step].name))
            }
        };
        let of: Vec<String> = calls.iter().map(of).collect::<Option<_>>()?;
        (!of.is_empty()).then(|| of.join(", "))
    }
}
