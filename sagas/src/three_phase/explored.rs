//! Every state that a three-phase commit can come to, with calls that are lost, that arrive twice or long after their node is
//! gone, nodes and participants that crash, participants that reach each other or do not, and time-outs at any moment.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use es_core::Timestamp;
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3Default;

use super::machine::{Direction, Does, PartyShape, Phase, Shape, State};
use super::standing::{Standing, Then, Told, asks_for};
use crate::By;
use crate::data::Data;
use crate::saga::Retry;
use crate::transaction::{Answer, Asked, Call, Next, Outcome, Record, RunStatus, Verb, Written};
use crate::two_phase::Decision;

const RUN: Uuid = Uuid::from_u128(7);

/// A participant's round, once it has waited for too long. It lives in its memory: a crash ends it, and it may begin again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Round {
    #[default]
    None,
    /// It asks the others. Which of them it has heard of, and whether one knows that all have voted yes. Whom it has not
    /// heard of it may not reach, ever.
    Asks { heard: u8, knows: bool },
    /// It has read a decision, and goes by it.
    Goes(Decision),
}

/// A participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    standing: Standing,
    round: Round,
}

/// A transaction and what is around it.
#[derive(Clone, Debug)]
struct World {
    state: State,
    busy: BTreeSet<Call>,
    /// Calls that nobody waits for: their node is gone, or they are repetitions. They may still arrive.
    astray: BTreeSet<Call>,
    places: Vec<Place>,
    /// The row that can be inserted once.
    row: Option<Decision>,
    /// Whether the deadline has passed.
    late: bool,
    crashes: u8,
    /// How often a call was sent twice.
    repeated: u8,
    /// How many rounds were begun.
    rounds: u8,
}

/// A way to build it wrong: each has to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The textbook: a participant that waits for too long decides by itself, to commit if it is pre-committed.
    TimeOutDecides,
    /// A participant asks all others, and goes by what it has heard. It inserts nothing.
    InsertsNothing,
    /// The same, and one that it does not reach is taken for one that is not pre-committed.
    UnreachedIsUnaware,
    /// It tells participants that all have voted while they have not.
    PreCommitsEarly,
    /// It commits once all are pre-committed, and does not ask whether that is decided.
    CommitsUndecided,
    /// It takes what it has asked for as decided.
    ReadsNothing,
}

#[expect(clippy::struct_excessive_bools, reason = "what is allowed in a search, each by itself")]
struct Explorer {
    shape: Shape,
    fault: Fault,
    most_crashes: u8,
    most_repeated: u8,
    most_rounds: u8,
    /// Whether calls and answers may be lost.
    loses: bool,
    /// Whether an operator may cancel it.
    cancels: bool,
    /// Whether what has to succeed may fail for so long that an operator is asked.
    parks: bool,
    /// Whether a participant may lose its vote before it is told that all have voted.
    forgets: bool,
    seen: HashSet<u128>,
    left: Vec<World>,
    ended: BTreeSet<String>,
    /// Why it was aborted.
    why: BTreeSet<String>,
    /// What was decided by a participant, before the coordinator asked.
    by_participants: BTreeSet<Decision>,
}

impl World {
    /// A hash of what makes a difference.
    fn digest(&self) -> u128 {
        let is_open = self.state.direction == Direction::Open;
        let mut digest = Xxh3Default::new();
        digest.update(&self.state.mark());
        for calls in [&self.busy, &self.astray] {
            let calls: Vec<u8> =
                calls.iter().flat_map(|call| [small(call.step), u8::from(call.undo)]).collect();
            digest.update(&calls);
            digest.update(&[u8::MAX]);
        }
        for Place { standing, round } in &self.places {
            let round = match round {
                Round::None => [0, 0, 0],
                Round::Asks { heard, knows } => [1, *heard, u8::from(*knows)],
                Round::Goes(decision) => [2, *decision as u8, 0],
            };
            digest.update(&[*standing as u8]);
            digest.update(&round);
        }
        let row = self.row.map_or(2, |row| row as u8);
        digest.update(&[row, u8::from(self.late && is_open), self.crashes, self.repeated, self.rounds]);
        digest.digest128()
    }
}

fn small(number: usize) -> u8 {
    u8::try_from(number).expect("there are few")
}

fn at(late: bool) -> Timestamp {
    Timestamp::from_second(if late { 1_000 } else { 10 }).expect("a time")
}

fn party(name: &str) -> PartyShape {
    let retry = Retry::default().pauses(Duration::ZERO, Duration::ZERO).tries(1);
    PartyShape {
        name: name.to_owned(),
        retry: retry.late(1, Duration::from_secs(3_600)),
        limit: Duration::from_secs(1),
        destination: None,
    }
}

impl Explorer {
    fn new(parties: usize, fault: Fault) -> Self {
        let parties = ["one", "two", "three"].into_iter().take(parties).map(party).collect();
        Self {
            shape: Shape { parties },
            fault,
            most_crashes: 0,
            most_repeated: 0,
            most_rounds: u8::MAX,
            loses: true,
            cancels: false,
            parks: false,
            forgets: false,
            seen: HashSet::new(),
            left: Vec::new(),
            ended: BTreeSet::new(),
            why: BTreeSet::new(),
            by_participants: BTreeSet::new(),
        }
    }

    /// Visits every state. Gives what is wrong with the first one that is.
    fn explore(&mut self) -> Result<usize, String> {
        let place = Place { standing: Standing::Unvoted, round: Round::None };
        let mut world = World {
            state: self.shape.begin(),
            busy: BTreeSet::new(),
            astray: BTreeSet::new(),
            places: vec![place; self.shape.parties.len()],
            row: None,
            late: false,
            crashes: 0,
            repeated: 0,
            rounds: 0,
        };
        let input = Data::of(&()).expect("null");
        self.write(&mut world, Record::Begun { input, deadline: Some(at(true)), parent: None })?;
        self.goes_to(world);
        while let Some(world) = self.left.pop() {
            self.visit(&world).map_err(|why| format!("{why}: {world:#?}"))?;
        }
        Ok(self.seen.len())
    }

    /// A state that it can come to: it is visited, once.
    fn goes_to(&mut self, mut world: World) {
        // What finds nothing to do when it arrives never will: nobody goes back.
        let World { astray, places, .. } = &mut world;
        astray.retain(|call| match (self.shape.does(*call), self.shape.party_of(*call)) {
            (Does::CanCommit(_), Some(i)) => places[i].standing == Standing::Unvoted,
            (does, Some(i)) => told(does)
                .is_none_or(|told| matches!(places[i].standing.then(told), Then::Goes(_) | Then::Odd)),
            (_, None) => false,
        });
        if self.seen.insert(world.digest()) {
            self.left.push(world);
        }
    }

    fn write(&mut self, world: &mut World, record: Record) -> Result<(), String> {
        if let Record::Decided { why, .. } = &record {
            self.why.insert(why.to_string());
        }
        // When it was written makes no difference: nothing pauses.
        self.shape.fold(&mut world.state, &Written { at: at(false), record })
    }

    fn visit(&mut self, world: &World) -> Result<(), String> {
        is_whole(world)?;
        self.participants(world);
        self.forget(world);
        for call in world.astray.clone() {
            for (place, _) in self.arrives(world, call)? {
                let mut then = world.clone();
                then.astray.remove(&call);
                self.stands(&mut then, call, place);
                self.goes_to(then);
            }
        }
        match self.next(world) {
            Next::Ended => return self.holds_at_the_end(world),
            Next::Append(records) => {
                let mut then = world.clone();
                records.into_iter().try_for_each(|record| self.write(&mut then, record))?;
                self.goes_to(then);
            }
            Next::Act { calls, until } => {
                if calls.is_empty() && world.busy.is_empty() && until.is_none_or(|until| until >= at(true)) {
                    self.waits(world)?;
                }
                // One after the other or all at the same time makes no difference: they arrive when they like.
                let (decide, outside): (Vec<Call>, Vec<Call>) =
                    calls.into_iter().partition(|call| self.shape.party_of(*call).is_none());
                if let Some(call) = decide.first() {
                    self.decide(world, *call)?;
                }
                if !outside.is_empty() {
                    let mut then = world.clone();
                    then.busy.extend(outside);
                    self.goes_to(then);
                }
            }
        }
        for call in world.busy.clone() {
            self.answer(world, call)?;
        }
        self.crash(world);
        self.time_and_people(world)
    }

    fn next(&self, world: &World) -> Next {
        let next = self.shape.next(RUN, &world.state, &world.busy, at(world.late));
        let is_open = world.state.direction == Direction::Open;
        let early = |phase: Phase, does: fn(usize) -> Does| {
            let all = world.state.parties.iter().enumerate().filter(move |(_, party)| party.phase == phase);
            all.map(move |(i, _)| self.shape.call(does(i))).filter(|call| !world.busy.contains(call))
        };
        match (next, self.fault) {
            (Next::Act { mut calls, until }, Fault::PreCommitsEarly) if is_open => {
                calls.extend(early(Phase::Voted, Does::PreCommit));
                calls.sort();
                calls.dedup();
                Next::Act { calls, until }
            }
            (Next::Act { .. }, Fault::CommitsUndecided)
                if is_open && world.state.all(Phase::PreCommitted) =>
            {
                Next::Act { calls: early(Phase::PreCommitted, Does::DoCommit).collect(), until: None }
            }
            (next, _) => next,
        }
    }

    /// What participants do by themselves: one that has waited for too long.
    fn participants(&mut self, world: &World) {
        for (i, place) in world.places.iter().enumerate() {
            let mut then = world.clone();
            match place.round {
                Round::None if place.standing.is_in_doubt() && world.rounds < self.most_rounds => {
                    then.rounds += u8::from(self.most_rounds < u8::MAX);
                    match self.fault {
                        Fault::TimeOutDecides => {
                            then.places[i].standing = match place.standing {
                                Standing::PreCommitted => Standing::Committed,
                                _ => Standing::Aborted,
                            };
                        }
                        _ => {
                            let knows = place.standing == Standing::PreCommitted;
                            then.places[i].round = Round::Asks { heard: 0, knows };
                        }
                    }
                    self.goes_to(then);
                }
                Round::None => {}
                Round::Asks { heard, knows } => self.asks(world, i, heard, knows),
                Round::Goes(decision) => {
                    then.places[i].round = Round::None;
                    let told = if decision == Decision::Commit { Told::DoCommit } else { Told::Abort };
                    if let Then::Goes(standing) = place.standing.then(told) {
                        then.places[i].standing = standing;
                    }
                    self.goes_to(then);
                }
            }
            // It crashes, or gives up: what it has in memory is gone.
            if place.round != Round::None {
                let mut then = world.clone();
                then.places[i].round = Round::None;
                self.goes_to(then);
            }
        }
    }

    /// A participant loses its vote.
    fn forget(&mut self, world: &World) {
        if !self.forgets || world.row.is_some() {
            return;
        }
        for (i, place) in world.places.iter().enumerate() {
            let has_heard = world.state.parties[i].phase >= Phase::Voted;
            if place.standing == Standing::Voted && has_heard {
                let mut then = world.clone();
                then.places[i].standing = Standing::Unvoted;
                self.goes_to(then);
            }
        }
    }

    /// A participant hears of another one, or asks for the decision by what it has heard.
    fn asks(&mut self, world: &World, i: usize, heard: u8, knows: bool) {
        for (j, other) in world.places.iter().enumerate().filter(|(j, _)| *j != i) {
            let mut then = world.clone();
            let knows = knows || asks_for(other.standing, []) == Decision::Commit;
            // Whom it has heard of makes a difference only to one that waits for all of them.
            let heard = if self.fault == Fault::InsertsNothing { heard | 1 << j } else { 0 };
            then.places[i].round = Round::Asks { heard, knows };
            self.goes_to(then);
        }
        let asked = asks_for(Standing::Voted, knows.then_some(Standing::PreCommitted));
        let all = world.places.len() - 1;
        let mut then = world.clone();
        let stands = match self.fault {
            Fault::InsertsNothing if heard.count_ones() as usize == all => asked,
            Fault::InsertsNothing => return,
            Fault::UnreachedIsUnaware => asked,
            _ => {
                if then.row.is_none() {
                    self.by_participants.insert(asked);
                }
                *then.row.get_or_insert(asked)
            }
        };
        then.places[i].round = Round::Goes(stands);
        self.goes_to(then);
    }

    /// The coordinator asks for a decision: the row and the record of it are one commit.
    fn decide(&mut self, world: &World, call: Call) -> Result<(), String> {
        let Does::Decide(asked) = self.shape.does(call) else { return Err("it decides nothing".to_owned()) };
        let mut then = world.clone();
        let stands = match self.fault {
            Fault::ReadsNothing => asked,
            _ => *then.row.get_or_insert(asked),
        };
        let stands = Data::of(&stands).expect("a word");
        let record = self.shape.answered(&then.state, call, Answer::Done(stands));
        self.write(&mut then, record)?;
        self.goes_to(then);
        Ok(())
    }

    /// Nothing goes on by itself: it waits for an operator, and says so, who has it tried again.
    fn waits(&mut self, world: &World) -> Result<(), String> {
        let (status, why) = self.shape.status(RUN, &world.state, at(world.late));
        let is_parked = world.state.parked(&self.shape).next().is_some();
        if self.fault == Fault::CommitsUndecided {
            return Ok(());
        }
        if !is_parked || status != RunStatus::Parked || why.is_none() {
            return Err(format!("it stands, and is {status:?} because of {why:?}"));
        }
        self.asked(world, Verb::Retry { step: None })
    }

    /// What comes of a call that arrives: where the participant stands then, and what it answers.
    fn arrives(&self, world: &World, call: Call) -> Result<Vec<(Standing, Answer)>, String> {
        let done = || Answer::Done(Data::null());
        let refused = || Answer::Refused("no".into());
        let place = self.shape.party_of(call).map(|i| world.places[i].standing);
        let Some(standing) = place else { return Err("a decision arrives nowhere".to_owned()) };
        let Some(told) = told(self.shape.does(call)) else {
            return Ok(match standing {
                Standing::Unvoted => vec![(Standing::Voted, done()), (Standing::Aborted, refused())],
                Standing::Aborted => vec![(standing, refused())],
                _ => vec![(standing, done())],
            });
        };
        match standing.then(told) {
            Then::Goes(standing) => Ok(vec![(standing, done())]),
            Then::Stays => Ok(vec![(standing, done())]),
            Then::HasAborted => Ok(vec![(standing, refused())]),
            Then::Odd => Err(format!("one that is {standing:?} is told {told:?}")),
        }
    }

    fn stands(&self, world: &mut World, call: Call, standing: Standing) {
        if let Some(i) = self.shape.party_of(call) {
            world.places[i].standing = standing;
        }
    }

    /// Each answer that a call can have.
    fn answer(&mut self, world: &World, call: Call) -> Result<(), String> {
        let failed = || Answer::Failed("no".into());
        let Some(i) = self.shape.party_of(call) else { return Err("a decision is answered".to_owned()) };
        let mut answers = Vec::new();
        if self.loses {
            answers.push((world.places[i].standing, failed()));
        }
        for (standing, answer) in self.arrives(world, call)? {
            if self.loses {
                answers.push((standing, failed()));
            }
            answers.push((standing, answer));
        }
        for (standing, answer) in answers {
            let mut then = world.clone();
            then.busy.remove(&call);
            self.stands(&mut then, call, standing);
            let record = self.shape.answered(&then.state, call, answer);
            // Where it has to succeed, one that is tried again is as if it were not tried, but for who is asked in the end.
            let is_tried_again = world.state.direction != Direction::Open && !self.parks;
            if !(is_tried_again && matches!(record, Record::Failed { .. })) {
                self.write(&mut then, record)?;
            }
            if then.repeated < self.most_repeated {
                let mut twice = World { repeated: then.repeated + 1, ..then.clone() };
                twice.astray.insert(call);
                self.goes_to(twice);
            }
            self.goes_to(then);
        }
        Ok(())
    }

    /// The node of the coordinator is gone. Each call under way may still arrive, and so may those that it was about to make.
    /// Another node goes on, or none does: participants do what they do in either case.
    fn crash(&mut self, world: &World) {
        if world.crashes == self.most_crashes {
            return;
        }
        let mut then = World { crashes: world.crashes + 1, busy: BTreeSet::new(), ..world.clone() };
        let calls = world.busy.iter().copied().chain(self.next(world).calls());
        then.astray.extend(calls.filter(|call| self.shape.party_of(*call).is_some()));
        self.goes_to(then);
    }

    fn time_and_people(&mut self, world: &World) -> Result<(), String> {
        // A deadline that passes before it says that its vote is lost mixes outcomes: that is not covered.
        if world.state.direction == Direction::Open && !self.forgets {
            self.goes_to(World { late: true, ..world.clone() });
        }
        if self.cancels { self.asked(world, Verb::Cancel) } else { Ok(()) }
    }

    fn asked(&mut self, world: &World, verb: Verb) -> Result<(), String> {
        let mut then = world.clone();
        let asked = Asked { verb, by: By::new("ada".to_owned(), "because".to_owned(), RUN) };
        if let Ok(records) = self.shape.asked(&then.state, &then.busy, &asked) {
            records.into_iter().try_for_each(|record| self.write(&mut then, record))?;
            self.goes_to(then);
        }
        Ok(())
    }

    /// What has ended stays as it is, and each participant is where it belongs.
    fn holds_at_the_end(&mut self, world: &World) -> Result<(), String> {
        let outcome = world.state.outcome().ok_or("it has ended without an outcome")?;
        let standing = match outcome {
            Outcome::Completed => Standing::Committed,
            _ => Standing::Aborted,
        };
        self.ended.insert(outcome.to_string());
        match world.places.iter().all(|place| place.standing == standing) {
            true => Ok(()),
            false => Err(format!("it has ended: {outcome}")),
        }
    }
}

/// What a call tells one that has voted.
const fn told(does: Does) -> Option<Told> {
    match does {
        Does::PreCommit(_) => Some(Told::PreCommit),
        Does::DoCommit(_) => Some(Told::DoCommit),
        Does::Abort(_) => Some(Told::Abort),
        Does::CanCommit(_) | Does::Decide(_) => None,
    }
}

/// None has committed while another has aborted, or has not voted.
fn is_whole(world: &World) -> Result<(), String> {
    let is = |of: &[Standing]| world.places.iter().any(|place| of.contains(&place.standing));
    match is(&[Standing::Committed]) && is(&[Standing::Aborted, Standing::Unvoted]) {
        true => Err(MIXED.to_owned()),
        false => Ok(()),
    }
}

const MIXED: &str = "one has committed, and another has not";

fn explore(mut explorer: Explorer, least: usize) -> Explorer {
    let states = explorer.explore().unwrap_or_else(|why| panic!("{why}"));
    assert!(states > least, "{states}");
    assert!(explorer.ended.contains("completed") && explorer.ended.len() > 1, "{:?}", explorer.ended);
    explorer
}

/// Its first fault.
fn fails(mut explorer: Explorer) -> String {
    let fault = explorer.fault;
    explorer.explore().err().unwrap_or_else(|| panic!("nothing was wrong with {fault:?}"))
}

#[test]
fn a_participant_by_itself_commits_or_aborts_and_an_operator_helps() {
    let mut one = Explorer::new(1, Fault::None);
    (one.most_crashes, one.most_repeated, one.cancels, one.parks) = (2, 1, true, true);
    let one = explore(one, 500);
    let all =
        ["its deadline passed", "one was refused: no", "one failed: no", "cancelled by ada", "has waited"];
    assert!(all.iter().all(|of| one.why.iter().any(|why| why.contains(of))), "{:?}", one.why);
}

#[test]
fn two_participants_both_commit_or_both_abort() {
    for (crashes, repeated, cancels) in [(1, 0, false), (0, 1, false), (0, 0, true)] {
        let mut two = Explorer::new(2, Fault::None);
        (two.most_crashes, two.most_repeated, two.cancels) = (crashes, repeated, cancels);
        let two = explore(two, 1_000);
        // Each of the two was decided by participants alone.
        assert_eq!(two.by_participants.len(), 2, "{:?}", two.by_participants);
    }
}

#[test]
fn three_participants_all_commit_or_all_abort() {
    for (crashes, rounds, loses) in [(0, 2, true), (1, 1, false)] {
        let mut three = Explorer::new(3, Fault::None);
        (three.most_crashes, three.most_rounds, three.loses) = (crashes, rounds, loses);
        let three = explore(three, 1_000);
        assert_eq!(three.by_participants.len(), 2, "{:?}", three.by_participants);
    }
}

#[test]
fn a_participant_that_has_lost_its_vote_says_so_and_none_commits() {
    for parties in [2, 3] {
        let mut lost = Explorer::new(parties, Fault::None);
        (lost.forgets, lost.loses, lost.most_rounds) = (true, false, 0);
        let lost = explore(lost, 50);
        assert!(lost.why.iter().any(|why| why.contains("was refused")), "{:?}", lost.why);
    }
}

#[test]
fn a_participant_whose_time_out_decides_mixes_outcomes_with_a_partition() {
    for parties in [2, 3] {
        let why = fails(Explorer::new(parties, Fault::TimeOutDecides));
        assert!(why.starts_with(MIXED), "{why}");
    }
}

#[test]
fn a_participant_whose_time_out_decides_mixes_outcomes_though_nothing_is_lost_and_nobody_crashes() {
    for parties in [2, 3] {
        let mut slow = Explorer::new(parties, Fault::TimeOutDecides);
        slow.loses = false;
        let why = fails(slow);
        assert!(why.starts_with(MIXED), "{why}");
    }
}

#[test]
fn a_round_that_inserts_nothing_mixes_outcomes_though_all_are_reached() {
    for parties in [2, 3] {
        let mut slow = Explorer::new(parties, Fault::InsertsNothing);
        slow.loses = false;
        let why = fails(slow);
        assert!(why.starts_with(MIXED), "{why}");
    }
}

#[test]
fn one_that_is_not_reached_is_not_to_be_taken_for_one_that_is_not_pre_committed() {
    for parties in [2, 3] {
        let why = fails(Explorer::new(parties, Fault::UnreachedIsUnaware));
        assert!(why.starts_with(MIXED), "{why}");
    }
}

#[test]
fn a_coordinator_that_is_built_wrong_is_found() {
    for fault in [Fault::PreCommitsEarly, Fault::CommitsUndecided, Fault::ReadsNothing] {
        fails(Explorer::new(2, fault));
    }
}
