//! TCC with a branch in a second database: D13 to D18.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::clock::Clock as _;
use es_core::guard::{self, Confirming, Guard, GuardError, GuardKey, GuardRows as _, Guarded, Undoing};
use es_core::id::Ids;
use es_core::store::Transaction;
use es_core::{App, AppBuilder, Backend, BoxError, ErrorKind};
use sagas::saga::{
    Cx, Guarded as InGuarded, Handle, Journal, Outcome, Ran, Retry, RunShown, RunStatus, SagaInput,
    StepError, Verb,
};
use sagas::tcc::{Tcc, TccApp as _, TccTransaction, Tccs as _};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::ground::{Ground, PATIENCE};
use super::shaky::{Fault, Ledger, Shaky, ShakyTx, WithOther};

#[derive(Serialize, Deserialize)]
struct Booking {
    cents: u32,
}
impl SagaInput for Booking {}

/// What the branch in the journal's database refuses.
const DEAR: u32 = 1_000;

fn retry() -> Retry {
    let brief = Duration::from_millis(5);
    Retry::default().pauses(brief, brief * 4).tries(3).late(4, Duration::from_secs(3_600))
}

/// In the other database. So often it fails.
struct Seat<D> {
    failures: Arc<Mutex<VecDeque<&'static str>>>,
    retry: Retry,
    destination: Option<&'static str>,
    of: PhantomData<fn() -> D>,
}

impl<D: Ledger> Seat<D> {
    async fn done(&self, cx: &Cx<'_, Booking>, what: &str, tx: &mut ShakyTx<D::Tx>) -> Result<(), BoxError> {
        // Before it fails: nothing of it may stay.
        D::write(&mut tx.tx, &format!("{} {what}", cx.key)).await?;
        let mut failures = self.failures.lock().unwrap();
        match failures.front() {
            Some(of) if *of == what => {
                failures.pop_front();
                Err("a statement failed".into())
            }
            _ => Ok(()),
        }
    }
}

impl<D: Ledger> Tcc<Booking> for Seat<D> {
    const NAME: &'static str = "seat";
    type Held = u32;
    type Refusal = String;
    type Place = InGuarded<Shaky<D>>;
    async fn reserve(&self, cx: Cx<'_, Booking>, tx: &mut ShakyTx<D::Tx>) -> Result<u32, StepError<String>> {
        let held = cx.input.cents;
        self.done(&cx, "held", tx).await.map_err(StepError::Retry).map(|()| held)
    }
    async fn confirm(&self, cx: Cx<'_, Booking>, held: u32, tx: &mut ShakyTx<D::Tx>) -> Result<(), BoxError> {
        assert_eq!(held, cx.input.cents);
        self.done(&cx, "used", tx).await
    }
    async fn cancel(
        &self,
        cx: Cx<'_, Booking>,
        held: Ran<u32>,
        tx: &mut ShakyTx<D::Tx>,
    ) -> Result<(), BoxError> {
        // What the row says is certain.
        assert_eq!(held, Ran::Yes(cx.input.cents));
        self.done(&cx, "released", tx).await
    }
    fn retry(&self) -> Retry {
        self.retry
    }
    fn destination(&self) -> Option<&str> {
        self.destination
    }
}

/// In the database of the journal.
struct Pay<T>(PhantomData<fn() -> T>);

impl<T: Transaction> Tcc<Booking> for Pay<T> {
    const NAME: &'static str = "pay";
    type Held = ();
    type Refusal = String;
    type Place = Journal<T>;
    async fn reserve(&self, cx: Cx<'_, Booking>, _: &mut T) -> Result<(), StepError<String>> {
        if cx.input.cents < DEAR { Ok(()) } else { Err(StepError::Refused("too dear".to_owned())) }
    }
    async fn confirm(&self, _: Cx<'_, Booking>, (): (), _: &mut T) -> Result<(), BoxError> {
        Ok(())
    }
    async fn cancel(&self, _: Cx<'_, Booking>, _: Ran<()>, _: &mut T) -> Result<(), BoxError> {
        Ok(())
    }
}

struct Bookings<'s, S: WithOther> {
    ground: Ground<'s, S>,
    other: Shaky<S::Other>,
    failures: Arc<Mutex<VecDeque<&'static str>>>,
    app: App,
}

impl<S: WithOther> fmt::Debug for Bookings<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bookings")
    }
}

impl<'s, S: WithOther> Bookings<'s, S> {
    async fn start(subject: &'s S) -> Self {
        Self::with(subject, retry(), None).await
    }

    /// With a branch that is tried like this, and calls who has this name.
    async fn with(subject: &'s S, retry: Retry, destination: Option<&'static str>) -> Self {
        let ground = Ground::open(subject).await;
        ground.flow();
        let other = subject.other().await;
        other.make().await;
        let (other, failures) = (Shaky::new(other), Arc::<Mutex<VecDeque<_>>>::default());
        let wire = |app: AppBuilder<S::Backend>| {
            let seat = Seat::<S::Other> { failures: failures.clone(), retry, destination, of: PhantomData };
            let tcc = TccTransaction::<Booking, <S::Backend as Backend>::Tx>::new("booking", 1);
            app.provide(other.clone()).tcc(tcc.branch(seat).branch(Pay(PhantomData)).build())
        };
        let app = ground.join(wire).await;
        Self { ground, other, failures, app }
    }

    fn fail(&self, what: &[&'static str]) {
        self.failures.lock().unwrap().extend(what);
    }

    async fn begin(&self, key: &str, cents: u32) -> Handle {
        let booking = Booking { cents };
        self.ground.ask(async || self.app.start_tcc(key, &booking).await).await
    }

    async fn run(&self, key: &str, cents: u32) -> (Uuid, Outcome) {
        let handle = self.begin(key, cents).await;
        (handle.run(), self.end_of(&handle).await)
    }

    /// Until a run looks like this.
    async fn until(&self, key: &str, is_so: impl Fn(&RunShown) -> bool) -> RunShown {
        let (runs, begun) = (self.app.tcc_runs::<Booking>().unwrap(), Instant::now());
        loop {
            let shown = self.ground.ask(async || runs.show(key).await).await;
            if is_so(&shown) {
                return shown;
            }
            assert!(begun.elapsed() < PATIENCE / 10, "it never came to that: {shown:#?}");
            self.ground.pause().await;
        }
    }

    async fn asks(&self, key: &str, verb: Verb) {
        let runs = self.app.tcc_runs::<Booking>().unwrap();
        runs.ask(key, verb, "ada", "by hand", PATIENCE).await.unwrap().unwrap();
    }

    async fn end_of(&self, handle: &Handle) -> Outcome {
        let begun = Instant::now();
        loop {
            if let Some(outcome) = self.ground.ask(async || handle.ended().await).await {
                return outcome;
            }
            assert!(begun.elapsed() < PATIENCE / 10, "it does not end");
            self.ground.pause().await;
        }
    }

    /// The call of a run, from somewhere else.
    fn call(&self, run: Uuid) -> Guard<'_, Shaky<S::Other>> {
        Guard::new(&self.other, GuardKey::new(run, "tcc.booking/seat").unwrap(), 7)
    }

    async fn end(self) {
        assert!(self.app.shutdown(PATIENCE).await);
    }
}

async fn confirm<D: Ledger>(call: &Guard<'_, Shaky<D>>) -> Result<Option<String>, GuardError> {
    match call.confirm().await? {
        Confirming::Run(mut tx, output) => {
            D::write(&mut tx.tx, "confirmed").await.unwrap();
            call.confirmed(tx, output.clone()).await?;
            Ok(Some(output))
        }
        Confirming::Nothing => Ok(None),
    }
}

async fn reserve<D: Ledger>(call: &Guard<'_, Shaky<D>>) {
    let Guarded::Run(mut tx) = call.forward().await.unwrap() else { panic!("it has an answer") };
    D::write(&mut tx.tx, "reserved").await.unwrap();
    call.done(tx, "1".to_owned()).await.unwrap();
}

/// D13
pub(super) async fn a_confirmation_acts_once_and_bars_the_undo<S: WithOther>(subject: &S) {
    let database = subject.other().await;
    database.make().await;
    let (database, ids) = (Shaky::new(database), Ids::default());
    let call = |run| Guard::new(&database, GuardKey::new(run, "tcc.booking/seat").unwrap(), 7);
    let (held, undone) = (call(ids.next()), call(ids.next()));
    let error = confirm(&held).await.unwrap_err();
    assert!(matches!(error, GuardError::NoTrace), "{error}");
    reserve(&held).await;
    database.will(&[Fault::Lost, Fault::Unheard]);
    for _ in 0..2 {
        assert_eq!(confirm(&held).await.unwrap_err().kind(), ErrorKind::Transient);
    }
    assert_eq!(confirm(&held).await.unwrap(), None);
    assert_eq!(database.written().await, ["confirmed", "reserved"]);
    // Its reservation comes again, and its undo, which must not be.
    assert!(matches!(held.forward().await.unwrap(), Guarded::Done(output) if output == "1"));
    let error = held.undo(true).await.err().expect("it is confirmed");
    assert!(matches!(error, GuardError::Confirmed), "{error}");
    // What is undone, or was never there, is not confirmed.
    assert!(matches!(undone.undo(false).await.unwrap(), Undoing::Nothing));
    for _ in 0..2 {
        let error = confirm(&undone).await.unwrap_err();
        assert!(matches!(error, GuardError::Hanging), "{error}");
    }
    // Two at once: one of them acts.
    let both = call(ids.next());
    reserve(&both).await;
    let (one, other) = futures::join!(confirm(&both), confirm(&both));
    let acted = [one.unwrap(), other.unwrap()].into_iter().flatten().count();
    assert_eq!(acted, 1);
    assert_eq!(database.written().await, ["confirmed", "confirmed", "reserved", "reserved"]);
}

/// D14
pub(super) async fn a_cancel_waits_for_the_reservation_whatever_the_isolation<S: WithOther>(subject: &S) {
    let database = subject.other().await;
    database.make().await;
    let ids = Ids::default();
    for database in [Shaky::new(database.clone()), Shaky::new(database.strict().await)] {
        let before = database.written().await.len();
        for commits in [true, false] {
            let key = GuardKey::new(ids.next(), "tcc.booking/seat").unwrap();
            let call = Guard::new(&database, key, 7);
            let Guarded::Run(mut tx) = call.forward().await.unwrap() else { panic!("it has an answer") };
            S::Other::write(&mut tx.tx, "reserved").await.unwrap();
            let end = async {
                match commits {
                    true => call.done(tx, "1".to_owned()).await.unwrap(),
                    false => tx.rollback().await.unwrap(),
                }
            };
            let cancel = async {
                match call.undo(false).await.unwrap() {
                    Undoing::Run(tx, held) => call.undone(tx).await.map(|()| held).unwrap(),
                    Undoing::Nothing => None,
                }
            };
            let (held, ()) = futures::join!(cancel, end);
            assert_eq!(held, commits.then(|| "1".to_owned()));
            for _ in 0..2 {
                assert!(matches!(call.forward().await, Err(GuardError::Hanging)));
            }
        }
        assert_eq!(database.written().await.len(), before + 1);
    }
}

/// D15
pub(super) async fn a_branch_in_another_database_is_confirmed_or_cancelled_once<S: WithOther>(subject: &S) {
    let bookings = Bookings::start(subject).await;
    bookings.other.will(&[Fault::Lost, Fault::Unheard, Fault::Unheard]);
    assert_eq!(bookings.run("a", 5).await.1, Outcome::Completed);
    assert_eq!(bookings.other.written().await, ["a held", "a used"]);
    bookings.fail(&["held", "used", "used"]);
    bookings.other.will(&[Fault::Unheard]);
    assert_eq!(bookings.run("b", 5).await.1, Outcome::Completed);
    assert_eq!(bookings.other.written().await[2..], ["b held", "b used"]);
    // It reserves at the third try, which nobody hears of: it is cancelled, also at the third try.
    bookings.fail(&["held", "held", "released"]);
    bookings.other.will(&[Fault::Unheard, Fault::Unheard]);
    assert!(matches!(bookings.run("c", 5).await.1, Outcome::Undone(_)));
    assert_eq!(bookings.other.written().await[4..], ["c held", "c released"]);
    // The other branch says no.
    assert!(matches!(bookings.run("d", DEAR).await.1, Outcome::Undone(_)));
    let written = bookings.other.written().await.split_off(6);
    assert!(written.is_empty() || written == ["d held", "d released"], "{written:?}");
    bookings.end().await;
}

/// D16
pub(super) async fn a_reservation_that_comes_after_its_cancel_never_runs<S: WithOther>(subject: &S) {
    let bookings = Bookings::start(subject).await;
    bookings.fail(&["held"; 3]);
    let (run, outcome) = bookings.run("a", 5).await;
    assert!(matches!(outcome, Outcome::Undone(_)), "{outcome}");
    for _ in 0..2 {
        let late = bookings.call(run).forward().await;
        assert!(matches!(late, Err(GuardError::Hanging)), "it was cancelled before it came");
    }
    // Also when its row is gone.
    let later = bookings.ground.clock.now() + Duration::from_secs(3_600);
    assert!(guard::forget(&bookings.other, later).await.unwrap() > 0);
    for _ in 0..2 {
        assert!(matches!(bookings.call(run).forward().await, Err(GuardError::Expired)));
    }
    assert_eq!(bookings.other.written().await, [""; 0]);
    bookings.end().await;
}

/// D17
pub(super) async fn a_confirmation_of_what_was_forgotten_waits_for_a_person<S: WithOther>(subject: &S) {
    let bookings = Bookings::start(subject).await;
    let before = bookings.run("a", 5).await.0;
    bookings.fail(&["used"; 4]);
    let handle = bookings.begin("b", 5).await;
    let is_parked = |shown: &RunShown| shown.status == RunStatus::Parked;
    bookings.until("b", is_parked).await;
    let later = bookings.ground.clock.now() + Duration::from_secs(3_600);
    guard::forget(&bookings.other, later).await.unwrap();
    // Whether it was confirmed is not known any more.
    for run in [before, handle.run()] {
        let error = confirm(&bookings.call(run)).await.unwrap_err();
        assert!(matches!(error, GuardError::Expired), "{error}");
    }
    bookings.asks("b", Verb::Retry { step: None }).await;
    let is_forgotten =
        |shown: &RunShown| is_parked(shown) && shown.waits_for.contains("find out whether it has run");
    bookings.until("b", is_forgotten).await;
    let output = sagas::Data::of(&()).unwrap();
    bookings.asks("b", Verb::Resolve { step: "seat".to_owned(), output }).await;
    assert_eq!(bookings.end_of(&handle).await, Outcome::Completed);
    bookings.end().await;
}

/// D18
pub(super) async fn what_a_guard_row_says_is_no_failure_of_its_database<S: WithOther>(subject: &S) {
    let (hour, year) = (Duration::from_secs(3_600), Duration::from_secs(365 * 24 * 3_600));
    let bookings = Bookings::with(subject, Retry::default().pauses(year, year), Some("seats")).await;
    guard::forget(&bookings.other, bookings.ground.clock.now() + hour).await.unwrap();
    for key in ["a", "b", "c"] {
        bookings.begin(key, 5).await;
        let shown = bookings.until(key, |shown| shown.steps[0].failures > 0).await;
        assert!(shown.steps[0].error.as_ref().is_some_and(|error| error.contains("find out")), "{shown:?}");
    }
    // One that was begun since is called.
    bookings.ground.clock.advance(hour * 2);
    assert_eq!(bookings.run("d", 5).await.1, Outcome::Completed);
    bookings.end().await;
}
