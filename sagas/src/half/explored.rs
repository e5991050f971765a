//! Every state that a half message can come to, with answers that are lost, calls and hints that come late or twice, nodes that
//! crash in the middle of calls, a local transaction that is checked while it runs, commits late, or never begins.

use std::collections::{BTreeSet, HashSet};
use std::fmt::{self, Write as _};
use std::time::Duration;

use es_core::Timestamp;
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3Default;

use super::machine::{CHECK, EXECUTE, Fate, HINTS, LOCAL, RunBy, SEND, Shape, State, Told};
use crate::By;
use crate::data::Data;
use crate::saga::Retry;
use crate::transaction::{Answer, Asked, Call, Heard, Next, Outcome, Record, RunStatus, Verb, Written};

const RUN: Uuid = Uuid::from_u128(7);

/// What the database of the local transaction has committed about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Row {
    #[default]
    None,
    Done,
    /// It has said no, or a check came first.
    Tomb,
    Refused,
}

/// A half message and what is around it.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "what is so of the world, each by itself")]
struct World {
    state: State,
    busy: BTreeSet<Call>,
    /// Calls that nobody waits for, and that have not arrived yet.
    astray: BTreeSet<Call>,
    row: Row,
    /// Whether the local transaction of the call under way is open: behind a guard row it holds that.
    open: bool,
    /// Whether that of the call under way has been open, and has ended.
    ran: bool,
    /// How many others are: of calls that nobody waits for, or of the caller's.
    flying: u32,
    /// How often it has committed.
    commits: u32,
    /// How often the message stands in the log.
    appended: u32,
    /// Whether its immunity has passed.
    late: bool,
    /// How often the caller may yet begin it.
    begins: u32,
    hints: u32,
    /// Whether the caller has said something since the last check was begun.
    hinted: bool,
    crashes: u32,
}

/// A way to build it wrong: each has to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// A check only reads: what comes after it is not barred.
    OnlyReads,
    /// A check that meets the local transaction while it runs, and gets tired of waiting, takes it for rolled back.
    GivesUpWaiting,
    /// What is not decided in time is taken for rolled back.
    TimeDecides,
    /// A hint is believed, whatever the guard row says.
    BelievesHints,
    /// A check without a guard is believed while the local transaction may run.
    BelievesEarly,
    /// Whoever takes it up forgets that the one before may have called what nothing bars.
    ForgetsCalls,
    /// The message is appended before the record of that.
    AppendsApart,
}

struct Explorer {
    shape: Shape,
    fault: Fault,
    most_crashes: u32,
    seen: HashSet<u128>,
    left: Vec<World>,
    ends: BTreeSet<&'static str>,
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
        let alike = Self { state: self.state.clone().alike(), ..self.clone() };
        let mut digest = Digest(Xxh3Default::new());
        write!(digest, "{alike:?}").expect("it takes all");
        digest.0.digest128()
    }

    /// Whether it may still commit, by itself.
    fn may_commit(&self) -> bool {
        self.open || self.flying > 0 || self.astray.contains(&EXECUTE) || self.busy.contains(&EXECUTE)
    }
}

fn at(late: bool) -> Timestamp {
    Timestamp::from_second(if late { 1_000 } else { 10 }).expect("a time")
}

fn by() -> By {
    By::new("ada".to_owned(), "because".to_owned(), RUN)
}

fn told(says: Heard) -> Answer {
    Answer::Done(Data::of(&Told { says, why: String::new() }).expect("JSON"))
}

fn lost() -> Answer {
    Answer::Failed("lost".into())
}

impl Explorer {
    fn new(run_by: RunBy, fault: Fault) -> Self {
        let none = Duration::ZERO;
        let often = Retry::default().pauses(none, none).tries(2).late(2, Duration::from_secs(3_600));
        let (immunity, limit) = (Duration::from_secs(100), Duration::from_secs(1));
        let shape = Shape { run_by, retry: often, checks: often, immunity, limit };
        let (seen, left, ends) = (HashSet::new(), Vec::new(), BTreeSet::new());
        Self { shape, fault, most_crashes: 2, seen, left, ends }
    }

    /// Visits every state. Gives what is wrong with the first one that is.
    fn explore(&mut self) -> Result<usize, String> {
        let by_caller = u32::from(self.shape.run_by == RunBy::Caller);
        let mut world = World {
            state: State::default(),
            busy: BTreeSet::new(),
            astray: BTreeSet::new(),
            row: Row::None,
            open: false,
            ran: false,
            flying: 0,
            commits: 0,
            appended: 0,
            late: false,
            begins: 2 * by_caller,
            hints: 2 * by_caller,
            hinted: false,
            crashes: 0,
        };
        let input = Data::of(&()).expect("null");
        self.write(&mut world, Record::Begun { input, deadline: None, parent: None })?;
        self.take(&mut world)?;
        self.left.push(world);
        while let Some(world) = self.left.pop() {
            if self.seen.insert(world.digest()) {
                self.visit(&world).map_err(|why| format!("{why}: {world:#?}"))?;
            }
        }
        Ok(self.seen.len())
    }

    fn write(&self, world: &mut World, record: Record) -> Result<(), String> {
        // When it was written makes no difference: nothing pauses.
        self.shape.fold(&mut world.state, &Written { at: at(false), record })
    }

    fn take(&self, world: &mut World) -> Result<(), String> {
        match self.shape.calls_outside(&world.state) && self.fault != Fault::ForgetsCalls {
            true => self.write(world, Record::Taken {}),
            false => Ok(()),
        }
    }

    fn is_guarded(&self) -> bool {
        self.shape.run_by != RunBy::Listener
    }

    fn visit(&mut self, world: &World) -> Result<(), String> {
        Self::is_whole(world)?;
        self.transactions(world);
        self.strays(world);
        self.hints(world)?;
        if !world.late {
            self.left.push(World { late: true, ..world.clone() });
        }
        let next = self.shape.next(RUN, &world.state, &world.busy, at(world.late));
        let checks = matches!(&next, Next::Act { calls, .. } if calls.contains(&CHECK));
        if world.hinted && world.busy.is_empty() && world.state.fate == Fate::Open && !checks {
            return Err("what the caller has said is forgotten".to_owned());
        }
        match next {
            Next::Ended => return self.holds_at_the_end(world),
            Next::Append(records) => {
                let mut then = world.clone();
                records.into_iter().try_for_each(|record| self.write(&mut then, record))?;
                self.left.push(then);
            }
            Next::Act { calls, until } => {
                if calls.is_empty() && world.busy.is_empty() && until.is_none() {
                    self.stands(world)?;
                }
                for call in calls {
                    let mut then = world.clone();
                    then.busy.insert(call);
                    then.hinted &= call != CHECK;
                    self.left.push(then);
                }
            }
        }
        let is_undecided = world.busy.is_empty() && world.state.fate == Fate::Open;
        if self.fault == Fault::TimeDecides && world.late && is_undecided {
            let why = "it took too long".to_owned();
            self.goes_on(world, Record::Heard { says: Heard::Rollback, why, checked: true })?;
        }
        for call in world.busy.clone() {
            self.answer(world, call)?;
        }
        self.crash(world)
    }

    fn goes_on(&mut self, world: &World, record: Record) -> Result<(), String> {
        let mut then = world.clone();
        self.write(&mut then, record)?;
        self.left.push(then);
        Ok(())
    }

    /// Local transactions that are open end, one way or the other; the caller begins one.
    fn transactions(&mut self, world: &World) {
        if world.flying > 0 {
            let ended = World { flying: world.flying - 1, ..world.clone() };
            self.left.push(World { row: Row::Done, commits: world.commits + 1, ..ended.clone() });
            self.left.push(World {
                row: if self.is_guarded() { Row::Refused } else { world.row },
                ..ended.clone()
            });
            // Or it is rolled back, and leaves nothing.
            self.left.push(ended);
        }
        if world.open {
            let ended = World { open: false, ran: true, ..world.clone() };
            self.left.push(World { row: Row::Done, commits: world.commits + 1, ..ended.clone() });
            self.left.push(ended);
        }
        if world.begins > 0 {
            let then = World { begins: world.begins - 1, ..world.clone() };
            self.left.push(self.begun(&then));
            self.left.push(then);
        }
    }

    /// A local transaction begins that nobody of the engine waits for, if nothing bars it.
    fn begun(&self, world: &World) -> World {
        let is_barred = world.row != Row::None || world.open || world.flying > 0;
        match self.is_guarded() && is_barred {
            true => world.clone(),
            false => World { flying: world.flying + 1, ..world.clone() },
        }
    }

    /// Calls arrive that nobody waits for.
    fn strays(&mut self, world: &World) {
        for call in world.astray.clone() {
            let mut then = world.clone();
            then.astray.remove(&call);
            if call == EXECUTE {
                self.left.push(self.begun(&then));
            } else if self.bars(&then) {
                then.row = Row::Tomb;
            }
            self.left.push(then);
        }
    }

    /// Whether a check leaves a row that bars the local transaction.
    fn bars(&self, world: &World) -> bool {
        let is_free = world.row == Row::None && !world.open && world.flying == 0;
        self.is_guarded() && is_free && self.fault != Fault::OnlyReads
    }

    /// The caller hints, rightly or not, at any time.
    fn hints(&mut self, world: &World) -> Result<(), String> {
        if world.hints == 0 {
            return Ok(());
        }
        for (name, says) in HINTS.into_iter().zip([Heard::Commit, Heard::Rollback]) {
            let mut then = World { hints: world.hints - 1, ..world.clone() };
            // A correct caller says what it has seen, or what it will not do any more.
            let is_known = match says {
                Heard::Commit => world.row == Row::Done,
                _ => world.row != Row::Done,
            };
            let verb = Verb::Signal { name: name.to_owned(), id: "1".to_owned(), value: Data::null() };
            if self.fault == Fault::BelievesHints {
                if is_known && world.state.fate == Fate::Open && world.busy.is_empty() {
                    self.goes_on(&then, Record::Heard { says, why: String::new(), checked: true })?;
                }
                continue;
            }
            if let Ok(records) = self.shape.asked(&then.state, &then.busy, &Asked { verb, by: by() }) {
                records.into_iter().try_for_each(|record| self.write(&mut then, record))?;
                self.left.push(World { hinted: true, ..then });
            }
        }
        Ok(())
    }

    /// Nothing goes on by itself: it waits for a person, and says so.
    fn stands(&mut self, world: &World) -> Result<(), String> {
        let (status, why) = self.shape.status(RUN, &world.state, at(world.late));
        if status != RunStatus::Parked || why.is_none() {
            return Err(format!("it stands, and is {status:?} because of {why:?}"));
        }
        let ask = |verb| Asked { verb, by: by() };
        let mut verbs = vec![Verb::Retry { step: None }];
        // A person says what is so, once it is certain.
        if world.state.fate == Fate::Open {
            if world.commits > 0 {
                verbs.push(Verb::Resolve { step: LOCAL.to_owned(), output: Data::null() });
            } else if !world.may_commit() && world.begins == 0 {
                verbs.push(Verb::Skip { step: LOCAL.to_owned() });
            }
        }
        for verb in verbs {
            let mut then = world.clone();
            let records = self.shape.asked(&then.state, &then.busy, &ask(verb))?;
            records.into_iter().try_for_each(|record| self.write(&mut then, record))?;
            self.left.push(then);
        }
        Ok(())
    }

    /// Each answer that a call can have.
    fn answer(&mut self, world: &World, call: Call) -> Result<(), String> {
        let mut answers = match call {
            EXECUTE => self.executes(world),
            CHECK => self.checks(world),
            _ => {
                let mut appends = vec![(
                    World { appended: world.appended + 1, ..world.clone() },
                    Answer::Done(Data::null()),
                )];
                if self.fault == Fault::AppendsApart {
                    appends.push((World { appended: world.appended + 1, ..world.clone() }, lost()));
                }
                appends
            }
        };
        answers.push((
            World { open: false, flying: world.flying + u32::from(world.open), ..world.clone() },
            lost(),
        ));
        for (mut then, answer) in answers {
            then.busy.remove(&call);
            then.ran &= call != EXECUTE;
            let record = self.record(&then, call, answer);
            self.write(&mut then, record)?;
            self.left.push(then);
        }
        Ok(())
    }

    fn record(&self, world: &World, call: Call, answer: Answer) -> Record {
        let record = self.shape.answered(&world.state, call, answer);
        let is_told = |why: &str| why.contains("a check says that it was rolled back");
        match record {
            Record::Heard { says: Heard::InProgress, why, checked }
                if self.fault == Fault::GivesUpWaiting =>
            {
                Record::Heard { says: Heard::Rollback, why, checked }
            }
            Record::Heard { says: Heard::Unknown, why, checked }
                if self.fault == Fault::BelievesEarly && is_told(&why) =>
            {
                Record::Heard { says: Heard::Rollback, why, checked }
            }
            record => record,
        }
    }

    /// An execution under way, which begins first and then ends.
    fn executes(&mut self, world: &World) -> Vec<(World, Answer)> {
        let done = || match self.shape.run_by {
            RunBy::Listener => told(Heard::Commit),
            _ => Answer::Done(Data::null()),
        };
        match (self.is_guarded(), world.row) {
            // It is open: it is not known yet.
            _ if world.open => Vec::new(),
            (true, Row::Done) => vec![(world.clone(), done())],
            (true, Row::Refused) => vec![(world.clone(), Answer::Refused("no".into()))],
            (true, Row::Tomb) => Vec::new(),
            (true, Row::None) if world.flying > 0 => Vec::new(),
            (true, Row::None) => {
                self.left.push(World { open: true, ..world.clone() });
                vec![(World { row: Row::Refused, ..world.clone() }, Answer::Refused("no".into()))]
            }
            (false, _) => {
                if !world.ran {
                    self.left.push(World { open: true, ..world.clone() });
                }
                let says = |says| (world.clone(), told(says));
                // What has committed says so, or nothing certain; so does what has not.
                let own = if world.commits > 0 { says(Heard::Commit) } else { says(Heard::Rollback) };
                vec![own, says(Heard::Unknown), says(Heard::NotMine)]
            }
        }
    }

    /// A check.
    fn checks(&self, world: &World) -> Vec<(World, Answer)> {
        let says = |says| (world.clone(), told(says));
        if !self.is_guarded() {
            let own = if world.commits > 0 { says(Heard::Commit) } else { says(Heard::Rollback) };
            return vec![own, says(Heard::Unknown), says(Heard::NotMine)];
        }
        match world.row {
            Row::Done => vec![says(Heard::Commit)],
            Row::Tomb | Row::Refused => vec![says(Heard::Rollback)],
            Row::None if world.flying > 0 => vec![says(Heard::InProgress)],
            Row::None => {
                let row = if self.bars(world) { Row::Tomb } else { Row::None };
                let then = World { row, ..world.clone() };
                vec![(then.clone(), told(Heard::Rollback)), (then, lost())]
            }
        }
    }

    /// The node is gone. Each call under way may still arrive; what is open may still commit.
    fn crash(&mut self, world: &World) -> Result<(), String> {
        if world.crashes == self.most_crashes {
            return Ok(());
        }
        let mut then = World { crashes: world.crashes + 1, busy: BTreeSet::new(), ..world.clone() };
        let mut calls = world.busy.clone();
        // If it only hangs, it makes the calls later that it was about to make.
        calls.extend(self.shape.next(RUN, &world.state, &world.busy, at(world.late)).calls());
        if world.open {
            (then.open, then.flying) = (false, world.flying + 1);
        }
        if world.open || std::mem::take(&mut then.ran) {
            calls.remove(&EXECUTE);
        }
        // What is written to the store of the journal by who has lost the run is refused.
        then.astray.extend(calls.into_iter().filter(|call| *call != SEND));
        self.take(&mut then)?;
        self.left.push(then);
        Ok(())
    }

    /// Whatever it has come to: there is no message without its local transaction, and each is there once.
    fn is_whole(world: &World) -> Result<(), String> {
        match (world.commits, world.appended) {
            (0, 0) | (1, 0 | 1) => Ok(()),
            (commits, appended) => Err(format!(
                "the local transaction has committed {commits} times, the message stands there {appended} times"
            )),
        }
    }

    /// What has ended stays as it is: what arrives now changes nothing.
    fn holds_at_the_end(&mut self, world: &World) -> Result<(), String> {
        let is_barred = matches!(world.row, Row::Tomb | Row::Refused);
        let never = world.commits == 0 && (is_barred || !world.may_commit() && world.begins == 0);
        let (is_right, end) = match world.state.outcome() {
            Some(Outcome::Completed) => (world.commits == 1 && world.appended == 1, "completed"),
            Some(Outcome::Undone(_)) => (never && world.appended == 0, "undone"),
            other => return Err(format!("it has ended as {other:?}")),
        };
        self.ends.insert(end);
        if is_right { Ok(()) } else { Err(format!("{end}, and that is not so")) }
    }
}

#[test]
fn a_message_is_sent_if_and_only_if_its_local_transaction_commits() {
    for run_by in [RunBy::Engine, RunBy::Caller, RunBy::Listener] {
        let mut explorer = Explorer::new(run_by, Fault::None);
        let states = explorer.explore().unwrap_or_else(|why| panic!("{run_by:?}: {why}"));
        assert!(states > 500, "{run_by:?}: {states}");
        assert_eq!(explorer.ends.len(), 2, "{run_by:?}");
    }
}

#[test]
fn what_is_built_wrong_is_found() {
    let all = [RunBy::Engine, RunBy::Caller, RunBy::Listener];
    let faults = [
        (Fault::OnlyReads, &all[..2]),
        (Fault::GivesUpWaiting, &all[..2]),
        (Fault::TimeDecides, &all[..]),
        (Fault::BelievesHints, &all[1..2]),
        (Fault::BelievesEarly, &all[2..]),
        (Fault::ForgetsCalls, &all[2..]),
        (Fault::AppendsApart, &all[..]),
    ];
    for (fault, of) in faults {
        for run_by in of {
            let found = Explorer::new(*run_by, fault).explore();
            let why = found.expect_err("it is built wrong");
            let is_mixed = why.contains("that is not so") || why.contains("has committed");
            assert!(is_mixed, "{fault:?} of {run_by:?}: {why}");
        }
    }
}
