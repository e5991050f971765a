//! Every state that a TCC can come to, with answers that are lost, calls that arrive twice or long after their node is gone,
//! nodes that crash in the middle of calls, a deadline and a cancellation at any time.

use std::collections::{BTreeSet, HashSet};
use std::fmt::{self, Write as _};
use std::time::Duration;

use es_core::Timestamp;
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3Default;

use super::machine::{BranchShape, Direction, Shape, State};
use crate::By;
use crate::data::Data;
use crate::saga::{Does, Retry};
use crate::transaction::{Answer, Asked, Call, Next, Outcome, Record, RunStatus, Verb, Written};

const RUN: Uuid = Uuid::from_u128(7);

/// What a participant knows of its branch: its guard row, or what stands for that where it is called by key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Row {
    #[default]
    None,
    Reserved,
    Confirmed,
    Cancelled,
    /// The cancel came first.
    Barred,
    Refused,
}

/// A TCC and what is around it.
#[derive(Clone, Debug)]
struct World {
    state: State,
    /// What is stored, if that is not what its node goes by.
    stored: Option<Box<State>>,
    busy: BTreeSet<Call>,
    /// Calls that nobody waits for: their node is gone, or they are repetitions. They may still arrive.
    astray: BTreeSet<Call>,
    rows: Vec<Row>,
    /// Whether the deadline has passed.
    late: bool,
    crashes: u32,
    /// How often a call was sent twice.
    repeated: u32,
    /// How often it was laid down: once is as good as often.
    holds: u32,
}

/// A way to build it wrong: each has to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// A cancel that comes first leaves nothing.
    NoTomb,
    /// A reservation runs though it was cancelled.
    NoGuard,
    /// Whoever takes it up forgets that the one before may have made calls.
    ForgetsCalls,
    /// A refusal of a repetition is taken for one of all calls.
    BelievesRefusals,
    /// A decision does not say which branches are being called.
    ForgetsOpenCalls,
    /// It confirms before the decision to do so is stored.
    ActsFirst,
    /// It confirms what has reserved while others have not.
    ConfirmsEarly,
    /// It is laid down while calls are under way.
    HoldsCalls,
    /// What was laid down is called without being taken up.
    ForgetsToTake,
}

struct Explorer {
    shape: Shape,
    fault: Fault,
    most_crashes: u32,
    most_repeated: u32,
    most_holds: u32,
    seen: HashSet<u128>,
    left: Vec<World>,
    has_completed: bool,
    /// Why it was cancelled.
    decided: BTreeSet<String>,
}

/// Makes a hash of what is written.
struct Digest(Xxh3Default);

impl fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

impl World {
    /// A hash of what makes a difference.
    fn digest(&self) -> u128 {
        let is_open = self.state.direction == Direction::Open;
        let alike = Self { state: self.state.clone().alike(), late: self.late && is_open, ..self.clone() };
        let mut digest = Digest(Xxh3Default::new());
        write!(digest, "{alike:?}").expect("it takes all");
        digest.0.digest128()
    }
}

fn at(late: bool) -> Timestamp {
    Timestamp::from_second(if late { 1_000 } else { 10 }).expect("a time")
}

fn branch(name: &'static str, is_local: bool, fault: Fault) -> BranchShape {
    let retry = Retry::default().pauses(Duration::ZERO, Duration::ZERO).tries(1);
    BranchShape {
        name,
        is_local,
        is_staged: false,
        retry: retry.late(1, Duration::from_secs(3_600)),
        limit: Duration::from_secs(1),
        refuses_for_good: fault == Fault::BelievesRefusals,
        destination: None,
    }
}

impl Explorer {
    fn new(branches: Vec<BranchShape>, fault: Fault, most_crashes: u32) -> Self {
        let (seen, left, decided) = (HashSet::new(), Vec::new(), BTreeSet::new());
        let (shape, most_repeated, most_holds) = (Shape { branches }, 0, 0);
        let has_completed = false;
        Self { shape, fault, most_crashes, most_repeated, most_holds, seen, left, has_completed, decided }
    }

    /// Visits every state. Gives what is wrong with the first one that is.
    fn explore(&mut self) -> Result<usize, String> {
        let mut world = World {
            state: self.shape.begin(),
            stored: None,
            busy: BTreeSet::new(),
            astray: BTreeSet::new(),
            rows: vec![Row::default(); self.shape.branches.len()],
            late: false,
            crashes: 0,
            repeated: 0,
            holds: 0,
        };
        let input = Data::of(&()).expect("null");
        self.write(&mut world, Record::Begun { input, deadline: Some(at(true)), parent: None })?;
        self.write(&mut world, Record::Taken {})?;
        self.left.push(world);
        while let Some(world) = self.left.pop() {
            if self.seen.insert(world.digest()) {
                self.visit(&world).map_err(|why| format!("{why}: {world:#?}"))?;
            }
        }
        Ok(self.seen.len())
    }

    fn write(&mut self, world: &mut World, record: Record) -> Result<(), String> {
        if let Record::Decided { why, .. } = &record {
            self.decided.insert(why.to_string());
        }
        let record = match record {
            Record::Decided { why, .. } if self.fault == Fault::ForgetsOpenCalls => {
                Record::Decided { why, open: Vec::new() }
            }
            record => record,
        };
        // What was not stored is, with the next record that is.
        world.stored = (self.fault == Fault::ActsFirst && record == Record::Agreed {})
            .then(|| Box::new(world.state.clone()));
        // When it was written makes no difference: nothing pauses.
        self.shape.fold(&mut world.state, &Written { at: at(false), record })
    }

    fn visit(&mut self, world: &World) -> Result<(), String> {
        self.is_whole(world)?;
        for call in world.astray.clone() {
            for (row, _) in self.arrives(world, call)? {
                let mut then = world.clone();
                then.astray.remove(&call);
                then.rows[self.shape.branch_of(call)] = row;
                self.left.push(then);
            }
        }
        match self.next(world) {
            Next::Ended => return self.holds_at_the_end(world),
            Next::Append(records) => {
                let mut then = world.clone();
                records.into_iter().try_for_each(|record| self.write(&mut then, record))?;
                self.left.push(then);
                // It can crash before that, or be asked for something.
                self.crash(world)?;
                return self.time_and_people(world);
            }
            Next::Act { calls, until } => {
                if calls.is_empty() && world.busy.is_empty() && until.is_none_or(|until| until >= at(true)) {
                    self.stands(world)?;
                }
                self.hold(world, &calls)?;
                for call in calls {
                    let mut then = world.clone();
                    let is_taken = !then.state.is_held() || self.fault == Fault::ForgetsToTake;
                    if !is_taken && self.is_outside(call) {
                        self.write(&mut then, Record::Taken {})?;
                    }
                    then.busy.insert(call);
                    self.left.push(then);
                }
            }
        }
        for call in world.busy.clone() {
            self.answer(world, call)?;
        }
        self.crash(world)?;
        self.time_and_people(world)
    }

    fn next(&self, world: &World) -> Next {
        let next = self.shape.next(RUN, &world.state, &world.busy, at(world.late));
        match next {
            Next::Act { mut calls, until } if self.fault == Fault::ConfirmsEarly => {
                let n = self.shape.branches.len();
                let is_early = |i: &usize| world.state.branches[*i].held().is_some();
                if world.state.direction == Direction::Open && calls.is_empty() {
                    calls.extend((0..n).filter(is_early).map(|i| Call { step: n + i, undo: false }));
                }
                Next::Act { calls, until }
            }
            next => next,
        }
    }

    fn is_outside(&self, call: Call) -> bool {
        !self.shape.branches[self.shape.branch_of(call)].is_local
    }

    /// Nothing goes on by itself: it waits for a person, and says so.
    fn stands(&mut self, world: &World) -> Result<(), String> {
        let (status, why) = self.shape.status(RUN, &world.state, at(world.late));
        let is_parked = world.state.parked().next().is_some();
        match is_parked && status == RunStatus::Parked && why.is_some() {
            true => self.retry(world),
            false => Err(format!("it stands, and is {status:?} because of {why:?}")),
        }
    }

    /// Who is to be called may be away: it is laid down, if no call is under way.
    fn hold(&mut self, world: &World, calls: &[Call]) -> Result<(), String> {
        let is_free = world.busy.is_empty() || self.fault == Fault::HoldsCalls;
        if is_free && world.holds < self.most_holds && calls.iter().any(|call| self.is_outside(*call)) {
            let mut then = World { holds: world.holds + 1, ..world.clone() };
            self.write(&mut then, Record::Held { steps: Vec::new() })?;
            self.left.push(then);
        }
        Ok(())
    }

    /// What comes of a call that arrives: what the participant knows then, and what it answers.
    fn arrives(&self, world: &World, call: Call) -> Result<Vec<(Row, Answer)>, String> {
        let done = || Answer::Done(Data::of(&1).expect("a number"));
        let failed = || Answer::Failed("no".into());
        let refused = || Answer::Refused("no".into());
        let row = world.rows[self.shape.branch_of(call)];
        Ok(match (self.shape.does(call), row) {
            (Does::Run, Row::None) => vec![(Row::Reserved, done()), (Row::Refused, refused())],
            // Where it is called by key, a repetition may be refused: it is less than before what there is to reserve.
            (Does::Run, Row::Reserved) if self.is_outside(call) => vec![(row, done()), (row, refused())],
            (Does::Run, Row::Reserved | Row::Confirmed)
            | (Does::Confirm, Row::Confirmed)
            | (Does::Undo, Row::Cancelled | Row::Barred | Row::Refused) => vec![(row, done())],
            (Does::Run, Row::Refused) => vec![(row, refused())],
            (Does::Run, Row::Cancelled | Row::Barred) if self.fault == Fault::NoGuard => {
                vec![(Row::Reserved, done())]
            }
            (Does::Run, Row::Cancelled | Row::Barred) => vec![(row, failed())],
            (Does::Confirm, Row::Reserved) => vec![(Row::Confirmed, done())],
            (Does::Confirm, _) => return Err(format!("it confirms what is {row:?}")),
            (Does::Undo, Row::None) if self.fault == Fault::NoTomb => vec![(row, done())],
            (Does::Undo, Row::None) => vec![(Row::Barred, done())],
            // Or it says that it cannot, as things are: a person is asked.
            (Does::Undo, Row::Reserved) => vec![(Row::Cancelled, done()), (row, refused())],
            (Does::Undo, Row::Confirmed) => return Err("it cancels what is confirmed".to_owned()),
        })
    }

    /// Each answer that a call can have.
    fn answer(&mut self, world: &World, call: Call) -> Result<(), String> {
        let i = self.shape.branch_of(call);
        let mut answers = vec![(world.rows[i], Answer::Failed("no".into()))];
        for (row, answer) in self.arrives(world, call)? {
            // What is done here is known.
            if self.is_outside(call) {
                answers.push((row, Answer::Failed("no".into())));
            }
            answers.push((row, answer));
        }
        // What a failure says makes no difference.
        for (row, answer) in answers {
            let mut then = world.clone();
            then.busy.remove(&call);
            then.rows[i] = row;
            let record = self.shape.answered(&then.state, call, answer);
            self.write(&mut then, record)?;
            if then.repeated < self.most_repeated && self.is_outside(call) {
                let mut twice = World { repeated: then.repeated + 1, ..then.clone() };
                twice.astray.insert(call);
                self.left.push(twice);
            }
            self.left.push(then);
        }
        Ok(())
    }

    /// The node is gone. Each call under way may still arrive; what was done in the journal's database was not.
    fn crash(&mut self, world: &World) -> Result<(), String> {
        if world.crashes == self.most_crashes {
            return Ok(());
        }
        let mut then = World { crashes: world.crashes + 1, busy: BTreeSet::new(), ..world.clone() };
        then.astray.extend(world.busy.iter().filter(|call| self.is_outside(**call)));
        // If it only hangs, it makes the calls later that it was about to make.
        if !world.state.is_held() {
            then.astray.extend(self.next(world).calls().into_iter().filter(|call| self.is_outside(*call)));
        }
        if let Some(stored) = then.stored.take() {
            then.state = *stored;
        }
        if self.shape.calls_outside(&then.state) && self.fault != Fault::ForgetsCalls {
            self.write(&mut then, Record::Taken {})?;
        }
        self.left.push(then);
        Ok(())
    }

    fn time_and_people(&mut self, world: &World) -> Result<(), String> {
        if world.state.direction == Direction::Open {
            self.left.push(World { late: true, ..world.clone() });
        }
        let mut then = world.clone();
        let asked = Asked { verb: Verb::Cancel, by: by() };
        if let Ok(records) = self.shape.asked(&then.state, &then.busy, &asked) {
            records.into_iter().try_for_each(|record| self.write(&mut then, record))?;
            self.left.push(then);
        }
        Ok(())
    }

    /// A person has it tried again.
    fn retry(&mut self, world: &World) -> Result<(), String> {
        let mut then = world.clone();
        let asked = Asked { verb: Verb::Retry { step: None }, by: by() };
        let records = self.shape.asked(&then.state, &then.busy, &asked)?;
        records.into_iter().try_for_each(|record| self.write(&mut then, record))?;
        self.left.push(then);
        Ok(())
    }

    /// Whatever it has come to: none is confirmed beside one that is cancelled.
    fn is_whole(&self, world: &World) -> Result<(), String> {
        let is = |of: &[Row]| world.rows.iter().any(|row| of.contains(row));
        let is_mixed = is(&[Row::Confirmed]) && is(&[Row::Cancelled, Row::Barred, Row::Refused, Row::None]);
        if is_mixed { Err("one is confirmed, and another is not".to_owned()) } else { Ok(()) }
    }

    /// What has ended stays as it is: what arrives now changes nothing.
    fn holds_at_the_end(&mut self, world: &World) -> Result<(), String> {
        let outcome = world.state.outcome().ok_or("it has ended without an outcome")?;
        self.has_completed |= *outcome == Outcome::Completed;
        let is_right = |row: &Row| match outcome {
            Outcome::Completed => *row == Row::Confirmed,
            _ => matches!(row, Row::Cancelled | Row::Barred | Row::Refused),
        };
        for (i, row) in world.rows.iter().enumerate() {
            let is_left = *row == Row::None && *outcome != Outcome::Completed;
            let may_come = world.astray.contains(&Call { step: i, undo: false });
            if !(is_right(row) || is_left && !may_come) {
                return Err(format!("{outcome}, and {} is {row:?}", self.shape.branches[i].name));
            }
        }
        Ok(())
    }
}

fn by() -> By {
    By::new("ada".to_owned(), "because".to_owned(), RUN)
}

#[test]
fn a_reservation_that_fails_once_it_is_decided_is_no_failure_of_its_cancel() {
    let shape = explorer(&[false], Fault::None, 0).shape;
    let (mut state, input) = (shape.begin(), Data::of(&()).expect("null"));
    let busy = BTreeSet::from([Call { step: 0, undo: false }]);
    let mut records = vec![Record::Begun { input, deadline: None, parent: None }, Record::Taken {}];
    let asked = Asked { verb: Verb::Cancel, by: by() };
    records.extend(shape.asked(&state, &busy, &asked).expect("it is open"));
    records.push(Record::Failed { step: "one".to_owned(), undo: false, error: "away".to_owned() });
    for record in records {
        shape.fold(&mut state, &Written { at: at(false), record }).expect("its own records");
    }
    // One failure is all that is borne, and was not one of the cancel.
    let cancel = vec![Call { step: 0, undo: true }];
    assert_eq!(
        shape.next(RUN, &state, &BTreeSet::new(), at(false)),
        Next::Act { calls: cancel, until: None }
    );
}

#[test]
fn what_is_never_to_be_tried_is_tried_once() {
    let mut shape = explorer(&[false], Fault::None, 0).shape;
    shape.branches[0].retry = Retry::default().tries(0);
    let (state, reserve) = (shape.begin(), vec![Call { step: 0, undo: false }]);
    assert_eq!(
        shape.next(RUN, &state, &BTreeSet::new(), at(false)),
        Next::Act { calls: reserve, until: None }
    );
}

/// In the database of the journal, if that is said; elsewhere.
fn explorer(places: &[bool], fault: Fault, most_crashes: u32) -> Explorer {
    let branches = ["one", "two", "three"].into_iter().zip(places);
    Explorer::new(
        branches.map(|(name, is_local)| branch(name, *is_local, fault)).collect(),
        fault,
        most_crashes,
    )
}

/// Gives why it was cancelled, each time.
fn explore(mut explorer: Explorer, least: usize) -> BTreeSet<String> {
    let states = explorer.explore().unwrap_or_else(|why| panic!("{why}"));
    assert!(states > least && explorer.has_completed, "{states}");
    explorer.decided
}

#[test]
fn a_branch_by_itself_is_confirmed_or_cancelled() {
    let mut one = explorer(&[false], Fault::None, 2);
    (one.most_repeated, one.most_holds) = (1, 1);
    let retry = Retry::default().pauses(Duration::ZERO, Duration::ZERO).tries(2);
    one.shape.branches[0].retry = retry.late(2, Duration::from_secs(3_600));
    let why = explore(one, 1_000);
    let all = ["its deadline passed", "cancelled by ada: because", "one was refused: no", "one failed: no"];
    assert!(all.iter().all(|of| why.contains(*of)), "{why:?}");
}

#[test]
fn two_branches_are_both_confirmed_or_neither_is() {
    for places in [[false, false], [true, false], [true, true]] {
        explore(explorer(&places, Fault::None, 1), 20);
    }
}

#[test]
fn two_branches_may_be_called_twice_and_laid_down() {
    for (repeated, holds) in [(1, 0), (0, 1)] {
        let mut two = explorer(&[true, false], Fault::None, 1);
        (two.most_repeated, two.most_holds) = (repeated, holds);
        explore(two, 1_000);
    }
}

#[test]
fn three_branches_are_all_confirmed_or_none_is() {
    explore(explorer(&[false, true, true], Fault::None, 1), 1_000);
}

#[test]
fn what_is_built_wrong_is_found() {
    let faults = [Fault::NoTomb, Fault::NoGuard, Fault::ForgetsCalls, Fault::BelievesRefusals];
    let others = [Fault::ForgetsOpenCalls, Fault::ActsFirst, Fault::ConfirmsEarly];
    for fault in faults.into_iter().chain(others).chain([Fault::HoldsCalls, Fault::ForgetsToTake]) {
        let mut wrong = explorer(&[false, false], fault, 1);
        wrong.most_holds = u32::from(matches!(fault, Fault::HoldsCalls | Fault::ForgetsToTake));
        assert!(wrong.explore().is_err(), "{fault:?}");
    }
}

#[test]
fn a_tcc_has_no_relatives() {
    let golden = include_str!("../../tests/golden/txn-journal-family.json");
    let records: Vec<Written> = serde_json::from_str(golden).expect("records");
    let of_a_family = |record: &Record| !matches!(record, Record::Resolved { .. } | Record::Declined { .. });
    let records = records.into_iter().filter(|written| of_a_family(&written.record));
    for written in records {
        let shape = explorer(&[false], Fault::None, 0).shape;
        let error = shape.fold(&mut shape.begin(), &written).expect_err("it is none of a TCC");
        assert_eq!(error, "it is a record of a saga within a saga", "{written:?}");
    }
}
