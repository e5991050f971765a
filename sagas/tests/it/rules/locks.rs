//! Semantic locks: J1 to J11.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::store::{Commit, RowWrite, Table, Transaction};
use es_core::{App, Backend, BoxError};
use futures::future::{Either, join_all, select};
use sagas::saga::{
    Call, Child, Cx, Handle, Lock, LockMode, LockOf, Outcome, Ran, Remote, Resource, Retry, RunShown, Saga,
    SagaApp as _, SagaInput, SagaLock, Sagas as _, Step, StepError, SubSaga, Undo, Verb, Why,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::Subject;
use super::ground::PATIENCE;
use super::trip::{DEADLINE, Outside, Play, Trip, Trips, retry, trip};

type Tx<S> = <<S as Subject>::Backend as Backend>::Tx;

/// A trip with locks: those that it takes before the room, and those behind it, by their names. `=` before one that is shared.
fn locking(first: &str, second: &str, mut trip: Trip) -> Trip {
    trip.note = Some(format!("{first}|{second}"));
    trip
}

/// The locks of a place in what a trip notes.
fn named(note: Option<&str>, place: usize) -> Vec<Resource> {
    let names = note.and_then(|note| note.split('|').nth(place)).unwrap_or_default();
    let of = |name: &str| match name.strip_prefix('=') {
        Some(shared) => Resource::shared(shared),
        None => Resource::exclusive(name),
    };
    names.split(' ').filter(|name| !name.is_empty()).map(of).collect()
}

macro_rules! locks { ($($lock:ident $name:literal $place:literal;)+) => { $(
    struct $lock;

    impl SagaLock<Trip> for $lock {
        const NAME: &'static str = $name;
        type Needs = ();
        fn resources(&self, cx: Cx<'_, Trip>) -> Vec<Resource> {
            named(cx.input.note.as_deref(), $place)
        }
    }
)+ } }
locks! {
    First "first" 0;
    Second "second" 1;
}

/// Who is in the room now, and how many were at once at most.
#[derive(Clone, Debug, Default)]
struct Inside(Arc<Mutex<(BTreeSet<String>, usize)>>);

impl Inside {
    fn enter(&self, key: &str) {
        let (inside, most) = &mut *self.0.lock().unwrap();
        inside.insert(key.to_owned());
        *most = (*most).max(inside.len());
    }

    fn leave(&self, key: &str) {
        self.0.lock().unwrap().0.remove(key);
    }

    fn most(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

/// Under the lock.
struct Room(Outside, Inside);

impl Step<Trip> for Room {
    const NAME: &'static str = "room";
    type Needs = (Lock<First>,);
    type Output = ();
    type Refusal = String;
    type Place = Remote;
    async fn run(&self, cx: Cx<'_, Trip, Self::Needs>, call: &mut Call) -> Result<(), StepError<String>> {
        self.1.enter(cx.key);
        self.0.call(cx.key, "room", cx.input, call.key()).await
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

impl Undo<Trip> for Room {
    async fn undo(&self, cx: Cx<'_, Trip, Self::Needs>, _: Ran<()>, call: &mut Call) -> Result<(), BoxError> {
        let done = self.0.call(cx.key, "undo room", cx.input, call.key()).await;
        self.1.leave(cx.key);
        done.map_err(|error| format!("{error:?}").into())
    }
}

/// The last of what is done under it.
struct Pay(Outside, Inside);

impl Step<Trip> for Pay {
    const NAME: &'static str = "pay";
    type Needs = ();
    type Output = ();
    type Refusal = String;
    type Place = Remote;
    async fn run(&self, cx: Cx<'_, Trip>, call: &mut Call) -> Result<(), StepError<String>> {
        self.0.call(cx.key, "pay", cx.input, call.key()).await?;
        self.1.leave(cx.key);
        Ok(())
    }
    fn retry(&self) -> Retry {
        retry()
    }
}

/// first · room · second · pay
fn definition<T: Transaction>(version: u32, outside: &Outside, inside: &Inside) -> Saga<Trip, T> {
    let saga = Saga::new("trip", version).deadline(DEADLINE).lock(First);
    let saga = saga.step(Room(outside.clone(), inside.clone())).lock(Second);
    saga.pivot(Pay(outside.clone(), inside.clone())).build()
}

/// Trips that take locks.
struct Locking<'s, S: Subject> {
    trips: Trips<'s, S>,
    inside: Inside,
}

impl<S: Subject> fmt::Debug for Locking<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inside.fmt(f)
    }
}

impl<'s, S: Subject> Locking<'s, S> {
    async fn start(subject: &'s S, nodes: usize) -> Self {
        let mut locking = Self { trips: Trips::open(subject).await, inside: Inside::default() };
        for _ in 0..nodes {
            locking.join(1).await;
        }
        locking
    }

    async fn join(&mut self, version: u32) {
        let inside = self.inside.clone();
        let saga = |outside: &Outside| definition::<Tx<S>>(version, outside, &inside);
        self.trips.join_with(saga, |app| app).await;
    }

    async fn begin(&self, key: &str, first: &str, second: &str, trip: Trip) -> Handle {
        self.trips.begin(key, &locking(first, second, trip)).await
    }

    /// One that stands in its room, with its first locks.
    async fn stands(&self, key: &str, first: &str, second: &str) -> Handle {
        let handle = self.begin(key, first, second, trip().with("room", &[Play::Waits])).await;
        self.until_in(key, "room").await;
        handle
    }

    /// One that waits for its first locks.
    async fn waits(&self, key: &str, first: &str) -> Handle {
        let handle = self.begin(key, first, "", trip().with("room", &[Play::Waits])).await;
        self.until_waiting(key).await;
        handle
    }

    async fn until_waiting(&self, key: &str) -> RunShown {
        let is_so = |shown: &RunShown| shown.waits_for.starts_with("the lock ");
        let what = "waits for a lock";
        self.trips.until(key, what, is_so).await
    }

    async fn lock(&self, name: &str) -> LockOf {
        let locks = self.trips.nodes[0].saga_locks().unwrap();
        self.trips.ground.ask(async || locks.lock(name).await).await
    }

    /// Who has a lock, and who waits for it, in order.
    async fn of(&self, name: &str) -> (Vec<String>, Vec<String>) {
        let LockOf { held, waiting, .. } = self.lock(name).await;
        let keys = |of: Vec<sagas::saga::LockShown>| of.into_iter().map(|shown| shown.run.key).collect();
        (keys(held), keys(waiting))
    }

    async fn until_held_by(&self, name: &str, keys: &[&str]) {
        let begun = Instant::now();
        loop {
            let (held, waiting) = self.of(name).await;
            if held == keys {
                return;
            }
            let elapsed = begun.elapsed();
            assert!(elapsed < PATIENCE / 10, "{name} is held by {held:?}, {waiting:?} wait, not by {keys:?}");
            self.trips.ground.pause().await;
        }
    }

    /// Until a call of a run waits to be let go.
    async fn until_in(&self, key: &str, call: &str) {
        let begun = Instant::now();
        while !self.trips.outside.is_waiting(key, call) {
            assert!(begun.elapsed() < PATIENCE / 10, "{:#?}", self.trips.show(key).await);
            self.trips.ground.pause().await;
        }
    }

    /// Lets the one act that stands in its room.
    async fn lets_go(&self, key: &str) {
        self.until_in(key, "room").await;
        self.trips.outside.release();
    }

    /// The end of one, while all that wait are let go again and again.
    async fn end_of(&self, handle: &Handle) -> Outcome {
        let mut end = pin!(self.trips.end_of(handle));
        loop {
            self.trips.outside.release();
            match select(&mut end, pin!(self.trips.ground.pause())).await {
                Either::Left((outcome, _)) => return outcome,
                Either::Right(_) => {}
            }
        }
    }

    /// The rows of all locks.
    async fn rows(&self) -> Vec<String> {
        let mut all = Vec::new();
        for name in ["hot.txn.locks", "hot.txn.locks.held", "hot.txn.locks.waits"] {
            let table = Table::<Value>::new(name).unwrap();
            let rows = self.trips.ground.ask(async || table.all(&self.trips.ground.backend).await).await;
            all.extend(rows.into_iter().map(|row| format!("{name} {}", row.value)));
        }
        all
    }

    /// Nothing is left of locks, and of what woke runs.
    async fn end(self) {
        let begun = Instant::now();
        loop {
            let left = (self.rows().await, self.trips.left_over().await);
            if left.0.is_empty() && left.1.is_empty() {
                return self.trips.end().await;
            }
            assert!(begun.elapsed() < PATIENCE / 10, "{left:#?}");
            self.trips.ground.pause().await;
        }
    }
}

/// What a run was cancelled for.
fn cancelled(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Undone(Why::Cancelled { reason, .. }) => Some(reason),
        _ => None,
    }
}

/// J1
pub(super) async fn of_many_runs_one_at_a_time_has_a_lock<S: Subject>(subject: &S) {
    let locking = Locking::start(subject, 2).await;
    let begin = |n: u32| {
        let locking = &locking;
        async move { locking.begin(&format!("k{n}"), "seat/42", "", trip()).await }
    };
    let begun: Vec<Handle> = join_all((0..64).map(begin)).await;
    for handle in &begun {
        assert_eq!(locking.trips.end_of(handle).await, Outcome::Completed);
    }
    assert_eq!(locking.inside.most(), 1);
    // Other seats are nobody's matter: these are in their rooms together.
    let others = [locking.stands("a", "seat/1", "").await, locking.stands("b", "seat/2", "").await];
    assert!(locking.inside.most() >= 2);
    locking.trips.outside.let_go();
    for handle in &others {
        assert_eq!(locking.trips.end_of(handle).await, Outcome::Completed);
    }
    locking.end().await;
}

/// J2
pub(super) async fn a_lock_goes_to_whoever_came_first_and_is_shared_by_those_that_share_it<S: Subject>(
    subject: &S,
) {
    let locking = Locking::start(subject, 1).await;
    let mut handles = vec![locking.stands("a", "seat", "").await];
    for (key, lock) in [("b", "=seat"), ("c", "=seat"), ("d", "seat"), ("e", "=seat")] {
        handles.push(locking.waits(key, lock).await);
    }
    let LockOf { held, waiting, .. } = locking.lock("seat").await;
    assert_eq!((held.len(), held[0].run.key.as_str(), held[0].mode), (1, "a", LockMode::Exclusive));
    let waiting: Vec<(&str, LockMode)> =
        waiting.iter().map(|shown| (shown.run.key.as_str(), shown.mode)).collect();
    let (shared, alone) = (LockMode::Shared, LockMode::Exclusive);
    assert_eq!(waiting, [("b", shared), ("c", shared), ("d", alone), ("e", shared)]);
    let shown = locking.trips.show("c").await;
    let told = &shown.waits_for;
    assert!(told.starts_with("the lock seat (shared); it is undone at"), "{told}");
    assert!(told.contains("; seat is held by trip \"a\", and 1 wait before it, since "), "{told}");
    assert_eq!(shown.steps[0].state, "waits");
    assert!(shown.journal.iter().any(|(_, what)| what == "first asks for seat (shared)"), "{shown:?}");
    // Who has what and who waits, all of it, in pages.
    let locks = locking.trips.nodes[0].saga_locks().unwrap();
    let ground = &locking.trips.ground;
    let first = ground.ask(async || locks.waiting(None, 3).await).await;
    let next = first.next.clone().unwrap();
    let second = ground.ask(async || locks.waiting(Some(&next), 3).await).await;
    let keys: BTreeSet<String> =
        first.locks.into_iter().chain(second.locks).map(|shown| shown.run.key).collect();
    assert_eq!(keys, ["b", "c", "d", "e"].map(str::to_owned).into());
    let held = ground.ask(async || locks.held(None, 9).await).await.locks;
    assert_eq!((held.len(), held[0].run.key.as_str(), held[0].resource.as_str()), (1, "a", "seat"));
    // One after the other, but for those that share it. The last one overtakes nobody.
    for (gone, next) in
        [(&["a"][..], &["b", "c"][..]), (&["b", "c"], &["d"]), (&["d"], &["e"]), (&["e"], &[])]
    {
        for key in gone {
            locking.until_in(key, "room").await;
        }
        locking.trips.outside.release();
        locking.until_held_by("seat", next).await;
    }
    for handle in &handles {
        assert_eq!(locking.trips.end_of(handle).await, Outcome::Completed);
    }
    locking.end().await;
}

/// J3
pub(super) async fn a_lock_is_held_until_its_run_ends_however_that_is<S: Subject>(subject: &S) {
    let locking = Locking::start(subject, 1).await;
    // Undone: until all of its undos have run.
    let refuses = trip().with("pay", &[Play::Refuses]).with("undo room", &[Play::Waits]);
    let undone = locking.begin("undone", "a b", "", refuses).await;
    locking.until_in("undone", "undo room").await;
    let next = locking.waits("next", "a").await;
    for name in ["a", "b"] {
        assert_eq!(locking.of(name).await.0, ["undone"]);
    }
    locking.trips.outside.release();
    let outcome = locking.trips.end_of(&undone).await;
    assert!(matches!(&outcome, Outcome::Undone(Why::Refused { step, .. }) if step == "pay"), "{outcome}");
    locking.until_held_by("a", &["next"]).await;
    assert!(locking.of("b").await.0.is_empty());
    // Cancelled, while it has it, and abandoned.
    locking.until_in("next", "room").await;
    assert_eq!(locking.trips.ask("next", Verb::Cancel).await, Ok(()));
    locking.lets_go("next").await;
    assert!(matches!(locking.trips.end_of(&next).await, Outcome::Undone(Why::Cancelled { .. })));
    let abandoned = locking.stands("abandoned", "a", "").await;
    let last = locking.waits("last", "a").await;
    assert_eq!(locking.trips.ask("abandoned", Verb::Abandon).await, Ok(()));
    locking.lets_go("abandoned").await;
    assert!(matches!(locking.trips.end_of(&abandoned).await, Outcome::Abandoned { .. }));
    locking.lets_go("last").await;
    assert_eq!(locking.trips.end_of(&last).await, Outcome::Completed);
    locking.end().await;
}

/// J4
pub(super) async fn a_deadline_and_a_cancellation_end_the_waiting_for_a_lock<S: Subject>(subject: &S) {
    let locking = Locking::start(subject, 1).await;
    let holds = locking.stands("holds", "seat", "").await;
    let cancelled = locking.waits("cancelled", "seat").await;
    let by_hand = locking.waits("by hand", "seat").await;
    let late = locking.waits("late", "seat").await;
    assert_eq!(locking.of("seat").await.1, ["cancelled", "by hand", "late"]);
    assert_eq!(locking.trips.ask("cancelled", Verb::Cancel).await, Ok(()));
    assert!(matches!(locking.trips.end_of(&cancelled).await, Outcome::Undone(Why::Cancelled { .. })));
    // A person lets one go on without it.
    let resolve = Verb::Resolve { step: "first".to_owned(), output: sagas::Data::of(&()).unwrap() };
    assert_eq!(locking.trips.ask("by hand", resolve).await, Ok(()));
    locking.until_in("by hand", "room").await;
    assert_eq!(locking.of("seat").await, (vec!["holds".to_owned()], vec!["late".to_owned()]));
    locking.trips.ground.seconds(DEADLINE.as_secs() + 1);
    assert_eq!(locking.trips.end_of(&late).await, Outcome::Undone(Why::Deadline));
    assert_eq!(locking.of("seat").await, (vec!["holds".to_owned()], Vec::new()));
    assert!(
        locking.trips.outside.acted("late").is_empty() && locking.trips.outside.acted("cancelled").is_empty()
    );
    locking.trips.outside.let_go();
    for handle in [&holds, &by_hand] {
        assert_eq!(locking.trips.end_of(handle).await, Outcome::Undone(Why::Deadline));
    }
    locking.end().await;
}

/// Deletes all rows of a run, as if it had been forgotten.
async fn remove<S: Subject>(locking: &Locking<'_, S>, handle: &Handle) {
    let ground = &locking.trips.ground;
    let id = handle.run().simple().to_string();
    let mut gone = Vec::<RowWrite>::new();
    for name in ["txn.heads.trip", "txn.journal.trip", "txn.attention.trip", "hot.txn.wakes.trip.v1"] {
        let table = Table::<Value>::new(name).unwrap();
        let rows = ground.ask(async || table.all(&ground.backend).await).await;
        let is_its = |key: &str, value: &Value| key.contains(&id) || value["run"] == handle.run().to_string();
        gone.extend(rows.iter().filter(|row| is_its(&row.key, &row.value)).map(|row| table.delete(row)));
    }
    assert!(gone.len() > 2, "{gone:?}");
    ground.commit(Commit { rows: gone, ..Commit::default() }).await;
}

/// J5
pub(super) async fn a_lock_of_a_run_that_is_gone_is_taken_over<S: Subject>(subject: &S) {
    let mut locking = Locking::start(subject, 1).await;
    let gone = locking.stands("gone", "a b", "").await;
    let waits = locking.waits("waits", "a").await;
    locking.trips.crash(0);
    remove(&locking, &gone).await;
    locking.join(1).await;
    // Whoever waits for it already is found; whoever comes later sees it.
    let comes = locking.begin("comes", "b", "", trip()).await;
    assert_eq!(locking.trips.end_of(&comes).await, Outcome::Completed);
    locking.until_held_by("a", &["waits"]).await;
    locking.lets_go("waits").await;
    assert_eq!(locking.trips.end_of(&waits).await, Outcome::Completed);
    locking.end().await;
}

/// J6
pub(super) async fn runs_that_wait_for_each_other_are_found_and_the_youngest_gives_way<S: Subject>(
    subject: &S,
) {
    let locking = Locking::start(subject, 2).await;
    let circles: [&[(&str, &str, &str)]; 3] = [
        &[("a", "one", "two"), ("b", "two", "one")],
        &[("c", "=one", "=two"), ("d", "two", "three"), ("e", "three", "one")],
        // Those that share it both wait for the third one, who waits for both.
        &[("f", "=one", "two"), ("g", "=one", "two"), ("h", "two", "one")],
    ];
    for circle in circles {
        let mut handles = Vec::new();
        for (key, first, second) in circle {
            // Also where a call is made again, as its node was taken for gone.
            let waits = trip().with("room", &[Play::Waits; 50]);
            handles.push(locking.begin(key, first, second, waits).await);
            locking.until_in(key, "room").await;
            // Ids of one millisecond are in no order that says who came first.
            locking.trips.ground.clock.advance(Duration::from_millis(2));
        }
        let (youngest, others) = handles.split_last().unwrap();
        let outcome = locking.end_of(youngest).await;
        let why = cancelled(&outcome).unwrap_or_else(|| panic!("{}: {outcome}", youngest.key()));
        assert!(why.starts_with("deadlock with trip \""), "{why}");
        for handle in others {
            assert_eq!(locking.end_of(handle).await, Outcome::Completed, "{}", handle.key());
        }
        assert_eq!(locking.trips.outside.acted(youngest.key()), ["room", "undo room"]);
    }
    locking.end().await;
}

/// J11
pub(super) async fn of_runs_that_wait_for_each_other_none_that_was_sent_forward_gives_way<S: Subject>(
    subject: &S,
) {
    let locking = Locking::start(subject, 2).await;
    // The younger one was sent forward; then both, and one of them has to give way all the same.
    for (older, younger, sent) in [("a", "b", &["b"][..]), ("c", "d", &["c", "d"])] {
        let mut handles = Vec::new();
        for (key, first, second) in [(older, "one", "two"), (younger, "two", "one")] {
            let waits = trip().with("room", &[Play::Waits; 50]);
            handles.push(locking.begin(key, first, second, waits).await);
            locking.until_in(key, "room").await;
            locking.trips.ground.clock.advance(Duration::from_millis(2));
        }
        for key in sent {
            assert_eq!(locking.trips.ask(key, Verb::GoForward).await, Ok(()));
        }
        let gives_way = usize::from(sent.len() > 1);
        let outcome = locking.end_of(&handles[gives_way]).await;
        let why = cancelled(&outcome).unwrap_or_else(|| panic!("{}: {outcome}", handles[gives_way].key()));
        assert!(why.starts_with("deadlock with trip \""), "{why}");
        let outcome = locking.end_of(&handles[1 - gives_way]).await;
        assert_eq!(outcome, Outcome::Completed, "{}", handles[1 - gives_way].key());
    }
    locking.end().await;
}

/// J7
pub(super) async fn a_lock_that_is_left_as_its_node_is_gone_goes_to_the_next<S: Subject>(subject: &S) {
    let mut locking = Locking::start(subject, 1).await;
    let holds = locking.stands("holds", "seat", "").await;
    // The next one is of another version: while its node is gone, nobody looks at what it is given.
    locking.join(2).await;
    locking.trips.nodes.swap(0, 1);
    let next = locking.waits("next", "seat").await;
    locking.trips.crash(0);
    locking.trips.outside.release();
    assert_eq!(locking.trips.end_of(&holds).await, Outcome::Completed);
    assert_eq!(locking.of("seat").await.0, ["next"]);
    locking.trips.crash(0);
    // It is woken, long before its deadline.
    locking.join(2).await;
    locking.lets_go("next").await;
    assert_eq!(locking.trips.end_of(&next).await, Outcome::Completed);
    // A node that is gone while its run has the lock leaves it to the run.
    let holds = locking.stands("holds on", "seat", "").await;
    let next = locking.waits("next on", "seat").await;
    locking.trips.crash(0);
    locking.join(2).await;
    locking.lets_go("holds on").await;
    assert_eq!(locking.trips.end_of(&holds).await, Outcome::Completed);
    locking.lets_go("next on").await;
    assert_eq!(locking.trips.end_of(&next).await, Outcome::Completed);
    locking.end().await;
}

/// J8
pub(super) async fn runs_of_two_versions_have_the_same_locks<S: Subject>(subject: &S) {
    let mut locking = Locking::start(subject, 1).await;
    let older = locking.waits_behind("older", "holds").await;
    locking.join(2).await;
    locking.trips.nodes.swap(0, 1);
    let newer = locking.begin("newer", "seat", "", trip().with("room", &[Play::Waits])).await;
    locking.until_waiting("newer").await;
    assert_eq!(
        locking.of("seat").await,
        (vec!["holds".to_owned()], vec!["older".to_owned(), "newer".to_owned()])
    );
    for (handle, key) in [(&older.0, "holds"), (&older.1, "older"), (&newer, "newer")] {
        locking.lets_go(key).await;
        assert_eq!(locking.trips.end_of(handle).await, Outcome::Completed);
    }
    assert_eq!(locking.inside.most(), 1);
    locking.end().await;
}

impl<S: Subject> Locking<'_, S> {
    /// One that has the seat, and one that waits for it.
    async fn waits_behind(&self, waits: &str, holds: &str) -> (Handle, Handle) {
        (self.stands(holds, "seat", "").await, self.waits(waits, "seat").await)
    }
}

/// J9
pub(super) async fn what_a_run_has_shared_it_does_not_have_alone_later<S: Subject>(subject: &S) {
    let locking = Locking::start(subject, 1).await;
    let again = locking.begin("again", "seat =hall", "seat =seat =hall", trip()).await;
    assert_eq!(locking.trips.end_of(&again).await, Outcome::Completed, "what it has it takes once more");
    let more = locking.begin("more", "=seat", "seat", trip()).await;
    let outcome = locking.trips.end_of(&more).await;
    let Outcome::Undone(Why::Refused { step, why }) = &outcome else { panic!("{outcome}") };
    assert_eq!(step, "second");
    assert!(why.starts_with("seat is locked shared by this run"), "{why}");
    // What can be no name of anything is a failure of the step.
    let long = locking.begin("long", &"x".repeat(300), "", trip()).await;
    let outcome = locking.trips.end_of(&long).await;
    assert!(matches!(&outcome, Outcome::Undone(Why::Failed { step, .. }) if step == "first"), "{outcome}");
    locking.end().await;
}

/// A saga within, with a lock of its own.
#[derive(Serialize, Deserialize)]
struct Ride {
    lock: String,
}
impl SagaInput for Ride {}

struct Way;
impl SagaLock<Ride> for Way {
    const NAME: &'static str = "way";
    type Needs = ();
    fn resources(&self, cx: Cx<'_, Ride>) -> Vec<Resource> {
        vec![Resource::exclusive(cx.input.lock.clone())]
    }
}

struct GetThere;
impl SubSaga<Trip> for GetThere {
    const NAME: &'static str = "get-there";
    type Needs = ();
    type Saga = Ride;
    type Gives = Lock<Way>;
    fn input(&self, cx: Cx<'_, Trip>) -> Ride {
        Ride { lock: named(cx.input.note.as_deref(), 1)[0].name.clone() }
    }
}

/// J10
pub(super) async fn a_saga_within_has_locks_of_its_own_and_counts_for_whom_it_keeps_waiting<S: Subject>(
    subject: &S,
) {
    let mut locking = Locking::start(subject, 0).await;
    let inside = locking.inside.clone();
    let around = |outside: &Outside| {
        let saga = Saga::new("trip", 1).lock(First).step(Room(outside.clone(), inside.clone()));
        saga.step(Child::of(GetThere)).pivot(Pay(outside.clone(), inside.clone())).build()
    };
    let within = || Saga::<Ride, Tx<S>>::new("ride", 1).lock(Way).build();
    locking.trips.join_with(around, |app| app.saga(within())).await;
    // It ends with the one around it, and has its lock as long.
    let both = locking.begin("both", "one", "two", trip().with("pay", &[Play::Waits])).await;
    locking.until_in("both", "pay").await;
    assert_eq!(locking.of("two").await.0.len(), 1);
    locking.trips.outside.release();
    assert_eq!(locking.trips.end_of(&both).await, Outcome::Completed);
    // It waits for the one around it, which waits for it.
    let itself = locking.begin("itself", "one", "one", trip()).await;
    let outcome = locking.trips.end_of(&itself).await;
    let Outcome::Undone(Why::Refused { step, why }) = &outcome else { panic!("{outcome}") };
    assert_eq!(step, "get-there");
    assert!(why.contains("deadlock with trip \"itself\""), "{why}");
    // The one around another one waits for it, and that one for the first.
    let older = locking.stands("older", "one", "two").await;
    let younger = locking.stands("younger", "two", "one").await;
    locking.trips.outside.release();
    let outcomes = [locking.trips.end_of(&older).await, locking.trips.end_of(&younger).await];
    let undone = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Undone(_))).count();
    assert_eq!(undone, 1, "{outcomes:?}");
    locking.end().await;
}

/// Without a saga with locks there are none to see.
#[tokio::test]
async fn an_app_without_locks_says_so() {
    let app: App = App::on(es_core::memory::MemoryBackend::new()).start().await.unwrap();
    let error = app.saga_locks().unwrap_err().to_string();
    assert!(error.contains("add one with `.lock(..)`"), "{error}");
}
