//! What follows what between a saga and those within it: pure, as all of the machine.

use std::collections::BTreeSet;
use std::time::Duration;

use es_core::Timestamp;

use super::child::IfItRefuses;
use super::machine::{Doable, Forward, Shape, Standing, State, cancelled};
use crate::By;
use crate::lock::Resource;
use crate::transaction::{Asked, Call, ChildIs, Errand, Kin, Look, Outcome, Record, Why, Word, cut};

/// What a run knows of itself as a child.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AsChild {
    /// Whose it is.
    pub(super) of: Option<Kin>,
    /// Whether it ends only when its parent does.
    pub(super) holds: bool,
    /// Whether it has said that all of it has run.
    pub(super) is_ready: bool,
    /// Since when it waits for its parent, and for how long it has.
    pub(super) since: Option<Timestamp>,
    pub(super) held: Duration,
    /// How its parent ends, if it is not undone with it.
    pub(super) told: Option<Outcome>,
    /// Its parent has asked for it to be undone, and has not heard yet that it is not.
    pub(super) asked: Option<Asked>,
    /// A person has it go forward, who knows how its parent ends.
    pub(super) is_kept: bool,
}

/// What a run knows of the run that a step of it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AsParent {
    pub(super) run: Option<Kin>,
    /// Which step of it gives its output; `None`: the one of today's code.
    gives: Option<String>,
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

    pub(super) fn began(&mut self, run: Kin, gives: Option<String>) {
        *self = Self { run: Some(run), gives, begun: self.begun + 1, ..Self::default() };
    }
}

impl AsChild {
    /// It has all of its steps behind it.
    pub(super) fn ready(&mut self, at: Timestamp) {
        (self.is_ready, self.since) = (true, Some(at));
    }

    /// It is known what becomes of it.
    pub(super) fn let_go(&mut self, at: Timestamp) {
        let since = self.since.take();
        self.held += since.and_then(|since| Duration::try_from(at - since).ok()).unwrap_or_default();
    }

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
            Some(_) => as_child.is_kept,
        };
        match as_child.holds && !is_let_go {
            true if !as_child.is_ready => look.records.push(Record::Ready {}),
            true => {}
            false => look.records.push(Record::Ended { outcome: Outcome::Completed }),
        }
    }

    /// The pivot, if that is a saga of its own that says whether it is undone, as far as is known.
    pub(super) fn deciding(&self, state: &State) -> Option<usize> {
        let of = |i: &usize| {
            let Standing { forward, child, .. } = &state.steps[*i];
            *forward == Forward::Maybe && child.open().is_some() && !child.has_refused
        };
        self.of_stage(self.pivot.filter(|_| !state.is_decided())?).find(of)
    }

    /// The same, if it was told that it is to be undone, and has not said what becomes of it.
    pub(super) fn told_before(&self, state: &State) -> Option<usize> {
        self.deciding(state).filter(|i| state.steps[*i].child.recalled.is_some())
    }

    /// The same, if it can be told to be undone.
    pub(super) fn recallable(&self, state: &State) -> Option<usize> {
        self.deciding(state).filter(|i| {
            let Standing { child, parked, .. } = &state.steps[*i];
            child.recalled.is_none() && parked.is_none()
        })
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
                refuses: false,
            }),
            (Some(_), None) => look.records.push(self.recalled(step, why.clone())),
            (Some(_), Some(_)) => look.calls.push(Call { step, undo: true }),
        }
    }

    pub(super) fn errand(&self, state: &State, call: Call) -> Option<Errand> {
        if self.steps[call.step].place == Doable::Locked {
            let claims = state.steps[call.step].claims.clone();
            return Some(claims.map_or(Errand::Claim, Errand::Granted));
        }
        let (gives, _) = self.child_of(call.step)?;
        let child = &state.steps[call.step].child;
        let run = if call.undo { child.run.as_ref() } else { child.open() };
        let gives = || child.gives.clone().unwrap_or_else(|| gives.to_owned());
        Some(run.map_or(Errand::Begin, |run| Errand::Look { child: run.clone(), gives: gives() }))
    }

    /// What comes of what has become of a child.
    pub(super) fn seen(&self, state: &State, call: Call, is: ChildIs) -> Option<Record> {
        let Standing { child, parked, .. } = &state.steps[call.step];
        let of = child.run.as_ref()?;
        let is_undone = matches!(is, ChildIs::Ended(Outcome::Undone(_) | Outcome::Abandoned { .. }, _));
        // Whatever else it is, a person is asked already.
        if parked.is_some() && !is_undone {
            return None;
        }
        let is_decided = matches!(is, ChildIs::Refuses | ChildIs::Ended(Outcome::Completed, _));
        if let Some(Asked { verb, by }) = state.as_child.asked.clone().filter(|_| is_decided && !call.undo) {
            // What its parent waits for has become of its own child.
            let why = format!("the pivot of {of} has run, or may have");
            return Some(Record::Declined { verb, by, why, unread: false });
        }
        if let Some(why) = child.recalled.as_ref().filter(|_| !call.undo && self.asks(state, call.step)) {
            let what = match &is {
                ChildIs::Refuses => Some(format!("the pivot of {of} has run, or may have")),
                ChildIs::Ended(Outcome::Completed, Some(_)) => Some(format!("{of} has completed")),
                _ => None,
            };
            if let Some(what) = what {
                let why = cut(&format!("{why}, and {what}: retry to go forward with it"));
                return Some(Record::Parked {
                    step: self.steps[call.step].name.to_owned(),
                    why,
                    refuses: true,
                });
            }
        }
        self.comes_of(state, call, of, is)
    }

    /// Whether a person is asked if the child of a step is not undone.
    fn asks(&self, state: &State, step: usize) -> bool {
        self.asks_if_it_refuses(step) && !state.steps[step].child.has_refused && !state.goes_forward()
    }

    /// What comes of what has become of a child, `of`, where nobody has to be asked whether it goes forward.
    fn comes_of(&self, state: &State, call: Call, of: &Kin, is: ChildIs) -> Option<Record> {
        let step = self.steps[call.step].name.to_owned();
        let parked =
            |why: String| Some(Record::Parked { step: step.clone(), why: cut(&why), refuses: false });
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
            // Whether it has acted is for a person to say.
            (ChildIs::Ended(Outcome::Abandoned { actor, .. }, _), false)
                if !self.is_before_pivot(call.step) =>
            {
                let why = cut(&format!("{of} was abandoned by {actor}"));
                Some(Record::Refused { step, why, maybe: true })
            }
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
            (ChildIs::Unread(why), _) => parked(why),
            (ChildIs::Refuses, false) | (ChildIs::Ready(_), true) | (ChildIs::Going, _) => None,
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
                // The others do not wait for it.
                let waits = state.steps.iter().enumerate().filter(|(i, _)| self.is_before_pivot(*i));
                let open = waits.filter_map(|(_, standing)| standing.child.open());
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
            // It was told before, and has not said anything yet.
            Outcome::Undone(_) if self.deciding(state).is_some_and(|i| state.steps[i].parked.is_none()) => {
                Ok(None)
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

    /// What its parent decides, or has decided, a person does not.
    pub(super) fn is_its_own(&self, state: &State) -> Result<(), String> {
        let AsChild { of: Some(of), holds: true, is_ready: true, told, .. } = &state.as_child else {
            return Ok(());
        };
        match told {
            None if !state.is_decided() => {
                Err(format!("all of it has run, and its parent says what becomes of it: ask that one, {of}"))
            }
            Some(Outcome::Completed) => Err(format!("its parent, {of}, has completed, and so does it")),
            _ => Ok(()),
        }
    }

    /// Why a step waits for a person whose run was abandoned.
    pub(super) fn why_left(&self, state: &State, step: usize, abandoned: &str) -> String {
        let what = match self.has_to_succeed(state, step) {
            true => "resolve it, or retry, which begins another run",
            false => "find out what it did, and resolve it, or skip it if its pivot has not run",
        };
        format!("{abandoned}: {what}")
    }

    /// What one waits for that has children, or a parent, or that wants locks.
    pub(super) fn waits_for_family(&self, state: &State, calls: &[Call]) -> Option<String> {
        if let Some(of) = state.as_child.of.as_ref().filter(|_| state.as_child.waits() && !state.is_decided())
        {
            return Some(format!("its parent, {of}, with which it ends, or is undone"));
        }
        let of = |call: &Call| match self.errand(state, *call)? {
            Errand::Begin | Errand::Claim => None,
            Errand::Granted(wanted) => {
                let wanted: Vec<String> = wanted.iter().map(Resource::to_string).collect();
                Some(format!("the lock {}", wanted.join(", ")))
            }
            Errand::Look { child, .. } => {
                let what = if call.undo { "undo of " } else { "" };
                Some(format!("the {what}{}, which is {child}", self.steps[call.step].name))
            }
        };
        let of: Vec<String> = calls.iter().map(of).collect::<Option<_>>()?;
        (!of.is_empty()).then(|| of.join(", "))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::super::machine::StepShape;
    use super::super::step::{Retry, Unknown};
    use super::*;
    use crate::data::Data;
    use crate::transaction::{Next, Parent, RunStatus, Verb, Written};

    const RUN: Uuid = Uuid::from_u128(7);

    /// A run, and what is written of it.
    pub(in crate::saga) struct Case {
        pub(in crate::saga) shape: Shape,
        pub(in crate::saga) state: State,
    }

    impl Case {
        pub(in crate::saga) fn new(places: &[Doable], pivot: Option<usize>, holds: Option<bool>) -> Self {
            let names = ["first", "next", "last"].into_iter().enumerate();
            let step = |((stage, name), place): ((usize, &'static str), &Doable)| StepShape {
                name,
                needs: Vec::new(),
                stage,
                place: *place,
                retry: Retry::default(),
                limit: Duration::from_secs(1),
                unknown: Unknown::Settle,
                refuses_for_good: false,
                acts_in_parts: false,
                is_staged: false,
                destination: None,
            };
            let steps = names.zip(places).map(step).collect();
            let shape = Shape::new(steps, places.len(), pivot);
            let mut case = Self { state: shape.begin(), shape };
            let parent = holds.map(|holds| Parent { of: kin("outer"), step: "within".to_owned(), holds });
            case.write(Record::Begun { input: output(), deadline: None, parent });
            case
        }

        pub(in crate::saga) fn write(&mut self, record: Record) {
            self.write_at(0, record);
        }

        fn write_at(&mut self, second: i64, record: Record) {
            let written = Written { at: Timestamp::from_second(second).unwrap(), record };
            self.shape.fold(&mut self.state, &written).unwrap();
        }

        /// Writes what follows, until calls are to be made, or it has ended. Gives the calls.
        pub(in crate::saga) fn go_on(&mut self) -> Vec<Call> {
            loop {
                let now = Timestamp::UNIX_EPOCH;
                match self.shape.next(RUN, &self.state, &BTreeSet::new(), now) {
                    Next::Append(records) => records.into_iter().for_each(|record| self.write(record)),
                    Next::Act { calls, .. } => return calls,
                    Next::Ended => return Vec::new(),
                }
            }
        }

        pub(in crate::saga) fn ask(&mut self, verb: Verb) -> Result<(), String> {
            self.ask_while(&[], verb)
        }

        /// The same while these calls are under way.
        pub(in crate::saga) fn ask_while(&mut self, busy: &[Call], verb: Verb) -> Result<(), String> {
            let asked = Asked { verb, by: by() };
            let records = self.shape.asked(&self.state, &busy.iter().copied().collect(), &asked)?;
            records.into_iter().for_each(|record| self.write(record));
            Ok(())
        }

        fn begin(&mut self, step: &str) {
            self.write(Record::Called { step: step.to_owned(), child: kin("inner"), gives: None });
        }

        /// A child is looked at that its parent does not undo.
        fn see(&mut self, step: usize, is: ChildIs) -> Option<Record> {
            let record = self.shape.seen(&self.state, Call { step, undo: false }, is)?;
            self.write(record.clone());
            Some(record)
        }

        fn parked(&self, step: usize) -> &str {
            self.state.steps[step].parked.as_deref().unwrap_or_default()
        }
    }

    fn kin(saga: &str) -> Kin {
        Kin { saga: saga.to_owned(), version: 1, key: "a".to_owned(), run: RUN }
    }

    fn by() -> By {
        By::new("ada".to_owned(), "because".to_owned(), RUN)
    }

    pub(in crate::saga) fn output() -> Data {
        Data::of(&1).unwrap()
    }

    fn undone() -> Outcome {
        Outcome::Undone(Why::Deadline)
    }

    fn abandoned() -> Outcome {
        Outcome::Abandoned { actor: "bob".to_owned(), reason: "because".to_owned() }
    }

    fn parent(ends: Outcome) -> Verb {
        Verb::Parent { ends }
    }

    const fn child(if_it_refuses: IfItRefuses) -> Doable {
        Doable::Child { gives: "some", if_it_refuses }
    }

    const CHILD: Doable = child(IfItRefuses::GoForward);

    /// A child all of which has run.
    fn ready() -> Case {
        let mut case = Case::new(&[Doable::Elsewhere], None, Some(true));
        case.write(Record::Done { step: "first".to_owned(), output: output() });
        case.go_on();
        assert!(case.state.as_child.waits());
        case
    }

    #[test]
    fn a_child_that_waits_for_its_parent_or_is_told_to_end_is_not_asked_for_anything_else() {
        let mut case = ready();
        for verb in [Verb::Cancel, Verb::GoForward] {
            assert!(case.ask(verb).unwrap_err().contains("its parent says what becomes of it"));
        }
        assert_eq!(case.ask(parent(Outcome::Completed)), Ok(()));
        for verb in [Verb::Cancel, Verb::GoForward] {
            assert!(case.ask(verb).unwrap_err().contains("has completed, and so does it"));
        }
        case.go_on();
        assert_eq!(case.state.outcome(), Some(&Outcome::Completed));
    }

    #[test]
    fn for_how_long_a_child_has_waited_for_its_parent_is_known() {
        let why = || Why::Deadline;
        let words = [
            Record::Resolved { verb: parent(Outcome::Completed), by: by() },
            Record::Decided { why: why(), open: Vec::new() },
        ];
        for word in words {
            let mut case = Case::new(&[Doable::Elsewhere], None, Some(true));
            case.write_at(3, Record::Done { step: "first".to_owned(), output: output() });
            case.write_at(5, Record::Ready {});
            case.write_at(65, word);
            case.write_at(70, Record::Ended { outcome: Outcome::Completed });
            assert_eq!(case.state.as_child.held, Duration::from_secs(60));
        }
    }

    #[test]
    fn an_orphan_waits_for_a_person_also_if_it_was_sent_forward_before() {
        let mut case = Case::new(&[Doable::Elsewhere], None, Some(true));
        assert_eq!(case.ask(Verb::GoForward), Ok(()));
        case.write(Record::Done { step: "first".to_owned(), output: output() });
        case.go_on();
        assert_eq!(case.ask(parent(abandoned())), Ok(()));
        assert_eq!((case.go_on(), case.state.outcome()), (Vec::new(), None));
        assert!(case.state.as_child.is_orphan());
        assert_eq!(case.ask(Verb::GoForward), Ok(()));
        case.go_on();
        assert_eq!(case.state.outcome(), Some(&Outcome::Completed));
    }

    #[test]
    fn a_cancellation_counts_also_if_it_was_sent_forward_before() {
        let words = [Verb::Cancel, parent(undone())];
        for verb in words {
            let mut case = Case::new(&[CHILD], Some(0), Some(false));
            case.begin("first");
            assert_eq!((case.ask(Verb::GoForward), case.ask(verb)), (Ok(()), Ok(())));
            let seen = case.see(0, ChildIs::Ended(undone(), None));
            assert!(matches!(seen, Some(Record::Refused { maybe: false, .. })), "{seen:?}");
            case.go_on();
            assert_eq!(case.state.outcome(), Some(&Outcome::Undone(cancelled(&by()))));
        }
        // Sent forward after it: the last word counts.
        let mut case = Case::new(&[CHILD], Some(0), None);
        case.begin("first");
        assert_eq!((case.ask(Verb::Cancel), case.ask(Verb::GoForward)), (Ok(()), Ok(())));
        let seen = case.see(0, ChildIs::Ended(undone(), None));
        assert!(matches!(seen, Some(Record::Failed { .. })), "{seen:?}");
    }

    #[test]
    fn a_refusal_is_said_to_the_parent_of_the_parent() {
        for decided in [ChildIs::Refuses, ChildIs::Ended(Outcome::Completed, Some(output()))] {
            // Told by a person before, and not.
            for verbs in [vec![parent(undone())], vec![Verb::Cancel, parent(undone())]] {
                let mut case = Case::new(&[CHILD, Doable::Elsewhere], Some(0), Some(false));
                case.begin("first");
                assert!(verbs.into_iter().all(|verb| case.ask(verb) == Ok(())));
                assert_eq!(case.see(0, ChildIs::Going), None);
                let said = case.see(0, decided.clone());
                let is_said =
                    matches!(&said, Some(Record::Declined { verb, .. }) if *verb == parent(undone()));
                assert!(is_said, "{said:?}");
                // Once.
                let then = case.see(0, decided.clone());
                assert!(!matches!(then, Some(Record::Declined { .. })), "{then:?}");
            }
        }
    }

    #[test]
    fn a_pivot_that_was_abandoned_is_resolved_or_skipped_by_a_person() {
        let left = ChildIs::Ended(abandoned(), None);
        let skip = || Verb::Skip { step: "next".to_owned() };
        let resolve = || Verb::Resolve { step: "next".to_owned(), output: output() };
        for if_it_refuses in [IfItRefuses::GoForward, IfItRefuses::Park] {
            for is_cancelled in [false, true] {
                for verb in [skip(), resolve()] {
                    let places = [Doable::Elsewhere, child(if_it_refuses), Doable::Elsewhere];
                    let mut case = Case::new(&places, Some(1), None);
                    case.write(Record::Done { step: "first".to_owned(), output: output() });
                    case.begin("next");
                    if is_cancelled {
                        assert_eq!(case.ask(Verb::Cancel), Ok(()));
                    }
                    assert!(matches!(case.see(1, left.clone()), Some(Record::Refused { maybe: true, .. })));
                    case.go_on();
                    assert!(case.parked(1).contains("resolve it, or skip it"), "{}", case.parked(1));
                    assert!(case.ask(Verb::Cancel).is_err());
                    // It may have acted: no other one begins.
                    assert_eq!(case.ask(Verb::Retry { step: None }), Ok(()));
                    assert_eq!(case.go_on(), Vec::new());
                    assert_eq!(case.ask(verb.clone()), Ok(()));
                    let is_skipped = verb == skip();
                    let next = if is_skipped { (0, true) } else { (2, false) };
                    assert_eq!(case.go_on(), [Call { step: next.0, undo: next.1 }]);
                }
            }
        }
    }

    #[test]
    fn a_child_behind_the_pivot_that_was_abandoned_is_followed_by_another_if_a_person_says_so() {
        let mut case = Case::new(&[Doable::Elsewhere, CHILD], Some(0), None);
        case.write(Record::Done { step: "first".to_owned(), output: output() });
        case.begin("next");
        assert!(case.see(1, ChildIs::Ended(abandoned(), None)).is_some());
        assert_eq!(case.go_on(), Vec::new());
        assert!(case.parked(1).contains("resolve it, or retry"), "{}", case.parked(1));
        assert_eq!(case.ask(Verb::Retry { step: None }), Ok(()));
        let calls = case.go_on();
        assert_eq!(case.shape.errand(&case.state, calls[0]), Some(Errand::Begin));
    }

    #[test]
    fn a_step_is_not_taken_for_run_while_its_run_goes_on() {
        let resolve = || Verb::Resolve { step: "first".to_owned(), output: output() };
        let mut case = Case::new(&[CHILD, Doable::Elsewhere], None, None);
        case.begin("first");
        assert!(case.ask(resolve()).unwrap_err().contains("is under way, as inner \"a\""));
        // What a person did in place of a run that is undone is not taken for undone with that.
        assert_eq!(case.ask(Verb::GoForward), Ok(()));
        assert!(matches!(case.see(0, ChildIs::Ended(undone(), None)), Some(Record::Failed { .. })));
        assert_eq!((case.ask(resolve()), case.ask(Verb::Cancel)), (Ok(()), Ok(())));
        assert_eq!(case.go_on(), Vec::new());
        assert!(case.parked(0).contains("undo it by hand"), "{}", case.parked(0));
    }

    #[test]
    fn only_what_waits_for_its_parent_is_told_how_that_ends() {
        let mut case = Case::new(&[CHILD, CHILD], Some(1), None);
        for (step, name) in ["first", "next"].into_iter().enumerate() {
            case.begin(name);
            assert!(case.see(step, ChildIs::Ready(output())).is_some());
        }
        let ended = Record::Ended { outcome: Outcome::Completed };
        assert_eq!(case.shape.words("outer", &case.state, &ended).len(), 1);
    }

    const NEXT: Call = Call { step: 1, undo: false };
    const UNDO_FIRST: Call = Call { step: 0, undo: true };

    /// Its second step decides, and a person is asked if that is not undone. It has begun.
    fn decided_within(is_cancelled: bool) -> Case {
        let places = [Doable::Elsewhere, child(IfItRefuses::Park), Doable::Elsewhere];
        let mut case = Case::new(&places, Some(1), None);
        case.write(Record::Done { step: "first".to_owned(), output: output() });
        case.begin("next");
        if is_cancelled {
            assert_eq!(case.ask(Verb::Cancel), Ok(()));
        }
        case
    }

    fn completed() -> ChildIs {
        ChildIs::Ended(Outcome::Completed, Some(output()))
    }

    #[test]
    fn a_person_is_asked_also_if_the_child_has_completed_before_it_heard() {
        let mut case = decided_within(true);
        let seen = case.see(1, completed());
        assert!(matches!(seen, Some(Record::Parked { .. })), "{seen:?}");
        case.go_on();
        assert!(case.parked(1).contains("has completed: retry to go forward with it"), "{}", case.parked(1));
        assert_eq!(case.see(1, completed()), None);
        assert_eq!(case.ask(Verb::Retry { step: None }), Ok(()));
        assert!(matches!(case.see(1, completed()), Some(Record::Done { .. })));
        assert_eq!(case.go_on(), [Call { step: 2, undo: false }]);
        // Nobody is asked who was not told to undo it, or has said since that it goes forward.
        assert!(matches!(decided_within(false).see(1, completed()), Some(Record::Done { .. })));
        let mut case = decided_within(true);
        assert_eq!(case.ask(Verb::GoForward), Ok(()));
        assert_eq!(case.see(1, ChildIs::Refuses), None);
        assert!(matches!(case.see(1, completed()), Some(Record::Done { .. })));
    }

    #[test]
    fn what_becomes_of_a_child_is_seen_also_while_a_person_is_asked() {
        let refuses = || {
            let mut case = decided_within(true);
            assert!(matches!(case.see(1, ChildIs::Refuses), Some(Record::Parked { .. })));
            assert_eq!(case.go_on(), [NEXT]);
            let (status, why) = case.shape.status(RUN, &case.state, Timestamp::UNIX_EPOCH);
            assert!(status == RunStatus::Parked && why.is_some(), "{status:?}");
            for is in [ChildIs::Going, ChildIs::Refuses, completed(), ChildIs::Unread("odd".to_owned())] {
                assert_eq!(case.see(1, is), None);
            }
            case
        };
        let mut case = refuses();
        assert!(case.see(1, ChildIs::Ended(undone(), None)).is_some());
        assert_eq!(case.go_on(), [UNDO_FIRST]);
        let mut case = refuses();
        assert!(case.see(1, ChildIs::Ended(abandoned(), None)).is_some());
        assert_eq!(case.go_on(), []);
        assert!(case.parked(1).contains("resolve it, or skip it"), "{}", case.parked(1));
    }

    #[test]
    fn a_pivot_is_not_taken_for_run_while_its_run_goes_on_whoever_is_asked() {
        let resolve = || Verb::Resolve { step: "next".to_owned(), output: output() };
        let mut case = decided_within(true);
        assert!(case.see(1, ChildIs::Refuses).is_some());
        assert!(case.ask(resolve()).unwrap_err().contains("is under way, as inner \"a\""));
        // If what it has left cannot be read, a person says what it is.
        for is_cancelled in [false, true] {
            let mut case = decided_within(is_cancelled);
            assert!(case.see(1, ChildIs::Unread("it has left no output".to_owned())).is_some());
            assert_eq!(case.go_on(), []);
            assert_eq!(case.ask(resolve()), Ok(()));
        }
    }

    #[test]
    fn a_child_that_was_told_before_is_not_told_again() {
        let mut case = decided_within(true);
        let why = case.ask(Verb::Cancel).unwrap_err();
        assert!(why.contains("next was told already"), "{why}");
        // Unless it was sent forward in between.
        assert_eq!((case.ask(Verb::GoForward), case.ask(Verb::Cancel)), (Ok(()), Ok(())));
        assert!(matches!(case.see(1, ChildIs::Ended(undone(), None)), Some(Record::Refused { .. })));
        assert_eq!(case.go_on(), [UNDO_FIRST]);
    }

    #[test]
    fn what_was_sent_forward_says_what_helps_now() {
        let mut case = decided_within(false);
        assert!(case.see(1, ChildIs::Ended(abandoned(), None)).is_some());
        assert_eq!(case.go_on(), []);
        assert_eq!(case.ask(Verb::GoForward), Ok(()));
        assert_eq!(case.go_on(), []);
        assert!(
            case.parked(1).contains("resolve it, or retry, which begins another run"),
            "{}",
            case.parked(1)
        );
    }

    #[test]
    fn a_child_that_waits_can_be_abandoned_and_is_undone_by_hand() {
        let mut case = ready();
        assert_eq!(case.ask(Verb::Abandon), Ok(()));
        case.go_on();
        assert!(matches!(case.state.outcome(), Some(Outcome::Abandoned { .. })));
        // The one around it hears of that if it is undone.
        let mut case = Case::new(&[CHILD, Doable::Elsewhere], Some(1), None);
        case.begin("first");
        assert!(case.see(0, ChildIs::Ready(output())).is_some());
        assert_eq!(case.ask(Verb::Cancel), Ok(()));
        assert_eq!(case.go_on(), [UNDO_FIRST]);
        let seen = case.shape.seen(&case.state, UNDO_FIRST, ChildIs::Ended(abandoned(), None));
        case.write(seen.unwrap());
        assert_eq!(case.go_on(), []);
        assert!(case.parked(0).contains("undo by hand what it did, and skip this"), "{}", case.parked(0));
        assert_eq!(case.ask(Verb::Skip { step: "first".to_owned() }), Ok(()));
        case.go_on();
        assert!(matches!(case.state.outcome(), Some(Outcome::Undone(_))));
    }
}
